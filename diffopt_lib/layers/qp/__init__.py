"""Quadratic programs as a layer: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative` for how."""

from .layer import QPSolution, solve_qp

__all__ = ["QPSolution", "solve_qp"]
