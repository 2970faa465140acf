"""The tasks, the three derivatives, and what the shipped starts can do."""

import pytest
import torch

from diffopt_lib import pretrained
from diffopt_lib.experiments import few_shot, maml


def generators(count=2):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.fixture
def starts():
    torch.manual_seed(0)
    return maml.Starts([maml.network((1, 40, 40, 1)) for _ in range(2)])


def test_sinusoids_are_sinusoids_of_the_papers_range():
    x, y, x_query, y_query = maml.sinusoids(200, generators())
    x, y = (torch.cat(pair, 2).double() for pair in ((x, x_query), (y, y_query)))
    assert x.abs().max() <= 5 and x.shape == (2, 200, 2 * maml.EXAMPLES, 1)
    basis = torch.cat([x.sin(), x.cos()], -1)  # a sin(x + φ) = a cos φ sin x + a sin φ cos x
    coefficients = torch.linalg.lstsq(basis, y).solution
    assert (basis @ coefficients - y).abs().max() < 1e-5
    amplitude = coefficients.norm(dim=2)
    assert amplitude.min() >= 0.1 and amplitude.max() <= 5.0001
    assert (coefficients[..., 1, 0] >= -1e-5).all()  # phase 0 to π


def test_digit_tasks_have_their_labels_in_order_and_stay_within_their_classes():
    images = [[torch.full((30, 14, 14), 10.0 * split + k) for k in range(5)] for split in range(2)]
    x, y, x_query, y_query = maml.digit_tasks(images, 4, 3, 2, generators())
    assert x.shape == (2, 4, 15, 196) and x_query.shape == (2, 4, 10, 196)
    assert torch.equal(y[0, 0], few_shot.ordered(15))
    for split in range(2):
        assert (x[split] >= 10 * split).all() and (x[split] < 10 * split + 5).all()
    assert torch.equal(x[:, :, ::3, 0], x_query[:, :, ::2, 0])  # of the same class in the same place
    assert torch.equal(y_query[1, 3], few_shot.ordered(10))


def test_seeds_do_not_interact(starts):
    tasks = maml.sinusoids(3, generators())
    method = maml.Method("", 0.01, 2, 0)
    module = maml.network((1, 40, 40, 1))
    maml.outer_loss(method, module, maml.squares, starts, *tasks).backward()
    together = [w.grad.clone() for w in starts.values]
    changed = [t.clone() for t in tasks]
    changed[1][1] += 1
    starts.zero_grad()
    maml.outer_loss(method, module, maml.squares, starts, *changed).backward()
    for w, before in zip(starts.values, together, strict=True):
        assert torch.equal(w.grad[0], before[0]) and not torch.equal(w.grad[1], before[1])


def test_first_order_is_the_gradient_at_the_adapted_weights(starts):
    tasks = maml.sinusoids(1, generators())
    method = maml.Method("", 0.01, 3, 0, "first order")
    module = maml.network((1, 40, 40, 1))
    maml.outer_loss(method, module, maml.squares, starts, *tasks).backward()
    fast = method._replace(derivative="exact").adapt(module, maml.squares, tasks[:2], starts()).detach()
    leaves = {name: w.requires_grad_() for name, w in fast.items()}
    fast.evaluate(maml.squares, tasks[2:]).sum().backward()
    for w, leaf in zip(starts.values, leaves.values(), strict=True):
        torch.testing.assert_close(w.grad, leaf.grad)


def test_shipped_starts_adapt_in_the_order_that_is_claimed():
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in pretrained.load("maml").items():
        method, name = key.removeprefix("sinusoids, ").split(".", 1)
        found.setdefault(method, {})[name] = value[None, None]
    module, tasks = maml.network((1, 40, 40, 1)), maml.sinusoids(200, [torch.Generator().manual_seed(5)])
    one_step = maml.Method("", 0.01, 1, 0)
    errors = {
        method: one_step.adapt(module, maml.squares, tasks[:2], start).evaluate(maml.squares, tasks[2:]).mean().item()
        for method, start in found.items()
    }
    assert errors["MAML"] < errors["first-order MAML"] < 0.6 * errors["all tasks as one"]
    assert errors["implicit MAML, 16 steps"] > errors["all tasks as one"]
