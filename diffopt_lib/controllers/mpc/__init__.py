"""Model-predictive control: open :mod:`.layer` for the problem, :mod:`.solver` and :mod:`.derivative` for how."""

from .layer import MPCSolution, mpc

__all__ = ["MPCSolution", "mpc"]
