"""Optimisers: Muon for the matrices of hidden layers, AdamW for the rest, with one warm-up and cosine schedule."""

from __future__ import annotations

import math

import torch
from torch import nn


class Optimisers:
    """Two optimisers stepped together; `set_progress` sets the learning rates."""

    def __init__(self, modules: list[nn.Module], peak_lr: float, weight_decay: float = 0.01) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in modules:
            for name, parameter in module.named_parameters():
                hidden = parameter.dim() == 2 and (".layers." in name or name.startswith("mlp1"))
                (matrices if hidden else others).append(parameter)
        self.peak_lr = peak_lr
        self.parameters = matrices + others
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=peak_lr, betas=(0.9, 0.98), weight_decay=weight_decay)
        ]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=peak_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw", ns_steps=4
            )
            self.all.append(muon)

    def set_progress(self, progress: float, warmup: float, floor: float) -> float:
        """Learning rate at `progress` in 0..1 of a stage: linear warm-up, then a cosine down to `floor` of the peak."""
        if progress < warmup:
            share = progress / warmup
        else:
            share = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
        for optimiser in self.all:
            for group in optimiser.param_groups:
                group["lr"] = self.peak_lr * share
        return self.peak_lr * share

    def step(self) -> None:
        """Clip, step and clear the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.all:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        """States of both, for resuming."""
        return [optimiser.state_dict() for optimiser in self.all]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Take up states saved by `state_dict`."""
        for optimiser, state in zip(self.all, states, strict=True):
            optimiser.load_state_dict(state)
