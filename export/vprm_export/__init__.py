"""Checkpoint directory in, bundle directory out: two ONNX graphs built from config and weights, without PyTorch.

    from vprm_export import ExportOptions, export_bundle
    export_bundle("VisualPRM-8B", "bundle", ExportOptions(precision="fp16"))

Names are loaded on first use, so that the command line starts, and says what is missing, without the `export` extra.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vprm_export.exporter import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vprm_export import exporter

        return getattr(exporter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
