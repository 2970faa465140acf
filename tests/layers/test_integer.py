"""Integer programs: against brute force, against the formulas by hand and by loops, and their failures."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import tensor

from diffopt_lib import SolverError
from diffopt_lib.layers import solve_integer
from diffopt_lib.layers.integer import branching, enumeration
from diffopt_lib.memory import peak_memory

D = torch.float64
ENGINES = {"enumeration": 2**14, "branch and bound": 0}


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def engine(request):
    return {"enumerate_up_to": request.param}


def brute_force(c, A, b, lower, upper):
    """The least cost over all points, None if none is feasible. In whole numbers, so that nothing is rounded."""
    points = itertools.product(*(range(lo, up + 1) for lo, up in zip(lower, upper, strict=True)))
    values = [
        sum(ci * yi for ci, yi in zip(c, y, strict=True))
        for y in points
        if all(sum(a * yi for a, yi in zip(row, y, strict=True)) <= bi for row, bi in zip(A, b, strict=True))
    ]
    return min(values, default=None)


def random_program(rng):
    n, m = rng.integers(1, 5), rng.integers(0, 4)
    lower = rng.integers(-3, 1, n)
    upper = lower + rng.integers(0, 5, n)
    return [x.tolist() for x in (rng.integers(-9, 10, n), rng.integers(-9, 10, (m, n)), rng.integers(-9, 10, m))] + [
        lower.tolist(),
        upper.tolist(),
    ]


def solved(program, **options):
    c, A, b, lower, upper = (tensor(part, dtype=D) for part in program)
    return solve_integer(c, A.reshape(-1, len(c)), b, lower, upper, **options)


def test_solutions_agree_with_brute_force(engine):
    rng = np.random.default_rng(0)
    infeasible = 0
    for _ in range(500):
        program = random_program(rng)
        least = brute_force(*program)
        solution = solved(program, on_failure="nan", **engine)
        if least is None:
            infeasible += 1
            assert solution.y.isnan().all() and solution.status == 2 and not solution.converged
        else:
            assert solution.value == least and solution.converged and solution.residual == 0
            y = solution.y.int().tolist()
            assert y == solution.y.tolist()
            fixed = brute_force(*program[:3], y, y)
            assert fixed == least
    assert 50 < infeasible < 250


def test_a_batch_is_its_elements(engine):
    rng = np.random.default_rng(1)
    c, A, b = (tensor(rng.normal(size=size), dtype=D) for size in ((3, 1, 4), (2, 2, 4), (2, 2)))
    lower, upper = tensor(rng.integers(-3, 0, (3, 1, 4))), tensor(rng.integers(0, 3, 4))
    solution = solve_integer(c, A, b, lower, upper, on_failure="nan", **engine)
    assert solution.y.shape == (3, 2, 4)
    for i, j in itertools.product(range(3), range(2)):
        one = solve_integer(c[i, 0], A[j], b[j], lower[i, 0], upper, on_failure="nan", **engine)
        torch.testing.assert_close(solution.y[i, j], one.y, equal_nan=True)
        assert solution.status[i, j] == one.status


def test_both_engines_agree_on_knapsacks():
    generator = torch.Generator().manual_seed(0)
    weights = 0.15 + 0.2 * torch.rand(20, 10, generator=generator, dtype=D)
    prices = 0.1 + 0.35 * torch.rand(20, 10, generator=generator, dtype=D)
    ys = [
        solve_integer(-prices, weights.unsqueeze(1), torch.ones(1, dtype=D), 0, 1, enumerate_up_to=up).y
        for up in ENGINES.values()
    ]
    assert torch.equal(*ys)


@pytest.mark.parametrize("numbers", [1, 50, 700])
def test_tables_in_parts_give_the_same(numbers, monkeypatch):
    rng = np.random.default_rng(2)
    c, A, b = (tensor(rng.normal(size=size)) for size in ((4, 5), (4, 2, 5), (4, 2)))
    lower = tensor(rng.integers(-2, 1, (4, 5)))
    whole = solve_integer(c, A, b, lower, 2, on_failure="closest")
    monkeypatch.setattr(enumeration, "NUMBERS_AT_ONCE", numbers)
    parts = solve_integer(c, A, b, lower, 2, on_failure="closest")
    assert torch.equal(whole.y, parts.y) and torch.equal(whole.status, parts.status)


def test_memory_does_not_grow_with_the_points(monkeypatch):
    """A table in parts kept the best point of every part: 20 GB for 10,000 programs of 16 variables."""
    generator = torch.Generator().manual_seed(0)
    c, A = torch.randn(300, 12, generator=generator, dtype=D), torch.randn(1, 12, generator=generator, dtype=D)
    monkeypatch.setattr(enumeration, "NUMBERS_AT_ONCE", 2**11)
    needed = [
        peak_memory(lambda n=n: solve_integer(c[:, :n], A[:, :n], torch.ones(1, dtype=D), 0, 1)) / n for n in (6, 12)
    ]
    assert needed[1] < 2 * needed[0]


# The surrogates.


def program_by_hand():
    """y* = (0, 1). A step to (1, 0) is feasible and costs 1; (1, 1) violates the constraint by a distance of 2/5."""
    c, A, b = tensor([-1.0, -2], dtype=D), tensor([[3.0, 4]], dtype=D), tensor([5.0], dtype=D)
    return [t.requires_grad_() for t in (c, A, b)]


def test_comboptnet_by_hand():
    c, A, b = program_by_hand()
    y = solve_integer(c, A, b, 0, 1).y
    assert y.tolist() == [0, 1]
    y.backward(tensor([-2.0, 0.5], dtype=D))
    # λ = (0.5, 1.5), Δ = (1, −1) and (1, 0); P = ½ (0.5 (1/5 + 1) + 1.5 · 2/5)
    torch.testing.assert_close(c.grad, tensor([0.25, -0.25], dtype=D))
    torch.testing.assert_close(b.grad, tensor([0.5 * (0.5 / 5 - 1.5 / 5)], dtype=D))
    towards, away = tensor([0.152, 0.136], dtype=D), tensor([-0.024, -0.232], dtype=D)
    torch.testing.assert_close(A.grad[0], 0.5 * (0.5 * away + 1.5 * towards))


def test_steps_that_leave_the_box_are_dropped():
    c, A, b = program_by_hand()
    solve_integer(c, A, b, 0, 1).y.backward(tensor([2.0, -3.0], dtype=D))  # y wants to go to (−1, 2)
    assert all((t.grad == 0).all() for t in (c, A, b))


@pytest.mark.parametrize("tau", [0.5, 0.1, 0.0])
def test_the_nearest_of_several_constraints_is_soft(tau):
    c, A, b = (
        t.requires_grad_()
        for t in (tensor([-1.0, -1], dtype=D), tensor([[3.0, 4], [0, 2]], dtype=D), tensor([8.0, 5], dtype=D))
    )
    y = solve_integer(c, A, b, 0, 1, tau=tau).y  # both constraints are slack, by distances 1/5 and 3/2
    assert y.tolist() == [1, 1]
    y.backward(tensor([1.0, 0], dtype=D))
    w = [1.0, 0] if tau == 0 else np.exp(np.array([-0.2, -1.5]) / tau) / np.exp(np.array([-0.2, -1.5]) / tau).sum()
    torch.testing.assert_close(b.grad, 0.5 * tensor([w[0] / 5, w[1] / 2], dtype=D))


def mismatch_by_loops(c, A, b, y, g, lower, upper, tau):
    """P of one program, step by step."""
    n = len(c)
    goal = [-gi if lo <= yi - np.sign(gi) <= up else 0 for gi, yi, lo, up in zip(g, y, lower, upper, strict=True)]
    order = sorted(range(n), key=lambda i: abs(goal[i]))
    total, before = 0.0, 0.0
    for k, i in enumerate(order):
        weight, before = abs(goal[i]) - before, abs(goal[i])
        if weight == 0:
            continue
        step = np.zeros(n)
        for j in order[k:]:
            step[j] = np.sign(goal[j])
        slack = [(bi - row @ (y + step)) / np.linalg.norm(row) for row, bi in zip(A, b, strict=True)]
        if min(slack, default=0) >= 0:
            near = [(bi - row @ y) / np.linalg.norm(row) for row, bi in zip(A, b, strict=True)]
            mean = sum(math.exp(-d / tau) for d in near) / len(near) if near else 1
            total += weight * (-tau * math.log(mean) + max(c @ step, 0))
        else:
            total += weight * sum(max(-d, 0) for d in slack)
    return total / n


@pytest.mark.parametrize("seed", range(20))
def test_comboptnet_is_the_gradient_of_the_mismatch(seed):
    rng = np.random.default_rng(seed)
    n, m = 4, 3
    c, A, b, g = rng.normal(size=n), rng.normal(size=(m, n)), rng.normal(size=m) + 1.5, rng.normal(size=n)
    lower, upper = -np.ones(n), 2 * np.ones(n)
    leaves = [tensor(x).requires_grad_() for x in (c, A, b)]
    solution = solve_integer(*leaves, -1, 2)
    solution.y.backward(tensor(g))
    y = solution.y.detach().numpy()
    arrays = [c, A, b]
    for which, leaf in enumerate(leaves):
        numeric = np.zeros_like(arrays[which])
        for index in np.ndindex(numeric.shape):
            values = []
            for sign in (1, -1):
                moved = [x.copy() for x in arrays]
                moved[which][index] += sign * 1e-6
                values.append(mismatch_by_loops(*moved, y, g, lower, upper, 0.5))
            numeric[index] = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close(leaf.grad, tensor(numeric), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_following_comboptnet_leads_to_the_wanted_solution(seed):
    rng = np.random.default_rng(seed)
    c = tensor(rng.normal(size=5))
    A, b = (tensor(x).requires_grad_() for x in (rng.normal(size=(2, 5)), rng.normal(size=2) + 1))
    wanted = solve_integer(c, tensor(rng.normal(size=(2, 5))), tensor(rng.normal(size=2) + 1), 0, 1).y
    optimizer = torch.optim.Adam([A, b], 0.02)
    for _ in range(500):
        y = solve_integer(c, A, b, 0, 1, on_failure="closest").y
        if torch.equal(y, wanted):
            return
        optimizer.zero_grad()
        (y - wanted).square().sum().backward()
        optimizer.step()
    pytest.fail("the solution is another still")


def test_blackbox_is_a_difference_of_two_solutions(engine):
    rng = np.random.default_rng(3)
    c, g = tensor(rng.normal(size=(6, 4))).requires_grad_(), tensor(rng.normal(size=(6, 4)))
    A, b = tensor(rng.normal(size=(2, 4))), torch.ones(2, dtype=D)
    y = solve_integer(c, A, b, -1, 2, gradient="blackbox", lambd=0.7, **engine).y
    y.backward(g)
    other = solve_integer(c.detach() + 0.7 * g, A, b, -1, 2, **engine).y
    torch.testing.assert_close(c.grad, (other - y.detach()) / 0.7)
    assert (c.grad != 0).any()


def test_identity_passes_on_what_comes():
    c = tensor([-1.0, 2], dtype=D, requires_grad=True)
    solve_integer(c, None, None, 0, 1, gradient="identity").y.backward(tensor([3.0, -4], dtype=D))
    assert c.grad.tolist() == [-3, 4]


@pytest.mark.parametrize("gradient", ["blackbox", "identity"])
def test_rules_for_costs_alone_refuse_constraints_that_want_a_gradient(gradient):
    c, A, b = program_by_hand()
    with pytest.raises(ValueError, match=r"A requires a gradient.*blackbox|A requires a gradient.*identity"):
        solve_integer(c, A, b, 0, 1, gradient=gradient)
    solve_integer(c, A.detach(), b.detach(), 0, 1, gradient=gradient)


def test_costs_of_zero_are_no_dead_end():
    c = torch.zeros(3, dtype=D, requires_grad=True)
    solution = solve_integer(c, None, None, 0, 1)
    solution.y.backward(-1 + 2 * solution.y.detach())
    assert (c.grad != 0).any()


def test_constraints_without_a_normal_or_a_bound_take_no_part():
    c, A, b = program_by_hand()
    g = tensor([-2.0, 0.5], dtype=D)
    solve_integer(c, A, b, 0, 1).y.backward(g)
    wanted = [t.grad.clone() for t in (c, A, b)]
    c, A, b = program_by_hand()
    more_A = torch.cat([A, torch.zeros(1, 2, dtype=D), torch.ones(2, 2, dtype=D)])
    more_b = torch.cat([b, tensor([0.0, 1e20, math.inf], dtype=D)])
    solve_integer(c, more_A, more_b, 0, 1).y.backward(g)
    for t, w in zip((c, A, b), wanted, strict=True):
        torch.testing.assert_close(t.grad, w)


def test_the_value_has_its_own_derivative():
    c, A, b = program_by_hand()
    solution = solve_integer(c, A, b, 0, 1)
    solution.value.backward()
    assert torch.equal(c.grad, solution.y.detach()) and A.grad is None


def test_predicted_constraints_reach_the_network():
    """PyEPO #4: there, only costs can be predicted."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 4)
    solution = solve_integer(-torch.ones(7, 4), 3 * network(torch.randn(7, 3)).unsqueeze(-2), torch.ones(1), 0, 1)
    assert len({tuple(y) for y in solution.y.tolist()}) > 1
    (solution.y - 1).square().sum().backward()
    assert network.weight.grad.isfinite().all() and (network.weight.grad != 0).any()


