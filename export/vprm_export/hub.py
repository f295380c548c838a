"""A model's id on the hub where a checkpoint folder is expected: downloaded once, or the command that does it."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

from vprm_runtime.errors import CheckpointError

NEEDED = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
"""Files that an export reads; code, images and other formats of the weights are left."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def local_checkpoint(text: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of a checkpoint that is named by its path or by its id on the hub.

    Args:
        text: a path, or OWNER/NAME, or OWNER/NAME@REVISION. A path that exists is taken as it is.
        say: called with a line before something is downloaded.

    Returns:
        The folder. A download is resumed if it was interrupted, and lies in the hub's cache, under its commit.

    Raises:
        CheckpointError: it is an id, and huggingface_hub is not installed or the download failed.
    """
    name, _, revision = text.partition("@")
    if Path(text).exists() or not _ID.fullmatch(name):
        return Path(text)
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
        raise CheckpointError(
            f"there is no folder {text}, and the hub's model of that name cannot be had "
            f"({type(error).__name__}: {first}): check the name and the network, or download it elsewhere:  {by_hand}"
        ) from error
