"""Convex costs in a chain whose neighbours may differ by so much at most, for a batch of chains.

    z* = argmin Σ_{i=1..n} f_i(z_i)   s.t.  |z_i − z_{i+1}| ≤ r                                   (1)

Along a run of active limits z_i = c + o_i r with whole numbers o_i, so the active limits cut the chain into blocks,
each with one unknown, and with the multiplier ρ_i of the limit between i and i + 1 the optimality conditions are

    Σ_{i ∈ block} f_i'(c + o_i r) = 0,   ρ_i = f_1' + … + f_i',    ρ_i ≥ 0 where z rises by r, ≤ 0 where it falls   (2)

Two methods look for the active limits. The *active set* method solves (2) for the limits that it believes in, all
blocks of all chains at once, lets go of those with a multiplier of the wrong sign, and takes on those that are
violated; while many change, one step of Newton's method is enough for (2). Chains then may go round in circles, mostly
because two neighbours answer each other, so later only the first of neighbours that would change does. That needs some
ten rounds, but nothing proves that it can't cycle. *Dynamic programming* can't. Let V_i(z) be the least cost of the
first i links if the last of them is at z, and m_i its minimum. Link i − 1 comes as near to m_{i−1} as r allows,

    V_i'(z) = f_i'(z) + { V_{i−1}'(z + r)  for z < m_{i−1} − r,
                          0                for |z − m_{i−1}| ≤ r,                                 (3)
                          V_{i−1}'(z − r)  for z > m_{i−1} + r }

The graph of V' is cut at its zero and the halves are moved apart by r. The slope at any z costs a walk back along the
chain, m_i is the root of an increasing function, and then z_n = m_n, z_i = clip(m_i, z_{i+1} − r, z_{i+1} + r). It
takes n searches one after the other, and so is left to the chains that the active set method gives up.

Sources: Hintermüller, Ito & Kunisch 2002 (active sets); N. Johnson, A dynamic programming algorithm for the fused
lasso, 2013, for (3), with halves moved apart instead of clipped. Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..batch.rows import iterate, only_on, relay

ROUNDS = 12  # of the active set method with one step of Newton's method in each
CAREFUL_ROUNDS = 24  # of those that follow, before dynamic programming takes over
MAX_STEPS = 200  # of Newton's method or bisection: bisection alone needs less
CLOSE = 32  # units in the last place from a root at which a step of Newton's method is the last one
ROUNDING = 1e-13  # of a multiplier, relative to the slopes that were added up in it


class Costs(Protocol):
    """f_1, …, f_n for N chains: a state that :func:`.rows.select` can narrow."""

    def slopes(self, z: Tensor, links: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """f_i'(z) and f_i''(z) > 0 for these links, ``(N, ·)``."""


class Chains(NamedTuple):
    """N chains: their costs, the minima of the f_i by themselves ``(N, n)``, and r ``(N, 1)``."""

    costs: Any
    free: Tensor
    ramp: Tensor


class Active(NamedTuple):
    """For each pair of neighbours whether z rises by r (1), falls by r (−1) or neither, ``(N, n − 1)``; c of every
    block ``(N, n)``, 0 behind the last; and whether that is confirmed, ``(N,)``."""

    side: Tensor
    level: Tensor
    confirmed: Tensor


class Blocks(NamedTuple):
    """The block of every link and its offset o, ``(N, n)``."""

    block: Tensor
    offset: Tensor

    @classmethod
    def of(cls, side: Tensor) -> Blocks:
        first = pad(side == 0, (1, 0), value=True)
        walked = pad(side.cumsum(-1), (1, 0))
        begin = torch.where(first, torch.arange(walked.shape[-1], device=side.device), 0).cummax(-1).values
        return cls(first.cumsum(-1) - 1, walked - walked.gather(-1, begin))

    def add_up(self, v: Tensor) -> Tensor:
        """The sums over the blocks, 0 behind the last."""
        v, block = torch.broadcast_tensors(v, self.block)
        return torch.zeros_like(v).scatter_add(-1, block, v)

    def places(self, level: Tensor, ramp: Tensor) -> Tensor:
        """z_i = c + o_i r."""
        level, block = torch.broadcast_tensors(level, self.block)
        return level.gather(-1, block) + self.offset * ramp


