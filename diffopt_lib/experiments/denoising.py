"""Denoising piecewise constant signals: total variation, and the quadratic program that it initialises.

Total variation denoising of a signal x of length T is

    y*(x) = argmin_y  ½‖y − x‖² + λ Σ_t |y_{t+1} − y_t|                                            (1)

OptNet writes the absolute values as inequalities and then learns every matrix of the program, starting from (1):

    y*(x) = argmin_{y, t}  ½ yᵀQy − (Wx)ᵀy + λᵀt   s.t.   −t ≤ Dy ≤ t                              (2)

It is smaller seen from its dual. With u the multipliers of Dy (those of the upper minus those of the lower bounds),
stationarity in t gives |u| ≤ λ and in y gives Qy = Wx − Dᵀu, so that with S = Q⁻¹

    u*(x) = argmin_u  ½ uᵀ D S Dᵀ u − (D S W x)ᵀu   s.t.   −λ ≤ u ≤ λ,      y* = S (W x − Dᵀu*)     (3)

has T − 1 variables where (2) has 2T − 1, and its Hessian and constraints are shared by all signals. S = LLᵀ, W, D and
log λ are learned; S = W = I and D the forward differences make it (1).

Source: Amos & Kolter 2017, §4.2; they learn (2) with a Q over (y, t) jointly and free right-hand sides besides.
Chapter: book/2_differentiable/04_quadratic_programs.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ..data.signals import LENGTH, Signals, piecewise_constant
from ..layers.qp import solve_qp
from .harness.experiment import Experiment, Outcome, Run
from .harness.training import epochs, train

TRAIN, VALIDATION, TEST = 8000, 1000, 1000
BATCH = 100
HIDDEN = (100, 200, 500, 1000)
EPOCHS, EPOCHS_BASELINE = 20, 60
LEARNING_RATE = 5e-4


class DenoisingLayer(nn.Module):
    """The layer (3), initialised as total variation with weight ``lam``: signals ``(*batch, length)`` to the same."""

    G: Tensor

    def __init__(self, lam: float, length: int = LENGTH):
        super().__init__()
        identity = torch.eye(length)
        self.L = nn.Parameter(identity.clone())
        self.W = nn.Parameter(identity.clone())
        self.D = nn.Parameter((identity[1:] - identity[:-1]).contiguous())
        self.log_lam = nn.Parameter(torch.full((length - 1,), lam).log())
        rows = torch.eye(length - 1)
        self.register_buffer("G", torch.cat([rows, -rows]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        L = self.L.tril()
        DL = self.D @ L
        LWx = x @ (L.mT @ self.W).mT
        bound = self.log_lam.exp()
        u = solve_qp(DL @ DL.mT, -LWx @ DL.mT, G=self.G, h=torch.cat([bound, bound])).y
        return (LWx - u @ DL) @ L.mT


def fully_connected(hidden: int, length: int = LENGTH) -> nn.Module:
    """The paper's baseline: one hidden layer."""
    return nn.Sequential(nn.Linear(length, hidden), nn.ReLU(), nn.Linear(hidden, length))


class Standardised(nn.Module):
    """A network that sees signals, and answers, in units of their spread around their mean."""

    def __init__(self, network: nn.Module, mean: float, spread: float):
        super().__init__()
        self.network = network
        self.mean, self.spread = mean, spread

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.spread * self.network((x - self.mean) / self.spread)


def loss(model: nn.Module, noisy: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error per sample of the signal."""
    return nn.functional.mse_loss(model(noisy), clean)


@torch.no_grad()
def error(model: nn.Module, signals: Signals) -> float:
    """The same as a number."""
    return loss(model, *signals).item()


def total_variation(signals: Signals) -> float:
    """The λ of (1) with the least error on the signals."""
    result = minimize_scalar(
        lambda lam: error(DenoisingLayer(lam).to(signals.noisy.device), signals),
        bounds=(5.0, 40.0),
        method="bounded",
        options={"xatol": 0.1},
    )
    return float(result.x)


def train_fully_connected(run: Run, training: Signals, validation: Signals) -> nn.Module:
    """The hidden width with the least validation error."""
    batches = epochs(*training, batch_size=BATCH, seed=run.seed)
    steps = EPOCHS_BASELINE * len(training.noisy) // BATCH
    candidates = []
    for hidden in HIDDEN:
        with run.seeded():
            network = fully_connected(hidden).to(run.device)
        model = Standardised(network, training.noisy.mean().item(), training.noisy.std().item())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        name = f"fully connected, {hidden} hidden"
        train(run, name, model, optimizer, loss, batches, steps=steps, schedule=schedule, share=0.05)
        candidates.append(model)
    return min(candidates, key=lambda model: error(model, validation))


def run(run: Run) -> Outcome:
    """Tune and train on 9,000 signals, and measure the mean squared error on 1,000 others."""
    signals = [tensor.to(run.device) for tensor in piecewise_constant(TRAIN + VALIDATION + TEST, run.generator())]
    training, validation, test = map(
        Signals._make, zip(*(tensor.split((TRAIN, VALIDATION, TEST)) for tensor in signals), strict=True)
    )
    network = train_fully_connected(run, training, validation)
    lam = total_variation(validation)
    layer = DenoisingLayer(lam).to(run.device)
    before = error(layer, test)

    steps = EPOCHS * TRAIN // BATCH
    matrices = {"params": [layer.L, layer.W, layer.D], "lr": LEARNING_RATE}
    weights = {"params": [layer.log_lam], "lr": 10 * LEARNING_RATE}
    optimizer = torch.optim.Adam([matrices, weights])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = epochs(*training, batch_size=BATCH, seed=run.seed)
    train(run, "tuned from total variation", layer, optimizer, loss, batches, steps=steps, schedule=schedule, share=0.8)
    figures = {
        "test error: fully connected": error(network, test),
        "test error: total variation": before,
        "test error: tuned from total variation": error(layer, test),
        "test error: the noisy signal itself": torch.nn.functional.mse_loss(test.noisy, test.clean).item(),
        "training error: tuned from total variation": error(layer, Signals(*(t[:TEST] for t in training))),
        "weight of total variation": lam,
    }
    return Outcome(figures, {"denoising": layer.state_dict()})


EXPERIMENT = Experiment(
    name="denoising",
    claim="A quadratic program that starts as total variation denoising and is then trained denoises better.",
    published={
        "test error: fully connected": 29.8,
        "test error: total variation": 16.5,
        "test error: tuned from total variation": 14.4,
    },
    source="Amos & Kolter 2017, table 2",
    chapter="book/2_differentiable/04_quadratic_programs",
    run=run,
)
