"""Checkpoints that tests damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vprm_export import ExportOptions, export_bundle


def refused(checkpoint: Path, error: type[Exception], *words: str, **options: Any) -> None:
    """Exporting raises `error` with all of `words`, and leaves nothing behind."""
    target = checkpoint.parent / "out" / "bundle"
    with pytest.raises(error) as caught:
        export_bundle(checkpoint, target, ExportOptions(**options))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
