"""Full precision where ``torch.autocast`` would take it away.

Under autocast torch multiplies float32 matrices in half precision. That is right for a network, which is trained to
bear it, and wrong for a solver, which would ask for a residual of 1e-4 that bfloat16, with its three digits, can't even
represent. So what a solver computes, forward, backward and in forward mode, the caller's functions that it evaluates
among it, is computed with autocast off. Half-precision tensors from the network around it are taken as float32, as
torch's own functions do that need the precision.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, computed with autocast off."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = _autocast_devices()
        if not devices:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return run


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """:func:`without_autocast` for what users call: under autocast, half-precision arguments are taken as float32."""
    plain = without_autocast(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _autocast_devices():
            return function(*args, **kwargs)
        args, kwargs = tree_map(_widen, (args, kwargs))
        return plain(*args, **kwargs)

    return run


def _autocast_devices() -> list[str]:
    return [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]


def _widen(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x
