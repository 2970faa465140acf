"""Hyper-gradients: finite differences, to second order, in every mode that claims to be exact; closed forms."""

from functools import partial

import pytest
import torch
from small import DOUBLE, loss, network, outer, relative_error, tasks
from torch import nn
from torch.func import functional_call

from diffopt_lib import SGD, Adam, inner_loop
from diffopt_lib.linear import cg, dense_solve

STEPS = {"unroll": 5, "checkpoint": 5, "implicit": 40}


def settings(*batch):
    """Every kind of hyper-parameter, as it is passed."""
    return {
        "lr": torch.tensor(0.3, dtype=DOUBLE),
        "lr of a layer": torch.tensor(0.3, dtype=DOUBLE),
        "lr of each weight": torch.full((13,), 0.3, dtype=DOUBLE),
        "momentum": torch.tensor(0.3, dtype=DOUBLE),
        "decay": torch.full(batch, 0.2, dtype=DOUBLE),
        "decay of a layer": torch.tensor(0.2, dtype=DOUBLE),
        "prox": torch.full(batch, 2.0, dtype=DOUBLE),
        "weights": torch.linspace(0.5, 1.5, 6, dtype=DOUBLE).expand(*batch, 6).clone(),
        "inputs": torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(6, 2).expand(*batch, 6, 2).clone(),
        "initialisation": torch.linspace(-0.5, 0.5, 6, dtype=DOUBLE).reshape(3, 2),
        "start of a task": torch.linspace(-0.5, 0.5, 6, dtype=DOUBLE).reshape(3, 2).expand(*batch, 3, 2).clone(),
        "closed over": torch.tensor(0.7, dtype=DOUBLE),
    }


def reached(which, value, gradient, generator, batch=(), optimizer=SGD):
    """A number made of the weights that are reached when one of the settings has this value."""
    module, (x, y, weights) = network(), tasks(generator.manual_seed(1), *batch)
    momentum = value if which == "momentum" else 0.3
    make = partial(SGD, momentum=momentum) if optimizer is SGD else Adam
    chosen = make(value if which in ("lr", "lr of each weight") else torch.tensor(0.3, dtype=DOUBLE))
    if which == "lr of a layer":
        chosen = {"": chosen, "2": make(value)}
    data = (value if which == "inputs" else x, y, value if which == "weights" else weights)
    options = {"prox": value if which == "prox" else 2.0, "weight_decay": 0.1}
    if which.startswith("decay"):
        options["weight_decay"] = {"2": value, "": 0.1} if which == "decay of a layer" else value
    if which in ("initialisation", "start of a task"):
        options["start"] = {name: p.detach() for name, p in module.named_parameters()} | {"0.weight": value}
    scaled = loss if which != "closed over" else lambda predict, data: value * loss(predict, data)
    fast = inner_loop(
        module, scaled, data, chosen, STEPS[gradient], gradient=gradient, batch_dims=len(batch), **options
    )
    return outer(fast)


OF_STEPS = ("lr", "lr of a layer", "lr of each weight", "momentum")


@pytest.mark.parametrize("batch", [(), (2,)], ids=["one task", "two tasks"])
@pytest.mark.parametrize("which", settings())
@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_hyper_gradients_are_those_of_finite_differences(gradient, which, batch, generator):
    if gradient == "implicit" and which in OF_STEPS:
        pytest.skip("a minimum has none")
    value = settings(*batch)[which].requires_grad_()
    f = partial(reached, which, gradient=gradient, generator=generator, batch=batch)
    (found,) = torch.autograd.grad(f(value), value)
    assert relative_error(f, value.detach(), found) <= 1e-6


@pytest.mark.parametrize("which", ["lr", "lr of a layer", "decay", "prox", "weights", "initialisation"])
@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_second_order_hyper_gradients_are_those_of_finite_differences(gradient, which, generator):
    if gradient == "implicit" and which in OF_STEPS:
        pytest.skip("a minimum has none")
    value = settings()[which].requires_grad_()
    f = partial(reached, which, gradient=gradient, generator=generator)

    def slope(value):
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            return torch.autograd.grad(f(value), value)[0].sin().sum()

    (first,) = torch.autograd.grad(f(value), value, create_graph=True)
    (found,) = torch.autograd.grad(first.sin().sum(), value)
    assert relative_error(slope, value.detach(), found) <= 1e-6


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint"])
@pytest.mark.parametrize("which", ["lr", "lr of a layer", "decay", "weights", "initialisation"])
def test_hyper_gradients_of_adam(gradient, which, generator):
    value = settings()[which].requires_grad_()
    f = partial(reached, which, gradient=gradient, generator=generator, optimizer=Adam)
    (found,) = torch.autograd.grad(f(value), value)
    assert relative_error(f, value.detach(), found) <= 1e-6


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_the_modules_own_parameters_are_the_initialisation(gradient, generator):
    module, data = network(), tasks(generator)

    def f(weight):
        start = {name: p.detach() for name, p in module.named_parameters()} | {"0.weight": weight}
        options = {"prox": 2.0, "gradient": gradient, "start": start}
        return outer(inner_loop(module, loss, data, SGD(0.3, 0.3), STEPS[gradient], **options))

    fast = inner_loop(module, loss, data, SGD(0.3, 0.3), STEPS[gradient], prox=2.0, gradient=gradient)
    (found,) = torch.autograd.grad(outer(fast), module[0].weight)
    assert relative_error(f, module[0].weight.detach(), found) <= 1e-6


