"""The exponential cone K = closure {(x, y, z): y > 0, y exp(x/y) ≤ z}: projection and its derivative. Its barrier and
frames are in :mod:`.barrier`.

The curved part of the boundary is made of the rays a (1·r, 1, eʳ), one for each slope r = x/y, and the normals there
are the rays −b (−1, r − 1, e⁻ʳ) (the boundary of the dual cone). So p is the projection of v, and p − v its normal
part, if

    v = a (r, 1, eʳ) − b (−1, r − 1, e⁻ʳ),      a, b ≥ 0.                                          (1)

The first two rows give a and b for any r,

    a(r) = ((r − 1) vₓ + v_y) / (r² − r + 1),      b(r) = (vₓ − r v_y) / (r² − r + 1)                  (2)

and the third is one equation for r, increasing where a and b are positive (Friberg 2021):

    h(r) = a(r) eʳ − b(r) e⁻ʳ − v_z = 0.                                                            (3)

What is not on the curved part is simple: v itself if it is in K, 0 if −v is in K*, and (vₓ, 0, max(v_z, 0)) if neither
vₓ nor v_y is positive.

Source: H. A. Friberg, Projection onto the exponential cone: a univariate root-finding problem, 2021; the special cases
from Parikh & Boyd 2014, §6.3.4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from .barrier import CENTRE, Exponential
from .kind import Kind
from .spectral import LEAST, Pair

# A ray of a larger slope differs from the limit ray, a face of the cone, by less than any double can show.
LARGEST_SLOPE = 300.0
SHORT = 1e-8  # a Newton step after which the next one would be below rounding


class Place(NamedTuple):
    """Where Π(v) is: on the curved part of the boundary, at slope r; or v is inside; or in the polar cone, and Π(v) is
    0; or on the face {x ≤ 0, y = 0, z ≥ 0}. Elsewhere than on the curved part, r means nothing."""

    r: Tensor
    curved: Tensor
    inside: Tensor
    polar: Tensor


def project_exponential(v: Tensor, near: Tensor | None = None) -> Tensor:
    """Projection of v ``(..., 3)``; differentiable three times away from the kinks. ``near`` is a guess, which only
    saves time.

    Two Newton steps on (3), taken from a root that counts as a constant, are a function of v that agrees with the root
    to fourth order, so differentiating the steps differentiates the root.
    """
    dtype, v = v.dtype, v.double()
    place = Place(*opaque(_locate, v, *([] if near is None else [near])))
    r, curved = place.r, place.curved.unsqueeze(-1)
    harmless = torch.tensor([0.0, 1.0, 0.0], dtype=v.dtype, device=v.device)  # keeps NaN out of the unused branch
    w = torch.where(curved, v, harmless)
    for _ in range(2):
        value, slope = _equation(r, w)
        r = r - value / slope
    p, _, _ = _on_curve(r, w)
    return torch.where(curved, p, _flat(v, place)).to(dtype)


def exponential_jacobian(v: Tensor) -> Tensor:
    """DΠ(v), ``(..., 3, 3)``, for the exponential cone."""
    _, directions, weights = _spectrum(v.double(), None)
    return _assembled(directions, weights).to(v.dtype)


def split_exponential(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """y, and what :func:`exponential_slope` needs."""
    p, directions, weights = _spectrum(-v, near)
    return v + p, (directions, weights)


def exponential_slope(directions: Tensor, weights: Tensor) -> Pair:
    """D and W of :mod:`.slope`: D = I − DΠ(−v)."""
    return _assembled(directions, 1 - weights), _assembled(directions, (1 - weights) / (weights + LEAST))


def _spectrum(v: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Π(v), and DΠ(v) as unit vectors, columns of a matrix ``(..., 3, 3)``, with their eigenvalues ``(..., 3)``.

    On the curved part it has eigenvalue 1 along the ray, 0 along the normal, and 1 / (1 + distance · curvature) along
    the direction orthogonal to both. For the surface y exp(x/y) = z that is a / (a + b (tₓ − r t_y)²). Elsewhere the
    directions are the axes.
    """
    place = _locate(v, near)
    curved = place.curved.unsqueeze(-1)
    r = torch.where(place.curved, place.r, 0)
    p, a, b = _on_curve(r, v)
    up, down = r.clamp_max(0).exp(), (-r).clamp_max(0).exp()
    ray = torch.stack([r * down, down, up], dim=-1)
    normal = torch.stack([-up, (r - 1) * up, down], dim=-1)
    both = torch.stack([ray, normal])
    ray, normal = both / torch.linalg.vector_norm(both, dim=-1, keepdim=True)
    across = torch.linalg.cross(ray, normal)
    bend = b * (across[..., 0] - r * across[..., 1]).square()
    weight = a / torch.where(place.curved, a + bend, 1)
    directions = torch.stack([ray, across, normal], dim=-1)
    weights = torch.stack([torch.ones_like(r), weight, torch.zeros_like(r)], dim=-1)

    identity = torch.eye(3, dtype=v.dtype, device=v.device)
    signs = v * v.new_tensor([-1.0, 1.0, 1.0])
    axes = place.inside.unsqueeze(-1) | ((signs > 0) & ~place.polar.unsqueeze(-1))
    return (
        torch.where(curved, p, _flat(v, place)),
        torch.where(curved.unsqueeze(-1), directions, identity),
        torch.where(curved, weights, axes.to(v.dtype)),
    )


def _assembled(directions: Tensor, weights: Tensor) -> Tensor:
    return (directions * weights.unsqueeze(-2)) @ directions.mT


def in_exponential(v: Tensor) -> Tensor:
    """Whether v ``(..., 3)`` is in the exponential cone."""
    x, y, z = v.unbind(-1)
    interior = (y > 0) & (y * _exp(x / torch.where(y > 0, y, 1)) <= z)
    return interior | ((y == 0) & (x <= 0) & (z >= 0))


