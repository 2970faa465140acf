"""Programs that say the same thing twice: P ≥ 0 under an entropy, which has it in its domain (cvxpylayers#120)."""

import cvxpy as cp
import pytest
import torch

from diffopt_lib.layers import from_cvxpy, sinkhorn_operator
from diffopt_lib.layers.cone.outside import own_path_only

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def own_path():
    with own_path_only():
        yield


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tau", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("redundant", [(), (">=",), (">=", "<=")])
def test_entropic_assignment_is_the_sinkhorn_operator(tau, redundant):
    n = 4
    scores, cotangent = normal(12, n, n, seed=3).requires_grad_(), normal(n, n, seed=4)
    expected = sinkhorn_operator(scores, tau)
    P, S = cp.Variable((n, n)), cp.Parameter((n, n))
    constraints = [cp.sum(P, axis=0) == 1, cp.sum(P, axis=1) == 1]
    constraints += [P >= 0] if ">=" in redundant else []
    constraints += [P <= 1] if "<=" in redundant else []
    objective = cp.Maximize(cp.sum(cp.multiply(S, P)) + tau * cp.sum(cp.entr(P)))
    (found,) = from_cvxpy(cp.Problem(objective, constraints), [S], [P])(scores)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    gradients = [torch.autograd.grad((x * cotangent).sum(), scores)[0] for x in (expected, found)]
    assert (gradients[1] - gradients[0]).abs().max() < 1e-8 * gradients[0].abs().max()


@pytest.mark.parametrize("redundant", [False, True])
def test_softmax_as_the_largest_entropy(redundant):
    z = (3 * normal(20, 7, seed=5)).requires_grad_()
    p, q = cp.Variable(7), cp.Parameter(7)
    constraints = [cp.sum(p) == 1, *([p >= 0, p <= 1] if redundant else [])]
    (found,) = from_cvxpy(cp.Problem(cp.Maximize(q @ p + cp.sum(cp.entr(p))), constraints), [q], [p])(z)
    torch.testing.assert_close(found, torch.softmax(z, -1), rtol=0, atol=1e-9)
    cotangent = normal(20, 7, seed=6)
    gradients = [torch.autograd.grad((x * cotangent).sum(), z)[0] for x in (torch.softmax(z, -1), found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-8)


def test_a_constraint_written_three_times():
    x, q = cp.Variable(4), cp.Parameter(4)
    point = normal(10, 4, seed=7).requires_grad_()
    once = [cp.norm(x) <= 1, cp.sum(x) == 0.5]
    thrice = [*once, cp.norm(x) <= 1, cp.SOC(2, 2 * x), x <= 1, x >= -1]
    results = []
    for constraints in (once, thrice):
        (found,) = from_cvxpy(cp.Problem(cp.Minimize(cp.norm(x - q) - cp.sum(cp.log(x + 3))), constraints), [q], [x])(
            point
        )
        results.append((found, torch.autograd.grad(found.sin().sum(), point)[0]))
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)