def test_one_step_of_maml_by_hand(generator):
    """g(w − α∇L(w)) has the gradient (I − α∇²L) ∇g: Finn et al. 2017, eq. 1."""
    module, data = network(), tasks(generator)
    names = [name for name, _ in module.named_parameters()]
    sizes = [p.numel() for p in module.parameters()]
    w = torch.cat([p.detach().flatten() for p in module.parameters()])

    def at(w):
        parts = zip(names, w.split(sizes), module.parameters(), strict=True)
        return {name: part.reshape(p.shape) for name, part, p in parts}

    def L(w):
        return loss(lambda x: functional_call(module, at(w), (x,)), data)

    alpha = 0.2
    slope, curvature = torch.func.grad(L)(w), torch.func.hessian(L)(w)
    outside = torch.func.grad(lambda w: outer(at(w)))(w - alpha * slope)
    expected = outside - alpha * curvature @ outside
    fast = inner_loop(module, loss, data, SGD(alpha), 1)
    found = torch.cat([g.flatten() for g in torch.autograd.grad(outer(fast), list(module.parameters()))])
    torch.testing.assert_close(found, expected)


def test_implicit_maml_by_hand(generator):
    """(I + ∇²L / λ)⁻¹ ∇g, the Hessian formed: Rajeswaran et al. 2019, eq. 6."""
    module, data, prox = network(), tasks(generator), 1.5
    fast = inner_loop(module, loss, data, SGD(0.3, 0.4), 60, gradient="implicit", prox=prox)
    sizes = [p.numel() for p in module.parameters()]

    def L(w):
        parts = {n: v.reshape(p.shape) for (n, p), v in zip(module.named_parameters(), w.split(sizes), strict=True)}
        return loss(lambda x: functional_call(module, parts, (x,)), data)

    w = torch.cat([v.detach().flatten() for v in fast.values()])
    outside = torch.cat([g.flatten() for g in torch.autograd.grad(outer(fast), list(fast.values()), retain_graph=True)])
    expected = torch.linalg.solve(torch.eye(13, dtype=DOUBLE) + torch.func.hessian(L)(w) / prox, outside)
    found = torch.cat([g.flatten() for g in torch.autograd.grad(outer(fast), list(module.parameters()))])
    torch.testing.assert_close(found, expected)


def test_ridge_regression_has_a_closed_form(generator):
    """w* = (XᵀX/n + δI)⁻¹ Xᵀy/n, whatever the loop, and so is its derivative in δ in every exact mode."""
    X, y = torch.randn(9, 4, dtype=DOUBLE, generator=generator), torch.randn(9, 1, dtype=DOUBLE, generator=generator)
    module = nn.Linear(4, 1, bias=False).double()
    delta = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)

    def squares(predict, data):
        return (predict(data[0]) - data[1]).square().mean() / 2

    w = torch.linalg.solve(X.T @ X / 9 + delta * torch.eye(4, dtype=DOUBLE), X.T @ y / 9).squeeze(-1)
    expected = torch.autograd.grad(w.sin().sum(), delta)[0]
    for gradient in ("implicit", "unroll", "checkpoint"):
        fast = inner_loop(module, squares, (X, y), SGD(0.5, 0.6), 80, gradient=gradient, weight_decay=delta)
        torch.testing.assert_close(fast["weight"].squeeze(0), w)
        torch.testing.assert_close(torch.autograd.grad(fast["weight"].sin().sum(), delta)[0], expected)


def test_truncation_is_biased_by_what_the_forgotten_steps_still_matter(generator):
    """On ½(w − t)² the last T steps of αs give 1 − (1 − α)ᵀ of ∂w/∂t."""
    module = nn.Linear(1, 1, bias=False).double()
    target = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    for kept in (1, 3, 10):
        fast = inner_loop(
            module,
            lambda predict, t: (predict.weights["weight"] - t).square().sum() / 2,
            target,
            SGD(0.2),
            60,
            gradient="truncated",
            truncate=kept,
        )
        found = torch.autograd.grad(fast["weight"].sum(), target)[0]
        torch.testing.assert_close(found, torch.tensor(1 - 0.8**kept, dtype=DOUBLE))


