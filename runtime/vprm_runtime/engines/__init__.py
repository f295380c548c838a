"""Inference engines under one protocol, and the choice among them."""

from vprm_runtime.engines.base import Block, Engine, KVCache
from vprm_runtime.engines.select import open_engine

__all__ = ["Block", "Engine", "KVCache", "open_engine"]
