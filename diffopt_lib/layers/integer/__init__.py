"""Integer programs as a layer: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative` for how."""

from .layer import IntegerSolution, solve_integer

__all__ = ["IntegerSolution", "solve_integer"]
