"""A battery that trades: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative` for how."""

from .layer import Plan, decide, loss

__all__ = ["Plan", "decide", "loss"]
