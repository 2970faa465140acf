"""What torch needs to be told: hidden tensors, no graph here, no autocast there, forward mode in forward mode."""

from .closure import Explicit, Substitute, make_all_explicit, make_explicit, pull_back, vary
from .forward_mode import forward_rule
from .opaque import add_batch_dim, batch_first, opaque, opaque_function
from .precision import full_precision, without_autocast

__all__ = [
    "Explicit",
    "Substitute",
    "add_batch_dim",
    "batch_first",
    "forward_rule",
    "full_precision",
    "make_all_explicit",
    "make_explicit",
    "opaque",
    "opaque_function",
    "pull_back",
    "vary",
    "without_autocast",
]
