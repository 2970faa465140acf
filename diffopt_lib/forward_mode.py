"""Forward mode inside forward mode, in which a derivative rule of one's own can't take part."""

from __future__ import annotations

from torch._C._functorch import TransformType, get_interpreter_stack


def refuse_nested_forward_mode() -> None:
    """To be called first in the ``jvp`` of an autograd Function: raises if it runs inside another forward mode.

    torch runs such a rule with forward mode switched off, so all that the outer derivative would see is a constant. A
    second derivative would come out as 0, without a word.

    Raises:
        NotImplementedError: two ``torch.func.jvp`` or ``jacfwd`` are at work, one inside the other.
    """
    levels = get_interpreter_stack() or []
    if sum(level.key() == TransformType.Jvp for level in levels) > 1:
        raise NotImplementedError(
            "forward mode inside forward mode can't see the derivatives of this layer; put reverse mode inside it, "
            "torch.func.jacfwd(torch.func.jacrev(f)), which is torch.func.hessian(f)"
        )
