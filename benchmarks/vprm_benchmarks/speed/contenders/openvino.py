"""What an OpenVINO expert would write: the PyTorch networks converted, keys and values as the LLM's state, which is
saved after the prefix and put back for every candidate.

The conversion is laid out so that OpenVINO fuses attention with the state (`ScaledDotProductAttentionWithKVCache`):
rows chosen by an int32 `beam_idx`, new rows after them, a state that begins empty. The head runs at score positions
only. (optimum-intel's export computes the whole vocabulary's logits at every position.)
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import DynamicCache, InternVLForConditionalGeneration

from vprm_benchmarks.reference.model import cache_argument
from vprm_benchmarks.reference.scorer import ReferenceImages, ReferenceScorer, ReferenceScores
from vprm_benchmarks.speed.contenders.torch import TimedReference


class OpenVinoReference(TimedReference):
    """The reference with both networks in OpenVINO on the CPU, in bfloat16; for "prefix-reuse" only."""

    @classmethod
    def of(cls, base: ReferenceScorer, checkpoint: Path, threads: int) -> Self:
        """Convert the networks of a reference loaded from `checkpoint`; its token embeddings stay in use."""
        config = json.loads((checkpoint / "config.json").read_text("utf-8"))
        peer = cls(base.model, base.tokenizer, config, base.system_message, base.rule)
        peer._compile(threads)
        return peer

    def _compile(self, threads: int) -> None:
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        options |= {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
        core = ov.Core()
        vision, language = _converted_vision(self.model, self.tile_px), _converted_language(self.model)
        self._vision = core.compile_model(vision, "CPU", options).create_infer_request()
        self._language = core.compile_model(language, "CPU", options).create_infer_request()

    def _features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tiles = [self._vision.infer([tile.float().numpy()[None]])[0][0] for tile in pixel_values]
        return torch.from_numpy(np.stack(tiles))

    def _score_with_prefix(
        self, images: ReferenceImages, question: str, candidates: Sequence[Sequence[str]]
    ) -> list[ReferenceScores]:
        rows, places, prefix = self._with_prefix(images, question, candidates)
        inputs = [self._inputs(images, ids) for ids in rows]
        self._language.reset_state()
        self._run(inputs[0][:, :prefix], [0])
        saved = [_copied(variable.state) for variable in self._language.query_state()]
        results = []
        for ids, embeds, positions in zip(rows, inputs, places, strict=True):
            for variable, state in zip(self._language.query_state(), saved, strict=True):
                variable.state = state
            logits = self._run(embeds[:, prefix:], [place - prefix for place in positions])
            results.append(self._result(ids, logits[:, self.candidates]))
        return results

    def _run(self, embeds: torch.Tensor, positions: Sequence[int]) -> NDArray[np.float32]:
        """Append [1, S, hidden] to the state; the vocabulary's logits [K, vocabulary] at K of the S positions."""
        inputs = {"embeds": embeds.float().numpy(), "positions": np.array(positions), "beam_idx": np.zeros(1, np.int32)}
        logits: NDArray[np.float32] = self._language.infer(inputs)["logits"]
        return logits


class _Vision(torch.nn.Module):
    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        outputs = self._model.get_image_features(pixel_values.to(self._model.dtype), return_dict=True)
        features: torch.Tensor = outputs.pooler_output.float()
        return features


class _Rows(DynamicCache):  # type: ignore[misc]
    """Keys and values given as tensors, layer after layer."""

    def __init__(self, past: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.past = list(past)

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.past[2 * layer_idx].shape[2]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        both = slice(2 * layer, 2 * layer + 2)
        self.past[both] = [torch.cat([old, new], 2) for old, new in zip(self.past[both], (keys, values), strict=True)]
        return self.past[both]


class _Rotary(torch.nn.Module):
    """Cosines and sines looked up: computed in the graph, positions past 256 would be rounded to bfloat16."""

    def __init__(self, frequencies: torch.Tensor, positions: int) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(positions).float(), torch.cat([frequencies, frequencies]))
        self._cos, self._sin = angles.cos(), angles.sin()  # [positions, head_dim]

    def forward(self, rows: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._cos[position_ids].to(rows.dtype), self._sin[position_ids].to(rows.dtype)


class _Language(torch.nn.Module):
    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        text = model.model.language_model
        rotary = _Rotary(text.rotary_emb.inv_freq, text.config.max_position_embeddings)
        self._model, self._head = copy.copy(text), model.lm_head
        self._model._modules = {**text._modules, "rotary_emb": rotary}

    def forward(
        self, embeds: torch.Tensor, positions: torch.Tensor, beam_idx: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = _Rows([torch.index_select(rows, 0, beam_idx) for rows in past])
        columns = past[0].shape[2] + embeds.shape[1]
        tokens = torch.arange(past[0].shape[2], columns)
        hidden = self._model(
            inputs_embeds=embeds.to(self._model.dtype),
            attention_mask=(torch.arange(columns)[None] <= tokens[:, None])[None, None],
            position_ids=tokens[None],
            use_cache=True,
            **cache_argument(self._model, cache),
        )[0]
        return (self._head(hidden[0, positions]).float(), *cache.past)


def _converted_vision(model: InternVLForConditionalGeneration, tile_px: int) -> ov.Model:
    shape = (1, 3, tile_px, tile_px)
    return _converted(_Vision(model), torch.zeros(shape), input=[shape])


def _converted_language(model: InternVLForConditionalGeneration) -> ov.Model:
    text = model.config.text_config
    heads, head_dim = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
    parts = 2 * text.num_hidden_layers
    past = [torch.zeros(1, heads, 3, head_dim, dtype=model.dtype) for _ in range(parts)]
    example = (torch.zeros(1, 5, text.hidden_size), torch.tensor([2]), torch.zeros(1, dtype=torch.int32), *past)
    converted = _converted(_Language(model), example)
    names = ("embeds", "positions", "beam_idx", *(f"past.{part}" for part in range(parts)))
    for port, name in zip(converted.inputs, names, strict=True):
        port.set_names({name})
    for port, name in zip(converted.outputs, ("logits", *(f"new.{part}" for part in range(parts))), strict=True):
        port.set_names({name})
    for port in converted.inputs[3:]:
        port.node.set_partial_shape(ov.PartialShape([-1, heads, -1, head_dim]))
    converted.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(converted, {f"past.{part}": f"new.{part}" for part in range(parts)})
    for node in converted.get_ops():
        if node.get_type_name() == "ReadValue":
            zero = opset13.constant(0, node.get_output_element_type(0))
            node.set_arguments([opset13.broadcast(zero, opset13.constant(np.array([1, heads, 0, head_dim])))])
    converted.validate_nodes_and_infer_types()
    return converted


def _converted(module: torch.nn.Module, example: Any, **options: Any) -> ov.Model:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # branches that the trace takes once: all are of prompts within the limit
        return ov.convert_model(module, example_input=example, **options)


def _copied(tensor: ov.Tensor) -> ov.Tensor:
    copy = ov.Tensor(tensor.element_type, tensor.shape)
    tensor.copy_to(copy)
    return copy
