"""Muon for stacks of matrices, AdamW for the rest (embedding, head, router, norms)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz on the last two axes: singular values go to about 1. bf16 inside."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised; the update has an RMS of 0.2, as AdamW's, so that one learning rate fits both."""

    def __init__(self, params: Sequence[Tensor], weight_decay: float, momentum: float = 0.95) -> None:
        self.params, self.weight_decay, self.momentum = list(params), weight_decay, momentum
        self.buffers = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for p, buffer in zip(self.params, self.buffers, strict=True):
            if p.grad is None:
                raise RuntimeError(f"a parameter of shape {tuple(p.shape)} has no gradient")
            buffer.lerp_(p.grad, 1 - self.momentum)
            update = orthogonalise(p.grad.lerp(buffer, self.momentum))
            p.mul_(1 - lr * self.weight_decay)
            p.add_(update.float(), alpha=-lr * 0.2 * max(p.shape[-2:]) ** 0.5)
