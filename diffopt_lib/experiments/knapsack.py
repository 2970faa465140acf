"""Weights and prices from pictures of them, learned from full knapsacks (CombOptNet, Paulus et al. 2021).

    y* = argmax_y  pᵀy   s.t.   wᵀy ≤ 1,   y ∈ {0, 1}¹⁰                                                (1)

Of each of ten items a learner sees two handwritten digits. The first says its weight, w = 0.15 + 0.2 d/9, the second
its price, p = 0.1 + 0.35 d/9. It is told the ranges and the capacity, and shown which items are in the best knapsack;
nobody tells it what a digit means. The paper's items are described by sentences, whose embeddings are not packaged;
with digits there are ties, so only instances whose solution is unique are kept.

One network, 512 hidden units, reads an item's two images and gives its weight and its price. Prices are divided by
their length over the ten items, as in the public code: y* does not depend on their common scale, and so no gradient
should pull at it. The network is trained through (1)

- with the gradient of CombOptNet, for weights and prices;
- with the weights told, so that only prices are to be learned, by each of the three rules that :mod:`.integer` has.

A network that sees all twenty images and predicts y directly is trained beside them. Published: 100 epochs, Adam with
a rate of 5e-5, batches of 8. Here: 30 epochs at a rate of 1e-3, batches of 32. No image of the test set is
in the training set. The linear relaxation is compared in the chapter.

Source: Paulus, Rolínek, Musil, Amos & Martius 2021, section 5.3; the images are the UCI digits that scikit-learn has.
Chapter: book/2_differentiable/15_integer_programs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.integer import solve_integer
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import epochs, train
from .integer_constraints import summary

ITEMS = 10
SEEDS = 2
TRAIN, TEST = 1600, 1000
TRAIN_IMAGES = 1297  # of 1797
BATCH, LEARNING_RATE = 32, 1e-3
EPOCHS = 30
HIDDEN = 512
LEAST = torch.tensor([0.15, 0.1])  # weight, price
RANGE = torch.tensor([0.2, 0.35])
LAMBDA = 10.0


class Knapsacks(NamedTuple):
    """Items as pairs of images ``(count, 10, 128)``, true weights and solutions ``(count, 10)``."""

    items: Tensor
    weights: Tensor
    solutions: Tensor


def fill(prices: Tensor, weights: Tensor, **options: object) -> Tensor:
    """Eq. (1), ``(*batch, 10)``."""
    return solve_integer(-prices, weights.unsqueeze(-2), prices.new_ones(1), 0, 1, **options).y  # type: ignore[arg-type]


def images() -> tuple[Tensor, Tensor]:
    """The 1,797 digits ``(1797, 64)`` in [0, 1], and what they show, in an order of ours."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def draw(count: int, known: tuple[Tensor, Tensor], generator: torch.Generator) -> Knapsacks:
    """Instances with a unique solution."""
    pixels, labels = known
    chosen = torch.randint(len(labels), (20 * count, ITEMS, 2), generator=generator)
    weights, prices = (LEAST + RANGE * labels[chosen] / 9).double().unbind(-1)
    solutions = fill(prices, weights)
    other = runner_up(prices, weights, solutions)
    unique = ((prices * solutions).sum(-1) - other > 1e-6).nonzero().squeeze(-1)[:count]
    return Knapsacks(pixels[chosen[unique]].flatten(-2), weights[unique].float(), solutions[unique].float())


def runner_up(prices: Tensor, weights: Tensor, solutions: Tensor) -> Tensor:
    """The best value among all other solutions: (1) with the row (2y* − 1)ᵀy ≤ 1ᵀy* − 1, which cuts off y* alone."""
    rows = torch.stack([weights, 2 * solutions - 1], -2)
    limits = torch.stack([torch.ones_like(solutions[:, 0]), solutions.sum(-1) - 1], -1)
    return -solve_integer(-prices, rows, limits, 0, 1).value