def find_active(chains: Chains) -> Active:
    """Which limits are active in (1)."""
    attempts: list[Callable[..., Active]] = [settle, lambda chains, _: dynamic_programming(chains)]
    return relay(chains, attempts, lambda found: found.confirmed)


# The active set method


class Aim(NamedTuple):
    """Where a step of Newton's method takes each link by itself, and the curvature there, ``(N, n)``."""

    place: Tensor
    curvature: Tensor


class Guess(NamedTuple):
    chains: Chains
    aim: Aim
    side: Tensor
    after: Tensor  # what comes next


def settle(chains: Chains) -> Active:
    """From the links that are violated where each takes its own minimum."""
    side = violated(chains.free, chains.ramp)
    start = Guess(chains, Aim(chains.free, chains.costs.slopes(chains.free)[1]), side, side)
    aim, rough = _rounds(start, ROUNDS, careful=False)
    _, found = _rounds(start._replace(aim=aim, side=rough.side), CAREFUL_ROUNDS, careful=True)
    return found


def _rounds(guess: Guess, rounds: int, *, careful: bool) -> tuple[Aim, Active]:
    def look(guess: Guess, k: int) -> tuple[Guess, Tensor, tuple[Aim, Active]]:
        level, after, aim = reconsider(guess, MAX_STEPS if careful else 0)
        changes = after != guess.side
        if careful:
            after = torch.where(changes & ~pad(changes[:, :-1], (1, 0)), after, guess.side)
        stays = ~changes.any(-1)
        return guess._replace(after=after, aim=aim), stays, (aim, Active(guess.side, level, stays))

    return iterate(guess, look, lambda guess: guess._replace(side=guess.after), rounds)


def violated(z: Tensor, ramp: Tensor) -> Tensor:
    step, slip = z.diff(dim=-1), 4 * torch.finfo(z.dtype).eps * z.abs().amax(-1, keepdim=True)
    return (step > ramp + slip).long() - (step < -ramp - slip).long()


def reconsider(guess: Guess, steps: int) -> tuple[Tensor, Tensor, Aim]:
    """The levels that solve (2) for the sides of a guess, the sides that they suggest, and where links want to go."""
    chains, aim, side, _ = guess
    blocks = Blocks.of(side)
    level = find_levels(chains, blocks, aim, steps)
    z = blocks.places(level, chains.ramp)
    slopes, bend = chains.costs.slopes(z)
    push = slopes.cumsum(-1)[:, :-1]
    rounding = ROUNDING * slopes.abs().cumsum(-1)[:, :-1]
    kept = torch.where(side * push < -rounding, 0, side)
    return level, torch.where(side == 0, violated(z, chains.ramp), kept), Aim(z - slopes / bend, bend)


def find_levels(chains: Chains, blocks: Blocks, aim: Aim, steps: int = MAX_STEPS) -> Tensor:
    """c of every block, ``(N, n)``, between what the links of the block would have by themselves; 0 behind the last."""
    own = chains.free - blocks.offset * chains.ramp
    nothing = torch.zeros_like(own)
    low = nothing.scatter_reduce(-1, blocks.block, own, "amin", include_self=False)
    high = nothing.scatter_reduce(-1, blocks.block, own, "amax", include_self=False)
    total = blocks.add_up(aim.curvature)
    near = blocks.add_up(aim.curvature * (aim.place - blocks.offset * chains.ramp)) / torch.where(total > 0, total, 1)
    return find_root(_of_blocks, (chains, blocks), low, high, near, steps)


def _of_blocks(data: tuple[Chains, Blocks], level: Tensor) -> tuple[Tensor, Tensor]:
    (costs, _, ramp), blocks = data
    slope, bend = costs.slopes(blocks.places(level, ramp))
    return blocks.add_up(slope), blocks.add_up(bend)


# Dynamic programming


