"""Peers that cannot share this environment: their exporters pin other versions of transformers.

environment   a virtual environment of their own, made once and kept in the cache
worker        what runs there: a program of its own that imports nothing of this package
contender     one peer in a process of its own, which takes its turn like every contender
"""