class Networks(nn.Module):
    """One hidden layer and a sigmoid; one network for each seed."""

    def __init__(self, inputs: int, outputs: int, generators: list[torch.Generator]):
        super().__init__()

        def weights(rows: int, columns: int) -> nn.Parameter:
            drawn = [torch.randn(rows, columns, generator=g) for g in generators]
            return nn.Parameter(torch.stack(drawn) / rows**0.5)

        self.first, self.second = weights(inputs + 1, HIDDEN), weights(HIDDEN + 1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x ``(seeds, N, inputs)``."""
        hidden = torch.relu(x @ self.first[:, :-1] + self.first[:, -1:])
        return torch.sigmoid(hidden @ self.second[:, :-1] + self.second[:, -1:])


class Reader(nn.Module):
    """Reads items ``(seeds, N, 10, 128)`` and fills the knapsack."""

    def __init__(self, solve: Callable[..., Tensor], told: bool, generators: list[torch.Generator]):
        super().__init__()
        self.networks, self.solve, self.told = Networks(128, 2, generators), solve, told

    def read(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and prices, ``(seeds, N, 10)``."""
        read = self.networks(items.flatten(1, 2)).unflatten(1, items.shape[1:3])
        weights, prices = (LEAST.to(read) + RANGE.to(read) * read).unbind(-1)
        return weights, prices

    def forward(self, items: Tensor, weights: Tensor) -> Tensor:
        read, prices = self.read(items)
        return self.solve(prices / prices.norm(dim=-1, keepdim=True), weights if self.told else read)


class Guesser(nn.Module):
    """Predicts y from all twenty images."""

    def __init__(self, generators: list[torch.Generator]):
        super().__init__()
        self.networks = Networks(128 * ITEMS, ITEMS, generators)

    def forward(self, items: Tensor, weights: Tensor) -> Tensor:
        return self.networks(items.flatten(2))


def squared_error(model: nn.Module, items: Tensor, weights: Tensor, solutions: Tensor) -> Tensor:
    """The mean over a batch ``(batch, seeds, ·)``, summed over seeds."""
    y = model(items.transpose(0, 1), weights.transpose(0, 1))
    return (y - solutions.transpose(0, 1)).square().mean((1, 2)).sum()


@torch.no_grad()
def exactly_right(model: nn.Module, test: Knapsacks) -> Tensor:
    """The share of knapsacks with every item right, by the integer program whatever the training used, ``(seeds,)``."""
    if isinstance(model, Reader):
        weights, prices = model.read(test.items)
        y = fill(prices, test.weights if model.told else weights)
    else:
        y = model(test.items, test.weights).round()
    return (y == test.solutions).all(-1).double().mean(-1)


METHODS: dict[str, Callable[[list[torch.Generator]], nn.Module]] = {
    "CombOptNet": partial(Reader, fill, False),
    "CombOptNet, weights told": partial(Reader, fill, True),
    "blackbox, weights told": partial(Reader, partial(fill, gradient="blackbox", lambd=LAMBDA), True),
    "identity, weights told": partial(Reader, partial(fill, gradient="identity"), True),
    "network": Guesser,
}


def run(run: Run) -> Outcome:
    """Every method on the same knapsacks."""
    pixels, labels = images()
    seen, unseen = (pixels[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]), (pixels[TRAIN_IMAGES:], labels[TRAIN_IMAGES:])
    generators = [run.generator(seed) for seed in range(SEEDS)]
    known = Knapsacks(*(torch.stack(p) for p in zip(*(draw(TRAIN, seen, g) for g in generators), strict=True)))
    test = Knapsacks(*(torch.stack(p) for p in zip(*(draw(TEST, unseen, g) for g in generators), strict=True)))
    batches = epochs(*(part.transpose(0, 1).to(run.device) for part in known), batch_size=BATCH, seed=run.seed)
    test = Knapsacks(*(part.to(run.device) for part in test))
    figures: dict[str, float | None] = {}
    weights: dict[str, Tensor] = {}
    for name, make in METHODS.items():
        model = make([run.generator(1000 + seed) for seed in range(SEEDS)]).to(run.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        steps = EPOCHS * (TRAIN // BATCH)
        train(run, name, model, optimizer, squared_error, batches, steps=steps, share=1 / len(METHODS))
        figures |= summary(f"exactly right, %: {name}", exactly_right(model, test))
        if name == "CombOptNet":
            weights = {key: value[0] for key, value in model.state_dict().items()}
    return Outcome(figures, {"knapsack": weights})


EXPERIMENT = Experiment(
    name="knapsack",
    claim="Weights and prices can be learned from pictures of them when all that is shown is which items were packed.",
    published={},
    source="Paulus, Rolínek, Musil, Amos & Martius 2021, section 5.3",
    chapter="book/2_differentiable/15_integer_programs",
    run=run,
)