# Failures.


def test_infeasible_elements_raise_and_are_named(engine):
    c, A = torch.ones(3, 2, dtype=D), tensor([[1.0, 1]], dtype=D)
    b = tensor([[1.0], [-1], [-2]], dtype=D)
    with pytest.raises(SolverError, match="infeasible") as error:
        solve_integer(c, A, b, 0, 1, **engine)
    assert error.value.indices == [(1,), (2,)]


def test_infeasible_elements_are_never_zeros(engine):
    """CombOptNet's public code returns zeros and a warning."""
    c = tensor([[1.0, 1], [1, 1]], dtype=D, requires_grad=True)
    b = tensor([[1.0], [-1]], dtype=D)
    solution = solve_integer(c, tensor([[1.0, 1]], dtype=D), b, 0, 1, on_failure="nan", **engine)
    assert (
        solution.y[0].tolist() == [0, 0] and solution.y[1].isnan().all() and solution.value.isnan().tolist() == [0, 1]
    )
    assert solution.status.tolist() == [1, 2] and solution.converged.tolist() == [True, False]
    solution.y.sum().backward()
    assert c.grad[0].isfinite().all() and c.grad[1].isnan().all()


@pytest.mark.parametrize("gradient", ["comboptnet", "blackbox", "identity"])
def test_a_gradient_that_is_nan_stays_nan(gradient, engine):
    c = tensor([[1.0, 1], [1, 1]], dtype=D, requires_grad=True)
    solution = solve_integer(c, None, None, 0, 1, gradient=gradient, **engine)
    solution.y.backward(tensor([[math.nan, math.nan], [-1, 0]], dtype=D))
    assert c.grad[0].isnan().all() and c.grad[1].isfinite().all()


