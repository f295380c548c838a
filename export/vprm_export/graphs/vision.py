"""The vision graph: raw tiles -> InternViT -> pixel shuffle -> projector -> rows for the LLM.

Source of the maths: OpenGVLab/InternVL @2410d1d, internvl_chat/internvl/model/internvl_chat/
(modeling_intern_vit.py, modeling_internvl_chat.py `extract_feature`, `pixel_shuffle`).
Inputs and outputs: vprm_runtime.bundle.graph_io.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from vprm_export.architecture import VisionArchitecture
from vprm_export.external_data import ExternalData
from vprm_export.graphs.builder import FLOAT32, GraphBuilder, LinearFormats
from vprm_export.graphs.position_resize import bicubic_resize
from vprm_export.weights import TensorReader, Weight, scaled
from vprm_runtime.bundle.graph_io import GraphIO

# ImageNet statistics; OpenGVLab/InternVL @2410d1d, internvl_chat/internvl/train/constants.py
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PROJECTOR_NORM_EPS = 1e-5  # torch's LayerNorm default, which mlp1.0 uses
_ENCODER = "vision_model.encoder.layers"
_EMBEDDINGS = "vision_model.embeddings"


def build_vision_graph(
    vision: VisionArchitecture,
    llm_hidden_size: int,
    reader: TensorReader,
    io: GraphIO,
    dtype: np.dtype[Any],
    data: ExternalData,
    linear_formats: LinearFormats = lambda linear: None,
    native_attention: bool = False,
) -> ir.Model:
    """Build the graph; weights are taken from `reader` and given their place in `data`.

    `linear_formats` is asked for the encoder's Linears; patch embedding and projector stay in floating point.
    `native_attention`: attention by the runtime's own operator, in bfloat16.
    """
    graph = GraphBuilder("vision", io, dtype, data, linear_formats)
    return _VisionGraph(vision, reader, graph, native_attention).build(llm_hidden_size)


class _VisionGraph:
    """Shapes in comments: T tiles, g patches a side, N = g*g + 1 tokens, C channels; R rows for the LLM."""

    def __init__(
        self, vision: VisionArchitecture, reader: TensorReader, graph: GraphBuilder, native_attention: bool
    ) -> None:
        self._vision = vision
        self._native_attention = native_attention
        self._reader = reader
        self._graph = graph

    def build(self, llm_hidden_size: int) -> ir.Model:
        graph, vision = self._graph, self._vision
        hidden = self._embed(graph.inputs["tiles"])  # [T, N, C]
        for layer in range(vision.layers):
            hidden = self._layer(hidden, f"{_ENCODER}.{layer}")
        rows = self._project(self._pixel_shuffle(hidden), llm_hidden_size)  # [R, llm hidden]
        return graph.finish([rows])

    def _embed(self, tiles: ir.Value) -> ir.Value:
        """uint8 [T, size, size, 3] -> float32 [T, N, C]: normalise, cut into patches, [CLS], positions."""
        graph, vision = self._graph, self._vision
        side, patch, width = vision.patches_per_side, vision.patch_px, vision.hidden_size
        pixels = graph.op("Cast", tiles, to=ir.DataType.FLOAT.value)
        pixels = graph.op("Div", pixels, graph.constant(np.array(255, np.float32)))
        pixels = graph.op("Sub", pixels, graph.constant(np.array(IMAGENET_MEAN, np.float32)))
        pixels = graph.op("Div", pixels, graph.constant(np.array(IMAGENET_STD, np.float32)))
        # The patch convolution has stride = kernel, so it is a matrix product over patches.
        patches = graph.reshape(pixels, -1, side, patch, side, patch, 3)
        patches = graph.op("Transpose", patches, perm=[0, 1, 3, 5, 2, 4])  # [T, g, g, 3, patch, patch]
        patches = graph.reshape(patches, -1, side * side, 3 * patch * patch)
        kernel = self._weight(f"{_EMBEDDINGS}.patch_embedding.weight", width, 3, patch, patch)
        flat_kernel = Weight(kernel.name, (width, 3 * patch * patch), lambda: kernel.load().reshape(width, -1))
        bias = self._weight(f"{_EMBEDDINGS}.patch_embedding.bias", width)
        embeds = graph.to_float32(graph.linear(graph.to_weights(patches), flat_kernel, bias))  # [T, g*g, C]
        class_embedding = graph.weight(self._weight(f"{_EMBEDDINGS}.class_embedding", 1, 1, width), FLOAT32)
        tile_count = graph.op("Shape", tiles, start=0, end=1)
        class_shape = graph.op("Concat", tile_count, graph.ints(1, width), axis=0)
        class_rows = graph.op("Expand", class_embedding, class_shape)
        tokens = graph.op("Concat", class_rows, embeds, axis=1)  # [T, N, C]
        return graph.op("Add", tokens, graph.weight(self._positions(), FLOAT32))

    def _positions(self) -> Weight:
        """Learned positions [1, N, C], resized if tiles are of another size than the stored ones."""
        vision = self._vision
        side, width = vision.patches_per_side, vision.hidden_size
        trained_side = vision.trained_image_px // vision.patch_px
        stored = self._weight(f"{_EMBEDDINGS}.position_embedding", 1, trained_side**2 + 1, width)
        if side == trained_side:
            return stored

        def load() -> Any:
            table = stored.load()[0].astype(np.float32)  # [1 + trained_side^2, C]
            grid = bicubic_resize(table[1:].reshape(trained_side, trained_side, width), side, side)
            return np.concatenate([table[:1], grid.reshape(side * side, width)])[None]

        return Weight(stored.name, (1, side**2 + 1, width), load)

    def _layer(self, hidden: ir.Value, name: str) -> ir.Value:
        """Pre-norm attention and MLP, each scaled by its layer scale; float32 [T, N, C] in and out."""
        graph, vision = self._graph, self._vision
        width = vision.hidden_size
        attended = self._attention(graph.to_weights(self._norm(hidden, f"{name}.norm1")), f"{name}.attn")
        hidden = self._added(hidden, attended, f"{name}.attn.proj", f"{name}.ls1", width)
        inner = graph.to_weights(self._norm(hidden, f"{name}.norm2"))
        fc1 = self._weight(f"{name}.mlp.fc1.weight", vision.mlp_size, width)
        fc1_bias = self._weight(f"{name}.mlp.fc1.bias", vision.mlp_size)
        inner = graph.linear(inner, fc1, fc1_bias, f"{name}.fc1", gelu=True)
        return self._added(hidden, inner, f"{name}.mlp.fc2", f"{name}.ls2", vision.mlp_size)

    def _added(self, hidden: ir.Value, value: ir.Value, name: str, scale_name: str, inputs: int) -> ir.Value:
        """hidden + layer scale * Linear(value), in float32."""
        graph, width = self._graph, self._vision.hidden_size
        weight, bias = self._weight(f"{name}.weight", width, inputs), self._weight(f"{name}.bias", width)
        linear, scale = name.replace(".mlp", ""), self._weight(scale_name, width)
        if graph.is_fused(linear):
            weight, bias = scaled(weight, rows=scale.load), scaled(bias, rows=scale.load)
            return graph.linear(value, weight, bias, linear, residual=hidden)
        product = graph.to_float32(graph.linear(value, weight, bias, linear))
        return graph.op("Add", hidden, graph.op("Mul", product, graph.weight(scale, FLOAT32)))

    def _attention(self, value: ir.Value, name: str) -> ir.Value:
        """Full attention inside each tile, unprojected: [T, N, C] -> [T, N, C]; qkv rows are packed q, k, v."""
        graph, vision = self._graph, self._vision
        width = vision.hidden_size
        bias = self._weight(f"{name}.qkv.bias", 3 * width) if vision.qkv_bias else None
        packed = graph.linear(value, self._weight(f"{name}.qkv.weight", 3 * width, width), bias, f"{name}.qkv")
        q, k, v = graph.split(packed, [width] * 3)
        if vision.qk_norm:  # over all heads' channels together
            q = graph.to_weights(self._rms_norm(graph.to_float32(q), f"{name}.q_norm"))
            k = graph.to_weights(self._rms_norm(graph.to_float32(k), f"{name}.k_norm"))
        if self._native_attention:
            return graph.native("Attention", q, k, v, heads=vision.heads, kv_heads=vision.heads)
        return graph.op(
            "Attention", q, k, v, q_num_heads=vision.heads, kv_num_heads=vision.heads,
            softmax_precision=ir.DataType.FLOAT.value,
        )  # fmt: skip

    def _norm(self, value: ir.Value, name: str) -> ir.Value:
        if self._vision.norm == "rms_norm":
            return self._rms_norm(value, name)
        return self._layer_norm(value, name, self._vision.hidden_size, self._vision.norm_eps)

    def _layer_norm(self, value: ir.Value, name: str, width: int, eps: float) -> ir.Value:
        graph = self._graph
        scale = graph.weight(self._weight(f"{name}.weight", width), FLOAT32)
        bias = graph.weight(self._weight(f"{name}.bias", width), FLOAT32)
        return graph.op("LayerNormalization", value, scale, bias, axis=-1, epsilon=eps)

    def _rms_norm(self, value: ir.Value, name: str) -> ir.Value:
        scale = self._graph.weight(self._weight(f"{name}.weight", self._vision.hidden_size), FLOAT32)
        return self._graph.op("RMSNormalization", value, scale, axis=-1, epsilon=self._vision.norm_eps)

    def _pixel_shuffle(self, hidden: ir.Value) -> ir.Value:
        """[T, N, C] -> [R, s*s*C]: drop CLS, join each s x s square of patches, its rows first."""
        graph, vision = self._graph, self._vision
        side, s, width = vision.patches_per_side, vision.shuffle, vision.hidden_size
        patches = graph.op("Slice", hidden, graph.ints(1), graph.ints(side * side + 1), graph.ints(1))
        squares = graph.reshape(patches, -1, side // s, s, side // s, s, width)  # [T, row, dr, column, dc, C]
        order = [0, 3, 1, 2, 4, 5] if vision.transposed_shuffle else [0, 1, 3, 2, 4, 5]
        squares = graph.op("Transpose", squares, perm=order)
        return graph.reshape(squares, -1, s * s * width)

    def _project(self, rows: ir.Value, llm_hidden_size: int) -> ir.Value:
        """mlp1: LayerNorm, Linear, GELU, Linear; [R, s*s*C] -> [R, llm hidden]."""
        graph = self._graph
        width = self._vision.shuffle**2 * self._vision.hidden_size
        rows = graph.to_weights(self._layer_norm(rows, "mlp1.0", width, _PROJECTOR_NORM_EPS))
        first = self._weight("mlp1.1.weight", llm_hidden_size, width)
        rows = graph.op("Gelu", graph.linear(rows, first, self._weight("mlp1.1.bias", llm_hidden_size)))
        second = self._weight("mlp1.3.weight", llm_hidden_size, llm_hidden_size)
        return graph.linear(rows, second, self._weight("mlp1.3.bias", llm_hidden_size))

    def _weight(self, name: str, *shape: int) -> Weight:
        return self._reader.weight(name, shape)
