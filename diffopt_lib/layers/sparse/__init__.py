"""Sparse cone programs as a layer: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative`."""

from .layer import SparseSolution, solve_sparse
from .pattern import Pattern, count_entries

__all__ = ["Pattern", "SparseSolution", "count_entries", "solve_sparse"]
