"""A model is cast as a whole: our layers inside it follow, lose nothing of their own, or say what they can't take.

(cvxgrp/cvxpylayers and locuslab/qpth have had both: layers whose constants were rounded, and silent half precision.)
"""

from __future__ import annotations

import pytest
import torch

from diffopt_lib import SGD, argmin, unroll
from diffopt_lib.layers import (
    capped_softmax,
    linear_svm,
    prototype_head,
    ridge_head,
    sinkhorn_operator,
    soft_rank,
    soft_sort,
    soft_top_k,
    softargmax,
    sparsemax,
    svm_head,
)
from diffopt_lib.sensitivity import logistic_regression

LABELS, SIGNS = torch.arange(3).repeat(2), torch.tensor([-1.0, 1.0]).repeat(3)


class Model(torch.nn.Module):
    """A linear map and a layer, with a temperature that is learned."""

    def __init__(self, layer):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(6, 6, generator=generator, dtype=torch.float64) / 2)
        self.tau = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.register_buffer("signs", SIGNS.double())
        self.layer = layer

    def forward(self, x):
        return self.layer(x @ self.weight, self.tau, self.signs)


def points(x):
    return x.unsqueeze(-2) * torch.arange(1, 7).to(x).unsqueeze(-1).sin()


LAYERS = {
    "softargmax": lambda x, tau, _: softargmax(x, tau),
    "sparsemax": lambda x, tau, _: sparsemax(x, tau),
    "soft_top_k": lambda x, tau, _: soft_top_k(x, 2, tau),
    "capped_softmax": lambda x, tau, _: capped_softmax(x, 0.4, tau),
    "soft_sort": lambda x, tau, _: soft_sort(x, tau),
    "soft_rank": lambda x, tau, _: soft_rank(x, tau, "entropic"),
    "sinkhorn_operator": lambda x, tau, _: sinkhorn_operator(points(x), tau),
    "ridge_head": lambda x, tau, _: ridge_head(points(x), LABELS, 3, tau).scores(x.unsqueeze(-2)),
    "prototype_head": lambda x, tau, _: tau * prototype_head(points(x), LABELS, 3).scores(x.unsqueeze(-2)),
    "svm_head": lambda x, tau, _: svm_head(points(x), LABELS, 3, tau).weights,
    "linear_svm": lambda x, tau, signs: linear_svm(points(x), signs, tau).weights,
    "logistic_regression": lambda x, tau, signs: logistic_regression(points(x), signs, tau).y,
    "argmin": lambda x, tau, _: argmin(lambda y, x: (y - x).cosh().sum(-1) + tau * y.square().sum(-1), x.detach(), x).y,
    "unroll": lambda x, tau, _: unroll(
        lambda y, x: (y - x).cosh().sum(-1), x.detach() + 1, x, optimizer=SGD(tau / 10), steps=3, checkpoint=True
    ),
}


def run(model, x):
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y)
    return y, *torch.autograd.grad((y * weights).sum(), [model.weight, model.tau])


@pytest.fixture
def x(generator):
    return torch.randn(2, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", LAYERS)
class TestCasts:
    def test_to_float_rounds_the_result_and_nothing_else(self, name, x):
        model = Model(LAYERS[name])
        exact = run(model, x)
        for got, value in zip(run(model.float(), x.float()), exact, strict=True):
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), value, rtol=5e-3, atol=5e-3 * value.abs().max().item() + 1e-6)

    def test_there_and_back_again_costs_the_digits_of_the_weights_alone(self, name, x):
        model = Model(LAYERS[name])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.float())
        exact = run(model, x)
        for got, value in zip(run(model.float().double(), x), exact, strict=True):
            torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_without_autocast_is_an_error_that_says_so(self, name, dtype, x):
        with pytest.raises(ValueError, match=f"must be float32 or float64, got {dtype}"):
            Model(LAYERS[name]).to(dtype)(x.to(dtype))

    def test_mixed_kinds_are_an_error_that_names_the_argument(self, name, x):
        model = Model(LAYERS[name])
        model.weight.data = model.weight.data.float()
        if name == "argmin":
            pytest.skip("what its function closes over follows torch's own rules")
        if name in ("prototype_head", "unroll"):
            pytest.skip("its temperature is none of the layer's")
        with pytest.raises(ValueError, match="must have the dtype of"):
            model(x.float())
