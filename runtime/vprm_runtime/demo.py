"""What an installed demo offers, reached through entry points: the runtime imports no other room."""

from importlib.metadata import entry_points
from typing import Any

from vprm_runtime.errors import InputError


def demo_hook(name: str) -> Any:
    """Something that the demo offers (entry point group vprm.demo): "bundle" or "example"."""
    for hook in entry_points(group="vprm.demo", name=name):
        return hook.load()
    raise InputError("no demo is installed: name a bundle directory (make one with  vprm optimize CHECKPOINT BUNDLE)")
