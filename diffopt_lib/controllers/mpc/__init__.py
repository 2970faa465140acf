"""Model-predictive control as a layer: open :mod:`.layer` for the problem, the solvers and :mod:`.derivative` for how."""

from .layer import MPCSolution, mpc

__all__ = ["MPCSolution", "mpc"]
