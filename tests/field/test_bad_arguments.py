"""Bad arguments raise ValueError that says what is expected and what came, wherever they are given."""

from __future__ import annotations

import inspect

import pytest
import torch

from diffopt_lib import SGD, Adam, SolverError, argmin, implicit, unroll
from diffopt_lib.layers import (
    capped_softmax,
    gumbel_sinkhorn,
    linear_svm,
    match,
    project_capped_simplex,
    project_simplex,
    prototype_head,
    relu,
    ridge_head,
    sigmoid,
    soft_rank,
    soft_sort,
    soft_top_k,
    softargmax,
    solve_assignment,
    sparsemax,
    spearman_loss,
    svm_head,
)
from diffopt_lib.linear import LinearOperator, cg, gmres
from diffopt_lib.sensitivity import influence, logistic_loss, logistic_regression, loss_influence, poison, sensitivity

G = torch.Generator().manual_seed(0)
X, S = torch.randn(2, 4, generator=G), torch.randn(2, 4, 4, generator=G)
FEATURES, SIGNS = torch.randn(2, 6, 3, generator=G), torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
IDENTITY = LinearOperator(lambda v: v, lambda v: v)


def distance(y, x):
    return (y - x).square().sum(-1)


def minimise(f=distance, y0=X[0], x=X, **options):
    return argmin(f, y0, x, **options)


def descend(f=distance, y0=X[0], x=X, optimizer=SGD(0.1), **options):  # noqa: B008
    return unroll(f, y0, x, optimizer=optimizer, **({"steps": 3} | options))


def attach(residual=torch.sub, z=X, theta=X, solve=None):
    return implicit(residual, z, theta, solve=solve)