def dynamic_programming(chains: Chains) -> Active:
    """By (3), from the first link to the last and back."""
    costs, free, ramp = chains
    best = free[:, :1]
    for i in range(1, free.shape[1]):
        own, last = free[:, i : i + 1], best[:, -1:]
        near = torch.minimum(torch.maximum(own, last - ramp), last + ramp)
        search = (Links(costs, best, ramp), near, own)
        m = only_on((near != own).squeeze(-1), lambda it: find_root(value_slopes, *it), search, own)
        best = torch.cat([best, m], -1)
    z, sides = best[:, -1:], []
    for m in best[:, :-1].flip(-1).split(1, -1):
        sides.append((m <= z - ramp).long() - (m >= z + ramp).long())
        z = torch.minimum(torch.maximum(m, z - ramp), z + ramp)
    side = torch.cat(sides[::-1], -1) if sides else free.new_zeros(len(free), 0, dtype=torch.int64)
    level = find_levels(chains, Blocks.of(side), Aim(free, costs.slopes(free)[1]))
    return Active(side, level, torch.ones_like(side[:, :1].sum(-1), dtype=torch.bool))


class Links(NamedTuple):
    """The links so far: m_1, …, m_{i−1} ``(N, i − 1)``."""

    costs: Any
    best: Tensor
    ramp: Tensor


def value_slopes(links: Links, z: Tensor) -> tuple[Tensor, Tensor]:
    """V_i'(z) and V_i''(z) of (3), ``(N, 1)``."""
    costs, best, ramp = links
    i = best.shape[1]
    total, curvature = costs.slopes(z, slice(i, i + 1))
    pushed = torch.ones_like(z, dtype=torch.bool)  # whether the walk back has not come to a link that is free
    for j in range(i - 1, -1, -1):
        m = best[:, j : j + 1]
        direction = (z < m - ramp).to(z.dtype) - (z > m + ramp).to(z.dtype)
        pushed = pushed & (direction != 0)
        if not pushed.any():
            break
        z = z + direction * ramp
        slope, bend = costs.slopes(z, slice(j, j + 1))
        total, curvature = total + pushed * slope, curvature + pushed * bend
    return total, curvature


# Roots


class Search(NamedTuple):
    """Brackets of the roots, the points to look at, and how long the last steps were, ``(N, k)``."""

    data: Any
    low: Tensor
    high: Tensor
    z: Tensor
    last: Tensor
    after: Tensor


def find_root(
    slopes: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
    data: Any,
    a: Tensor,
    b: Tensor,
    near: Tensor | None = None,
    steps: int = MAX_STEPS,
) -> Tensor:
    """The roots between a and b, ``(N, k)``, of increasing functions; ``slopes(data, z)`` has values and derivatives.

    Newton's method from the points ``near`` or the middle, with bisection where it leaves the bracket or does not halve
    its steps. A step so short that the next one is rounding is made longer, to close the bracket from the other side.
    """

    def look(at: Search, k: int) -> tuple[Search, Tensor, Tensor]:
        value, slope = slopes(at.data, at.z)
        low, high = torch.where(value < 0, at.z, at.low), torch.where(value > 0, at.z, at.high)
        eps = torch.finfo(value.dtype).eps * torch.maximum(low.abs(), high.abs())
        step = -value / slope
        short = step.abs() <= CLOSE * eps
        newton = at.z + torch.where(short, step + step.sign() * CLOSE * eps, step)
        good = (newton >= low) & (newton <= high) & (short | (step.abs() <= 0.5 * at.last))
        after = torch.where(value == 0, at.z, torch.where(good, newton, low + (high - low) / 2))
        moved = (after - at.z).abs()
        closed = high - low <= 4 * CLOSE * eps
        done = (moved <= 2 * eps) | closed
        root = torch.where(closed, torch.minimum(torch.maximum(at.z + step, low), high), after)
        return at._replace(low=low, high=high, last=moved, after=after), done.all(-1), root

    low, high = torch.minimum(a, b), torch.maximum(a, b)
    middle = low + (high - low) / 2 if near is None else torch.minimum(torch.maximum(near, low), high)
    start = Search(data, low, high, middle, torch.full_like(a, torch.inf), a)
    return iterate(start, look, lambda at: at._replace(z=at.after), steps)
