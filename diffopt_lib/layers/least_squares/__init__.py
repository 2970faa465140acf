"""Nonlinear least squares as a layer: :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative` for how."""

from .groups import SE2, SO2, SO3
from .layer import LeastSquaresSolution, least_squares
from .manifolds import Euclidean, Power, Product
from .sparsity import Sparsity

__all__ = [
    "SE2",
    "SO2",
    "SO3",
    "Euclidean",
    "LeastSquaresSolution",
    "Power",
    "Product",
    "Sparsity",
    "least_squares",
]