def test_the_closest_point_and_the_way_back(engine):
    c, A, b = (tensor([1.0, 1], dtype=D), tensor([[3.0, 4], [-1, -1]], dtype=D), tensor([-4.0, 1], dtype=D))
    A.requires_grad_()
    b.requires_grad_()
    solution = solve_integer(c, A, b, 0, 1, on_failure="closest", **engine)
    assert solution.y.tolist() == [0, 0] and solution.status == 2 and not solution.converged
    solution.y.backward(tensor([-1.0, 0], dtype=D))  # towards (1, 0), by 7/5 on the wrong side of the first row
    torch.testing.assert_close(b.grad, tensor([-1 / 5 / 2, 0], dtype=D))


def test_an_empty_box_is_infeasible(engine):
    for on_failure in ("raise", "closest"):
        with pytest.raises(SolverError, match="infeasible"):
            solve_integer(torch.ones(1, dtype=D), None, None, 0.2, 0.8, on_failure=on_failure, **engine)
    solution = solve_integer(
        torch.ones(2, 1, dtype=D), None, None, tensor([[0.2], [1]], dtype=D), 1.8, on_failure="nan"
    )
    assert solution.status.tolist() == [1, 1]


def test_unbounded_programs_are_told_apart():
    c, A, b = tensor([[-1.0, 0], [1, 0]], dtype=D), tensor([[1.0, -1]], dtype=D), tensor([3.0], dtype=D)
    with pytest.raises(SolverError, match="unbounded") as error:
        solve_integer(c, A, b, 0, math.inf)
    assert error.value.indices == [(0,)]
    solution = solve_integer(c, A, b, 0, math.inf, on_failure="nan")
    assert solution.status.tolist() == [3, 1] and solution.y[1].tolist()[0] == 0


