"""What an experiment is, what it is given, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .distributed import SINGLE, Processes


@dataclass(frozen=True)
class Experiment:
    """A published claim and the function that reproduces it.

    Attributes:
        name: as in ``python -m diffopt_lib.experiments run NAME``, and of its module.
        claim: one sentence.
        published: the paper's figures, by what they measure.
        source: the paper, and where in it the figures stand.
        chapter: the chapter that teaches the method.
        run: does it. The keys of its figures include those of ``published``.
    """

    name: str
    claim: str
    published: Mapping[str, float]
    source: str
    chapter: str
    run: Callable[[Run], Outcome]


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        figures: numbers by what they measure; None where there is none to report.
        weights: state dicts by the name under which ``diffopt_lib.pretrained`` will ship them.
    """

    figures: Mapping[str, float | None]
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass
class TrainingRecord:
    """How far a training got, for the result file.

    Attributes:
        steps: optimizer steps taken.
        planned: optimizer steps that the experiment asked for.
        seconds: spent training, over all resumptions.
        losses: ``[step, mean loss since the last entry]``, some hundred entries.
    """

    steps: int
    planned: int
    seconds: float
    losses: list[list[float]]


@dataclass
class Run:
    """One execution of an experiment: its settings, and the trainings it has done so far.

    Attributes:
        seed: everything random follows from it.
        device: where to compute.
        folder: where checkpoints lie. Trainings found there are continued.
        budget: seconds for all trainings together, or None. A training that runs out of it stops early.
        processes: this process among those that ``torchrun`` started.
        command: that started it, if it was resumed since.
        trainings: filled in by :func:`~diffopt_lib.experiments.harness.training.train`.
        inherited: seconds of training that were found in checkpoints; likewise.
    """

    seed: int
    device: torch.device
    folder: Path
    budget: float | None = None
    processes: Processes = SINGLE
    command: str | None = None
    trainings: dict[str, TrainingRecord] = field(default_factory=dict)
    inherited: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def seeded(self, stream: int = 0) -> Iterator[None]:
        """Inside the block torch's own generators, which initialise modules, follow from the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(_mix(self.seed, stream))
            yield

    @property
    def is_complete(self) -> bool:
        """Whether every training took all the steps it was meant to take."""
        return all(record.steps == record.planned for record in self.trainings.values())

    def generator(self, stream: int = 0) -> torch.Generator:
        """A CPU generator that the seed and the number of the stream determine: data are the same on every device."""
        return torch.Generator().manual_seed(_mix(self.seed, stream))


def _mix(seed: int, stream: int) -> int:
    """One seed of two numbers; different for different small ones."""
    return 1_000_003 * seed + stream
