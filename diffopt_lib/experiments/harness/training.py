"""The training loop of every experiment: it can be stopped after any step and goes on as if it had not been.

The batch of a step depends on the seed and the step's number only, and so does what the loss draws from its generator.
A checkpoint therefore holds the step, the model and the optimizer, and a resumed training is the uninterrupted one bit
for bit. With several processes each takes a part of every batch, so their number changes nothing but rounding.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .checkpoint import interrupt_flag, load_checkpoint, save_checkpoint
from .experiment import Run, TrainingRecord

SECONDS_BETWEEN_CHECKPOINTS = 20.0
SECONDS_BETWEEN_LINES = 10.0  # of a progress bar that is written to a file
LOSS_ENTRIES = 100

Batches = Callable[[int], tuple[Tensor, ...]]


class Stop(IntEnum):
    """Why a training stops before its last step; where processes differ, the largest holds for all."""

    NO = 0
    BUDGET = 1
    INTERRUPT = 2


def epochs(*tensors: Tensor, batch_size: int, seed: int) -> Batches:
    """A function from a step's number to its batch: the rows of the tensors, in a new order in every epoch.

    The last rows of an epoch that do not fill a batch are left out.
    """
    rows = tensors[0].shape[0]
    per_epoch = rows // batch_size
    if per_epoch == 0:
        raise ValueError(f"batch_size must be at most the number of rows, {rows}, got {batch_size}")
    orders: dict[int, Tensor] = {}

    def batch(step: int) -> tuple[Tensor, ...]:
        epoch, position = divmod(step, per_epoch)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = torch.randperm(rows, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
        chosen = orders[epoch][position * batch_size : (position + 1) * batch_size].to(tensors[0].device)
        return tuple(tensor[chosen] for tensor in tensors)

    return batch


def train(
    run: Run,
    name: str,
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[..., Tensor],
    batches: Batches,
    *,
    steps: int,
    schedule: LRScheduler | None = None,
    share: float = 1.0,
) -> TrainingRecord:
    """Minimise ``loss(model, *batch)`` over the model's parameters, in place, from where its checkpoint stands.

    Args:
        run: where to compute, and for how long. The record of this training is added to it.
        name: unique among the run's trainings: the name of the checkpoint and of the progress bar.
        model: on ``run.device``.
        optimizer: of the model's parameters.
        loss: the mean over a batch.
        batches: the batch of a step, as :func:`epochs` makes it.
        steps: how many in all, those before an interrupt included.
        schedule: of the optimizer's learning rate, in steps.
        share: the part of ``run.budget`` that this training may use.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or the process was told to end; the checkpoint is written.
        ValueError: the checkpoint is of a run with another seed.
        FloatingPointError: the loss is not finite; the last checkpoint is kept.
    """
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer} | ({"schedule": schedule} if schedule else {})
    path = run.folder / f"{name}.pt"
    record, recent = _restore(run, path, parts, steps)
    run.trainings[name] = record
    replica = run.processes.replicate(model, run.device)
    model.train()

    def save() -> None:
        if run.processes.is_first:
            state = {key: part.state_dict() for key, part in parts.items()}
            save_checkpoint(path, state | {"record": vars(record), "recent": recent, "seed": run.seed})

    limit = float("inf") if run.budget is None else share * run.budget
    with interrupt_flag() as interrupted, _progress_bar(run, name, record) as progress:
        last_saved = clock = time.monotonic()
        while True:
            here = Stop.INTERRUPT if interrupted() else Stop.BUDGET if record.seconds >= limit else Stop.NO
            stop = run.processes.largest(here, run.device)
            if stop or record.steps >= steps:
                break
            value = _step(replica, optimizer, loss, [run.processes.share(x) for x in batches(record.steps)])
            if schedule:
                schedule.step()
            record.steps += 1
            recent.append(value)
            progress.update()
            if record.steps % max(steps // LOSS_ENTRIES, 1) == 0 or record.steps == steps:
                record.losses.append([record.steps, sum(recent) / len(recent)])
                recent.clear()
                progress.set_postfix(loss=f"{record.losses[-1][1]:.4g}", refresh=False)
            now = time.monotonic()
            record.seconds += now - clock
            clock = now
            if now - last_saved > SECONDS_BETWEEN_CHECKPOINTS:
                save()
                last_saved = now
        save()
    if stop == Stop.INTERRUPT or interrupted():
        raise KeyboardInterrupt
    model.eval()
    return record


def _progress_bar(run: Run, name: str, record: TrainingRecord) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]  # only trainings need it

    interval = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    hidden = not run.processes.is_first
    return tqdm(
        total=record.planned, initial=record.steps, desc=name, disable=hidden, leave=False, mininterval=interval
    )


def _restore(run: Run, path: Path, parts: dict[str, Any], steps: int) -> tuple[TrainingRecord, list[float]]:
    """Put the checkpoint's states into the parts; gives the record, and the losses since its last entry."""
    state = run.processes.from_first(load_checkpoint(path) if run.processes.is_first else None)
    if state is None:
        return TrainingRecord(steps=0, planned=steps, seconds=0.0, losses=[]), []
    if state["seed"] != run.seed:
        raise ValueError(f"the checkpoint {path} is of a run with seed {state['seed']}, this one has {run.seed}")
    for key, part in parts.items():
        part.load_state_dict(state[key])
    record = TrainingRecord(**state["record"] | {"planned": steps})
    run.inherited += record.seconds
    return record, state["recent"]


def _step(model: nn.Module, optimizer: Optimizer, loss: Callable[..., Tensor], batch: list[Tensor]) -> float:
    optimizer.zero_grad()
    value = loss(model, *batch)
    value.backward()
    number = value.item()
    if not math.isfinite(number):
        raise FloatingPointError(f"the loss is {number}")
    optimizer.step()
    return number