def test_the_limit_of_nodes_is_reported():
    A = tensor([[2.0, -2], [-2, 2]], dtype=D)  # 2x − 2y = 1 has no whole solution, and a box without end
    with pytest.raises(SolverError, match="max_nodes"):
        solve_integer(torch.ones(2, dtype=D), A, tensor([1.0, -1], dtype=D), -math.inf, math.inf, max_nodes=100)


def test_the_installed_highs_solves_issue_2957():
    """min 2x + 3z, x + z ≥ 4.5, 0 ≤ x, z ≤ 10, z an integer: HiGHS 1.14 says 15."""
    found = scipy.optimize.milp(
        [2, 3], integrality=[0, 1], bounds=(0, 10), constraints=scipy.optimize.LinearConstraint([[1, 1]], 4.5, np.inf)
    )
    assert found.fun == pytest.approx(9)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_what_highs_takes_for_whole_is_split_where_it_is_not(dtype, monkeypatch):
    """An entry of 4·10⁻⁷ is 0 to HiGHS, and its value better than that of any integers: nothing would be confirmed."""
    generator = torch.Generator().manual_seed(0)
    c = -torch.rand(6, 8, generator=generator, dtype=dtype)
    A = 0.15 + 0.2 * torch.rand(6, 1, 8, generator=generator, dtype=dtype)
    right = solve_integer(c, A, torch.ones(1, dtype=dtype), 0, 1).y
    honest, blurred = branching.milp, []

    def nearly(costs, *, bounds, **options):
        result = honest(costs, bounds=bounds, **options)
        free = np.flatnonzero(bounds.lb < bounds.ub)
        if result.x is not None and len(free) > 6:
            j = free[0]
            result.x[j] += 4e-7 * (1 - 2 * (result.x[j] > 0.5))
            result.mip_dual_bound -= 4e-7 * abs(costs[j])
            blurred.append(j)
        return result

    monkeypatch.setattr(branching, "milp", nearly)
    solution = solve_integer(c, A, torch.ones(1, dtype=dtype), 0, 1, enumerate_up_to=0)
    assert torch.equal(solution.y, right) and solution.converged.all() and blurred
    never = solve_integer(c, A, -torch.ones(1, dtype=dtype), 0, 1, enumerate_up_to=0, on_failure="nan")
    assert (never.status == 2).all()


