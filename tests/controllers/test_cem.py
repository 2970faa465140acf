"""The cross-entropy method: the minimum it finds, its limit, all gradient modes, what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from diffopt_lib import SolverError
from diffopt_lib.controllers import cem
from diffopt_lib.layers import solve_qp
from diffopt_lib.memory import peak_memory

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bowl(target):
    """½ (y − target)ᵀ diag(1, 4) (y − target)."""
    scale = torch.tensor([1.0, 4.0], dtype=DOUBLE)
    return lambda y: 0.5 * (scale * (y - target).square()).sum(-1)


TARGET = torch.tensor([[0.3, -0.7], [1.5, 0.2], [-2.0, 0.0]], dtype=DOUBLE)
START = torch.zeros(3, 2, dtype=DOUBLE), 2 * torch.ones(3, 2, dtype=DOUBLE)


@pytest.mark.parametrize("tau", [0.0, 0.01])
def test_it_finds_the_minimum_of_every_element(tau, device):
    mean, std = (t.to(device) for t in START)
    generator = torch.Generator(device).manual_seed(0)
    target = TARGET.to(device)
    scale = torch.tensor([1.0, 4.0], dtype=DOUBLE, device=device)
    options = dict(samples=100, elites=10, iterations=30, tau=tau, generator=generator)
    solution = cem(lambda y: (scale * (y - target).square()).sum(-1), mean, std, **options)
    torch.testing.assert_close(solution.y, target, rtol=0, atol=1e-4)
    assert solution.converged.all() and (solution.iterations == 30).all()


def one_step_in_numpy(mean, std, noise, target, elites):
    """The textbook method for one element."""
    y = mean + std * noise
    values = 0.5 * ((y - target) ** 2 * np.array([1.0, 4.0])).sum(-1)
    best = y[np.argsort(values)[:elites]]
    return best.mean(0), best.std(0)


def test_with_hard_elites_it_is_the_textbook_method():
    # The samples are those of the iteration's own seed.
    seed = torch.randint(2**62, (1,), generator=seeded()).item()
    noise = torch.randn(3, 50, 2, generator=seeded(seed), dtype=DOUBLE).numpy()
    solution = cem(bowl(TARGET), *START, samples=50, elites=5, iterations=1, tau=0.0, generator=seeded())
    for i in range(3):
        mean, std = one_step_in_numpy(np.zeros(2), 2.0, noise[i], TARGET[i].numpy(), 5)
        np.testing.assert_allclose(solution.mean[i], mean)
        np.testing.assert_allclose(solution.std[i], std)


def test_as_the_temperature_falls_it_becomes_the_one_with_hard_elites():
    options = dict(samples=40, elites=4, iterations=2)
    hard = cem(bowl(TARGET), *START, tau=0.0, generator=seeded(), **options)
    errors = [
        (cem(bowl(TARGET), *START, tau=tau, generator=seeded(), **options).y - hard.y).abs().max().item()
        for tau in (1.0, 1e-3, 1e-5)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6


def test_the_temperature_is_in_units_of_the_spread_of_the_values():
    options = dict(samples=40, elites=4, iterations=2)
    plain = cem(bowl(TARGET), *START, generator=seeded(), **options)
    scaled = cem(lambda y: 1000 * bowl(TARGET)(y) + 7, *START, generator=seeded(), **options)
    torch.testing.assert_close(scaled.y, plain.y, rtol=1e-5, atol=1e-6)
    unscaled = cem(lambda y: 1000 * bowl(TARGET)(y), *START, normalize=False, generator=seeded(), **options)
    assert (unscaled.y - plain.y).abs().max() > 1e-2


def run(gradient, target, mean, std, low, tau, iterations=4, **more):
    options = dict(samples=12, elites=3, iterations=iterations, generator=seeded(), gradient=gradient)
    return cem(bowl(target), mean, std, lower=low, upper=5.0, tau=tau, **options, **more)


def inputs():
    low = torch.tensor([-0.5, -3.0], dtype=DOUBLE)
    tensors = (TARGET.clone(), *START, low, torch.tensor(0.7, dtype=DOUBLE))
    return [t.clone().requires_grad_() for t in tensors]


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint"])
def test_the_unrolled_gradient_is_exact_in_target_mean_std_bounds_and_temperature(gradient):
    def outputs(*tensors):
        solution = run(gradient, *tensors, iterations=3)
        return solution.y, solution.std

    assert gradcheck(outputs, inputs())


def test_checkpoints_give_the_same_gradient_for_less_memory():
    gradients = {}
    for gradient in ("unroll", "checkpoint"):
        tensors = inputs()
        gradients[gradient] = torch.autograd.grad(run(gradient, *tensors, iterations=9).y.sum(), tensors)
    for a, b in zip(gradients["unroll"], gradients["checkpoint"], strict=True):
        torch.testing.assert_close(a, b)

    def turn(gradient):
        tensors = inputs()
        options = dict(samples=2000, elites=20, iterations=25, generator=seeded(), gradient=gradient)
        return torch.autograd.grad(cem(bowl(tensors[0]), *tensors[1:3], **options).y.sum(), tensors[0])

    assert peak_memory(lambda: turn("checkpoint")) < 0.5 * peak_memory(lambda: turn("unroll"))


def test_memory_grows_with_all_iterations_with_their_root_or_not_at_all():
    def turn(gradient, iterations):
        target = TARGET.clone().requires_grad_()
        tau = 0.0 if gradient == "implicit" else 1.0
        options = dict(samples=2000, elites=20, iterations=iterations, tau=tau, generator=seeded(), gradient=gradient)
        y = cem(bowl(target), *START, on_failure="return", **options).y
        return torch.autograd.grad(y.sum(), target)

    grows = {}
    for gradient in ("unroll", "checkpoint", "truncated", "implicit"):
        few, many = (peak_memory(lambda n=n, g=gradient: turn(g, n)) for n in (9, 36))
        grows[gradient] = many / few
    assert grows["unroll"] > 3.5 and 1.5 < grows["checkpoint"] < 2.5
    assert grows["truncated"] < 1.1 and grows["implicit"] < 1.1


def test_truncated_is_the_gradient_of_the_last_iterations_from_a_distribution_that_is_held():
    tensors = inputs()
    solution = run("truncated", *tensors, iterations=5, truncate=2)
    (ours,) = torch.autograd.grad(solution.y.sum(), tensors[0])
    torch.testing.assert_close(solution.y, run("unroll", *tensors, iterations=5).y)
    (whole,) = torch.autograd.grad(run("truncated", *tensors, iterations=5, truncate=5).y.sum(), tensors[0])
    (unrolled,) = torch.autograd.grad(run("unroll", *tensors, iterations=5).y.sum(), tensors[0])
    torch.testing.assert_close(whole, unrolled)
    assert (ours - unrolled).abs().max() > 1e-6
    assert torch.autograd.grad(run("truncated", *tensors, truncate=2).y.sum(), tensors[1], allow_unused=True)[0] is None


class TestImplicit:
    def test_it_is_the_derivative_of_the_minimiser(self):
        target, Q = TARGET.clone().requires_grad_(), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=DOUBLE)

        def f(y):
            d = y - target
            return 0.5 * torch.einsum("...i,ij,...j->...", d, Q, d) + 0.1 * y.pow(4).sum(-1)

        def y(target):
            def f(y):
                d = y - target
                return 0.5 * torch.einsum("...i,ij,...j->...", d, Q, d) + 0.1 * y.pow(4).sum(-1)

            return cem(f, *START, iterations=25, tau=0.0, gradient="implicit", generator=seeded()).y

        assert gradcheck(y, target)
        g = torch.func.grad(lambda y: f(y).sum())(y(target).detach())
        assert g.abs().max() <= 1e-8

    def test_coordinates_at_their_bounds_are_held_and_depend_on_them(self):
        Q, p = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=DOUBLE), torch.tensor([-1.0, -2.0], dtype=DOUBLE)
        upper = torch.tensor([2.0, 0.7], dtype=DOUBLE, requires_grad=True)
        p.requires_grad_()

        def f(y):
            return 0.5 * torch.einsum("...i,ij,...j->...", y, Q, y) + y @ p

        options = dict(iterations=30, tau=0.0, gradient="implicit", generator=seeded())
        ours = cem(f, torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE), upper=upper, **options).y
        program = solve_qp(Q, p, G=torch.eye(2, dtype=DOUBLE), h=upper).y
        torch.testing.assert_close(ours, program)
        for k in range(2):
            for a, b in zip(
                *(torch.autograd.grad(y[k], (p, upper), retain_graph=True) for y in (ours, program)), strict=True
            ):
                torch.testing.assert_close(a, b)

    def test_it_is_refused_where_the_gradient_of_f_does_not_vanish(self):
        options = dict(iterations=30, tau=0.0, gradient="implicit", generator=seeded())
        with pytest.raises(SolverError, match="∇f is not small"):
            cem(lambda y: (y - 0.3).abs().sum(-1), *START, **options)


def test_the_gradient_reaches_the_weights_of_a_network():
    torch.manual_seed(0)
    energy = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1)).double()
    mean, std = torch.zeros(2, 1, dtype=DOUBLE), torch.ones(2, 1, dtype=DOUBLE)

    def y():
        return cem(lambda y: energy(y).squeeze(-1) + y.square().sum(-1), mean, std, iterations=3, generator=seeded()).y

    gradients = torch.autograd.grad(y().sum(), list(energy.parameters()), allow_unused=True)
    weight, h = energy[0].weight, 1e-6
    with torch.no_grad():
        weight[0, 0] += h
        above = y().sum()
        weight[0, 0] -= 2 * h
        below = y().sum()
    torch.testing.assert_close(gradients[0][0, 0], (above - below) / (2 * h), rtol=1e-5, atol=1e-8)


def test_elements_stop_on_their_own_and_samples_stay_between_tensor_bounds():
    seen = []

    def f(y):
        seen.append(y.shape)
        return bowl(TARGET)(y)

    std = torch.tensor([[1e-3], [1.0], [2.0]], dtype=DOUBLE).expand(3, 2)
    options = dict(iterations=100, tau=0.0, tolerance=1e-2, generator=seeded())
    solution = cem(f, START[0], std, **options)
    assert solution.iterations[0] == 0 and 0 < solution.iterations[1] < 100
    assert (solution.y[0] == 0).all() and solution.converged.all() and len(seen) < 100
    upper = torch.tensor([0.2, 1.0], dtype=DOUBLE)
    bounded = cem(bowl(TARGET), *START, iterations=20, tau=0.0, lower=-1.0, upper=upper, generator=seeded())
    torch.testing.assert_close(bounded.y, TARGET.clamp(min=-1.0).minimum(upper), rtol=0, atol=1e-4)


def test_the_floor_and_momentum_keep_the_distribution_wide():
    options = dict(iterations=15, tau=0.0)
    plain, slow = (cem(bowl(TARGET), *START, momentum=m, generator=seeded(), **options) for m in (0.0, 0.5))
    assert (slow.std > plain.std).all()
    floored = cem(bowl(TARGET), *START, min_std=0.1, generator=seeded(), **options)
    assert (floored.std >= 0.1 - 1e-12).all() and (plain.std < 0.1).all()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
@pytest.mark.parametrize("gradient", ["unroll", "implicit"])
def test_the_units_of_f_and_of_y_do_not_matter(scale, gradient):
    """Their small numbers lie below the published ε = 1e-6 and below a floor of 1e-6 for σ."""
    options = dict(iterations=30, gradient=gradient)
    plain = cem(bowl(TARGET), *START, generator=seeded(), **options).y
    of_f = cem(lambda y: scale * bowl(TARGET)(y), *START, generator=seeded(), **options).y
    torch.testing.assert_close(of_f, plain, rtol=0, atol=1e-3)
    mean, std = (scale * t for t in START)
    of_y = cem(lambda y: bowl(TARGET)(y / scale), mean, std, generator=seeded(), **options).y
    torch.testing.assert_close(of_y / scale, plain, rtol=0, atol=1e-6)


def test_a_distribution_without_width_has_a_gradient():
    mean = START[0].clone().requires_grad_()
    solution = cem(bowl(TARGET), mean, START[1], elites=1, iterations=3, tau=0.0, min_std=0.0, generator=seeded())
    (gradient,) = torch.autograd.grad(solution.y.sum(), mean)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("gradient", ["unroll", "implicit"])
def test_a_mean_outside_of_the_bounds_is_moved_to_them(gradient):
    far = START[0] + 100
    solution = cem(
        bowl(TARGET), far, START[1], iterations=30, lower=-1.0, upper=1.0, gradient=gradient, generator=seeded()
    )
    torch.testing.assert_close(solution.y, TARGET.clamp(-1, 1), rtol=0, atol=1e-2)


def test_a_global_minimum_is_found_where_descent_would_stop_at_a_local_one():
    def rastrigin(y):
        return (y.square() - 10 * torch.cos(2 * math.pi * y) + 10).sum(-1)

    mean = torch.full((4, 2), 2.9, dtype=DOUBLE)
    solution = cem(
        rastrigin, mean, 3 * torch.ones_like(mean), samples=400, elites=20, iterations=40, tau=0.0, generator=seeded()
    )
    assert rastrigin(solution.y).max() < 1e-6


def test_vmapped_elements_have_samples_of_their_own():
    def y(target, mean):
        return cem(bowl(target), mean, torch.ones(2, dtype=DOUBLE), iterations=30, tau=0.0, generator=seeded()).y

    mapped = torch.func.vmap(y)(TARGET, START[0])
    torch.testing.assert_close(mapped, TARGET, rtol=0, atol=1e-3)


def test_the_same_seed_gives_the_same_result_and_another_one_another(dtype):
    mean, std = (t.to(dtype) for t in START)
    a, b, c = (cem(bowl(TARGET.to(dtype)), mean, std, iterations=2, generator=seeded(s)) for s in (0, 0, 1))
    assert (a.y == b.y).all() and (a.y != c.y).any() and a.y.dtype == dtype


class TestFailures:
    @staticmethod
    def undefined(y):
        return torch.where(torch.arange(3) == 1, torch.nan, 1.0) * bowl(TARGET)(y)

    @pytest.mark.parametrize("tau", [0.0, 1.0])
    def test_an_element_whose_f_is_not_finite_is_named_and_the_others_are_not_touched(self, tau):
        options = dict(iterations=3, tau=tau)
        with pytest.raises(SolverError, match="not finite") as error:
            cem(self.undefined, *START, generator=seeded(), **options)
        assert error.value.indices == [(1,)]
        marked = cem(self.undefined, *START, generator=seeded(), on_failure="nan", **options)
        whole = cem(bowl(TARGET), *START, generator=seeded(), **options)
        torch.testing.assert_close(marked.y[[0, 2]], whole.y[[0, 2]])
        assert marked.y[1].isnan().all() and marked.converged.tolist() == [True, False, True]

    def test_a_minimum_outside_of_the_bounds_is_not_taken_for_one_inside(self):
        """From a distribution that is narrow and far from its bound, Newton's method goes on to beyond it."""
        mean, std = START[0], torch.full_like(START[0], 1e-3)
        options = dict(iterations=2, lower=-1.0, upper=1.0, gradient="implicit")

        def flat_at_first(y):
            return bowl(TARGET)(y) * 1e-3 + 1e3 * (y - 5).clamp_min(0).pow(3).sum(-1)

        solution = cem(flat_at_first, mean, std, generator=seeded(), on_failure="nan", **options)
        inside = (solution.y.abs() <= 1).all(-1)
        assert (inside | solution.y.isnan().all(-1)).all() and solution.y[1].isnan().all()

    @pytest.mark.parametrize("f", [lambda y: y.square().sum(), lambda y: y.square().sum(-1, keepdim=True)])
    def test_an_f_that_ties_the_elements_of_a_batch_together_is_refused(self, f):
        with pytest.raises(ValueError, match="must have the batch shape of y"):
            cem(f, *START, generator=seeded())

    def test_a_tolerance_that_is_not_reached_is_said(self):
        with pytest.raises(SolverError, match="tolerance"):
            cem(bowl(TARGET), *START, iterations=2, tolerance=1e-3, generator=seeded())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(elites=0), "elites"),
            (dict(elites=101), "elites"),
            (dict(iterations=0), "iterations"),
            (dict(momentum=1.0), "momentum"),
            (dict(tau=-1.0), "tau must be positive"),
            (dict(gradient="exact"), "gradient"),
            (dict(std=torch.zeros(2, dtype=DOUBLE)), "std must be positive"),
            (dict(lower=torch.zeros(3, dtype=DOUBLE)), "lower"),
            (dict(mean=torch.full((2,), torch.nan, dtype=DOUBLE)), "mean must be finite"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        arguments = dict(mean=torch.zeros(2, dtype=DOUBLE), std=torch.ones(2, dtype=DOUBLE)) | change
        with pytest.raises(ValueError, match=message):
            cem(bowl(TARGET[0]), **arguments)
