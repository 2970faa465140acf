"""Digits cut into 3 × 3 pieces, and a network that puts them together without being told where a piece belongs.

Every piece x_i goes through the same network, which scores it for each of the nine places. The scores of all pieces
together are made consistent by the Sinkhorn operator, and its matrix lays soft pieces out:

    S_ip = g_θ(x_i)_p,      P = sinkhorn_operator(S),      x̂_p = Σ_i P_ip x_i                        (1)

The loss is the squared distance between x̂ and the picture. It knows pictures, not permutations: a piece without ink may
go to the place of another one. Tests use the hard permutation that ``match`` makes of S, on pieces in random order.

Two other methods say how hard the task is. The same network can be trained as a classifier, by the cross entropy of
each piece's place, which (1) is not told; it is read out with ``match`` too. And borders can be compared without any
learning: :func:`greedy_layout`.

The learning rate was chosen on 5,000 digits of MNIST's training part that training does not use.

The paper has a table for MNIST too. The network, its training and what counts as wrong (not a blank piece in the place
of another one) are ours, so its figures are not listed beside these, and nothing is claimed about who is better.

Source: Mena, Belanger, Linderman & Snoek, Learning latent permutations with Gumbel–Sinkhorn networks, 2018, the section
on jigsaw puzzles. Chapter: book/2_differentiable/07_permutations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.mnist import mnist
from ..layers.permutation import match, sinkhorn_operator
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import epochs, train

SIDE = 3
PADDED = 30  # pixels: 28 and an empty frame, so that three pieces fit
SEEDS = 3
TRAIN, TEST = 55_000, 10_000
BATCH, STEPS = 50, 900
LEARNING_RATE = 1e-2


class PieceScores(nn.Module):
    """g_θ of (1): pieces ``(*batch, n, h, w)``, h and w even, to scores of the n places ``(*batch, n, n)``.

    A piece is seen alone, so permuted pieces give permuted rows.
    """

    def __init__(self, size: int = PADDED // SIDE, places: int = SIDE**2, channels: int = 32, hidden: int = 128):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, channels, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(channels * (size // 2) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, places),
        )

    def forward(self, pieces: Tensor) -> Tensor:
        one_by_one = pieces.flatten(0, -3).unsqueeze(1)
        return self.network(one_by_one).unflatten(0, pieces.shape[:-2])


def cut(images: Tensor, side: int, gap: int = 0) -> Tensor:
    """Pieces ``(*batch, side², …, h, w)`` of images ``(*batch, …, H, W)``, row by row; ``gap`` pixels between are lost.

    The dimensions between batch and pixels are colors: images must have 3 or 4 dimensions, the first the batch.
    """
    height, width = ((size - (side - 1) * gap) // side for size in images.shape[-2:])
    tiles = images.unfold(-2, height, height + gap).unfold(-2, width, width + gap)  # (N, …, side, side, h, w)
    return tiles.flatten(-4, -3).movedim(-3, 1)


def shuffle(pieces: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pieces ``(N, n, …)`` in random order, and the place ``(N, n)`` that each of them came from."""
    place = torch.rand(pieces.shape[:2], generator=generator).argsort(-1).to(pieces.device)
    return pieces[torch.arange(len(pieces), device=pieces.device).unsqueeze(-1), place], place


def lay_out(P: Tensor, pieces: Tensor) -> Tensor:
    """x̂ of (1): for P ``(*batch, n, n)``, piece by place, and pieces ``(*batch, n, …)``; n places of the same kind."""
    return (P.mT @ pieces.flatten(P.ndim - 1)).view(pieces.shape)


