"""Forward mode inside forward mode, through the derivative rule of an autograd Function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad


@contextmanager
def forward_rule(ctx: Any) -> Iterator[tuple[Tensor, ...]]:
    """Inside a ``jvp``: the saved tensors without the tangents of this call, so that the rule can be pushed forward.

    torch runs such a rule with forward mode switched off. All that an outer ``torch.func.jvp`` would see is a constant,
    and a second derivative would come out as 0, without a word. Switched on again, the rule must not see the tangents
    of the call it belongs to, of which it is the answer; those of the outer call stay.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield tuple(forward_ad.unpack_dual(t, level=0).primal for t in ctx.saved_tensors)
