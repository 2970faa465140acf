"""Controllers as layers: each solves a control problem u*(x_init, θ) for a batch and can be differentiated."""

from .cem import CEMSolution, cem
from .dynamics import CartPole, LinearDynamics, MLPDynamics, Pendulum
from .lqr import LQRSolution, lqr
from .mpc import MPCSolution, mpc

__all__ = [
    "CEMSolution",
    "CartPole",
    "LQRSolution",
    "LinearDynamics",
    "MLPDynamics",
    "MPCSolution",
    "Pendulum",
    "cem",
    "lqr",
    "mpc",
]
