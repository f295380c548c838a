"""Whether the LLM's head is its embedding table: config.json and weights must say the same."""

import numpy as np

from vprm_export.architecture import EMBEDDING_NAMES, HEAD_NAMES, Architecture
from vprm_export.checkpoint import Checkpoint
from vprm_export.readings import Readings
from vprm_runtime.errors import CheckpointError, quoted


def check_head(checkpoint: Checkpoint, architecture: Architecture, readings: Readings) -> None:
    """Raise CheckpointError if `tie_word_embeddings` and the stored head contradict each other."""
    heads = [name for name in HEAD_NAMES if name in checkpoint.tensors]
    if not architecture.llm.tied_head:
        if not heads:
            _check_names(checkpoint)
            raise CheckpointError(
                f"{checkpoint.path} has no head ({' or '.join(HEAD_NAMES)}) and tie_word_embeddings is false: if the "
                "model shares it with its embeddings, set llm_config.tie_word_embeddings to true in config.json"
            )
        readings.read("head", heads[0], "weights")
        return
    embedding = next((name for name in EMBEDDING_NAMES if name in checkpoint.tensors), None)
    for head in heads:
        if embedding is not None and not _equal(checkpoint, head, embedding):
            raise CheckpointError(
                f"llm_config.tie_word_embeddings is true, but {head} differs from {embedding}: transformers 4 drops "
                "the stored head, transformers 5 keeps it and does not tie. Set tie_word_embeddings to false in "
                f"config.json to use the stored head, or remove {head} to share the embeddings"
            )
    readings.read("head", "the embedding table", "config.json: llm_config.tie_word_embeddings")


def _check_names(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if no embedding table has a name that is known: then nothing else will have."""
    if not any(name in checkpoint.tensors for name in EMBEDDING_NAMES):
        first = quoted(min(checkpoint.tensors, default="none"), 80)
        raise CheckpointError(
            f"{checkpoint.path} has no tensor {' or '.join(EMBEDDING_NAMES)}; its names are like {first!r}: another "
            "kind of model, or one that was saved inside a wrapper: save it again with its own save_pretrained"
        )


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    one, other = checkpoint.tensors[first], checkpoint.tensors[second]
    if one.shape != other.shape:
        return False
    if one.dtype != other.dtype:  # blocks of other heights
        return bool(np.array_equal(checkpoint.read(first), checkpoint.read(second)))
    blocks = zip(checkpoint.read_blocks(first), checkpoint.read_blocks(second), strict=True)
    return all(np.array_equal(a, b) for a, b in blocks)
