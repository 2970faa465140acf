"""Reproductions of published results: one module each, run with ``python -m diffopt_lib.experiments``.

An experiment is a function of a :class:`~diffopt_lib.experiments.harness.experiment.Run` that returns figures and
weights. The :mod:`.harness` around it gives it a progress bar, checkpoints it can resume from, several processes under
``torchrun``, and a result file that says how its figures were obtained.

To add one, write a module here that ends in ``EXPERIMENT = Experiment(...)``, and name it in :data:`MODULES`.
"""

from __future__ import annotations

import importlib

from .harness.experiment import Experiment, Outcome, Run
from .harness.results import read_result
from .harness.training import epochs, train

MODULES = (
    "sudoku",
    "sudoku_rules",
    "denoising",
    "few_shot",
    "jigsaw",
    "top_k",
    "imitation",
    "lqr_recovery",
    "cem_regression",
    "cem_pendulum",
    "pose_graph",
    "maml",
    "integer_constraints",
    "set_cover",
    "knapsack",
    "inventory",
    "scheduling",
    "storage",
)

__all__ = ["Experiment", "Outcome", "Run", "epochs", "find", "names", "read_result", "train"]


def names() -> tuple[str, ...]:
    """The experiments there are."""
    return MODULES


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in MODULES:
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(MODULES)}")
    return importlib.import_module(f".{name}", __name__).EXPERIMENT
