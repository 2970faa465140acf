"""What an inner loop refuses, and the words in which it does."""

import math

import pytest
import torch
from small import DOUBLE, loss, network, outer, tasks
from torch import nn

from diffopt_lib import SGD, Adam, SolverError, inner_loop


def test_implicit_is_refused_where_the_loop_has_not_arrived(generator):
    module, data = network(), tasks(generator, 3)
    options = {"batch_dims": 1, "gradient": "implicit", "prox": 1.5}
    with pytest.raises(SolverError, match="of its scale, more than the tolerance 1e-06") as caught:
        inner_loop(module, loss, data, SGD(0.1), 5, **options)
    assert caught.value.indices == [(0,), (1,), (2,)]
    assert (inner_loop(module, loss, data, SGD(0.1), 5, on_failure="return", **options).residual > 1e-6).all()
    inner_loop(module, loss, data, SGD(0.1), 5, tolerance=1.0, **options)


def test_a_loss_in_other_units_is_refused_and_accepted_alike(generator):
    """A loss of a billion, or a billionth, with the rate to match: the relative gradient is the same."""
    module, data = network(), tasks(generator)
    found = []
    for scale in (1e-9, 1.0, 1e9):
        options = {"gradient": "implicit", "prox": 1.5 * scale, "on_failure": "return"}
        fast = inner_loop(module, lambda p, d, s=scale: s * loss(p, d), data, SGD(0.3 / scale), 15, **options)
        found.append(fast.residual)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[1])


def test_a_loop_that_starts_at_its_minimum_is_not_refused(generator):
    module, data = network(), tasks(generator)
    options = {"gradient": "implicit", "prox": 1.5}
    there = inner_loop(module, loss, data, SGD(0.3, 0.4), 60, **options)
    again = inner_loop(module, loss, data, SGD(0.3, 0.4), 0, start=there, **options)
    assert again.residual <= 1e-9
    found = [torch.autograd.grad(outer(f), module[0].weight)[0] for f in (there, again)]
    torch.testing.assert_close(*found)


