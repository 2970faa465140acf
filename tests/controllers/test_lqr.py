"""LQR: the solution of a dense KKT system, exact derivatives of first and second order, honest failures."""

import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from diffopt_lib import SolverError
from diffopt_lib.controllers import lqr, scan
from diffopt_lib.controllers.riccati import factorise
from diffopt_lib.memory import peak_memory

DOUBLE = torch.float64


def random_problem(batch, T, n, m, seed=0, dtype=DOUBLE):
    """x_init, C, c, F, f with C ≻ 0 and dynamics near the identity."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, dtype=DOUBLE, generator=g)

    X = normal(T, n + m, n + m)
    C = X @ X.mT / (n + m) + 0.5 * torch.eye(n + m, dtype=DOUBLE)
    A = torch.eye(n, dtype=DOUBLE) + 0.2 * normal(T - 1, n, n)
    F = torch.cat([A, normal(T - 1, n, m)], dim=-1)
    return tuple(t.to(dtype) for t in (normal(n), C, normal(T, n + m), F, normal(T - 1, n)))


def by_dense_kkt(x_init, C, c, F, f):
    """τ and λ of one problem, from the full matrix of its optimality conditions in numpy."""
    x_init, C, c, F, f = (t.numpy() for t in (x_init, C, c, F, f))
    T, k = c.shape
    n = len(x_init)
    H, E, e = np.zeros((T * k, T * k)), np.zeros((T * n, T * k)), np.zeros(T * n)
    for t in range(T):
        H[t * k : (t + 1) * k, t * k : (t + 1) * k] = (C[t] + C[t].T) / 2
        E[t * n : (t + 1) * n, t * k : t * k + n] = -np.eye(n)
        if t:
            E[t * n : (t + 1) * n, (t - 1) * k : t * k] = F[t - 1]
    e[:n] = x_init
    e[n:] = f.reshape(-1)
    K = np.block([[H, E.T], [E, np.zeros((T * n, T * n))]])
    z = np.linalg.solve(K, -np.concatenate([c.reshape(-1), e]))
    tau, costate = z[: T * k].reshape(T, k), z[T * k :].reshape(T, n)
    return tau, costate, 0.5 * np.einsum("ti,tij,tj", tau, C, tau) + (c * tau).sum()


@pytest.mark.parametrize(("T", "n", "m"), [(1, 2, 1), (2, 3, 2), (12, 4, 2), (90, 2, 1)])
def test_states_controls_costates_and_cost_solve_the_dense_kkt_system(T, n, m, device):
    data = random_problem((3,), T, n, m)
    solution = lqr(*(t.to(device) for t in data))
    for i in range(3):
        tau, costate, cost = by_dense_kkt(*(t[i] for t in data))
        np.testing.assert_allclose(solution.x[i].cpu(), tau[:, :n], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(solution.u[i].cpu(), tau[:, n:], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(solution.costate[i].cpu(), costate, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(solution.cost[i].item(), cost, rtol=1e-9, atol=1e-9)
    assert solution.converged.all() and solution.residual.max() <= 1e-11


def test_the_costate_is_the_slope_of_the_cost_to_go():
    data = random_problem((2,), 6, 3, 2, seed=1)
    x_init = data[0].requires_grad_()
    solution = lqr(x_init, *data[1:])
    (slope,) = torch.autograd.grad(solution.cost.sum(), x_init)
    torch.testing.assert_close(slope, solution.costate[:, 0])


@pytest.mark.parametrize("shared", [(), (1, 3), (0, 1, 2, 3, 4)])
def test_first_and_second_derivatives_in_all_five_arguments(shared):
    data = random_problem((2,), 4, 2, 1, seed=2)
    data = [(t[0] if i in shared else t).requires_grad_() for i, t in enumerate(data)]

    def outputs(*data):
        solution = lqr(*data)
        return solution.x, solution.u, solution.cost, solution.costate

    assert gradcheck(outputs, data)
    assert gradgradcheck(outputs, data)


def test_forward_mode_agrees_with_reverse_mode():
    data = random_problem((), 5, 3, 2, seed=3)

    def u(*data):
        return lqr(*data).u

    reverse = torch.func.jacrev(u, argnums=(0, 1, 2, 3, 4))(*data)
    forward = torch.func.jacfwd(u, argnums=(0, 1, 2, 3, 4))(*data)
    for a, b in zip(forward, reverse, strict=True):
        torch.testing.assert_close(a, b)


def test_vmap_is_a_batch():
    data = random_problem((4,), 6, 3, 2, seed=4)
    batched = lqr(*data)
    mapped = torch.func.vmap(lambda *data: lqr(*data).u)(*data)
    torch.testing.assert_close(mapped, batched.u)
    shared = torch.func.vmap(lambda x: lqr(x, *(t[0] for t in data[1:])).u)(data[0])
    torch.testing.assert_close(shared, lqr(data[0], *(t[0] for t in data[1:])).u)


def test_arguments_without_time_or_batch_dimensions_are_the_same_as_repeated_ones():
    x_init, C, c, F, f = random_problem((3,), 7, 2, 2, seed=5)
    C0, c0, F0, f0 = C[0, 0], c[0, 0], F[0, 0], f[0, 0]
    repeated = lqr(x_init, C0.expand(3, 7, 4, 4), c0.expand(3, 7, 4), F0.expand(3, 6, 2, 4), f0.expand(3, 6, 2))
    for short in (
        lqr(x_init, C0, c0, F0, f0, horizon=7),
        lqr(x_init, C0.expand(7, 4, 4), c0, F0, f0),
        lqr(x_init, C0, c0, F0.expand(6, 2, 4), f0),
        lqr(x_init, C0.expand(3, 1, 4, 4), c0.expand(7, 4), F0.expand(7, 2, 4), f0.expand(3, 1, 2)),
    ):
        torch.testing.assert_close(short.u, repeated.u)
        torch.testing.assert_close(short.cost, repeated.cost)


def test_shared_matrices_are_factorised_once_and_never_copied():
    x_init, C, c, F, f = random_problem((256,), 20, 16, 4, seed=6)
    shared = C[0], c, F[0], f
    copied = C[:1].expand_as(C).contiguous(), c, F[:1].expand_as(F).contiguous(), f
    torch.testing.assert_close(lqr(x_init, *shared).u, lqr(x_init, *copied).u)
    assert peak_memory(lambda: lqr(x_init, *shared)) < 0.5 * peak_memory(lambda: lqr(x_init, *copied))


def test_the_gradient_of_the_cost_alone_solves_no_linear_system(monkeypatch):
    data = [t.requires_grad_() for t in random_problem((2,), 5, 3, 2, seed=7)]
    solution = lqr(*data)
    reference = torch.autograd.grad(solution.cost.sum(), data, retain_graph=True)

    def forbidden(*arguments):
        raise AssertionError("a sweep")

    monkeypatch.setattr(sys.modules["diffopt_lib.controllers.lqr"], "sweep", forbidden)
    torch.testing.assert_close(torch.autograd.grad(solution.cost.sum(), data, retain_graph=True), reference)
    with pytest.raises(AssertionError, match="a sweep"):
        torch.autograd.grad(solution.u.sum(), data)


def test_a_scan_over_time_has_the_same_factorisation_as_the_loop(monkeypatch):
    _, C, _, F, _ = random_problem((2,), 100, 4, 2, seed=8)
    C, F = C.movedim(1, 0), F.movedim(1, 0)
    held = torch.rand(100, 2, 2, 1, generator=torch.Generator().manual_seed(0)) < 0.3
    for mask in (None, held):
        scanned = factorise(C, F, mask)
        with monkeypatch.context() as patch:
            patch.setattr(scan, "SHORTEST", 1000)
            looped = factorise(C, F, mask)
        for a, b in zip(scanned[:4], looped[:4], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_scan_is_used_where_the_horizon_is_long_and_the_batch_small(monkeypatch):
    used = []
    original = scan._scanned
    monkeypatch.setattr(scan, "_scanned", lambda *a: used.append(1) or original(*a))
    long = random_problem((), 100, 2, 1)
    lqr(*long)
    assert used
    used.clear()
    lqr(*random_problem((64,), 100, 2, 1))
    lqr(*random_problem((), 20, 2, 1))
    assert not used


class TestNoMinimum:
    """The control block is named, never regularised."""

    @staticmethod
    def spoil(entry):
        x_init, C, c, F, f = random_problem((3,), 5, 2, 2, seed=9)
        C, F = C.clone(), F.clone()
        C[1, 2, 2:, :2], C[1, 2, :2, 2:] = 0, 0
        C[1, 2, 2:, 2:] = torch.diag(torch.tensor([1.0, entry], dtype=DOUBLE))
        F[1, 2, :, 3] = 0
        return x_init, C, c, F, f

    @pytest.mark.parametrize("entry", [0.0, -1.0])
    def test_a_singular_or_indefinite_block_raises_with_element_and_time(self, entry):
        with pytest.raises(SolverError, match=r"at time t = 3 .*\(1,\)") as error:
            lqr(*self.spoil(entry))
        assert error.value.indices == [(1,)]

    def test_on_request_it_is_nan_and_the_others_are_not_touched(self):
        data = [t.requires_grad_() for t in self.spoil(0.0)]
        solution = lqr(*data, on_failure="nan")
        assert solution.converged.tolist() == [True, False, True]
        assert solution.u[1].isnan().all() and solution.cost[1].isnan()
        alone = [t[[0, 2]].detach().requires_grad_() for t in data]
        torch.testing.assert_close(solution.u[[0, 2]], lqr(*alone).u)
        gradients = torch.autograd.grad(solution.u.sum(), data)
        expected = torch.autograd.grad(lqr(*alone).u.sum(), alone)
        for g, e in zip(gradients, expected, strict=True):
            assert g[1].isnan().all()
            torch.testing.assert_close(g[[0, 2]], e)

    def test_a_stage_may_be_indefinite_if_the_problem_is_not(self):
        C = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE)  # eigenvalues 3 and −1
        F = torch.tensor([[1.0, 1.0]], dtype=DOUBLE)
        x_init, c = torch.ones(1, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
        solution = lqr(x_init, C, c, F, horizon=1)
        torch.testing.assert_close(solution.u, torch.tensor([[-2.0]], dtype=DOUBLE))
        with pytest.raises(SolverError, match="t = 1"):
            lqr(x_init, C, c, F, horizon=2)


def test_float32_is_solved_in_float64():
    data = random_problem((4,), 30, 6, 2, seed=10, dtype=torch.float32)
    single = [t.requires_grad_() for t in data]
    double = [t.detach().double().requires_grad_() for t in data]
    a, b = lqr(*single), lqr(*double)
    assert a.u.dtype == torch.float32
    torch.testing.assert_close(a.u, b.u.float())
    for g, e in zip(torch.autograd.grad(a.u.sum(), single), torch.autograd.grad(b.u.sum(), double), strict=True):
        torch.testing.assert_close(g, e.float(), rtol=1e-4, atol=1e-4)


def test_an_empty_batch_gives_an_empty_solution():
    solution = lqr(*random_problem((0,), 4, 2, 1))
    assert solution.x.shape == (0, 4, 2) and solution.cost.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x_init=torch.zeros(1, dtype=DOUBLE)), "F must end in the shape"),
        (dict(C=torch.zeros(4, 4, 3, dtype=DOUBLE)), "C must"),
        (dict(c=torch.full((4, 3), torch.nan, dtype=DOUBLE)), "c must be finite"),
        (dict(f=torch.zeros(7, 2, dtype=DOUBLE)), "f with 7"),
        (dict(F=torch.zeros(3, 2, 3)), "F must have the dtype"),
        (dict(x_init=torch.zeros(5, 2, dtype=DOUBLE), c=torch.zeros(3, 4, 3, dtype=DOUBLE)), "broadcast"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = dict(zip(("x_init", "C", "c", "F", "f"), random_problem((), 4, 2, 1), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        lqr(**arguments)


def test_a_horizon_is_asked_for_where_nothing_tells_it():
    x_init, C, c, F, f = random_problem((), 4, 2, 1)
    with pytest.raises(ValueError, match="horizon"):
        lqr(x_init, C[0], c[0], F[0], f[0])
