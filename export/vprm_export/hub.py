"""A model's id on the hub where a checkpoint folder is expected: downloaded once, or the command that does it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vprm_export.checkpoint import Checkpoint
from vprm_runtime.bundle.names import HUB_ID
from vprm_runtime.errors import CheckpointError

NEEDED = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
"""Files that an export reads; code, images and other formats of the weights are left."""


def local_checkpoint(text: str | Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of a checkpoint that is named by its path or by its id on the hub.

    Args:
        text: a path, or OWNER/NAME, or OWNER/NAME@REVISION. A path that exists is taken as it is.
        say: called with a line before something is downloaded.

    Returns:
        The folder. A download is resumed if it was interrupted, and lies in the hub's cache, under its commit.

    Raises:
        CheckpointError: it is an id, and huggingface_hub is not installed or the download failed.
    """
    if Path(text).exists() or not HUB_ID.fullmatch(str(text)):
        return Path(text)
    name, _, revision = str(text).partition("@")
    by_hand = f"hf download {name}{f' --revision {revision}' if revision else ''} --local-dir {name.split('/')[1]}"
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {text}. If it is a model on the hub:  pip install huggingface_hub  and run this "
            f"again, or  {by_hand}"
        ) from error
    try:
        commit = hub.HfApi().model_info(name, revision=revision or None).sha
        say(f"downloading {name} at {commit} (what is there already is kept)")
        return Path(hub.snapshot_download(name, revision=commit, allow_patterns=list(NEEDED)))
    except Exception as error:  # the library, and each of the libraries it may use, raise errors of their own
        first = str(error).strip().split("\n")[0][:200]
        if (kept := _downloaded_before(hub, name, revision)) is not None:
            say(f"the hub does not answer ({first}): taking {name} as it was downloaded before, at {kept.name}")
            return kept
        raise CheckpointError(
            f"there is no folder {text}, and the hub's model of that name cannot be had "
            f"({type(error).__name__}: {first}): check the name and the network, or download it elsewhere:  {by_hand}"
        ) from error


def _downloaded_before(hub: Any, name: str, revision: str) -> Path | None:
    """The folder of an earlier download, if all of its weights are there; None if it is not clear which is meant."""
    cache = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    folders = [folder for folder in cache.glob(f"{revision}*") if folder.is_dir()]
    if len(folders) != 1:
        return None
    try:
        Checkpoint.open(folders[0])
    except CheckpointError:
        return None
    return folders[0]
