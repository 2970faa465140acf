"""Machines with more examples than dimensions: the dual program, Clarabel and refits agree, at any price."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.svm import SVC
from svm_problems import DOUBLE, crammer_singer, dual_program, points, primal_value, tasks

from diffopt_lib.layers import linear_svm, svm_head


class TestMoreExamplesThanDimensions:
    """Where the dual programs are singular and a path in the weights leads to their solution."""

    def test_value_and_jacobian_are_the_dual_programs(self):
        features, labels = tasks((), 5, 3, seed=10)
        head = svm_head(features, labels, 3, 1.0)
        torch.testing.assert_close(head.weights, dual_program(features, labels, 3, 1.0), rtol=1e-7, atol=1e-7)
        ours = torch.func.jacrev(lambda f: svm_head(f, labels, 3, 1.0).weights)(features)
        theirs = torch.func.jacrev(lambda f: dual_program(f, labels, 3, 1.0))(features)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("d", [4, 32])
    @pytest.mark.parametrize("C", [0.1, 10.0])
    def test_fifteen_shots_of_five_classes_are_clarabels(self, d, C):
        features, labels = tasks((2,), 15, d, n_classes=5)
        head = svm_head(features, labels, 5, C)
        assert head.iterations.max() < 30
        for i in range(2):
            expected = crammer_singer(features[i].numpy(), labels.tolist(), 5, C)
            np.testing.assert_allclose(head.weights[i].numpy(), expected, atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("d", [4, 32])
    def test_their_derivative_by_refitting(self, d):
        features, labels = tasks((), 15, d, n_classes=5, seed=11)
        direction = torch.randn(features.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(12))

        def weights(features):
            return svm_head(features, labels, 5, 1.0).weights

        _, moved = torch.func.jvp(weights, (features,), (direction,))
        step = 1e-7
        expected = (weights(features + step * direction) - weights(features - step * direction)) / (2 * step)
        torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("C", [1e-3, 0.5, 20.0])
    def test_two_classes_without_bias_are_the_binary_machine(self, C):
        """Points and their mirror images with the other label need no bias, and w₁ − w₀ = w at half the price."""
        features, labels = points((), 9, 2, seed=15)
        features, labels = torch.cat([features, -features]), torch.cat([labels, -labels])
        two = linear_svm(features, labels, C)
        weights = svm_head(features, (labels > 0).long(), 2, C / 2).weights
        torch.testing.assert_close(weights[1] - weights[0], two.weights, rtol=1e-7, atol=1e-10)

    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_one_dimension_and_the_derivative_in_the_price(self, n_classes):
        features, labels = tasks((2,), 4, 1, n_classes=n_classes, seed=16)
        C = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
        arguments = (features.requires_grad_(), C)
        assert torch.autograd.gradcheck(lambda f, C: svm_head(f, labels, n_classes, C).weights, arguments)
        assert torch.autograd.gradgradcheck(lambda f, C: svm_head(f, labels, n_classes, C).weights, arguments)

    def test_vmap_over_features_labels_and_prices(self):
        features, labels = tasks((3,), 5, 2, seed=17)
        labels = torch.stack([labels, labels.flip(0), labels.roll(1)])
        C = torch.tensor([0.1, 1.0, 5.0], dtype=DOUBLE)
        each = torch.func.vmap(lambda f, y, C: svm_head(f, y, 3, C).weights)(features, labels, C)
        torch.testing.assert_close(each, svm_head(features, labels, 3, C).weights)

    def test_far_from_zero(self):
        """C ‖φ‖² ≈ 3 · 10⁵: what tells the examples apart is in the last digits of the kernel."""
        features, labels = tasks((), 6, 3)
        features = 300 + features
        weights = svm_head(features, labels, 3, 1.0).weights
        expected = torch.tensor(crammer_singer(features.numpy(), labels.tolist(), 3, 1.0))
        ours, theirs = (primal_value(W, features, labels, 1.0) for W in (weights, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("C", [0.01, 1.0, 100.0, 1e4])
    def test_leaving_out_any_point_of_data_on_a_grid(self, C):
        """Petals of iris are measured to a millimetre: points coincide, and several lie on one line, the margin."""
        data = load_iris()
        features = torch.tensor(data.data[data.target > 0, 2:])
        labels = torch.tensor(2.0 * data.target[data.target > 0] - 3)
        svm = linear_svm(features, labels, C, 1 - torch.eye(100, dtype=DOUBLE))
        for i in (0, 27, 50, 83):
            theirs = SVC(kernel="linear", C=C, tol=1e-9)
            keep = [j for j in range(100) if j != i]
            theirs.fit(features[keep].numpy(), labels[keep].numpy())
            values = [
                w.square().sum() / 2 + C * (1 - labels * (features @ w + b)).clamp_min(0)[keep].sum()
                for w, b in ((svm.weights[i], svm.bias[i]), (torch.tensor(theirs.coef_[0]), theirs.intercept_[0]))
            ]
            assert values[0] < values[1] * (1 + 1e-9)

    @pytest.mark.parametrize("shift", [0.5, 3.0], ids=["overlapping", "separable"])
    def test_beyond_some_price_the_weights_do_not_change(self, shift):
        """They minimise the sum of what is missed, or have the hard margin."""
        generator = torch.Generator().manual_seed(1)
        labels = torch.tensor([1.0, -1.0], dtype=DOUBLE).repeat(10)
        features = torch.randn(20, 2, dtype=DOUBLE, generator=generator) + shift * labels[:, None]
        for C in (1e4, 1e6, 1e8, 1e10):
            for fit in (
                lambda C: linear_svm(features, labels, C).weights,
                lambda C: svm_head(features, (labels > 0).long(), 2, C).weights,
            ):
                torch.testing.assert_close(fit(C), fit(1e3), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("C", [1.0, 21.9, 300.0])
    def test_opposite_labels_at_one_place(self, C):
        """w = 0, and b = −1 is held by wishes with λ = s = 0 alone."""
        features = torch.tensor([[0.6], [0.6], [-1.4]], dtype=DOUBLE)
        svm = linear_svm(features, torch.tensor([-1.0, 1.0, -1.0], dtype=DOUBLE), C)
        torch.testing.assert_close(torch.cat([svm.weights, svm.bias[None]]), torch.tensor([0.0, -1.0], dtype=DOUBLE))

    def test_two_classes_with_a_price_each(self):
        """A constant feature with no price of its own is a bias; prices differ, and one of them is 0."""
        features, labels = points((), 20, 3, seed=13)
        weights = torch.rand(20, dtype=DOUBLE, generator=torch.Generator().manual_seed(14))
        weights[4] = 0
        ours = linear_svm(features, labels, 2.0, weights)
        theirs = SVC(kernel="linear", C=2.0, tol=1e-12)
        theirs.fit(features.numpy(), labels.numpy(), sample_weight=weights.numpy())
        np.testing.assert_allclose(ours.weights.numpy(), theirs.coef_[0], atol=1e-6)
        np.testing.assert_allclose(ours.bias.item(), theirs.intercept_[0], atol=1e-6)
