"""Scoring on Ray: shards of rows by actors (offline.py). Needs the extra `ray`."""
