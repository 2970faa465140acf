"""CVXPY problems as layers: open :mod:`.layer` for the module, :mod:`.canonical` for what CVXPY makes of a problem."""

from .layer import CvxpyLayer, from_cvxpy

__all__ = ["CvxpyLayer", "from_cvxpy"]