def test_implicit_has_no_learning_rate_to_differentiate(generator):
    lr = torch.tensor(0.1, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(ValueError, match="the optimizer has a tensor that requires a gradient"):
        inner_loop(network(), loss, tasks(generator), SGD(lr), 50, gradient="implicit", prox=1.0)


def test_a_saddle_is_no_minimum():
    """The gradient at 0 of −w² + … is zero and the Hessian negative: the linear solver says so."""
    module = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    shift = torch.zeros(2, dtype=DOUBLE, requires_grad=True)

    def saddle(predict, shift):
        w = predict.weights["weight"][0] - shift
        return w[0] ** 2 - w[1] ** 2

    fast = inner_loop(module, saddle, shift, SGD(0.1), 3, gradient="implicit")
    with pytest.raises(SolverError, match="non-positive curvature"):
        fast["weight"].sum().backward()


@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_steps_that_are_too_long_are_named_task_by_task(gradient, generator):
    x, y, weights = tasks(generator, 3)
    weights[1] *= 1e30
    weights.requires_grad_()
    module, options = network(), {"batch_dims": 1, "gradient": gradient, "prox": 2.0}
    with pytest.raises(SolverError, match="the weights or the loss are not finite") as caught:
        inner_loop(module, loss, (x, y, weights), SGD(0.3, 0.3), 40, **options)
    assert caught.value.indices == [(1,)]
    fast = inner_loop(module, loss, (x, y, weights), SGD(0.3, 0.3), 40, on_failure="nan", **options)
    assert torch.isnan(fast["0.weight"]).flatten(1).all(-1).tolist() == [False, True, False]
    (found,) = torch.autograd.grad(fast["0.weight"].sum(), weights)
    kept = [0, 2]
    alone = inner_loop(module, loss, (x[kept], y[kept], weights[kept]), SGD(0.3, 0.3), 40, **options)
    torch.testing.assert_close(fast["0.weight"][kept], alone["0.weight"])
    torch.testing.assert_close(found[kept], torch.autograd.grad(alone["0.weight"].sum(), weights)[0][kept])
    assert torch.isnan(found[1]).all()


def test_a_loss_that_is_nan(generator):
    with pytest.raises(SolverError, match="not finite"):
        inner_loop(network(), lambda p, d: loss(p, d) * math.nan, tasks(generator), SGD(0.1), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": lambda x: x}, "module must be a torch.nn.Module"),
        ({"module": nn.ReLU()}, "module must have parameters that require a gradient"),
        ({"module": network().half()}, "parameter 0.weight must be float32 or float64, got torch.float16"),
        ({"loss": 3}, "loss must be a function"),
        ({"loss": lambda predict, data: predict(data[0])}, r"one number for each task, got shape \(6, 1\)"),
        ({"loss": lambda predict, data: 1.0}, "one number for each task, got float"),
        ({"loss": lambda predict, data: (predict(data[0]) > 0).sum()}, r"floating-point .* got shape \(\) torch.int64"),
        ({"data": (torch.full((6, 2), math.nan).double(),)}, r"data\[0\] must be finite, got 12"),
        ({"data": {"x": torch.full((6, 2), math.inf)}}, r"data\['x'\] must be finite"),
        ({"optimizer": torch.optim.SGD}, "optimizer must be SGD"),
        ({"optimizer": {"1": SGD(0.1)}}, "optimizer has the key '1', which is no trainable parameter's"),
        ({"optimizer": {"0": 0.1}}, "optimizer must be SGD"),
        ({"optimizer": {}}, "optimizer must name some part"),
        ({"optimizer": SGD(torch.ones(4, 1).double())}, r"steps of the shape and dtype of the weights, \(13,\)"),
        ({"optimizer": {"": SGD(torch.ones(4, 1).double())}}, "steps of the shape and dtype of the weights"),
        ({"optimizer": SGD(torch.full((3,), 0.1).double())}, r"got none: a learning rate has shape \(\), \(n,\) or"),
        ({"module": network(torch.float32), "optimizer": SGD(torch.full((13,), 0.1).double())}, "got .* torch.float64"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"steps": 2.0}, "steps must be an integer"),
        ({"gradient": "exact"}, "gradient must be one of"),
        ({"truncate": 3}, 'truncate belongs to gradient="truncated"'),
        ({"gradient": "truncated"}, "truncate belongs to"),
        ({"tolerance": 1e-3}, 'tolerance belongs to gradient="implicit"'),
        ({"prox": -1.0}, "prox must be at least 0"),
        ({"prox": torch.tensor(1.0)}, "prox must have the dtype of the parameters"),
        ({"prox": torch.ones(5).double()}, r"prox must be a number or a tensor of shape \(\)"),
        ({"weight_decay": {"3": 0.1}}, "weight_decay has the key '3'"),
        ({"weight_decay": torch.tensor(math.nan).double()}, "weight_decay must be finite"),
        ({"batch_dims": 1}, r"every tensor of data must have the tasks in its first 1 dimension"),
        ({"batch_dims": 1, "data": None}, "data must have tensors with 1 leading"),
        ({"start": [1]}, "start must be a mapping"),
        ({"start": {}}, "it lacks 0.weight"),
        ({"start": dict(network().named_parameters()) | {"9": torch.zeros(1)}}, "9 is none of them"),
        (
            {"start": dict(network().named_parameters()) | {"2.bias": torch.zeros(3).double()}},
            r"must have shape \(1,\)",
        ),
        ({"on_failure": "zero"}, "on_failure must be one of"),
    ],
)
def test_named_argument_expectation_and_what_came(change, message, generator):
    x, y, weights = tasks(generator)
    weights = weights[:1] if change.get("batch_dims") else weights
    arguments = {"module": network(), "loss": loss, "data": (x, y, weights), "optimizer": SGD(0.1), "steps": 1} | change
    with pytest.raises(ValueError, match=message):
        inner_loop(**arguments)


def test_weights_that_are_not_finite_are_named(generator):
    module = network()
    with torch.no_grad():
        module[0].bias[1] = math.nan
    with pytest.raises(ValueError, match=r"parameter 0.bias must be finite, got 1"):
        inner_loop(module, loss, tasks(generator), SGD(0.1), 1)


def test_a_start_from_another_optimizer(generator):
    module, data = network(), tasks(generator)
    fast = inner_loop(module, loss, data, SGD(0.1), 1)
    with pytest.raises(ValueError, match="an optimizer of the same kind"):
        inner_loop(module, loss, data, Adam(0.1), 1, start=fast)


def test_evaluate_wants_the_tasks_of_the_weights(generator):
    fast = inner_loop(network(), loss, tasks(generator, 3), SGD(0.1), 1, batch_dims=1)
    with pytest.raises(ValueError, match=r"data must be of the tasks of these weights, \(3,\), got \(2,\)"):
        fast.evaluate(loss, tasks(generator, 2))


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("gradient", ["unroll", "checkpoint", "implicit"])
def test_a_loss_that_calls_the_module_itself_is_told_so(gradient, batch, generator):
    """It would leave all weights as they are, and say nothing."""
    module = network()
    with pytest.raises(ValueError, match="must call predict"):
        inner_loop(
            module,
            lambda predict, data: loss(module, data),
            tasks(generator, *batch),
            SGD(0.1),
            3,
            gradient=gradient,
            batch_dims=len(batch),
        )


def test_a_loss_of_the_weights_alone_is_a_loss(generator):
    module, data = network(), tasks(generator)
    fast = inner_loop(
        module, lambda predict, data: sum(w.square().sum() for w in predict.weights.values()), data, SGD(0.1), 1
    )
    torch.testing.assert_close(fast["0.weight"], 0.8 * module[0].weight)