def misfits(pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences along a cut: ``(N, n, n)`` if piece j is right of piece i, and if it is below."""

    def between(last: Tensor, first: Tensor) -> Tensor:
        return (last.unsqueeze(2) - first.unsqueeze(1)).square().flatten(3).sum(-1)

    return between(pieces[..., -1], pieces[..., 0]), between(pieces[..., -1, :], pieces[..., 0, :])


def greedy_layout(right: Tensor, below: Tensor, side: int) -> Tensor:
    """The piece ``(N, n)`` at every place, filled row by row, always with what fits best to its left and above.

    Every piece has its turn as the first, and the layout with the least sum of misfits stands.

    Args:
        right, below: misfits ``(N, n, n)`` of i and j, as :func:`misfits` has them.
        side: √n.
    """
    N, n, _ = right.shape
    rows = torch.arange(N, device=right.device)
    best_total = right.new_full((N,), torch.inf)
    best = torch.zeros(N, n, dtype=torch.int64, device=right.device)
    for first in range(n):
        layout = torch.full_like(best, first)
        used = torch.zeros(N, n, dtype=torch.bool, device=right.device)
        used[:, first] = True
        total = right.new_zeros(N)
        for place in range(1, n):
            misfit = right.new_zeros(N, n)
            if place % side:
                misfit = misfit + right[rows, layout[:, place - 1]]
            if place >= side:
                misfit = misfit + below[rows, layout[:, place - side]]
            least, layout[:, place] = misfit.masked_fill(used, torch.inf).min(-1)
            used[rows, layout[:, place]] = True
            total = total + least
        better = total < best_total
        best_total, best = torch.where(better, total, best_total), torch.where(better.unsqueeze(-1), layout, best)
    return best


def pixel_loss(model: nn.Module, pieces: Tensor) -> Tensor:
    """Mean squared error of (1); the pieces are in their places, which the model can't see."""
    return nn.functional.mse_loss(lay_out(sinkhorn_operator(model(pieces)), pieces), pieces)


def place_loss(model: nn.Module, pieces: Tensor) -> Tensor:
    """Cross entropy of every piece's place, for itself."""
    scores = model(pieces).flatten(0, 1)
    place = torch.arange(pieces.shape[1], device=pieces.device).repeat(len(pieces))
    return nn.functional.cross_entropy(scores, place)


def wrong(laid_out: Tensor, pieces: Tensor) -> tuple[float, float]:
    """Per cent of the places with other content than they should have, and of the puzzles with such a place."""
    right = (laid_out - pieces).abs().flatten(2).amax(-1) < 1e-4
    return 100 * (1 - right.double().mean().item()), 100 * (1 - right.all(-1).double().mean().item())


@torch.no_grad()
def wrong_of_model(model: nn.Module, pieces: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """:func:`wrong` after hard matching, for pieces that are shuffled first."""
    mixed, _ = shuffle(pieces, generator)
    return wrong(lay_out(match(model(mixed)), mixed), pieces)


def wrong_of_greedy(pieces: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """:func:`wrong` of :func:`greedy_layout`."""
    mixed, _ = shuffle(pieces, generator)
    layout = greedy_layout(*misfits(mixed), SIDE)
    return wrong(mixed[torch.arange(len(mixed)).unsqueeze(-1), layout], pieces)


def puzzles(part: Literal["train", "test"]) -> Tensor:
    """The digits of a part of MNIST as pieces ``(N, 9, 10, 10)``."""
    images = mnist(part).images
    frame = (PADDED - images.shape[-1]) // 2
    return cut(nn.functional.pad(images, (frame,) * 4), SIDE)


def run(run: Run) -> Outcome:
    """Train both kinds for several seeds, and count what is wrong in 10,000 test puzzles."""
    training, test = puzzles("train")[:TRAIN].to(run.device), puzzles("test")[:TEST].to(run.device)
    figures: dict[str, float | None] = {}
    weights = {}
    kinds: dict[str, Callable[..., Tensor]] = {"loss on pixels": pixel_loss, "told the places": place_loss}
    for kind, loss in kinds.items():
        errors = []
        for seed in range(SEEDS):
            with run.seeded(seed):
                model = PieceScores().to(run.device)
            optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            batches = epochs(training, batch_size=BATCH, seed=1000 * run.seed + seed)
            share = 0.5 / SEEDS
            name = f"{kind}, seed {seed}"
            train(run, name, model, optimizer, loss, batches, steps=STEPS, schedule=schedule, share=share)
            errors.append(wrong_of_model(model, test, run.generator()))
            if seed == 0 and loss is pixel_loss:
                weights["jigsaw"] = model.state_dict()
        figures |= _summary(kind, torch.tensor(errors, dtype=torch.float64))
    pieces, whole = wrong_of_greedy(test.cpu(), run.generator())
    figures |= {"pieces wrong, %: greedy by borders": pieces, "puzzles wrong, %: greedy by borders": whole}
    return Outcome(figures, weights)


def _summary(kind: str, errors: Tensor) -> dict[str, float]:
    """Mean and range of errors ``(seeds, 2)``."""
    return {
        f"{what} wrong, %: {kind}, {statistic}": value.item()
        for what, column in zip(("pieces", "puzzles"), errors.T, strict=True)
        for statistic, value in (("mean", column.mean()), ("best seed", column.min()), ("worst seed", column.max()))
    }


EXPERIMENT = Experiment(
    name="jigsaw",
    claim="A network with a Sinkhorn layer puts digits of 3 × 3 pieces together that it has never seen.",
    published={},
    source="Mena, Belanger, Linderman & Snoek 2018, jigsaw puzzles",
    chapter="book/2_differentiable/07_permutations",
    run=run,
)
