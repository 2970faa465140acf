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


@dataclass(frozen=True)
class Step:
    """One iteration: (μ, σ, how many so far) of every element, from a seed."""

    f: Callable[..., Tensor]
    samples: int
    elites: int
    normalize: bool
    momentum: float
    min_std: float
    tolerance: float
    hard: bool

    def __call__(self, seed: int, state: tuple[Tensor, ...], parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (mean, std, spent), (lower, upper, tau, *hidden) = state, parameters
        (noise,) = opaque(self._noise(seed), mean)
        y = mean.unsqueeze(-2) + std.unsqueeze(-2) * noise
        y = torch.maximum(torch.minimum(y, upper.unsqueeze(-2)), lower.unsqueeze(-2))
        values = vmap(self.f, in_dims=(-2, *(None for _ in hidden)), out_dims=-1)(y, *hidden)
        w = self.weights(values.expand(y.shape[:-1]).to(y.dtype), tau).unsqueeze(-1) / self.elites
        new_mean = (w * y).sum(-2)
        variance = (w * (y - new_mean.unsqueeze(-2)).square()).sum(-2)
        new_std = variance.clamp_min(self.min_std**2).sqrt()
        new_mean = self.momentum * mean + (1 - self.momentum) * new_mean
        new_std = self.momentum * std + (1 - self.momentum) * new_std
        live = largest(std.detach()) > self.tolerance
        going = live.unsqueeze(-1)
        return torch.where(going, new_mean, mean), torch.where(going, new_std, std), spent + live.to(spent.dtype)

    def weights(self, values: Tensor, tau: Tensor) -> Tensor:
        """w ``(*batch, samples)``, which sum to the number of elites; NaN where a value is not finite."""
        if self.hard:
            best = values.detach().topk(self.elites, dim=-1, largest=False).indices
            w = torch.zeros_like(values).scatter(-1, best, 1.0)
            return torch.where(torch.isfinite(values).all(-1, keepdim=True), w, torch.nan)
        sound = torch.isfinite(values.detach()).all(-1, keepdim=True)
        scores = -torch.where(sound, values, 0)
        if self.normalize:
            centred = scores - scores.mean(-1, keepdim=True)
            variance = centred.square().sum(-1, keepdim=True) / max(1, self.samples - 1)
            spread = torch.where(variance > 0, torch.where(variance > 0, variance, 1).sqrt(), 0)
            scores = centred / (spread + 1e-6)
        return torch.where(sound, soft_top_k(scores, self.elites, tau), torch.nan)

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