# Scale, tolerance, bounds.


def test_single_precision_does_not_empty_a_full_knapsack(engine):
    """0.1 + 0.2 + 0.3 + 0.4 is more than 1 in float32."""
    solution = solve_integer(-torch.ones(4), tensor([[0.1, 0.2, 0.3, 0.4]]), torch.ones(1), 0, 1, **engine)
    assert solution.y.tolist() == [1, 1, 1, 1] and solution.y.dtype == torch.float32


@pytest.mark.parametrize("of_costs", [1e-9, 1, 1e9])
@pytest.mark.parametrize("of_rows", [1e-9, 1, 1e9])
def test_units_do_not_matter(of_costs, of_rows, engine):
    rng = np.random.default_rng(5)
    c, A = tensor(rng.normal(size=(10, 6))), tensor(rng.normal(size=(3, 6)))
    y = solve_integer(c, A, torch.zeros(3, dtype=D), -1, 1).y
    scaled = solve_integer(of_costs * c, of_rows * A, torch.zeros(3, dtype=D), -1, 1, **engine).y
    assert torch.equal(scaled, y)


def test_near_ties_are_decided(engine):
    c = tensor([-1, -1 - 1e-8, -1 + 1e-8], dtype=D)
    assert solve_integer(c, tensor([[1.0, 1, 1]], dtype=D), tensor([1.0], dtype=D), 0, 1, **engine).y[1] == 1