# A good call of each, and the arguments that have to be tensors, numbers (or tensors), counts, options, functions.
CALLS = [
    (relu, {"x": X}),
    (sigmoid, {"x": X}),
    (softargmax, {"x": X, "tau": 1.0, "dim": -1}),
    (soft_top_k, {"x": X, "k": 2, "tau": 1.0}),
    (project_simplex, {"x": X, "total": 1.0}),
    (sparsemax, {"x": X, "tau": 1.0}),
    (project_capped_simplex, {"x": X, "total": 1.0, "upper": 1.0}),
    (capped_softmax, {"x": X, "upper": 0.5, "tau": 1.0}),
    (soft_sort, {"x": X, "tau": 1.0, "regularization": "entropic"}),
    (soft_rank, {"x": X, "tau": 1.0, "regularization": "quadratic"}),
    (spearman_loss, {"predicted": X, "target": X, "tau": 1.0, "regularization": "quadratic"}),
    (solve_assignment, {"scores": S, "tau": 1.0, "rows": 1.0, "columns": 1.0, "mass": 2.0, "tolerance": 1e-6,
                        "max_iterations": 99, "on_failure": "nan", "init": solve_assignment(S, mass=2.0)}),
    (gumbel_sinkhorn, {"scores": S, "tau": 1.0, "samples": 2, "generator": G, "noise": 1.0}),
    (match, {"scores": S}),
    (ridge_head, {"features": FEATURES, "labels": CLASSES, "n_classes": 3, "lam": 1.0}),
    (ridge_head(FEATURES, CLASSES, 3).scores, {"query": FEATURES}),
    (prototype_head, {"features": FEATURES, "labels": CLASSES, "n_classes": 3}),
    (svm_head, {"features": FEATURES, "labels": CLASSES, "n_classes": 3, "C": 0.1, "tolerance": 1e-9,
                "max_iterations": 60, "on_failure": "raise", "init": svm_head(FEATURES, CLASSES, 3)}),
    (linear_svm, {"features": FEATURES, "labels": SIGNS, "C": 0.1, "sample_weights": torch.ones(6), "tolerance": 1e-9,
                  "max_iterations": 60, "on_failure": "raise", "init": linear_svm(FEATURES, SIGNS), "smoothing": 0.0}),
    (linear_svm(FEATURES, SIGNS).decision, {"query": FEATURES}),
    (minimise, {"f": distance, "y0": X[0], "x": X, "method": "lbfgs", "gradient": "one_step", "tolerance": 1e-5,
                "max_iterations": 50, "on_failure": "return", "solve": cg}),
    (descend, {"f": distance, "y0": X[0], "x": X, "optimizer": Adam(), "steps": 3, "truncate": 2, "checkpoint": True}),
    (attach, {"residual": torch.sub, "z": X, "theta": X, "solve": cg}),
    (logistic_loss, {"theta": FEATURES[:, 0], "features": FEATURES, "labels": SIGNS}),
    (logistic_regression, {"features": FEATURES, "labels": SIGNS, "weight_decay": 1.0, "sample_weights": torch.ones(6),
                           "tolerance": 1e-4, "max_iterations": 50, "on_failure": "nan", "init": torch.zeros(3)}),
    (influence, {"features": FEATURES, "labels": SIGNS, "weight_decay": 1.0, "sample_weights": torch.ones(6),
                 "order": "newton"}),
    (sensitivity, {"fit": lambda data: data.sum(-2), "data": FEATURES}),
    (loss_influence, {"loss": lambda t: t.sum(-1), "fit": lambda w: w.cumsum(-1), "sample_weights": torch.ones(2, 6)}),
    (poison, {"fit": lambda data: data.sum(-2), "loss": lambda t: t.sum(-1), "data": FEATURES, "radius": 0.1,
              "movable": torch.ones(6, dtype=torch.bool), "steps": 2, "step_size": 0.1}),
    (cg, {"operator": IDENTITY, "b": X, "tolerance": 1e-5, "max_iterations": 9, "on_failure": "raise"}),
    (gmres, {"operator": IDENTITY, "b": X, "tolerance": 1e-5, "restart": 9, "max_restarts": 2}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (Adam, {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}),
]  # fmt: skip

# Named by what they are; none of them is right anywhere.
NONSENSE = [
    pytest.param("adam", id="a name"),
    pytest.param({}, id="a dictionary"),
    pytest.param(object(), id="an object"),
    pytest.param(torch.full((2, 4), 1j), id="complex"),
    pytest.param(float("nan"), id="NaN"),
    pytest.param(-3, id="-3"),
]
ARGUMENTS = [
    pytest.param(call, good, name, id=f"{getattr(call, '__name__', call)}-{name}")
    for call, good in CALLS
    for name in good
]


@pytest.mark.parametrize(("call", "good"), CALLS)
def test_the_good_calls_are_good(call, good):
    call(**good)


@pytest.mark.parametrize("bad", NONSENSE)
@pytest.mark.parametrize(("call", "good", "name"), ARGUMENTS)
def test_nonsense_is_an_error_that_names_the_argument(call, good, name, bad):
    if name == "dim" and isinstance(bad, int):
        pytest.skip("covered by its own test")
    shown = {"x": r"x(\[0\])?", "theta": r"theta(\[0\])?", "betas": r"betas(\[0\])?"}.get(name, name)
    with pytest.raises(ValueError, match=rf"^{shown} must "):
        call(**(good | {name: bad}))


@pytest.mark.parametrize(
    ("call", "good", "name"),
    [
        p
        for p in ARGUMENTS
        if p.values[2] in ("steps", "max_iterations", "samples", "restart", "max_restarts", "truncate")
    ],
)
@pytest.mark.parametrize("bad", [2.5, True, torch.tensor(3.0), float("inf")])
def test_counts_are_integers(call, good, name, bad):
    with pytest.raises(ValueError, match=f"^{name} must be an integer, at least [01], got "):
        call(**(good | {name: bad}))


@pytest.mark.parametrize(
    ("call", "good", "name"), [p for p in ARGUMENTS if isinstance(p.values[1][p.values[2]], torch.Tensor)]
)
@pytest.mark.parametrize("bad", [torch.ones(2, 4).half(), torch.ones(2, 4, dtype=torch.int32)])
def test_tensors_of_another_kind_are_named(call, good, name, bad):
    if name in ("x", "theta") and call in (minimise, attach, descend) and not bad.is_floating_point():
        pytest.skip("context tensors may be integers")
    with pytest.raises(ValueError, match=rf"{name}(\[0\])? must "):
        call(**(good | {name: bad}))


@pytest.mark.parametrize(
    ("optimizer", "shown"), [("adam", "'adam'"), (SGD, "SGD"), (None, "None"), (torch.optim.Adam, "Adam"), (0.1, "0.1")]
)
def test_an_optimizer_is_an_object_with_two_methods(optimizer, shown):
    with pytest.raises(ValueError, match=rf"optimizer must be SGD\(lr\) or Adam\(lr\), .*, got {shown}"):
        descend(optimizer=optimizer)


def test_torchs_optimizers_are_not_ours():
    with pytest.raises(ValueError, match="optimizer must be SGD"):
        descend(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1))


