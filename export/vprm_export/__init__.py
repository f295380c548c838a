"""Checkpoint directory in, bundle directory out: two ONNX graphs built from config and weights, without PyTorch."""

from vprm_export.exporter import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]
