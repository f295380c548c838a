"""Clients of a `vprm serve` server."""
