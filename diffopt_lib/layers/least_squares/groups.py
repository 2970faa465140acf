"""Rotations and poses: angles, planar poses, rotations of space. See :mod:`.manifolds` for what they have in common.

    SO2     (cos θ, sin θ)             δ turns by an angle
    SE2     (x, y, cos θ, sin θ)       δ = (u, v, ω): moves by u ahead and v to the left, then turns by ω
    SO3     unit quaternion (x, y, z, w), w the real part; δ is a rotation vector in the rotated frame

Sources: Solà, Deray & Atchuthan, A micro Lie theory, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class _Group:
    """What the curved ones share: composition y ∘ exp δ as the retraction, and differences as log(a⁻¹ b)."""

    dim: int

    def chart(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y[..., :1]).expand(*y.shape[:-1], self.dim)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """a⁻¹ b: the pose b as seen from a."""
        return self.compose(self.inverse(a), b)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class SO2(_Group):
    """Rotations of the plane, (cos θ, sin θ)."""

    ambient, dim = 2, 1

    def from_angle(self, theta: Tensor) -> Tensor:
        """θ ``(...)`` as a point ``(..., 2)``."""
        return torch.stack([theta.cos(), theta.sin()], -1)

    def compose(self, a: Tensor, b: Tensor) -> Tensor:
        """The rotation by the sum of the angles."""
        (c, s), (d, t) = a.unbind(-1), b.unbind(-1)
        return torch.stack([c * d - s * t, s * d + c * t], -1)

    def inverse(self, a: Tensor) -> Tensor:
        """The rotation back."""
        return torch.stack([a[..., 0], -a[..., 1]], -1)

    def log(self, a: Tensor) -> Tensor:
        """The angle in (−π, π], ``(..., 1)``."""
        return torch.atan2(a[..., 1:], a[..., :1])

    def exp(self, delta: Tensor) -> Tensor:
        """The rotation by an angle ``(..., 1)``."""
        return torch.cat([delta.cos(), delta.sin()], -1)

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        return unit(self.compose(y, self.exp(delta)))

    def size(self, y: Tensor) -> Tensor:
        return torch.ones_like(y[..., :1])

    def project(self, y: Tensor) -> Tensor:
        return unit(y)


@dataclass(frozen=True)
class SE2(_Group):
    """Poses in the plane, (x, y, cos θ, sin θ)."""

    ambient, dim = 4, 3

    def from_angle(self, pose: Tensor) -> Tensor:
        """(x, y, θ) ``(..., 3)`` as a point ``(..., 4)``."""
        return torch.cat([pose[..., :2], SO2().from_angle(pose[..., 2])], -1)

    def to_angle(self, pose: Tensor) -> Tensor:
        """(x, y, θ) with θ in (−π, π], ``(..., 3)``."""
        return torch.cat([pose[..., :2], SO2().log(pose[..., 2:])], -1)

    def compose(self, a: Tensor, b: Tensor) -> Tensor:
        """The pose b, given in the frame of a."""
        return torch.cat([a[..., :2] + turn(a[..., 2:], b[..., :2]), SO2().compose(a[..., 2:], b[..., 2:])], -1)

    def inverse(self, a: Tensor) -> Tensor:
        """The origin as seen from a."""
        back = SO2().inverse(a[..., 2:])
        return torch.cat([-turn(back, a[..., :2]), back], -1)

    def log(self, a: Tensor) -> Tensor:
        """(u, v, ω): constant speeds that lead from the origin to a within unit time."""
        omega = SO2().log(a[..., 2:]).squeeze(-1)
        half = 0.5 * omega
        x, y = a[..., 0], a[..., 1]
        k = half_cotangent(omega.square())
        return torch.stack([k * x + half * y, k * y - half * x, omega], -1)

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        moved = torch.cat([delta[..., :2], SO2().exp(delta[..., 2:])], -1)
        return self.project(self.compose(y, moved))

    def size(self, y: Tensor) -> Tensor:
        length = y[..., :2].norm(dim=-1, keepdim=True)
        return torch.cat([length, length, torch.ones_like(length)], -1)

    def project(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :2], unit(y[..., 2:])], -1)


@dataclass(frozen=True)
class SO3(_Group):
    """Rotations of space, unit quaternions (x, y, z, w)."""

    ambient, dim = 4, 3

    def compose(self, a: Tensor, b: Tensor) -> Tensor:
        """First b, then a."""
        u, v, p, q = a[..., :3], b[..., :3], a[..., 3:], b[..., 3:]
        real = p * q - (u * v).sum(-1, keepdim=True)
        return torch.cat([p * v + q * u + torch.linalg.cross(u, v), real], -1)

    def inverse(self, a: Tensor) -> Tensor:
        """The rotation back."""
        return torch.cat([-a[..., :3], a[..., 3:]], -1)

    def rotate(self, a: Tensor, v: Tensor) -> Tensor:
        """The vector v ``(..., 3)``, turned."""
        t = 2 * torch.linalg.cross(a[..., :3].expand_as(v), v)
        return v + a[..., 3:] * t + torch.linalg.cross(a[..., :3].expand_as(v), t)

    def exp(self, delta: Tensor) -> Tensor:
        """The rotation about δ by the angle ‖δ‖."""
        s = delta.square().sum(-1, keepdim=True) / 4
        return torch.cat([0.5 * sinc(s) * delta, cosine(s)], -1)

    def log(self, a: Tensor) -> Tensor:
        """The rotation vector, of length at most π."""
        a = torch.where(a[..., 3:] < 0, -a, a)
        s = a[..., :3].square().sum(-1, keepdim=True)
        return 2 * half_angle_over_sine(s, a[..., 3:]) * a[..., :3]

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        return unit(self.compose(y, self.exp(delta)))

    def size(self, y: Tensor) -> Tensor:
        return torch.ones_like(y[..., :3])

    def project(self, y: Tensor) -> Tensor:
        return unit(y)


def turn(c: Tensor, v: Tensor) -> Tensor:
    """The vector v of the plane, turned by (cos θ, sin θ)."""
    return torch.stack(
        [c[..., 0] * v[..., 0] - c[..., 1] * v[..., 1], c[..., 1] * v[..., 0] + c[..., 0] * v[..., 1]], -1
    )


def unit(v: Tensor) -> Tensor:
    """v / ‖v‖."""
    return v / v.norm(dim=-1, keepdim=True)


# Functions of s = θ² that are smooth at 0, where θ itself is not: a few terms of their series serve there.

NEAR = 1e-3


def _smooth(s: Tensor, series: tuple[float, ...], far: Tensor) -> Tensor:
    near = torch.zeros_like(s)
    for coefficient in reversed(series):
        near = near * s + coefficient
    return torch.where(s < NEAR, near, far)


def _root(s: Tensor) -> Tensor:
    return torch.where(s < NEAR, 1, s).sqrt()


def sinc(s: Tensor) -> Tensor:
    """sin θ / θ."""
    return _smooth(s, (1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800), _root(s).sin() / _root(s))


def cosine(s: Tensor) -> Tensor:
    """cos θ."""
    return _smooth(s, (1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800), _root(s).cos())


def half_cotangent(s: Tensor) -> Tensor:
    """(θ/2) cot(θ/2)."""
    half = 0.5 * _root(s)
    series = (1, -1 / 12, -1 / 720, -1 / 30240, -1 / 1209600, -1 / 47900160)
    return _smooth(s, series, half / half.tan())


def half_angle_over_sine(s: Tensor, cosine: Tensor) -> Tensor:
    """θ / sin θ for s = sin² θ, with cos θ ≥ 0 given."""
    root = _root(s)
    series = (1, 1 / 6, 3 / 40, 15 / 336, 105 / 3456, 945 / 42240)
    return _smooth(s, series, torch.atan2(root, torch.where(s < NEAR, 1, cosine)) / root)
