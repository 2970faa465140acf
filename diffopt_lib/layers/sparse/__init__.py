"""Sparse quadratic programs as a layer: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative`."""

from .layer import SparseQPSolution, solve_sparse_qp
from .pattern import Pattern

__all__ = ["Pattern", "SparseQPSolution", "solve_sparse_qp"]
