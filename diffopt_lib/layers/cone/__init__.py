"""Cone programs as a layer: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative` for how."""

from .layer import ConeSolution, solve_cone

__all__ = ["ConeSolution", "solve_cone"]
