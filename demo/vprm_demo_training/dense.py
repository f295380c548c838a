"""Dense targets: what can be seen in each cell of a tile, taught to the vision encoder by a throw-away head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vprm_demo.generator.types import ATTRIBUTE_CLASSES, Region

HEADS = tuple(ATTRIBUTE_CLASSES)
SIZES = tuple(len(classes) + 1 for classes in ATTRIBUTE_CLASSES.values())
_INDEX = {head: {name: index + 1 for index, name in enumerate(classes)} for head, classes in ATTRIBUTE_CLASSES.items()}
BACKGROUND_WEIGHT = 0.05


def targets_from_regions(regions: tuple[Region, ...], side: int) -> np.ndarray:
    """Class of each head in each of side x side cells of the whole image, 0 = nothing: uint8 [side * side, heads +
    1].

    The last column is the cell's weight in tenths.
    """
    grid = np.zeros((side, side, len(HEADS) + 1), dtype=np.uint8)
    for region in regions:
        left, top, right, bottom = (edge * side for edge in region.box)
        classes = [_INDEX[head][region.attributes[head]] if head in region.attributes else 0 for head in HEADS]
        classes.append(round(10 * region.weight))
        columns = [c for c in range(side) if left <= c + 0.5 <= right] or [
            min(side - 1, max(0, int((left + right) / 2)))
        ]
        rows = [r for r in range(side) if top <= r + 0.5 <= bottom] or [min(side - 1, max(0, int((top + bottom) / 2)))]
        for row in rows:
            grid[row, columns[0] : columns[-1] + 1] = classes
    return grid.reshape(side * side, len(HEADS) + 1)


class DenseHead(nn.Module):
    """A linear layer on image embeddings that names what each cell shows; used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(SIZES))

    def loss(self, embeddings: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy over heads for embeddings [N, cells, width] and targets [N, cells, heads + 1]; recall by
        head.

        Cells with nothing count little; recall is over cells with something.
        """
        logits = self.linear(embeddings.float()).flatten(0, 1)
        wanted = targets.flatten(0, 1).long()
        cell_weight = wanted[:, -1] / 10
        total = logits.new_zeros(())
        recall: dict[str, float] = {}
        for index, (head, part) in enumerate(zip(HEADS, logits.split(SIZES, dim=-1), strict=True)):
            target = wanted[:, index]
            weight = torch.where(target > 0, cell_weight, BACKGROUND_WEIGHT)
            total = total + (functional.cross_entropy(part, target, reduction="none") * weight).sum() / weight.sum()
            if head in ("name", "second", "tens", "ones", "count_a", "count_b", "count_c"):
                seen = target > 0
                recall[head] = float((part.argmax(-1) == target)[seen].float().mean())
        return total / len(HEADS), recall