def test_a_large_row_holds_to_the_last_unit():
    """3x + 5y ≤ 10⁹ + 1 at x = 333333334 is violated by 1."""
    c, A, b = tensor([-1.0, -1.5], dtype=D), tensor([[3.0, 5]], dtype=D), tensor([1e9 + 1], dtype=D)
    y = solve_integer(c, A, b, 0, 1e12).y
    assert 3 * y[0] + 5 * y[1] <= 1e9 + 1
    assert y.tolist() == [333333332, 1]


def test_switches_with_huge_coefficients(engine):
    """x ≤ 10⁹ z: a z of 10⁻⁶, which HiGHS takes for 0, would allow any x."""
    c = tensor([[-1.0, 10], [-1e-4, 10]], dtype=D)
    y = solve_integer(
        c, tensor([[1.0, -1e9]], dtype=D), tensor([0.0], dtype=D), 0, tensor([100.0, 1], dtype=D), **engine
    ).y
    assert y.tolist() == [[100, 1], [0, 0]]


@pytest.mark.parametrize("never", [1e20, math.inf])
def test_bounds_that_are_none(never):
    c, A = tensor([1.0, 1], dtype=D), tensor([[-1.0, -2], [1, 0]], dtype=D)
    solution = solve_integer(c, A, tensor([-7.0, never], dtype=D), 0, never)
    assert solution.value == 4
    free = solve_integer(c, tensor([[-1.0, 0], [0, -1]], dtype=D), tensor([2.5, 7.0], dtype=D), -never, never)
    assert free.y.tolist() == [-2, -7]


def test_bounds_are_rounded_inwards(engine):
    assert solve_integer(tensor([-1.0, 1], dtype=D), None, None, -1.5, 2.5, **engine).y.tolist() == [2, -1]
    assert solve_integer(tensor([-1.0], dtype=D), None, None, 0, 0.29 * 100, **engine).y.tolist() == [29]


def test_large_bounds_stay_where_they_are(engine):
    """To 10⁻⁹ of its size, 10¹⁰ + 3 is 10¹⁰ + 13 too."""
    c = tensor([[-1.0, 1], [1, -1]], dtype=D)
    y = solve_integer(c, None, None, 1e10, 1e10 + 3, **engine).y - 1e10
    assert y.tolist() == [[3, 0], [0, 3]]
    assert solve_integer(c, None, None, -9e15, 9e15).y.abs().unique().tolist() == [9e15]


def test_bounds_in_single_precision_are_what_they_are_meant_to_be(engine):
    """The number below 7 in float32 is off by more than 10⁻⁹ of it."""
    upper = torch.nextafter(tensor(7.0), tensor(0.0))
    assert solve_integer(-torch.ones(2, 1), None, None, 0, upper, **engine).y.tolist() == [[7], [7]]


def test_a_step_to_a_bound_that_is_meant_is_not_dropped():
    c = torch.ones(1, dtype=D, requires_grad=True)
    solve_integer(c, None, None, 28, 0.29 * 100).y.backward(tensor([-1.0], dtype=D))
    assert 0.29 * 100 < 29 and c.grad.tolist() == [1]


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 1e-300])
def test_costs_that_hardly_exist(tiny, engine):
    c = tiny * tensor([[1.0, -1], [-1, 1]], dtype=D)
    assert solve_integer(c, None, None, 0, 1, **engine).y.tolist() == [[0, 1], [1, 0]]


def test_an_equality_is_two_rows(engine):
    A, b = tensor([[1.0, 1, 1], [-1, -1, -1]], dtype=D), tensor([2.0, -2], dtype=D)
    assert solve_integer(tensor([1.0, 2, 3], dtype=D), A, b, 0, 1, **engine).y.tolist() == [1, 1, 0]


