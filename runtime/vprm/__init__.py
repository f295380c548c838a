"""vprm: fast, exact step scores from visual process reward models, without PyTorch.

    import vprm
    scorer = vprm.StepScorer.open("bundle")
    scorer.score("figure.png", "Find m \\angle 3.", ["first step\n\nsecond step"])

    client = vprm.Client("http://127.0.0.1:8000")  # the same on a server: vprm serve
    client.score("figure.png", "Find m \\angle 3.", ["first step\n\nsecond step"])

The names are those of `vprm_runtime`, and the clients. They are loaded on first use, so `import vprm` itself costs
nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vprm_client import AsyncClient as AsyncClient
    from vprm_client import Client as Client
    from vprm_runtime import *  # noqa: F403

    __version__: str

_CLIENTS = ("AsyncClient", "Client")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vprm")
    import vprm_runtime

    if name == "__all__":
        return [*vprm_runtime.__all__, *_CLIENTS, "__version__"]
    if name in vprm_runtime.__all__:
        return getattr(vprm_runtime, name)
    if name in _CLIENTS:
        try:
            import vprm_client
        except ModuleNotFoundError as error:
            if error.name == "httpx":
                raise vprm_runtime.MissingExtraError(f"vprm.{name}", "client") from error
            raise
        return getattr(vprm_client, name)
    raise AttributeError(f"module 'vprm' has no attribute {name!r}")


def __dir__() -> list[str]:
    import vprm_runtime

    return sorted([*vprm_runtime.__all__, *_CLIENTS, "__version__"])
