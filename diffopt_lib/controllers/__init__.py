"""Controllers as layers: each solves a control problem u*(x_init, θ) for a batch and can be differentiated."""

from .dynamics import CartPole, LinearDynamics, MLPDynamics, Pendulum
from .lqr import LQRSolution, lqr
from .mpc import MPCSolution, mpc

__all__ = ["CartPole", "LQRSolution", "LinearDynamics", "MLPDynamics", "MPCSolution", "Pendulum", "lqr", "mpc"]
