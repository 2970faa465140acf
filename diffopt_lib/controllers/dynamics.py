"""Systems to control: modules x_{t+1} = φ(x_t, u_t) with physical parameters that can be learned.

The mechanical ones integrate θ̈ = a(θ, θ̇, u) over a time step dt. Angles are seen as (cos θ, sin θ), which has no jump
at π. Such a state is not integrated entry by entry, as it would leave the unit circle; it is turned by the angle φ by
which the pole moves in the time step:

    cos(θ + φ) = cos θ cos φ − sin θ sin φ,      sin(θ + φ) = sin θ cos φ + cos θ sin φ                   (1)

Every parameter is a number or a tensor ``(*batch,)`` that broadcasts against the batch of x, so that a whole family of
systems (four seeds that learn a mass, say) is one module. A number or a ``torch.nn.Parameter`` is to be learned: it is
among the module's parameters. Any other tensor is a buffer, through which gradients reach whatever it was computed
from. All units are SI.

Chapter: book/2_differentiable/10_control. Sources: the pendulum and cart-pole of OpenAI Gym, as Amos et al.,
Differentiable MPC, 2018, have them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..batch.products import times
from ..validate import check_option

Integrator = Literal["semi_implicit", "euler", "midpoint", "rk4"]


INTEGRATORS = ("semi_implicit", "euler", "midpoint", "rk4")


def integrate(
    acceleration: Callable[[Tensor, Tensor], Tensor], q: Tensor, v: Tensor, dt: float, method: str
) -> tuple[Tensor, Tensor]:
    """q and v after a time step of q̈ = acceleration(q, q̇), both ``(*batch, k)``.

    ``"semi_implicit"`` moves q with the new velocity (order 1, keeps the energy bounded), ``"euler"`` with the old one
    (order 1), ``"midpoint"`` has order 2 and ``"rk4"`` order 4.
    """
    a1 = acceleration(q, v)
    if method == "semi_implicit":
        v_next = v + dt * a1
        return q + dt * v_next, v_next
    if method == "euler":
        return q + dt * v, v + dt * a1
    v2 = v + dt / 2 * a1
    a2 = acceleration(q + dt / 2 * v, v2)
    if method == "midpoint":
        return q + dt * v2, v + dt * a2
    v3 = v + dt / 2 * a2
    a3 = acceleration(q + dt / 2 * v2, v3)
    v4 = v + dt * a3
    a4 = acceleration(q + dt * v3, v4)
    return q + dt / 6 * (v + 2 * v2 + 2 * v3 + v4), v + dt / 6 * (a1 + 2 * a2 + 2 * a3 + a4)


class Pendulum(nn.Module):
    """A rod that swings about one end and is driven by a torque u there; θ = 0 is upright.

        θ̈ = (3g / 2l) sin(θ + b) + 3u / (m l²) − d θ̇                                                    (2)

    State x = (cos θ, sin θ, θ̇) ``(*batch, 3)``, control u ``(*batch, 1)`` in N m. The torque is not limited in here:
    give :func:`mpc` its bounds, so that the derivative knows of them.

    Args:
        gravity, mass, length: g (m/s²), m (kg), l (m); each a number or a tensor ``(*batch,)``.
        damping: d (1/s); none, and none to learn, if not given.
        bias: b (rad), by which the force of gravity is turned; likewise.
        dt: the time step (s).
        integrator: ``"semi_implicit"``, ``"euler"``, ``"midpoint"`` or ``"rk4"``; see :func:`integrate`.
    """

    n, m = 3, 1
    gravity: Tensor
    mass: Tensor
    length: Tensor
    damping: Tensor
    bias: Tensor

    def __init__(
        self,
        gravity: float | Tensor = 10.0,
        mass: float | Tensor = 1.0,
        length: float | Tensor = 1.0,
        damping: float | Tensor | None = None,
        bias: float | Tensor | None = None,
        *,
        dt: float = 0.05,
        integrator: Integrator = "semi_implicit",
    ) -> None:
        super().__init__()
        check_option("integrator", integrator, INTEGRATORS)
        damping, bias = (torch.zeros((), dtype=torch.float64) if v is None else v for v in (damping, bias))
        _register(self, gravity=gravity, mass=mass, length=length, damping=damping, bias=bias)
        self.dt, self.integrator = dt, integrator

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """The state after the time step, ``(*batch, 3)``."""
        _check_sizes(self, x, u)
        cos, sin, velocity = x.unbind(-1)
        torque = 3 * u.squeeze(-1) / (self.mass * self.length.square())

        def acceleration(turn: Tensor, velocity: Tensor) -> Tensor:
            _, tilted = _turned(cos, sin, turn + self.bias)
            return 1.5 * self.gravity / self.length * tilted + torque - self.damping * velocity

        turn, velocity = integrate(acceleration, torch.zeros_like(velocity), velocity, self.dt, self.integrator)
        return _state(x.dtype, *_turned(cos, sin, turn), velocity)

    @staticmethod
    def state(angle: Tensor, velocity: Tensor) -> Tensor:
        """(cos θ, sin θ, θ̇) ``(*batch, 3)`` of angles and velocities ``(*batch,)``."""
        return _state(angle.dtype, angle.cos(), angle.sin(), velocity)

    def rod(self, x: Tensor) -> Tensor:
        """The two ends of the rod in the plane, ``(*batch, 2, 2)``: a polyline to draw, with
        :func:`diffopt_lib.widgets.animate` say."""
        cos, sin, _ = x.unbind(-1)
        tip = torch.stack([self.length * sin, self.length * cos], dim=-1)
        return torch.stack([torch.zeros_like(tip), tip], dim=-2)


class CartPole(nn.Module):
    """A pole on a cart that a horizontal force u drives; θ = 0 is upright (Barto, Sutton & Anderson 1983).

        a = (u + m l θ̇² sin θ) / M,   M = m_cart + m                                                     (3)
        θ̈ = (g sin θ − a cos θ) / (l (4/3 − m cos²θ / M)),      ẍ = a − m l θ̈ cos θ / M

    State (x, ẋ, cos θ, sin θ, θ̇) ``(*batch, 5)``, control u ``(*batch, 1)`` in N.

    Args:
        gravity, cart, pole, length: g (m/s²), the masses m_cart and m (kg), and l, half the length of the pole (m);
            each a number or a tensor ``(*batch,)``.
        dt: the time step (s).
        integrator: as for :class:`Pendulum`.
    """

    n, m = 5, 1
    gravity: Tensor
    cart: Tensor
    pole: Tensor
    length: Tensor

    def __init__(
        self,
        gravity: float | Tensor = 9.8,
        cart: float | Tensor = 1.0,
        pole: float | Tensor = 0.1,
        length: float | Tensor = 0.5,
        *,
        dt: float = 0.05,
        integrator: Integrator = "euler",
    ) -> None:
        super().__init__()
        check_option("integrator", integrator, INTEGRATORS)
        _register(self, gravity=gravity, cart=cart, pole=pole, length=length)
        self.dt, self.integrator = dt, integrator

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """The state after the time step, ``(*batch, 5)``."""
        _check_sizes(self, x, u)
        position, speed, cos0, sin0, velocity = x.unbind(-1)
        force, mass = u.squeeze(-1), self.cart + self.pole

        def acceleration(q: Tensor, v: Tensor) -> Tensor:
            cos, sin = _turned(cos0, sin0, q[..., 1])
            a = (force + self.pole * self.length * v[..., 1].square() * sin) / mass
            inertia = self.length * (4 / 3 - self.pole * cos.square() / mass)
            angular = (self.gravity * sin - cos * a) / inertia
            return torch.stack([a - self.pole * self.length * angular * cos / mass, angular], dim=-1)

        q = torch.stack([position, torch.zeros_like(position)], dim=-1)
        v = torch.stack([speed, velocity], dim=-1)
        q, v = integrate(acceleration, q, v, self.dt, self.integrator)
        return _state(x.dtype, q[..., 0], v[..., 0], *_turned(cos0, sin0, q[..., 1]), v[..., 1])

    @staticmethod
    def state(position: Tensor, speed: Tensor, angle: Tensor, velocity: Tensor) -> Tensor:
        """(x, ẋ, cos θ, sin θ, θ̇) ``(*batch, 5)``."""
        return _state(angle.dtype, position, speed, angle.cos(), angle.sin(), velocity)

    def rod(self, x: Tensor) -> Tensor:
        """The hinge on the cart and the tip of the pole in the plane, ``(*batch, 2, 2)``: a polyline to draw, with
        :func:`diffopt_lib.widgets.animate` say."""
        position, _, cos, sin, _ = x.unbind(-1)
        hinge = torch.stack([position, torch.zeros_like(position)], dim=-1)
        tip = hinge + 2 * torch.stack([self.length * sin, self.length * cos], dim=-1)
        return torch.stack([hinge, tip], dim=-2)

    @staticmethod
    def body(x: Tensor, width: float = 0.3, height: float = 0.16) -> Tensor:
        """The corners of the cart, ``(*batch, 4, 2)``: a polygon to draw."""
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=x.dtype, device=x.device)
        corners = corners * corners.new_tensor([width / 2, height])
        return corners + torch.nn.functional.pad(x[..., :1], (0, 1)).unsqueeze(-2)


class LinearDynamics(nn.Module):
    """x_{t+1} = A x + B u + f, with A ``(*batch, n, n)``, B ``(*batch, n, m)`` and f ``(*batch, n)``, by default 0."""

    A: Tensor
    B: Tensor
    f: Tensor

    def __init__(self, A: Tensor, B: Tensor, f: Tensor | None = None) -> None:
        super().__init__()
        if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
            raise ValueError(f"A must have shape (*batch, n, n), got {tuple(A.shape)}")
        if B.ndim < 2 or B.shape[-2] != A.shape[-1]:
            raise ValueError(f"B must have shape (*batch, n, m) with n = {A.shape[-1]}, got {tuple(B.shape)}")
        _register(self, A=A, B=B, f=A.new_zeros(A.shape[-1]) if f is None else f)
        self.n, self.m = B.shape[-2:]

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """The next state, ``(*batch, n)``."""
        return times(self.A, x) + times(self.B, u) + self.f


class MLPDynamics(nn.Module):
    """x_{t+1} = x + h(x, u), with a network h of smooth units: for systems whose physics nobody knows.

    Args:
        n, m: the dimensions of x and u.
        hidden: widths of the hidden layers.
        dtype: of the parameters, torch's default if not given.
    """

    def __init__(self, n: int, m: int, hidden: tuple[int, ...] = (64, 64), dtype: torch.dtype | None = None) -> None:
        super().__init__()
        widths = (n + m, *hidden)
        layers: list[nn.Module] = []
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(i, o, dtype=dtype), nn.Tanh()]
        self.n, self.m = n, m
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], n, dtype=dtype))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """The next state, ``(*batch, n)``."""
        return x + self.network(torch.cat([x, u], dim=-1))


def _check_sizes(system: Pendulum | CartPole, x: Tensor, u: Tensor) -> None:
    for name, v, size in (("x", x, system.n), ("u", u, system.m)):
        if v.shape[-1:] != (size,):
            raise ValueError(f"{name} must have shape (*batch, {size}), got {tuple(v.shape)}")


def _turned(cos: Tensor, sin: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. (1)."""
    c, s = angle.cos(), angle.sin()
    return cos * c - sin * s, sin * c + cos * s


def _state(dtype: torch.dtype, *entries: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*entries), dim=-1).to(dtype)


def _register(module: nn.Module, **values: float | Tensor) -> None:
    """Numbers become parameters, in double precision."""
    for name, value in values.items():
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            module.register_buffer(name, value)
        else:
            value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            module.register_parameter(name, value if isinstance(value, nn.Parameter) else nn.Parameter(value))
