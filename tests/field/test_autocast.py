"""Under ``torch.autocast`` every solver answers as it does without: what a user of mixed precision may count on.

(facebookresearch/higher#127 asks for it; float32 products in bfloat16 keep three digits.)
"""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

from diffopt_lib import SGD, Adam, argmin, implicit, unroll
from diffopt_lib.layers import (
    Cones,
    capped_softmax,
    from_cvxpy,
    gumbel_sinkhorn,
    linear_svm,
    match,
    project_capped_simplex,
    project_simplex,
    prototype_head,
    relu,
    ridge_head,
    sigmoid,
    sinkhorn_operator,
    soft_rank,
    soft_sort,
    soft_top_k,
    softargmax,
    solve_cone,
    solve_integer,
    solve_qp,
    sparsemax,
    spearman_loss,
    svm_head,
)
from diffopt_lib.sensitivity import influence, logistic_loss, logistic_regression, loss_influence, poison, sensitivity

N = 6
LABELS = torch.arange(3).repeat(4)
SIGNS = torch.tensor([-1.0, 1.0]).repeat(6)
MIX = torch.randn(N, N, generator=torch.Generator().manual_seed(1))
Q = MIX @ MIX.mT + torch.eye(N)


def matrices(x):
    """Twelve points of six features that depend on x ``(2, 6)`` through products."""
    return (torch.randn(12, N, generator=torch.Generator().manual_seed(2)) * x.unsqueeze(-2)) / 2


def energy(y, x):
    return ((y @ Q) * y).sum(-1) / 2 + (y - x).cosh().sum(-1)


def in_a_program(x):
    y, p = cp.Variable(N), cp.Parameter(N)
    layer = from_cvxpy(
        cp.Problem(cp.Minimize(cp.sum_squares(MIX.numpy() @ y - p)), [y >= -0.3, cp.sum(y) == 1]), [p], [y]
    )
    return layer(x)[0]


def in_cones(x):
    A = torch.cat([-torch.eye(N), torch.ones(1, N), torch.zeros(1, N), -torch.eye(N)])
    b = torch.cat([torch.zeros(N), torch.tensor([1.0]), torch.tensor([0.7]), torch.zeros(N)])
    return solve_cone(x, torch.cat([A[N : N + 1], A[:N], A[N + 1 :]]), torch.cat([b[N : N + 1], b[:N], b[N + 1 :]]),
                      Cones(zero=1, nonneg=N, soc=[N + 1])).x  # fmt: skip


def seeded():
    return torch.Generator().manual_seed(3)


LAYERS = {
    "relu": relu,
    "sigmoid": sigmoid,
    "softargmax": lambda x: softargmax(x, 0.5),
    "soft_top_k": lambda x: soft_top_k(x, 2, 0.1),
    "sparsemax": lambda x: sparsemax(x, 0.7),
    "capped_softmax": lambda x: capped_softmax(x, 0.4),
    "project_simplex": project_simplex,
    "project_capped_simplex": lambda x: project_capped_simplex(x, 2.0),
    "soft_sort": lambda x: soft_sort(x, 0.5),
    "soft_rank": lambda x: soft_rank(x, 0.5, "entropic"),
    "spearman_loss": lambda x: spearman_loss(x, torch.arange(6.0)),
    "sinkhorn_operator": lambda x: sinkhorn_operator(matrices(x), 0.3),
    "gumbel_sinkhorn": lambda x: gumbel_sinkhorn(matrices(x), 0.5, 2, seeded()),
    "match": lambda x: match(matrices(x)) * x.unsqueeze(-2),
    "ridge_head": lambda x: ridge_head(matrices(x), LABELS, 3).weights,
    "prototype_head": lambda x: prototype_head(matrices(x), LABELS, 3).weights,
    "svm_head": lambda x: svm_head(matrices(x), LABELS, 3).weights,
    "linear_svm": lambda x: linear_svm(matrices(x), SIGNS).weights,
    "solve_integer": lambda x: solve_integer(x, MIX, x.abs().sum(-1, keepdim=True).expand(2, N), -1, 1).y,
    "solve_qp": lambda x: solve_qp(Q, x, G=-torch.eye(N), h=torch.zeros(N)).y,
    "solve_cone": in_cones,
    "from_cvxpy": in_a_program,
    "argmin": lambda x: argmin(energy, torch.zeros(N), x).y,
    "argmin by L-BFGS": lambda x: argmin(energy, torch.zeros(N), x, method="lbfgs").y,
    "implicit": lambda x: implicit(lambda z, x: z @ Q - x, torch.linalg.solve(Q, x.detach().mT).mT, x),
    "logistic_regression": lambda x: logistic_regression(matrices(x), SIGNS, 0.5).y,
}
# Their derivatives go through single operations of torch, which do in the backward pass what autocast is there.
STEP_BY_STEP = {
    "scores of a head": lambda x: ridge_head(matrices(x), LABELS, 3).scores(x.unsqueeze(-2)),
    "logistic_loss": lambda x: logistic_loss(x, matrices(x), SIGNS),
    "influence": lambda x: influence(matrices(x), SIGNS, 0.5, order="newton"),
    "sensitivity": lambda x: sensitivity(lambda x: logistic_regression(matrices(x), SIGNS, 2.0).y, x),
    "loss_influence": lambda x: loss_influence(
        lambda theta: (theta @ Q * theta).sum(-1),
        lambda w: logistic_regression(matrices(x), SIGNS, 0.5, w).y,
        torch.ones(2, 12),
    ),
    "unroll": lambda x: unroll(energy, torch.zeros(N), x, optimizer=SGD(0.02, 0.5), steps=20),
    "unroll with checkpoints": lambda x: unroll(
        energy, torch.zeros(N), x, optimizer=Adam(0.1), steps=9, checkpoint=True
    ),
    "argmin's value": lambda x: argmin(energy, torch.zeros(N), x).value,
    "argmin unrolled": lambda x: argmin(energy, torch.zeros(N), x, gradient="unroll").y,
    "argmin by one step": lambda x: argmin(energy, torch.zeros(N), x, gradient="one_step").y,
}


