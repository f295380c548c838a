"""Load on a server: how much it takes, how it refuses, whether what it answers is right. `vprm bench serve`."""
