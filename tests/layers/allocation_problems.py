"""The problems of soft top-k and the simplex layers, for the general solvers."""

import torch

from diffopt_lib.layers import Cones, solve_cone, solve_qp


def capped_simplex_by_qp(x, total, upper=None):
    """argmin ½‖y − x‖² s.t. Σ y = total, 0 ≤ y ≤ upper as a quadratic program."""
    n = x.shape[-1]
    identity = torch.eye(n, dtype=x.dtype)
    G, h = -identity, x.new_zeros(n)
    if upper is not None:
        G, h = torch.cat([G, identity]), torch.cat([h, upper.expand(n)])
    return solve_qp(identity, -x, x.new_ones(1, n), total.reshape(1), G, h).y


def soft_top_k_by_cones(x, k, tau):
    """argmin −xᵀy − τ H_b(y) s.t. Σ y = k, with yᵢ log yᵢ and (1 − yᵢ) log (1 − yᵢ) on exponential cones."""
    n = len(x)
    identity, zero = torch.eye(n, dtype=x.dtype), x.new_zeros(n, n)
    first, A1, b1 = _entropy_rows([zero, -identity, zero], [-identity, zero, zero], x.new_zeros(n))
    second, A2, b2 = _entropy_rows([zero, zero, -identity], [identity, zero, zero], x.new_ones(n))
    A = torch.cat([torch.cat([x.new_ones(n), x.new_zeros(2 * n)]).unsqueeze(0), A1, A2])
    b = torch.cat([k.reshape(1), b1, b2])
    c = torch.cat([-x, -tau * x.new_ones(2 * n)])
    return solve_cone(c, A, b, Cones(zero=1, exp=first + second)).x[:n]


def capped_softmax_by_cones(x, upper, tau):
    """argmin −xᵀy − τ H(y) s.t. Σ y = 1, y ≤ upper, with yᵢ log yᵢ on exponential cones."""
    n = len(x)
    identity, zero = torch.eye(n, dtype=x.dtype), x.new_zeros(n, n)
    count, A1, b1 = _entropy_rows([zero, -identity], [-identity, zero], x.new_zeros(n))
    total = torch.cat([x.new_ones(n), x.new_zeros(n)]).unsqueeze(0)
    A = torch.cat([total, torch.cat([identity, zero], -1), A1])
    b = torch.cat([x.new_ones(1), upper.expand(n), b1])
    c = torch.cat([-x, -tau * x.new_ones(n)])
    return solve_cone(c, A, b, Cones(zero=1, nonneg=n, exp=count)).x[:n]


def _entropy_rows(h, y, constant):
    """Rows for hᵢ ≤ −yᵢ log yᵢ, that is (hᵢ, yᵢ, 1) in the exponential cone, with (h, y) affine in the variables."""
    n = len(constant)
    h, y = torch.cat(h, -1), torch.cat(y, -1)
    A = torch.stack([h, y, torch.zeros_like(h)], dim=1).reshape(3 * n, -1)
    b = torch.stack([torch.zeros_like(constant), constant, torch.ones_like(constant)], dim=1).reshape(3 * n)
    return n, A, b