@pytest.mark.parametrize("run", [minimise, descend])
def test_a_function_that_returns_no_tensor(run):
    with pytest.raises(ValueError, match="must return a torch tensor, got float"):
        run(f=lambda y, x: 1.0)
    with pytest.raises(ValueError, match="must have the batch shape of y"):
        run(f=lambda y, x: y - x, x=X[0])


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (soft_sort, {"x": X, "tau": torch.ones(3)}),
        (soft_rank, {"x": X, "tau": torch.ones(3)}),
        (spearman_loss, {"predicted": X, "target": X, "tau": torch.ones(3)}),
        (sparsemax, {"x": X, "tau": torch.ones(3)}),
        (soft_top_k, {"x": X, "k": torch.ones(3)}),
        (gumbel_sinkhorn, {"scores": S, "noise": torch.ones(3)}),
        (solve_assignment, {"scores": S, "tau": torch.ones(3)}),
        (ridge_head, {"features": FEATURES, "labels": CLASSES, "n_classes": 3, "lam": torch.ones(3)}),
        (svm_head, {"features": FEATURES, "labels": CLASSES, "n_classes": 3, "C": torch.ones(3)}),
        (linear_svm, {"features": FEATURES, "labels": SIGNS, "C": torch.ones(3)}),
        (linear_svm(FEATURES, SIGNS).decision, {"query": FEATURES[[0, 1, 1]]}),
        (logistic_regression, {"features": FEATURES, "labels": SIGNS, "weight_decay": torch.ones(3)}),
        (logistic_regression, {"features": FEATURES, "labels": SIGNS, "weight_decay": 1.0, "init": torch.zeros(3, 3)}),
        (logistic_loss, {"theta": torch.ones(3, 3), "features": FEATURES, "labels": SIGNS}),
    ],
)
def test_batch_dimensions_that_do_not_fit_have_one_wording(call, arguments):
    with pytest.raises(ValueError, match="the batch dimensions must broadcast against each other, got "):
        call(**arguments)


@pytest.mark.parametrize("dim", [2, -3, 1.0, "last"])
def test_a_dimension_that_is_none(dim):
    with pytest.raises(ValueError, match=r"dim must be a dimension of x, \(2, 4\), got"):
        softargmax(X, 1.0, dim)


def test_every_argument_of_ours_is_in_the_list():
    ours = {
        call: good for call, good in CALLS if inspect.isfunction(call) and call.__module__.startswith("diffopt_lib")
    }
    assert len(ours) > 20
    for call, good in ours.items():
        parameters = inspect.signature(call).parameters.values()
        assert {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - {"descending"} == set(good), call


def test_a_failure_of_the_solver_is_no_bad_argument():
    with pytest.raises(SolverError):
        minimise(method="gradient_descent", max_iterations=1, f=lambda y, x: (y - x).cosh().sum(-1), tolerance=1e-9)
