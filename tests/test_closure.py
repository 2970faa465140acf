"""Closure conversion: every tensor that needs a gradient becomes an argument."""

import pytest
import torch

from diffopt_lib.autograd.closure import make_all_explicit, make_explicit, pull_back, vary


def test_no_hidden_tensor_returns_the_function_itself():
    def f(y):
        return y.square()

    explicit = make_explicit(f, torch.ones(2))
    assert explicit.f is f and explicit.hidden == []
    torch.testing.assert_close(explicit.value, torch.ones(2))


def test_leaf_non_leaf_and_module_parameters_are_found_once_each():
    w = torch.ones(2, requires_grad=True)
    scaled = 3 * w
    layer = torch.nn.Linear(2, 2)
    explicit = make_explicit(lambda y: layer(y * w) + scaled + w, torch.ones(2))
    found = {id(t) for t in explicit.hidden}
    assert found == {id(w), id(scaled), id(layer.weight), id(layer.bias)}


def test_constants_without_gradient_stay_hidden():
    c = torch.ones(2)
    assert make_explicit(lambda y: y * c, torch.ones(2)).hidden == []


def test_substituted_values_are_used():
    w = torch.tensor([2.0, 3.0], requires_grad=True)
    explicit = make_explicit(lambda y: torch.cat([y * w, w[:1]]).sum(), torch.ones(2))
    torch.testing.assert_close(explicit.f(torch.ones(2), torch.tensor([5.0, 7.0])), torch.tensor(17.0))


def test_transforms_inside_the_function_leave_no_trace():
    w = torch.ones(2, requires_grad=True)

    def f(y):
        return torch.func.grad(lambda v: (w * v.square()).sum())(y)

    explicit = make_explicit(f, torch.ones(2))
    assert [id(t) for t in explicit.hidden] == [id(w)]


def test_vmap_inside_the_function_leaves_no_trace():
    """Its wrappers of the argument and of closed-over tensors are not taken for tensors of the caller."""
    shared, row = torch.tensor(2.0, requires_grad=True), torch.arange(3.0, requires_grad=True)

    def f(y):
        rows = row * 1  # seen here, before vmap takes it away
        return torch.func.vmap(lambda y, r: torch.func.grad(lambda y: shared * (y - r) ** 2)(y))(y, rows).sum()

    explicit = make_explicit(f, torch.ones(3))
    assert {id(t) for t in explicit.hidden} == {id(row), id(shared)}
    moved = {id(row): torch.zeros(3), id(shared): torch.tensor(5.0)}
    value = explicit.f(torch.ones(3), *(moved[id(t)] for t in explicit.hidden))
    torch.testing.assert_close(value, torch.tensor(30.0))


def test_arguments_that_require_gradients_are_not_hidden():
    y = torch.ones(2, requires_grad=True)
    assert make_explicit(lambda y: 2 * y, y).hidden == []


def test_unfollowable_dependence_raises():
    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="can't be followed"):
        make_explicit(lambda y: y + Identity.apply(w), torch.ones(2))


def test_vary_and_pull_back_pick_arguments():
    def f(a, b, c):
        return a * b + c

    a, b, c = (torch.tensor(v) for v in (2.0, 3.0, 4.0))
    assert vary(f, (a, b, c), [1])(torch.tensor(10.0)) == 24
    gradients = pull_back(f, (a, b, c), [0, 2], torch.tensor(1.0))
    assert gradients[0] == 3 and gradients[1] is None and gradients[2] == 1
    assert pull_back(f, (a, b, c), [], torch.tensor(1.0)) == [None, None, None]


class TestSeveralFunctions:
    def test_share_what_they_hide(self):
        w = torch.tensor([2.0, 3.0], requires_grad=True)
        v = torch.tensor(5.0, requires_grad=True)
        y = torch.ones(2)
        (cost, dynamics), hidden, values = make_all_explicit(
            (lambda y: (w * y).sum(), (y,)), (lambda y: v * w * y, (y,))
        )
        assert {id(t) for t in hidden} == {id(w), id(v)} and len(hidden) == 2
        torch.testing.assert_close(values, [torch.tensor(5.0), torch.tensor([10.0, 15.0])])
        assert not any(value.requires_grad for value in values)
        new = [torch.ones_like(t) for t in hidden]
        torch.testing.assert_close(cost(y, *new), torch.tensor(2.0))
        torch.testing.assert_close(dynamics(y, *new), torch.ones(2))

    def test_may_take_different_arguments(self):
        w = torch.tensor(2.0, requires_grad=True)
        x, u = torch.ones(3), torch.full((2,), 4.0)
        (f, g), hidden, _ = make_all_explicit((lambda x, u: w * x.sum() * u, (x, u)), (lambda x: x - w, (x,)))
        assert [id(t) for t in hidden] == [id(w)]
        torch.testing.assert_close(f(x, u, torch.tensor(1.0)), 3 * u)
        torch.testing.assert_close(g(x, torch.tensor(1.0)), torch.zeros(3))

    def test_that_hide_nothing_are_returned_as_they_are(self):
        def f(x):
            return 2 * x

        functions, hidden, _ = make_all_explicit((f, (torch.ones(2),)), (torch.sin, (torch.ones(1),)))
        assert functions == [f, torch.sin] and not hidden

    def test_a_tensor_made_by_one_is_not_hidden_in_the_other(self):
        w = torch.ones(2, requires_grad=True)
        made = []

        def first(y):
            made.append(w * y)
            return made[-1]

        _, hidden, _ = make_all_explicit((first, (torch.ones(2),)), (lambda y: y + made[-1].detach(), (torch.ones(2),)))
        assert [id(t) for t in hidden] == [id(w)]