class Scalar(nn.Module):
    """One number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))

    def forward(self, x):
        return self.w * x


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_a_scalar_root_has_its_gradient(gradient):
    """torchopt #222: the gradient of a root that is a scalar came out 0. Here w* = log a, and dw*/da = 1/a."""
    a = torch.tensor(1.7, dtype=DOUBLE, requires_grad=True)
    fast = inner_loop(
        Scalar(),
        lambda predict, a: predict.weights["w"].exp() - a * predict.weights["w"],
        a,
        SGD(0.3),
        200,
        gradient=gradient,
    )
    assert fast["w"].shape == ()
    torch.testing.assert_close(fast["w"], a.log())
    torch.testing.assert_close(torch.autograd.grad(fast["w"], a)[0], 1 / a)


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint"])
def test_adam_with_a_zero_second_moment_has_no_nan(gradient, generator):
    """higher #125: √v at v = 0. A dead ReLU and an input that is always 0 leave weights without any gradient."""
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        module[0].bias[0] = -100.0
    x, y, weights = tasks(generator)
    x[:, 1] = 0
    lr = torch.tensor(0.05, dtype=DOUBLE, requires_grad=True)
    fast = inner_loop(module, loss, (x, y, weights), Adam(lr), 6, gradient=gradient)
    gradients = torch.autograd.grad(outer(fast), [lr, *module.parameters()])
    assert all(torch.isfinite(g).all() for g in gradients)

    def f(lr):
        return outer(inner_loop(module, loss, (x, y, weights), Adam(lr), 6))

    assert relative_error(f, lr.detach(), gradients[0]) <= 1e-6


def test_the_same_tensor_in_two_places_gets_the_sum(generator):
    module, data = network(), tasks(generator)
    tied = torch.tensor(0.2, dtype=DOUBLE, requires_grad=True)
    apart = [torch.tensor(0.2, dtype=DOUBLE, requires_grad=True) for _ in range(4)]

    def run(a, b, c, d, gradient):
        optimizer = {"0": SGD(a), "2": SGD(b)}
        options = {"prox": c, "weight_decay": {"0": d}}
        return outer(inner_loop(module, loss, data, optimizer, 6, gradient=gradient, **options))

    expected = sum(torch.autograd.grad(run(*apart, "unroll"), apart))
    for gradient in ("unroll", "checkpoint"):
        found = torch.autograd.grad(run(tied, tied, tied, tied, gradient), tied)[0]
        torch.testing.assert_close(found, expected)


def test_implicit_reports_its_linear_systems(generator):
    module, data = network(), tasks(generator, 3)
    fast = inner_loop(module, loss, data, SGD(0.3, 0.4), 60, gradient="implicit", prox=1.5, batch_dims=1)
    assert fast.residual.shape == (3,) and (fast.residual <= 1e-6).all() and not fast.systems
    outer(fast).backward()
    (system,) = fast.systems
    assert 1 <= system.products <= 20 and system.residual.shape == (3,) and (system.residual <= 1e-9).all()

    few = partial(cg, max_iterations=2, on_failure="return")
    fast = inner_loop(module, loss, data, SGD(0.3, 0.4), 60, gradient="implicit", prox=1.5, batch_dims=1, solve=few)
    outer(fast).backward()
    assert fast.systems[0].products == 2 and (fast.systems[0].residual > 1e-6).all()


def test_another_linear_solver(generator):
    module, data = network(), tasks(generator)
    found = []
    for solve in (None, dense_solve):
        fast = inner_loop(module, loss, data, SGD(0.3, 0.4), 60, gradient="implicit", prox=1.5, solve=solve)
        found.append(torch.autograd.grad(outer(fast), module[0].weight)[0])
    torch.testing.assert_close(*found)


def test_jacrev_and_vmap_of_hyper_gradients(generator):
    module, data = network(), tasks(generator, 3)

    def f(decay, *data, gradient):
        options = {"gradient": gradient, "prox": 2.0, "weight_decay": decay}
        return inner_loop(module, loss, data, SGD(0.3, 0.3), 40, **options)["2.weight"]

    decay = torch.tensor(0.3, dtype=DOUBLE)
    by_mode = [
        torch.func.vmap(torch.func.jacrev(partial(f, gradient=gradient)), in_dims=(None, 0, 0, 0))(decay, *data)
        for gradient in ("unroll", "implicit")
    ]
    torch.testing.assert_close(*by_mode)
