"""The `vprm` command: one module a subcommand; other rooms add theirs through entry points."""
