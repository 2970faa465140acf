"""One iteration of the cross-entropy method, eqs. (1) and (2) of :mod:`.cem`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from ..autograd.opaque import opaque
from ..batch.products import largest
from ..layers.topk import soft_top_k
from ..validate import values_visible

EPSILON = 1e-6  # ε of eq. (2)


@dataclass(frozen=True)
class Step:
    """One iteration: (μ, σ, how many so far, the unit of f's spread) of every element, from a seed."""

    f: Callable[..., Tensor]
    samples: int
    elites: int
    normalize: bool
    momentum: float
    tolerance: float
    hard: bool

    def __call__(self, seed: int, state: tuple[Tensor, ...], parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (mean, std, spent, unit), (lower, upper, floor, tau, *hidden) = state, parameters
        (noise,) = opaque(self._noise(seed), mean)
        y = mean.unsqueeze(-2) + std.unsqueeze(-2) * noise
        y = torch.maximum(torch.minimum(y, upper.unsqueeze(-2)), lower.unsqueeze(-2))
        values = vmap(self.f, in_dims=(-2, *(None for _ in hidden)), out_dims=-1)(y, *hidden)
        w, unit = self.weights(values.to(y.dtype), tau, unit)
        w = w.unsqueeze(-1) / self.elites
        new_mean = (w * y).sum(-2)
        variance = (w * (y - new_mean.unsqueeze(-2)).square()).sum(-2)
        new_std = torch.maximum(variance, floor.square().clamp_min(torch.finfo(y.dtype).tiny)).sqrt()
        new_mean = self.momentum * mean + (1 - self.momentum) * new_mean
        new_std = self.momentum * std + (1 - self.momentum) * new_std
        live = largest(std.detach()) > self.tolerance
        going = live.unsqueeze(-1)
        spent = spent + live.to(spent.dtype)
        return torch.where(going, new_mean, mean), torch.where(going, new_std, std), spent, unit

    def weights(self, values: Tensor, tau: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """w ``(*batch, samples)``, which sum to the number of elites, NaN where a value is not finite; and the unit of
        ε, ``(*batch,)``, which the first iteration finds."""
        if self.hard:
            best = values.detach().topk(self.elites, dim=-1, largest=False).indices
            w = torch.zeros_like(values).scatter(-1, best, 1.0)
            return torch.where(torch.isfinite(values).all(-1, keepdim=True), w, torch.nan), unit
        sound = torch.isfinite(values.detach()).all(-1, keepdim=True)
        scores = -torch.where(sound, values, 0)
        if self.normalize:
            centred = scores - scores.mean(-1, keepdim=True)
            variance = centred.square().sum(-1, keepdim=True) / max(1, self.samples - 1)
            spread = torch.where(variance > 0, torch.where(variance > 0, variance, 1).sqrt(), 0)
            first = torch.where(spread > 0, spread.clamp_max(1), 1).squeeze(-1)
            unit = torch.where(unit.isinf(), first, unit)
            scores = centred / (spread + EPSILON * unit.unsqueeze(-1))
        return torch.where(sound, soft_top_k(scores, self.elites, tau), torch.nan), unit

    def repeat(self, seeds: list[int], state: tuple[Tensor, ...], parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """An iteration for each seed, or until no element is left."""
        for seed in seeds:
            if values_visible(state[1]) and not (largest(state[1].detach()) > self.tolerance).any():
                break
            state = self(seed, state, parameters)
        return state

    def _noise(self, seed: int) -> Callable[[Tensor], tuple[Tensor]]:
        """An algorithm for :func:`opaque`, so that a vmapped element has samples of its own."""

        def draw(mean: Tensor) -> tuple[Tensor]:
            generator = torch.Generator(mean.device).manual_seed(seed)
            shape = (*mean.shape[:-1], self.samples, mean.shape[-1])
            return (torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device),)

        return draw