def in_exponential_dual(v: Tensor) -> Tensor:
    """Whether v = (x, y, z) is in the dual cone, the closure of {x < 0, −x exp(y/x − 1) ≤ z}."""
    x, y, z = v.unbind(-1)
    interior = (x < 0) & (-x * _exp(y / torch.where(x < 0, x, -1) - 1) <= z)
    return interior | ((x == 0) & (y >= 0) & (z >= 0))


def _flat(v: Tensor, place: Place) -> Tensor:
    """The projection where it is not on the curved part."""
    x, y, z = v.unbind(-1)
    face = torch.stack([torch.where(x < 0, x, 0), torch.relu(y), torch.relu(z)], dim=-1)
    return torch.where(place.inside.unsqueeze(-1), v, torch.where(place.polar.unsqueeze(-1), 0, face))


def _on_curve(r: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p = a (r, 1, eʳ), a and b of eqs. (1) and (2), for the root r of (3)."""
    a, b, decay = _coefficients(r, v)
    top = torch.where(r >= 0, v[..., 2] + b * decay, a * decay)
    a = torch.where(r >= 0, top * decay, a)  # for large r eq. (2) is a small difference of large numbers
    return torch.stack([r * a, a, top], dim=-1), a, b


def _coefficients(r: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a(r) and b(r) of eq. (2), and exp(−|r|)."""
    x, y, _ = v.unbind(-1)
    q = r * r - r + 1
    return ((r - 1) * x + y) / q, (x - r * y) / q, torch.exp(-r.abs())


def _equation(r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """h(r) exp(−|r|), which has the root of (3) and does not overflow, and a derivative that is right at the root."""
    x, y, z = v.unbind(-1)
    a, b, decay = _coefficients(r, v)
    q = r * r - r + 1
    da, db = (x - a * (2 * r - 1)) / q, (-y - b * (2 * r - 1)) / q
    value = torch.where(r >= 0, a - (z + b * decay) * decay, (a * decay - z) * decay - b)
    right = da + (z + (2 * b - db) * decay) * decay
    left = ((da + 2 * a) * decay - z) * decay - db
    return value, torch.where(r >= 0, right, left)


@torch.no_grad()
def _locate(v: Tensor, near: Tensor | None = None) -> Place:
    """Which case it is, and the root r of (3)."""
    x, y, _ = v.unbind(-1)
    inside, polar = in_exponential(v), in_exponential_dual(-v)
    curved = ((x > 0) | (y > 0)) & ~(inside | polar)
    if near is not None:
        r, found = _locate_near(v, near, curved)
        if found.all():
            return Place(r, curved, inside, polar)
    limit = torch.full_like(x, LARGEST_SLOPE)
    # a > 0 bounds r by 1 − y/x, b > 0 by x/y, from the side that the sign of the denominator says.
    of_a, of_b = 1 - y / x, x / y
    low = torch.maximum(torch.where(x > 0, of_a, -limit), torch.where(y < 0, of_b, -limit)).clamp_min(-LARGEST_SLOPE)
    high = torch.minimum(torch.where(x < 0, of_a, limit), torch.where(y > 0, of_b, limit)).clamp_max(LARGEST_SLOPE)
    curved = curved & (low < high)
    # Roots crowd at the finite end of a long bracket.
    r = torch.where(high == limit, low + 1, torch.where(low == -limit, high - 1, 0.5 * (low + high)))
    if near is not None:
        guess = near[..., 0] / near[..., 1]
        r = torch.where((guess > low) & (guess < high), guess, r)
    r = torch.where(curved, r.clamp(-LARGEST_SLOPE, LARGEST_SLOPE), 0)
    for _ in range(100 if curved.any() else 0):
        value, slope = _equation(r, v)
        low, high = torch.where(value <= 0, r, low), torch.where(value >= 0, r, high)
        newton = r - value / slope
        trusted = (newton >= low) & (newton <= high) & (slope > 0)
        step = torch.where(trusted, newton, 0.5 * (low + high)) - r
        r = torch.where(curved, r + step, r)
        if not (curved & (step.abs() > SHORT * (1 + r.abs()))).any():
            break
    return Place(r, curved & (r.abs() < LARGEST_SLOPE - 1), inside, polar)


def _locate_near(v: Tensor, near: Tensor, curved: Tensor, steps: int = 3) -> tuple[Tensor, Tensor]:
    """The root of (3), if it is a few Newton steps from the slope of a point near Π(v), the last a short one, and both
    coefficients in (1) are positive there; and whether that is so, or v has no root, as ``curved`` says."""
    r = near[..., 0] / near[..., 1]
    for _ in range(steps):
        value, slope = _equation(r, v)
        step = value / slope
        r, found = r - step, (step.abs() <= SHORT * (1 + r.abs())) | ~curved
        if found.all():
            break
    a, b, _ = _coefficients(r, v)
    return r, found & ((torch.minimum(a, b) > 0) & (r.abs() < LARGEST_SLOPE - 1) | ~curved)


def _exp(t: Tensor) -> Tensor:
    """exp(t), large instead of infinite, so that a product with 0 is 0."""
    return torch.exp(t.clamp_max(700))


EXPONENTIAL = Kind(
    is_bound=False,
    rows=lambda order: 3,
    degree=lambda size: 3,
    centre=lambda size: list(CENTRE),
    project=project_exponential,
    jacobian=exponential_jacobian,
    contains=in_exponential,
    split=split_exponential,
    slope=exponential_slope,
    frame=Exponential.at,
    outside=lambda count, size: count * [("ExponentialConeT",)],
)
