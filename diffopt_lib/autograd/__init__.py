"""What torch needs to be told: hidden tensors, algorithms without a graph, forward mode inside forward mode."""

from .closure import Explicit, Substitute, make_all_explicit, make_explicit, pull_back, vary
from .forward_mode import forward_rule
from .opaque import add_batch_dim, batch_first, opaque, opaque_function

__all__ = [
    "Explicit",
    "Substitute",
    "add_batch_dim",
    "batch_first",
    "forward_rule",
    "make_all_explicit",
    "make_explicit",
    "opaque",
    "opaque_function",
    "pull_back",
    "vary",
]
