"""How much tensor memory a computation needs at its peak, measured on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .validate import check_callable


class _LiveBytes(TorchDispatchMode):
    """Adds a storage when an operation returns it, takes it off when the last tensor that uses it is gone."""

    def __init__(self):
        super().__init__()
        self.live = 0
        self.peak = 0
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self._watch(x.untyped_storage())
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        self.seen[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.live -= self.seen.pop(key, 0)


def peak_memory(computation: Callable[[], Any]) -> int:
    """The largest number of bytes that tensors made by ``computation()`` occupied at one time.

    Only memory that the computation itself allocates counts. Tensors are watched, not the allocator, so the figure is
    exact, repeatable, and blind to workspace that kernels use inside.
    """
    check_callable("computation", computation)
    with _LiveBytes() as watch:
        result = computation()
    del result
    return watch.peak
