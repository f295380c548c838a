"""The demo PRM as a PyTorch module whose parameter names and maths are those of InternVL with an InternLM2 language
model.

Sources of the maths: OpenGVLab/InternVL @2410d1d, `internvl_chat/internvl/model/`
(`internvl_chat/modeling_intern_vit.py`, `modeling_internvl_chat.py`, `internlm2/modeling_internlm2.py`). Deliberate
differences: attention is written as two matrix products and a softmax (faster to train on a CPU than the fused
kernel), and `forward` also returns middle states for the auxiliary losses. Dynamic rope scaling starts beyond
`max_position_embeddings`, which training never reaches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions of the demo PRM (`config.json` is written from these)."""

    vocab_size: int
    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 192
    vision_layers: int = 4
    vision_heads: int = 3
    vision_ffn: int = 512
    width: int = 192
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 512
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5

    @property
    def patches(self) -> int:
        """Patches along a side of a tile."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens per tile after pixel shuffle."""
        return (self.patches // 2) ** 2

    @property
    def head_dim(self) -> int:
        """Width of a head of the language model."""
        return self.width // self.heads


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over [B, heads, T, head_dim] with an additive mask [T, T]; softmax in float32."""
    scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]))
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value


class VisionAttention(nn.Module):
    """Self-attention over the patches of a tile; `qkv` rows are packed [q; k; v]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attend(qkv[0], qkv[1], qkv[2], None)
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return result


class VisionMlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ffn)
        self.fc2 = nn.Linear(ffn, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return result


class VisionLayer(nn.Module):
    """Pre-LayerNorm block with layer scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.attn = VisionAttention(width, config.vision_heads)
        self.mlp = VisionMlp(width, config.vision_ffn)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.ls1 = nn.Parameter(torch.ones(width))
        self.ls2 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1 * self.attn(self.norm1(x))
        hidden: Tensor = self.mlp(self.norm2(x))
        return x + self.ls2 * hidden


class VisionEmbeddings(nn.Module):
    """Patches (as a matrix product) and the class token, plus learned positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vision_width
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.position_embedding = nn.Parameter(torch.randn(1, config.patches**2 + 1, width) * 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels float [N, 3, S, S] -> [N, 1 + patches**2, width]."""
        side, patch = self.config.patches, self.config.patch_size
        batch = pixels.shape[0]
        columns = (
            pixels.view(batch, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, side * side, -1)
        )
        patches = functional.linear(columns, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        tokens = torch.cat([self.class_embedding.expand(batch, -1, -1).to(patches.dtype), patches], dim=1)
        return tokens + self.position_embedding


class VisionModel(nn.Module):
    """InternViT without a final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.vision_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.embeddings(pixels)
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            x = layer(x)
        return x


class RmsNorm(nn.Module):
    """Root-mean-square norm in float32, scaled by a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Half-split rotary embedding of [B, heads, T, head_dim] with tables [T, head_dim]."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cosine + turned * sine


class Attention(nn.Module):
    """Grouped-query attention; `wqkv` holds, a key-value head at a time, its query heads, its key and its value."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.wqkv = nn.Linear(config.width, rows, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        config = self.config
        batch, length, _ = x.shape
        group = config.heads // config.kv_heads
        packed = self.wqkv(x).view(batch, length, config.kv_heads, group + 2, config.head_dim)
        query = packed[..., :group, :].reshape(batch, length, config.heads, config.head_dim).transpose(1, 2)
        key, value = (packed[..., group + i, :].transpose(1, 2) for i in (0, 1))  # (B, kv_heads, T, head_dim)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
        mixed = attend(query, key, value.to(query.dtype), mask)
        result: Tensor = self.wo(mixed.transpose(1, 2).reshape(batch, length, config.width))
        return result


class FeedForward(nn.Module):
    """SwiGLU: w1 gate, w3 up, w2 down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.ffn, bias=False)
        self.w3 = nn.Linear(config.width, config.ffn, bias=False)
        self.w2 = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return result


class DecoderLayer(nn.Module):
    """Pre-RMSNorm block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RmsNorm(config.width, config.rms_eps)
        self.ffn_norm = RmsNorm(config.width, config.rms_eps)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cosine, sine, mask)
        hidden: Tensor = self.feed_forward(self.ffn_norm(x))
        return x + hidden


class LanguageModel(nn.Module):
    """InternLM2: `model.tok_embeddings`, `model.layers`, `model.norm` and an untied `output`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.tok_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.model.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.model.norm = RmsNorm(config.width, config.rms_eps)
        self.output = nn.Linear(config.width, config.vocab_size, bias=False)


def sine_positions(side: int, width: int) -> Tensor:
    """Two-dimensional sine and cosine positions [side * side, width]: a start from which neighbours find each other
    soon."""
    rates = 1.6 * (1 / 25) ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, width / 2)
    down = line[:, None].expand(side, side, -1)
    across = line[None].expand(side, side, -1)
    return torch.cat([down, across], dim=-1).reshape(side * side, width)


class DemoPrm(nn.Module):
    """The whole model, with the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        shuffled = 4 * config.vision_width
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(shuffled), nn.Linear(shuffled, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.language_model = LanguageModel(config)
        self._initialise()

    def _initialise(self) -> None:
        """Small normal weights; the outputs of blocks scaled down with depth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or ("embedding" in name and "patch" not in name):
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
                continue
            nn.init.normal_(parameter, std=1.0 / math.sqrt(parameter[0].numel()))
            if name.endswith(("attn.proj.weight", "fc2.weight", "wo.weight", "w2.weight")):
                parameter.data.mul_(0.3)
        embeddings = self.vision_model.embeddings
        filters = embeddings.patch_embedding.weight.data
        filters -= filters.mean(dim=(1, 2, 3), keepdim=True)  # an even background starts out as nothing
        embeddings.position_embedding.data[0, 1:] = 0.7 * sine_positions(self.config.patches, self.config.vision_width)
        nn.init.normal_(self.language_model.model.tok_embeddings.weight, std=0.5)  # type: ignore[union-attr, arg-type]

    def image_embeddings(self, tiles: Tensor) -> Tensor:
        """uint8 tiles [N, S, S, 3] -> [N, tokens_per_tile, width]."""
        mean = torch.tensor((0.485, 0.456, 0.406), device=tiles.device)
        std = torch.tensor((0.229, 0.224, 0.225), device=tiles.device)
        pixels = ((tiles.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        patches = self.vision_model(pixels)[:, 1:]
        side, width = self.config.patches, self.config.vision_width
        squares = patches.view(-1, side // 2, 2, side // 2, 2, width).transpose(2, 3)  # (N, row, column, 2, 2, width)
        projected: Tensor = self.mlp1(squares.reshape(-1, self.config.tokens_per_tile, 4 * width))
        return projected

    def hidden_states(self, ids: Tensor, images: Tensor, image_slots: Tensor) -> list[Tensor]:
        """Token ids int64 [B, T], image rows [R, width] for flat positions `image_slots` int64 [R] -> states after
        each layer.

        The last entry is normalised, ready for the output matrix; the others are [B, T, width] as they leave their
        layer.
        """
        llm = self.language_model.model
        x: Tensor = llm.tok_embeddings(ids)  # type: ignore[operator]
        flat = x.flatten(0, 1)
        x = flat.index_copy(0, image_slots, images.to(flat.dtype)).view_as(x)
        cosine, sine, mask = self._tables(ids.shape[1], x.device)
        states = []
        for layer in llm.layers:  # type: ignore[union-attr]
            x = layer(x, cosine, sine, mask)
            states.append(x)
        states.append(llm.norm(x))  # type: ignore[operator]
        return states

    def _tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Rotary tables [T, head_dim] and the causal mask [T, T], float32."""
        dim = self.config.head_dim
        inverse = self.config.rope_theta ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * inverse
        angles = torch.cat([angles, angles], dim=-1)
        mask = torch.full((length, length), float("-inf"), device=device).triu(1)
        return angles.cos(), angles.sin(), mask

    def logits(self, states: Tensor) -> Tensor:
        """Normalised states [..., width] -> logits over the vocabulary."""
        result: Tensor = self.language_model.output(states)
        return result
