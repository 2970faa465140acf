"""Orders for a demand that depends on features: a model of the demand, a model of the order, or a model for the order.

Demands are 1, 2, 5, 10 or 20 with probabilities softmax(xΘ) or softmax((xΘ)²), of which the first is in reach of a
linear model and the second is not. Each of ten runs has its own m days to learn from, a fifth of them held out to
choose when to stop; all are tested on the same 1,000 days, by the expected cost of :mod:`.tasks.inventory`:

* likelihood: p(x) = softmax(xW + b), and the order that is best for it;
* task: the same p(x), trained on the cost of its orders plus ten times the negative log likelihood, from the fit to it;
* likelihood of a network: the same with two hidden layers of 200 in place of xW + b, which can be right;
* policy: the order itself, linear in x, or by a network with two hidden layers of 200, trained on its cost;
* the true probabilities, which nobody has.

All runs are trained side by side as one tensor, for m = 100 and 1,000. The paper goes to 10,000, and shows curves, so
there are no figures of its own to list.

Source: Donti, Amos & Kolter 2017, §4.1. Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..tasks import inventory
from .harness.experiment import Experiment, Outcome, Run

DEMAND = (1.0, 2.0, 5.0, 10.0, 20.0)
FEATURES, TEST = 20, 1000
SIZES = (100, 1000)
RUNS = 10
HIDDEN = 200
BATCH, STEPS, LOOK = 200, 600, 20
RATE = {"likelihood": 1e-2, "task": 1e-3, "network likelihood": 3e-3, "linear policy": 1e-2, "network policy": 3e-3}
LIKELIHOOD_WEIGHT = 10.0
TRUTHS = ("linear", "quadratic")

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of every run, (runs,)


class Networks(nn.Module):
    """A network for every run, side by side: x ``(runs, n, features)`` to ``(runs, n, outputs)``."""

    def __init__(self, widths: tuple[int, ...], generator: torch.Generator):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for k, n in zip(widths, widths[1:], strict=False):
            self.weights.append(torch.randn(RUNS, k, n, generator=generator) / k**0.5)
            self.biases.append(torch.zeros(RUNS, 1, n))

    def forward(self, x: Tensor) -> Tensor:
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.relu(x) if k else x, weight)
        return x


# What is learned from: features (runs, n, 20) and the index of the demand (runs, n).


def truth(kind: str, x: Tensor) -> Tensor:
    theta = torch.randn(FEATURES, len(DEMAND), generator=torch.Generator().manual_seed(42))
    scores = x @ theta.to(x)
    return torch.softmax(scores if kind == "linear" else scores.square(), -1)


def draw(kind: str, count: int, generator: torch.Generator, runs: int = RUNS) -> tuple[Tensor, Tensor]:
    x = torch.randn(runs, count, FEATURES, generator=generator)
    p = truth(kind, x)
    return x, torch.multinomial(p.flatten(0, 1), 1, generator=generator).reshape(runs, count)


# The losses, (runs,).


def likelihood_loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return -torch.log_softmax(model(x), -1).gather(-1, label.unsqueeze(-1)).mean((1, 2))


def order_of(model: nn.Module, x: Tensor) -> Tensor:
    """The best order for the model's probabilities."""
    return inventory.decide(torch.softmax(model(x), -1), x.new_tensor(DEMAND))


def policy_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).squeeze(-1)