def test_no_constraints_and_no_elements(engine):
    c = tensor([-1.0, 1], dtype=D)
    for A, b in ((None, None), (torch.zeros(0, 2, dtype=D), torch.zeros(0, dtype=D))):
        assert solve_integer(c, A, b, 0, 1, **engine).y.tolist() == [1, 0]
    nothing = solve_integer(
        torch.zeros(0, 2, dtype=D), torch.ones(1, 2, dtype=D), torch.ones(1, dtype=D), 0, 1, **engine
    )
    assert nothing.y.shape == (0, 2) and nothing.status.shape == (0,)


# What torch asks for.


def test_vmap_and_autocast(engine):
    rng = np.random.default_rng(7)
    c, A, b = (tensor(rng.normal(size=size)) for size in ((5, 3), (5, 2, 3), (5, 2)))
    c.requires_grad_()
    b = b.abs()
    whole = solve_integer(c, A, b, 0, 1, **engine).y
    each = torch.func.vmap(lambda c, A, b: solve_integer(c, A, b, 0, 1, **engine).y)(c, A, b)
    assert torch.equal(whole, each)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = solve_integer(c.float(), A.float(), b.float(), 0, 1, **engine).y
    assert torch.equal(narrow.double(), whole)


@pytest.mark.parametrize("gradient", ["comboptnet", "blackbox", "identity"])
def test_jacrev_is_backward_row_by_row(gradient, engine):
    rng = np.random.default_rng(8)
    c, A = tensor(rng.normal(size=3)), tensor(rng.normal(size=(2, 3)))
    one = torch.ones(2, dtype=D)

    def solution(c):
        return solve_integer(c, A, one, -1, 1, gradient=gradient, **engine).y

    rows = []
    for g in torch.eye(3, dtype=D):
        leaf = c.clone().requires_grad_()
        solution(leaf).backward(g)
        rows.append(leaf.grad)
    torch.testing.assert_close(torch.func.jacrev(solution)(c), torch.stack(rows))


BAD = {
    "c must have shape": {"c": torch.zeros((), dtype=D)},
    "c must be a torch tensor": {"c": [1.0, 2]},
    "c must be finite": {"c": tensor([1.0, math.nan], dtype=D)},
    "A and b must be given together": {"b": None},
    r"A must end in the shape \(1, 2\)": {"A": torch.zeros(1, 3, dtype=D)},
    "A must be finite": {"A": tensor([[math.inf, 0]], dtype=D)},
    "b must not be NaN or -inf": {"b": tensor([-math.inf], dtype=D)},
    "A must be float32 or float64": {"A": tensor([[1, 1]])},
    "b must have the dtype of c": {"b": torch.ones(1)},
    "lower must not be NaN or inf": {"lower": math.inf},
    "upper must be a number or a tensor": {"upper": "1"},
    "upper must end in the shape": {"upper": torch.ones(3, dtype=D)},
    "upper requires a gradient": {"upper": torch.ones(2, dtype=D, requires_grad=True)},
    "gradient must be one of": {"gradient": "implicit"},
    "on_failure must be one of": {"on_failure": "zeros"},
    "lambd must be positive": {"lambd": 0},
    "tau must be at least 0": {"tau": -1},
    "enumerate_up_to must be": {"enumerate_up_to": 1.5},
    "batch dimensions must broadcast": {"c": torch.ones(2, 2, dtype=D), "b": torch.ones(3, 1, dtype=D)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    good = {"c": torch.ones(2, dtype=D), "A": torch.ones(1, 2, dtype=D), "b": torch.ones(1, dtype=D)}
    with pytest.raises(ValueError, match=message):
        solve_integer(**({**good, "lower": 0, "upper": 1} | BAD[message]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(engine):
    rng = np.random.default_rng(9)
    c, A, b = (tensor(rng.normal(size=size)) for size in ((20, 5), (3, 5), (3,)))
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in (c, A, b.abs())]
        y = solve_integer(*leaves, 0, 1, **engine).y
        y.backward(torch.ones_like(y))
        results.append([y.cpu(), *(t.grad.cpu() for t in leaves)])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there)
