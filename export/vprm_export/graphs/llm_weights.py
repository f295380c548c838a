"""Names and layouts of LLM weights in a checkpoint, for each family, under one set of roles."""

from dataclasses import dataclass

import numpy as np

from vprm_export.architecture import LlmArchitecture, LlmFamily
from vprm_export.weights import TensorReader, Weight


@dataclass(frozen=True)
class _Names:
    """Tensor names under `language_model.`; layer names under `language_model.model.layers.N.`."""

    embeddings: str
    head: str
    attention_norm: str
    mlp_norm: str
    output: str
    gate: str
    up: str
    down: str


# Llama and Qwen2 have transformers' names; InternLM2's are from internlm/internlm2_5-7b-chat, modeling_internlm2.py.
_HF_NAMES = _Names(
    "model.embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm",
    "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_NAMES: dict[LlmFamily, _Names] = {
    "internlm2": _Names(
        "model.tok_embeddings", "output", "attention_norm", "ffn_norm",
        "attention.wo", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2",
    ),
    "llama": _HF_NAMES,
    "qwen2": _HF_NAMES,
}  # fmt: skip
_ROOT = "language_model"


class LlmWeights:
    """An LLM's weights by role. Linear weights are [out, in] as in the checkpoint."""

    def __init__(self, llm: LlmArchitecture, reader: TensorReader) -> None:
        self._llm = llm
        self._reader = reader
        self._names = _NAMES[llm.family]

    def embeddings(self) -> Weight:
        """Token embeddings [vocabulary, hidden]."""
        return self._reader.weight(f"{_ROOT}.{self._names.embeddings}.weight", self._vocabulary_shape)

    def head(self) -> Weight:
        """Output head [vocabulary, hidden]; the embeddings if config.json ties them."""
        if self._llm.tied_head:  # under its own name: the graph has both, the head cut to few rows
            embeddings = self.embeddings()
            return Weight(f"{_ROOT}.{self._names.head}.weight", embeddings.shape, embeddings.load)
        return self._reader.weight(f"{_ROOT}.{self._names.head}.weight", self._vocabulary_shape)

    def final_norm(self) -> Weight:
        """Norm after the last layer [hidden]."""
        return self._reader.weight(f"{_ROOT}.model.norm.weight", (self._llm.hidden_size,))

    def attention_norm(self, layer: int) -> Weight:
        """Norm before attention [hidden]."""
        return self._layer(layer, f"{self._names.attention_norm}.weight", self._llm.hidden_size)

    def mlp_norm(self, layer: int) -> Weight:
        """Norm before the MLP [hidden]."""
        return self._layer(layer, f"{self._names.mlp_norm}.weight", self._llm.hidden_size)

    def q_k_v(self, layer: int) -> tuple[Weight, Weight, Weight]:
        """Query, key and value projections, [heads*head_dim, hidden] and twice [kv_heads*head_dim, hidden]."""
        llm = self._llm
        if llm.family != "internlm2":
            q, k, v = (
                self._layer(layer, f"self_attn.{part}_proj.weight", heads * llm.head_dim, llm.hidden_size)
                for part, heads in (("q", llm.heads), ("k", llm.kv_heads), ("v", llm.kv_heads))
            )
            return q, k, v
        # Packed by KV head: for each its queries' rows, then its key's, then its value's.
        packed = self._layer(
            layer, "attention.wqkv.weight", (llm.heads + 2 * llm.kv_heads) * llm.head_dim, llm.hidden_size
        )
        per_group = llm.heads // llm.kv_heads + 2
        row_numbers = np.arange(packed.shape[0]).reshape(llm.kv_heads, per_group, llm.head_dim)
        return (
            packed.rows(row_numbers[:, :-2].reshape(-1)),
            packed.rows(row_numbers[:, -2].reshape(-1)),
            packed.rows(row_numbers[:, -1].reshape(-1)),
        )

    def q_k_v_biases(self, layer: int) -> tuple[Weight, Weight, Weight] | None:
        """Biases of the three projections, or None if the family has none."""
        llm = self._llm
        if not llm.qkv_bias:
            return None
        q, k, v = (
            self._layer(layer, f"self_attn.{part}_proj.bias", heads * llm.head_dim)
            for part, heads in (("q", llm.heads), ("k", llm.kv_heads), ("v", llm.kv_heads))
        )
        return q, k, v

    def attention_output(self, layer: int) -> Weight:
        """Projection after attention [hidden, heads*head_dim]."""
        width = self._llm.heads * self._llm.head_dim
        return self._layer(layer, f"{self._names.output}.weight", self._llm.hidden_size, width)

    def gate_and_up(self, layer: int) -> tuple[Weight, Weight]:
        """The MLP's two input projections [mlp, hidden]: the one that SiLU is applied to first."""
        shape = (self._llm.mlp_size, self._llm.hidden_size)
        gate = self._layer(layer, f"{self._names.gate}.weight", *shape)
        return gate, self._layer(layer, f"{self._names.up}.weight", *shape)

    def down(self, layer: int) -> Weight:
        """The MLP's output projection [hidden, mlp]."""
        return self._layer(layer, f"{self._names.down}.weight", self._llm.hidden_size, self._llm.mlp_size)

    @property
    def _vocabulary_shape(self) -> tuple[int, int]:
        return self._llm.vocabulary, self._llm.hidden_size

    def _layer(self, layer: int, name: str, *shape: int) -> Weight:
        return self._reader.weight(f"{_ROOT}.model.layers.{layer}.{name}", shape)
