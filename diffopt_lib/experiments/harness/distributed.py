"""Several processes, one model: what ``torchrun`` sets up, seen from one of its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce, broadcast_object_list, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's number among those that share a training."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """The first process writes files and shows progress; all of them compute the same figures."""
        return self.rank == 0

    def share(self, tensor: Tensor) -> Tensor:
        """This process's part of a batch: every ``count``-th element.

        Raises:
            ValueError: the parts would differ in size, so the mean of the parts' gradients would not be the batch's.
        """
        if tensor.shape[0] % self.count:
            raise ValueError(f"a batch of {tensor.shape[0]} can't be shared evenly by {self.count} processes")
        return tensor[self.rank :: self.count]

    def replicate(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model, with gradients averaged over the processes."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    def from_first(self, value: T | None) -> T | None:
        """The first process's value, in all of them: only there need files be, and the others wait for it."""
        if self.count == 1:
            return value
        values = [value]
        broadcast_object_list(values, src=0)
        return values[0]

    def largest(self, value: int, device: torch.device) -> int:
        """The largest of the processes' values, so that all of them do the same."""
        if self.count == 1:
            return value
        values = torch.tensor(value, device=device)
        all_reduce(values, ReduceOp.MAX)
        return int(values)


SINGLE = Processes(rank=0, count=1)


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that ``torchrun`` started, if it did; gives them and this process's device."""
    if "WORLD_SIZE" not in os.environ:
        yield SINGLE, torch.device(device)
        return
    here = torch.device(device)
    if here.type == "cuda":
        here = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(here)
    init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])), here
    finally:
        destroy_process_group()
