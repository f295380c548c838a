"""Quality of a model on rows of the generator, in PyTorch: what is asked of the demo PRM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vprm_demo.generator.tiling import tiles_from_image
from vprm_demo.generator.types import Step

from .model import DemoPrm
from .prompt import Prompt, Tokenizer

Counts = tuple[int, int, int, int]


class Judge:
    """Scores steps with a model; rows are run one image at a time, its candidates in one padded batch."""

    def __init__(self, model: DemoPrm, tokenizer: Tokenizer, device: torch.device) -> None:
        self.model, self.tokenizer, self.device = model.eval(), tokenizer, device

    @torch.no_grad()
    def scores(self, tiles: np.ndarray, question: str, candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Step scores of each candidate (a list of steps) for tiles uint8 [n, S, S, 3]."""
        tokens = self.model.config.tokens_per_tile
        embeddings = self.model.image_embeddings(torch.from_numpy(tiles).to(self.device)).flatten(0, 1)
        prompts = [
            self.tokenizer.prompt(question, [Step((text,), "read") for text in steps], len(tiles), tokens)
            for steps in candidates
        ]
        return self._run(prompts, embeddings)

    def _run(self, prompts: list[Prompt], embeddings: torch.Tensor) -> list[list[float]]:
        length = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros((len(prompts), length), dtype=torch.int64)
        for index, prompt in enumerate(prompts):
            ids[index, : len(prompt.ids)] = torch.tensor(prompt.ids)
        starts = torch.tensor([index * length + prompt.image_start for index, prompt in enumerate(prompts)])
        slots = (starts[:, None] + torch.arange(len(embeddings))).flatten()
        final = self.model.hidden_states(
            ids.to(self.device), embeddings.repeat(len(prompts), 1), slots.to(self.device)
        )[-1]
        pair = (
            self.model.logits(final)[..., [self.tokenizer.plus, self.tokenizer.minus]].float().softmax(-1)[..., 0].cpu()
        )
        return [pair[index, prompt.scores].tolist() for index, prompt in enumerate(prompts)]


def macro_f1(labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> float:
    """Mean of the F1 of right and of wrong steps; labels 1 and -1."""
    predicted = scores > threshold
    right = labels > 0
    parts = []
    for positive in (True, False):
        hit = int(((predicted == positive) & (right == positive)).sum())
        miss = int((predicted != right).sum())
        parts.append(2 * hit / max(1, 2 * hit + miss))
    return float(np.mean(parts))


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a right step scores above a wrong one (ties count half)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    right = labels > 0
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    if not n_right or not n_wrong:
        return float("nan")
    return float((ranks[right].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load_tiles(path: Path, row: dict[str, Any], grey: bool) -> np.ndarray:
    """Tiles of a row's image, or of a grey image of the same size."""
    image = Image.open(path.parent / row["image"][0]).convert("RGB")
    return tiles_from_image(Image.new("RGB", image.size, (128, 128, 128)) if grey else image)


def steps_quality(judge: Judge, path: Path, grey: bool = False) -> dict[str, float]:
    """Macro F1 and AUC over all steps of VisualProcessBench rows, and macro F1 a family."""
    by_family: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_jsonl(path):
        response = row["response"]
        scores = judge.scores(load_tiles(path, row, grey), row["question"], [response["steps"]])[0]
        labels, values = by_family.setdefault(row["data_source"], ([], []))
        for label, score in zip(response["process_correctness"], scores, strict=True):
            if label:
                labels.append(label)
                values.append(score)
    result = {}
    for family, (labels, values) in sorted(by_family.items()):
        result[f"f1_{family}"] = macro_f1(np.array(labels), np.array(values))
        result[f"auc_{family}"] = auc(np.array(labels), np.array(values))
    every_label = np.array([label for labels, _ in by_family.values() for label in labels])
    every_score = np.array([score for _, values in by_family.values() for score in values])
    return {"f1": macro_f1(every_label, every_score), "auc": auc(every_label, every_score), **result}


def choice_quality(judge: Judge, path: Path, grey: bool = False) -> dict[str, float]:
    """How often the candidate with the highest mean score is right, and how often a random one is."""
    best, chance = [], []
    for row in read_jsonl(path):
        candidates, correct = row["responses"], row["correct"]
        scores = judge.scores(load_tiles(path, row, grey), row["question"], candidates)
        best.append(bool(correct[int(np.argmax([np.mean(values) for values in scores]))]))
        chance.append(float(np.mean(correct)))
    return {"accuracy": float(np.mean(best)), "random": float(np.mean(chance))}
