"""vprm: fast, exact step scores from visual process reward models, without PyTorch.

    import vprm
    scorer = vprm.StepScorer.open("bundle")
    scorer.score("figure.png", "Find m \\angle 3.", ["first step\n\nsecond step"])

The names are those of `vprm_runtime`; they are loaded on first use, so `import vprm` itself costs nothing.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vprm_runtime import *  # noqa: F403

__version__ = _version("vprm")


def __getattr__(name: str) -> Any:
    import vprm_runtime

    if name == "__all__":
        return [*vprm_runtime.__all__, "__version__"]
    if name in vprm_runtime.__all__:
        return getattr(vprm_runtime, name)
    raise AttributeError(f"module 'vprm' has no attribute {name!r}")


def __dir__() -> list[str]:
    import vprm_runtime

    return sorted([*vprm_runtime.__all__, "__version__"])
