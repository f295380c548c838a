"""What the language stages train: verdicts where scores are read, and throw-away heads on the way there.

A verdict needs three things in turn: read the true value (before the claimed token), see that the claimed token
contradicts it (at that token), carry that to the assistant header. Each has a loss of its own at a fitting depth,
which the recipe's experiment lacked.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dense import DenseHead
from .language_data import Batch
from .model import DemoPrm, ModelConfig

READING_LAYER = 2
VERDICT_LAYERS = (3, 4)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss."""

    score: float = 1.0
    verdict: float = 0.5
    reading: float = 0.3
    final_reading: float = 0.1
    dense: float = 0.3


class TrainingHeads(nn.Module):
    """Heads that only training uses: dense image classes, reading at a middle layer, contradictions at later ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = DenseHead(config.width)
        self.reading = nn.Linear(config.width, config.vocab_size)
        self.verdict = nn.ModuleList(nn.Linear(config.width, 2) for _ in VERDICT_LAYERS)


@dataclass(frozen=True)
class Tensors:
    """A batch on its device."""

    tiles: Tensor
    ids: Tensor
    image_slots: Tensor
    score_positions: Tensor
    score_labels: Tensor
    reading_positions: Tensor
    reading_targets: Tensor
    verdict_positions: Tensor
    verdict_labels: Tensor
    dense: Tensor

    @staticmethod
    def of(batch: Batch, device: torch.device) -> Tensors:
        """Copy a batch's arrays to `device`."""
        return Tensors(
            **{field.name: torch.from_numpy(getattr(batch, field.name)).to(device) for field in fields(Tensors)}
        )


def at(states: Tensor, positions: Tensor) -> Tensor:
    """Rows of [B, T, width] at flat positions [K], float32."""
    return states.flatten(0, 1).index_select(0, positions).float()


def score_logits(model: DemoPrm, final: Tensor, positions: Tensor, plus: int, minus: int) -> Tensor:
    """Logit of '+' minus logit of '-' at flat positions: float32 [K]; the score is its sigmoid."""
    rows = model.language_model.output.weight[[plus, minus]].float()
    pair = at(final, positions) @ rows.T
    return pair[:, 0] - pair[:, 1]


def language_loss(
    model: DemoPrm,
    heads: TrainingHeads,
    outputs: tuple[Tensor, list[Tensor]],
    batch: Tensors,
    n_tiles: int,
    weights: LossWeights,
    plus: int,
    minus: int,
) -> tuple[Tensor, dict[str, float]]:
    """The weighted loss of image embeddings and states of all layers, and measures for the log."""
    embeddings, states = outputs
    measures: dict[str, float] = {}
    margin = score_logits(model, states[-1], batch.score_positions, plus, minus)
    score = functional.binary_cross_entropy_with_logits(margin, batch.score_labels.float())
    measures["score"] = float(score.detach())
    measures["accuracy"] = float(((margin > 0).long() == batch.score_labels).float().mean())
    total = weights.score * score

    logits = heads.reading(at(states[READING_LAYER], batch.reading_positions))
    reading = functional.cross_entropy(logits, batch.reading_targets)
    measures["reading"] = float((logits.argmax(-1) == batch.reading_targets).float().mean())
    final = functional.cross_entropy(model.logits(at(states[-1], batch.reading_positions)), batch.reading_targets)
    total = total + weights.reading * reading + weights.final_reading * final

    for index, (layer, head) in enumerate(zip(VERDICT_LAYERS, heads.verdict, strict=True)):
        logits = head(at(states[layer], batch.verdict_positions))
        loss = functional.cross_entropy(logits, batch.verdict_labels)
        measures[f"verdict{layer}"] = float((logits.argmax(-1) == batch.verdict_labels).float().mean())
        total = total + weights.verdict * (1.0 if index == 0 else 0.5) * loss

    whole = embeddings.view(-1, n_tiles, *embeddings.shape[1:])[:, -1].float()
    dense, recall = heads.dense.loss(whole, batch.dense)
    measures["ones"], measures["name"] = recall["ones"], recall["name"]
    return total + weights.dense * dense, measures