def cost_loss(decide: Callable[..., Tensor], model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return inventory.loss(decide(model, x), x.new_tensor(DEMAND)[label]).mean(1)


def task_loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return cost_loss(order_of, model, x, label) + LIKELIHOOD_WEIGHT * likelihood_loss(model, x, label)


RECIPES: dict[str, tuple[Callable[..., Tensor], Loss, tuple[int, ...]]] = {
    "likelihood": (order_of, likelihood_loss, (FEATURES, len(DEMAND))),
    "task": (order_of, task_loss, (FEATURES, len(DEMAND))),  # from the fit to the likelihood
    "network likelihood": (order_of, likelihood_loss, (FEATURES, HIDDEN, HIDDEN, len(DEMAND))),
    "linear policy": (policy_of, partial(cost_loss, policy_of), (FEATURES, 1)),
    "network policy": (policy_of, partial(cost_loss, policy_of), (FEATURES, HIDDEN, HIDDEN, 1)),
}
METHODS = tuple(RECIPES)

# The training.


def fit(model: nn.Module, loss: Loss, x: Tensor, label: Tensor, rate: float, generator: torch.Generator) -> None:
    """Adam on four fifths; every run keeps the weights with which it did best on the rest."""
    kept = round(0.8 * x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    best = torch.full((RUNS,), torch.inf)
    weights = [p.detach().clone() for p in model.parameters()]
    for k in range(STEPS + 1):
        if k % LOOK == 0:
            with torch.no_grad():
                value = loss(model, x[:, kept:], label[:, kept:])
            better = value < best
            best = torch.where(better, value, best)
            for old, p in zip(weights, model.parameters(), strict=True):
                old[better] = p.detach()[better]
        rows = torch.randint(kept, (min(BATCH, kept),), generator=generator)
        optimizer.zero_grad()
        loss(model, x[:, rows], label[:, rows]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        for old, p in zip(weights, model.parameters(), strict=True):
            p.copy_(old)


def run(run: Run) -> Outcome:
    figures: dict[str, float | None] = {}
    for kind in TRUTHS:
        test = torch.randn(1, TEST, FEATURES, generator=torch.Generator().manual_seed(0))
        p, demand = truth(kind, test), torch.tensor(DEMAND)

        def expected(z: Tensor, p: Tensor = p, demand: Tensor = demand) -> Tensor:
            return (p * inventory.loss(z.unsqueeze(-1), demand)).sum(-1).mean(-1)

        figures[f"{kind}: true probabilities"] = expected(inventory.decide(p, demand)).item()
        for m in SIZES:
            costs = fit_all(
                kind,
                m,
                run,
                lambda decide, model, test=test, expected=expected: expected(decide(model, test.expand(RUNS, -1, -1))),
            )
            for name, cost in costs.items():
                figures |= {f"{kind}, m = {m}: {name}": cost.mean().item()}
                figures |= {f"{kind}, m = {m}: {name}, sd": cost.std().item()}
            change = 100 * (costs["task"] / costs["likelihood"] - 1)
            figures |= {f"{kind}, m = {m}: task against likelihood, %": change.mean().item()}
            figures |= {f"{kind}, m = {m}: task against likelihood, %, sd": change.std().item()}
        print({k: round(v, 1) for k, v in figures.items() if v is not None and k.startswith(kind)}, flush=True)
    return Outcome(figures)


def fit_all(
    kind: str, m: int, run: Run, evaluate: Callable[..., Tensor], methods: tuple[str, ...] = METHODS
) -> dict[str, Tensor]:
    """The expected cost of every method, ``(runs,)``."""
    generator = run.generator(10 * TRUTHS.index(kind) + SIZES.index(m))
    x, label = draw(kind, m, generator)
    costs: dict[str, Tensor] = {}
    fitted: dict[str, Networks] = {}
    for name in methods:
        decide, loss, widths = RECIPES[name]
        stream = run.generator(1000 + METHODS.index(name))
        model = fitted["likelihood"] if name == "task" else Networks(widths, stream)
        if decide is policy_of:
            with torch.no_grad():
                model.biases[-1].fill_(sum(DEMAND) / len(DEMAND))
        fit(model, loss, x, label, RATE[name], stream)
        fitted[name] = model
        with torch.no_grad():
            costs[name] = evaluate(decide, model)
    return costs


EXPERIMENT = Experiment(
    name="inventory",
    claim="Where the model of the demand is right, likelihood is hard to beat; where it is wrong, training it on the "
    "cost of its orders makes cheaper ones, and a better model cheaper ones still.",
    published={},
    source="Donti, Amos & Kolter 2017, §4.1, figure 2",
    chapter="book/2_differentiable/12_task_losses",
    run=run,
)
