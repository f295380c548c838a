"""Names, shapes and distributions of a checkpoint's tensors, in the hub's order of rooms: vision, projector, LLM.

Names of the InternLM2 family are those of OpenGVLab/VisualPRM-8B's index; Qwen2 and Llama use the names of Hugging
Face under ``language_model.``, as the InternVL checkpoints with these LLMs do.
"""

from __future__ import annotations

import functools
import math
import statistics
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.random_checkpoint.spec import CheckpointSpec, LlmSpec, VisionSpec

# Gains over the 1/sqrt(fan_in) of a signal-preserving linear layer. Query and key gains make attention choose few
# positions (a flat average over hundreds of tokens would tell candidates apart by nothing); the head's makes scores
# spread over 0.1-0.9.
_QK_GAIN = 1.6
_VALUE_GAIN = 1.4
_FFN_GAIN = 1.2
_HEAD_GAIN = 1.3
_EMBEDDING_STD = 0.4


CHUNK_ELEMENTS = 1 << 20
_LEVELS = 1 << 16


@dataclass(frozen=True)
class RandomTensor:
    """One tensor to write: values are ``mean + std * normal``, random numbers that depend on name and seed.

    The normal distribution is drawn from its 65,536 quantiles at (i + 0.5) / 65,536, as fast as random bits can be
    looked up: values of 8 B parameters are many more than draws of a normal generator are worth.
    """

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> int:
        """Number of chunks of CHUNK_ELEMENTS values, the last one shorter."""
        return -(-self.elements // CHUNK_ELEMENTS)

    def levels(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The values [65536] in `dtype` that the tensor's are drawn from, ascending."""
        return (normal_quantiles() * np.float32(self.std) + np.float32(self.mean)).astype(dtype)

    def chunk(self, index: int, seed: int, levels: NDArray[Any]) -> NDArray[Any]:
        """Flat values of one chunk [<= CHUNK_ELEMENTS]; each has a stream of its own, so chunks can be made in any
        order and at the same time."""
        count = min(CHUNK_ELEMENTS, self.elements - index * CHUNK_ELEMENTS)
        stream = np.random.SFC64([seed, zlib.crc32(self.name.encode()), index])
        picks = stream.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
        return levels.take(picks)


@functools.cache
def normal_quantiles() -> NDArray[np.float32]:
    """The standard normal's quantiles [65536] at (i + 0.5) / 65536, float32."""
    normal = statistics.NormalDist()
    return np.array([normal.inv_cdf((level + 0.5) / _LEVELS) for level in range(_LEVELS)], np.float32)


def random_tensors(spec: CheckpointSpec, vocab_size: int) -> list[RandomTensor]:
    """All tensors of the checkpoint ``spec`` with ``vocab_size`` rows in the embedding and head tables."""
    return [
        *_vision_tensors(spec.vision),
        *_projector_tensors(spec.vision, spec.llm.hidden),
        *(_internlm2_tensors(spec.llm) if spec.llm.family == "internlm2" else _hf_llm_tensors(spec.llm)),
        *_vocabulary_tensors(spec.llm, vocab_size),
    ]


def _linear(name: str, rows: int, columns: int, gain: float = 1.0, bias: bool = False) -> Iterator[RandomTensor]:
    yield RandomTensor(f"{name}.weight", (rows, columns), gain / math.sqrt(columns))
    if bias:
        yield RandomTensor(f"{name}.bias", (rows,), 0.1)


def _norm(name: str, width: int, bias: bool = False) -> Iterator[RandomTensor]:
    yield RandomTensor(f"{name}.weight", (width,), 0.1, mean=1.0)
    if bias:
        yield RandomTensor(f"{name}.bias", (width,), 0.1)


def _vision_tensors(spec: VisionSpec) -> Iterator[RandomTensor]:
    width = spec.hidden
    positions = (spec.table_image_size // spec.patch) ** 2 + 1
    fan_in = 3 * spec.patch**2
    yield RandomTensor("vision_model.embeddings.class_embedding", (1, 1, width), 0.5)
    # Neighbouring pixels are alike, so an image's patch sums grow with the fan-in, not its root: half the usual gain.
    yield RandomTensor(
        "vision_model.embeddings.patch_embedding.weight", (width, 3, spec.patch, spec.patch), 0.5 / math.sqrt(fan_in)
    )
    yield RandomTensor("vision_model.embeddings.patch_embedding.bias", (width,), 0.1)
    yield RandomTensor("vision_model.embeddings.position_embedding", (1, positions, width), 0.5)
    norm_bias = spec.norm_type == "layer_norm"
    for index in range(spec.layers):
        layer = f"vision_model.encoder.layers.{index}"
        yield from _linear(f"{layer}.attn.qkv", 3 * width, width, _QK_GAIN, bias=spec.qkv_bias)
        yield from _linear(f"{layer}.attn.proj", width, width, bias=True)
        if spec.qk_norm:
            yield from _norm(f"{layer}.attn.q_norm", width)
            yield from _norm(f"{layer}.attn.k_norm", width)
        yield from _linear(f"{layer}.mlp.fc1", spec.mlp, width, bias=True)
        yield from _linear(f"{layer}.mlp.fc2", width, spec.mlp, _FFN_GAIN, bias=True)
        yield from _norm(f"{layer}.norm1", width, norm_bias)
        yield from _norm(f"{layer}.norm2", width, norm_bias)
        yield RandomTensor(f"{layer}.ls1", (width,), 0.1, mean=0.7)
        yield RandomTensor(f"{layer}.ls2", (width,), 0.1, mean=0.7)


def _projector_tensors(spec: VisionSpec, hidden: int) -> Iterator[RandomTensor]:
    width = spec.hidden * int(1 / spec.downsample_ratio) ** 2
    yield from _norm("mlp1.0", width, bias=True)
    yield from _linear("mlp1.1", hidden, width, bias=True)
    yield from _linear("mlp1.3", hidden, hidden, bias=True)


def _internlm2_tensors(spec: LlmSpec) -> Iterator[RandomTensor]:
    qkv_rows = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    for index in range(spec.layers):
        layer = f"language_model.model.layers.{index}"
        yield from _linear(f"{layer}.attention.wqkv", qkv_rows, spec.hidden, _QK_GAIN)
        yield from _linear(f"{layer}.attention.wo", spec.hidden, spec.heads * spec.head_dim)
        yield from _norm(f"{layer}.attention_norm", spec.hidden)
        yield from _linear(f"{layer}.feed_forward.w1", spec.ffn, spec.hidden)
        yield from _linear(f"{layer}.feed_forward.w2", spec.hidden, spec.ffn, _FFN_GAIN)
        yield from _linear(f"{layer}.feed_forward.w3", spec.ffn, spec.hidden)
        yield from _norm(f"{layer}.ffn_norm", spec.hidden)


def _hf_llm_tensors(spec: LlmSpec) -> Iterator[RandomTensor]:
    bias = spec.family == "qwen2"
    kv_rows = spec.kv_heads * spec.head_dim
    for index in range(spec.layers):
        layer = f"language_model.model.layers.{index}"
        yield from _linear(f"{layer}.self_attn.q_proj", spec.heads * spec.head_dim, spec.hidden, _QK_GAIN, bias=bias)
        yield from _linear(f"{layer}.self_attn.k_proj", kv_rows, spec.hidden, _QK_GAIN, bias=bias)
        yield from _linear(f"{layer}.self_attn.v_proj", kv_rows, spec.hidden, _VALUE_GAIN, bias=bias)
        yield from _linear(f"{layer}.self_attn.o_proj", spec.hidden, spec.heads * spec.head_dim)
        yield from _linear(f"{layer}.mlp.gate_proj", spec.ffn, spec.hidden)
        yield from _linear(f"{layer}.mlp.up_proj", spec.ffn, spec.hidden)
        yield from _linear(f"{layer}.mlp.down_proj", spec.hidden, spec.ffn, _FFN_GAIN)
        yield from _norm(f"{layer}.input_layernorm", spec.hidden)
        yield from _norm(f"{layer}.post_attention_layernorm", spec.hidden)


def _vocabulary_tensors(spec: LlmSpec, vocab_size: int) -> Iterator[RandomTensor]:
    internlm2 = spec.family == "internlm2"
    embedding = "tok_embeddings" if internlm2 else "embed_tokens"
    yield RandomTensor(f"language_model.model.{embedding}.weight", (vocab_size, spec.hidden), _EMBEDDING_STD)
    yield from _norm("language_model.model.norm", spec.hidden)
    if not spec.tie_word_embeddings:
        head = "language_model.output" if internlm2 else "language_model.lm_head"
        yield from _linear(head, vocab_size, spec.hidden, _HEAD_GAIN)
