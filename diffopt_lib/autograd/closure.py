"""Find the tensors a function closes over, and make them arguments.

A derivative rule only knows the arguments it was given. When a caller writes ``lambda y: energy(network(y))``, the
weights of the network are not among them, and a rule that looks at the arguments alone would report no gradient for
them and no error either. :func:`make_explicit` turns the hidden tensors into arguments, so that there is nothing left
to drop. :func:`vary` and :func:`pull_back` then choose among the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vjp
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map


def _is_tracked(x: object) -> bool:
    """Whether some derivative or ``torch.func`` transform follows this tensor."""
    if not isinstance(x, Tensor):
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
    return x.requires_grad or wrapped or forward_ad.unpack_dual(x).tangent is not None


class _Record(TorchFunctionMode):
    """Watches every torch call and notes the tracked inputs that were not made inside."""

    def __init__(self, arguments: tuple[Tensor, ...]):
        super().__init__()
        self.known = {id(x): x for x in arguments}  # holds references: an id is only unique while its object lives
        self.hidden: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        for x in tree_iter((args, kwargs or {})):
            if id(x) not in self.known and _is_tracked(x):
                self.known[id(x)] = x
                self.hidden.append(x)
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self.known.setdefault(id(x), x)
        return out


class Substitute(TorchFunctionMode):
    """A context in which every torch call sees the replacements where the originals stand."""

    def __init__(self, originals: Sequence[Tensor], replacements: Sequence[Tensor]):
        super().__init__()
        self.replacement = {id(x): new for x, new in zip(originals, replacements, strict=True)}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def swap(x):
            return self.replacement.get(id(x), x)

        def swap_all(x):  # most arguments are tensors or numbers, for which walking a tree takes long
            return tree_map(swap, x) if isinstance(x, (list, tuple, dict)) else swap(x)

        return func(*map(swap_all, args), **{key: swap_all(x) for key, x in (kwargs or {}).items()})


class Explicit(NamedTuple):
    """A function that closes over nothing that needs a gradient: ``f(*arguments, *hidden)``."""

    f: Callable[..., Tensor]
    hidden: list[Tensor]
    value: Tensor  # at the arguments, detached


def make_explicit(f: Callable[..., Tensor], *arguments: Tensor) -> Explicit:
    """Find what f closes over; see :class:`Explicit`.

    Args:
        f: a function of tensors that may close over other tensors (parameters of a module, say).
        arguments: tensors to call f with once, so as to see what it uses.

    Raises:
        ValueError: f depends on a tensor that requires a gradient in a way that can't be followed (inside a
            ``torch.autograd.Function`` that takes it directly, for instance). Pass such a tensor as an argument.
    """
    (f,), hidden, (value,) = make_all_explicit((f, arguments))
    return Explicit(f, hidden, value)


def make_all_explicit(
    *calls: tuple[Callable[..., Tensor], tuple[Tensor, ...]],
) -> tuple[list[Callable[..., Tensor]], list[Tensor], list[Tensor]]:
    """:func:`make_explicit` for several functions at once, (f, arguments) each, that may close over the same tensors.

    Returns:
        The functions, each of its own arguments and then of all hidden tensors; these; and the values at the arguments.
    """
    plain = [tuple(x.detach() for x in arguments) for _, arguments in calls]
    first_node = torch._C._autograd._get_sequence_nr()
    with torch.enable_grad(), _Record(tuple(x for arguments in plain for x in arguments)) as record:
        values = [f(*arguments) for (f, _), arguments in zip(calls, plain, strict=True)]
    for value in values:
        if not isinstance(value, Tensor):
            raise ValueError(f"the function must return a torch tensor, got {type(value).__name__}")
    hidden = [x for x in record.hidden if not _made_inside(x, first_node)]
    if not hidden and not any(value.requires_grad for value in values):
        return [f for f, _ in calls], [], values
    functions = [_with_arguments(f, len(arguments), hidden) for f, arguments in calls]
    with torch.enable_grad():
        held = [x.detach() for x in hidden]
        if any(f(*arguments, *held).requires_grad for f, arguments in zip(functions, plain, strict=True)):
            raise ValueError(
                "the function depends on a tensor that requires a gradient but is not among its arguments, and it "
                "can't be followed there; pass that tensor as an argument so that it gets its gradient"
            )
    return functions, hidden, [value.detach() for value in values]


def _made_inside(x: Tensor, first_node: int) -> bool:
    """Whether the function made this tensor, out of sight: torch.func.grad and vmap wrap and unwrap tensors.

    A wrapper of theirs died with them, and what they return has a node in the graph that is no older than the call.
    """
    functorch = torch._C._functorch
    depth = functorch.maybe_current_level() or 0
    if functorch.is_dead_tensor_wrapper(x) or functorch.maybe_get_level(x) > depth:  # type: ignore[attr-defined]
        return True
    return x.grad_fn is not None and x.grad_fn._sequence_nr() >= first_node


def _with_arguments(f: Callable[..., Tensor], count: int, hidden: list[Tensor]) -> Callable[..., Tensor]:
    """f of its ``count`` arguments and of what it hides."""

    def explicit(*tensors: Tensor) -> Tensor:
        if all(new is old for new, old in zip(tensors[count:], hidden, strict=True)):
            return f(*tensors[:count])
        with Substitute(hidden, tensors[count:]):
            return f(*tensors[:count])

    return explicit


def vary(f: Callable[..., Any], tensors: Sequence[Tensor], free: Sequence[int]) -> Callable[..., Any]:
    """f(*tensors) as a function of ``tensors[i]`` for i in ``free``; the others are held."""

    def varied(*values: Tensor) -> Any:
        full = list(tensors)
        for i, value in zip(free, values, strict=True):
            full[i] = value
        return f(*full)

    return varied


def pull_back(
    f: Callable[..., Any], tensors: Sequence[Tensor], free: Sequence[int], cotangent: Any
) -> list[Tensor | None]:
    """(D_tensors[i] f)ᵀ · cotangent for i in ``free``, and None in the other places."""
    gradients: list[Tensor | None] = [None] * len(tensors)
    if free:
        _, pull = vjp(vary(f, tensors, free), *(tensors[i] for i in free))
        for i, gradient in zip(free, pull(cotangent), strict=True):
            gradients[i] = gradient
    return gradients