@pytest.fixture
def x(generator):
    return (0.3 + torch.rand(2, N, generator=generator)).requires_grad_()


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def pulled_back(y, x):
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    return torch.autograd.grad((y * weights).sum(), x)[0]


def close(got, plain):
    """To rounding in float32: bfloat16 would be off by 4e-3."""
    assert got.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6 * plain.abs().max().item())


@pytest.mark.parametrize("name", [*LAYERS, *STEP_BY_STEP])
def test_solution_and_gradient_are_those_without(name, x):
    layer = (LAYERS | STEP_BY_STEP)[name]
    plain = layer(x)
    with autocast():
        y = layer(x)
    close(y, plain)
    close(pulled_back(y, x), pulled_back(plain, x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_backward_pass_inside_autocast_is_exact_too(name, x):
    plain = pulled_back(LAYERS[name](x), x)
    with autocast():
        y = LAYERS[name](x)
        weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
        (g,) = torch.autograd.grad(y, x, weights)
    close(g, plain)


@pytest.mark.parametrize("name", [*LAYERS, *STEP_BY_STEP])
def test_half_precision_from_a_network_is_taken_as_float32(name, x):
    network = torch.nn.Linear(N, N)
    torch.nn.init.eye_(network.weight)
    with autocast():
        features = network(x)
        assert features.dtype == torch.bfloat16
        y = (LAYERS | STEP_BY_STEP)[name](features)
    close(y, (LAYERS | STEP_BY_STEP)[name](features.float()))
    assert torch.isfinite(pulled_back(y, x)).all()


def test_outside_autocast_half_precision_is_still_an_error():
    with pytest.raises(ValueError, match="x must be float32 or float64, got torch.bfloat16"):
        softargmax(torch.ones(3, dtype=torch.bfloat16))


def test_float64_stays_float64(x):
    with autocast():
        y = argmin(
            lambda y, x: ((y @ Q.double()) * y).sum(-1) / 2 - (x * y).sum(-1), torch.zeros(N).double(), x.double()
        ).y
    torch.testing.assert_close(y, torch.linalg.solve(Q.double(), x.double().mT).mT)


def test_a_network_inside_argmin_is_evaluated_in_full_precision(x):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(N, 8), torch.nn.Tanh(), torch.nn.Linear(8, N))

    def solve():
        solution = argmin(lambda y, x: (y - network(x)).square().sum(-1) + (y @ Q * y).sum(-1), torch.zeros(N), x)
        return solution.y, torch.autograd.grad(solution.y.square().sum(), [*network.parameters()]), solution.value

    plain = solve()
    with autocast():
        got = solve()
    for a, b in zip((got[0], *got[1], got[2]), (plain[0], *plain[1], plain[2]), strict=True):
        close(a, b)


def test_forward_mode_and_jacobians(x):
    def solve(x):
        return argmin(energy, torch.zeros(N), x).y

    plain = torch.func.jacrev(solve)(x), torch.func.jvp(solve, (x,), (torch.ones_like(x),))[1]
    with autocast():
        got = torch.func.jacrev(solve)(x), torch.func.jvp(solve, (x,), (torch.ones_like(x),))[1]
    for a, b in zip(got, plain, strict=True):
        close(a, b)


def test_second_derivatives(x):
    def second():
        y = argmin(energy, torch.zeros(N), x).y
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    plain = second()
    with autocast():
        close(second(), plain)


def test_attacks(x):
    data = matrices(x.detach())
    q = x.detach()

    def attack():
        return poison(lambda d: logistic_regression(d, SIGNS, 1.0).y, lambda t: (t @ Q * q).sum(-1), data, 0.1, steps=3)

    plain = attack()
    with autocast():
        close(attack().data, plain.data)


def test_the_users_own_autocast_goes_on_behind_a_layer(x):
    with autocast():
        sparsemax(x)
        assert (x @ Q).dtype == torch.bfloat16
        with pytest.raises(ValueError):
            sparsemax(x, -1.0)
        assert (x @ Q).dtype == torch.bfloat16
