"""The machine with two classes and a bias: the solutions of libsvm, and derivatives by refitting."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.svm import SVC
from svm_problems import DOUBLE, points

from diffopt_lib import SolverError
from diffopt_lib.layers import linear_svm


class TestLinearSVM:
    @pytest.mark.parametrize(("n", "d"), [(12, 2), (8, 20), (40, 5)])
    @pytest.mark.parametrize("C", [0.3, 5.0])
    def test_weights_bias_and_dual_are_libsvms(self, n, d, C):
        features, labels = points((2,), n, d)
        ours = linear_svm(features, labels, C)
        for i in range(2):
            theirs = SVC(kernel="linear", C=C, tol=1e-12).fit(features[i].numpy(), labels.numpy())
            np.testing.assert_allclose(ours.weights[i].numpy(), theirs.coef_[0], atol=1e-5)
            np.testing.assert_allclose(ours.bias[i].item(), theirs.intercept_[0], atol=1e-5)
            dual = np.zeros(n)
            dual[theirs.support_] = np.abs(theirs.dual_coef_[0])
            np.testing.assert_allclose(ours.dual[i].numpy(), dual, atol=1e-4)
            query = torch.randn(5, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
            np.testing.assert_allclose(
                ours.decision(query)[i].numpy(), theirs.decision_function(query.numpy()), atol=1e-5
            )

    def test_real_data_in_their_own_units(self):
        """Columns between 0.01 and 1000, far from 0: libsvm needs them standardised, and then agrees."""
        X, y = load_breast_cancer(return_X_y=True)
        X, y = X[::4], 2.0 * y[::4] - 1
        scaled = (X - X.mean(0)) / X.std(0)
        ours = linear_svm(torch.tensor(scaled), torch.tensor(y), 1.0)
        theirs = SVC(kernel="linear", C=1.0, tol=1e-10).fit(scaled, y)
        np.testing.assert_allclose(ours.weights.numpy(), theirs.coef_[0], atol=1e-6)
        np.testing.assert_allclose(ours.bias.item(), theirs.intercept_[0], atol=1e-6)
        X, y = torch.tensor(X), torch.tensor(y)
        raw = linear_svm(X, y, 1e-3)
        assert raw.converged and (raw.decision(X).sign() == y).double().mean() > 0.9
        direction = X.std(0) * torch.randn(X.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
        _, moved = torch.func.jvp(lambda X: linear_svm(X, y, 1e-4).weights, (X,), (direction,))
        step = 1e-8
        plus, minus = (linear_svm(X + s * step * direction, y, 1e-4).weights for s in (1, -1))
        torch.testing.assert_close(moved, (plus - minus) / (2 * step), rtol=1e-4, atol=1e-4 * moved.abs().max().item())

    @pytest.mark.parametrize(("n", "d"), [(8, 2), (5, 6)])
    def test_first_and_second_derivatives_of_the_boundary(self, n, d):
        features, labels = points((), n, d, seed=1)
        C = torch.tensor(0.8, dtype=DOUBLE)
        weights = 0.5 + torch.rand(n, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        arguments = tuple(t.requires_grad_() for t in (features, C, weights))

        def boundary(features, C, weights):
            svm = linear_svm(features, labels, C, weights)
            return svm.weights, svm.bias, svm.dual

        assert torch.autograd.gradcheck(boundary, arguments)
        assert torch.autograd.gradgradcheck(boundary, arguments)

    def test_derivative_by_refitting_with_libsvm(self):
        features, labels = points((), 12, 2, seed=3)
        direction = torch.randn(12, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))

        def ours(features):
            svm = linear_svm(features, labels, 1.0)
            return torch.cat([svm.weights, svm.bias[None]])

        def theirs(features):
            svc = SVC(kernel="linear", C=1.0, tol=1e-12).fit(features.numpy(), labels.numpy())
            return np.concatenate([svc.coef_[0], svc.intercept_])

        _, moved = torch.func.jvp(ours, (features,), (direction,))
        step = 1e-3  # libsvm's own error is some 10⁻⁷
        expected = (theirs(features + step * direction) - theirs(features - step * direction)) / (2 * step)
        np.testing.assert_allclose(moved.numpy(), expected, atol=5e-4)

    def test_only_support_vectors_pull(self):
        features, labels = points((), 30, 2, seed=5, spread=2.0)
        svm = linear_svm(features.requires_grad_(), labels, 1.0)
        (gradient,) = torch.autograd.grad(svm.weights.sum() + svm.bias, features)
        support = svm.dual > 1e-9
        assert support.any() and not support.all()
        assert gradient[~support].abs().max() < 1e-10 and gradient[support].norm(dim=-1).min() > 1e-6

    @pytest.mark.parametrize("unit", [1e-4, 1e4])
    def test_other_units_give_the_same_boundary(self, unit):
        """x → sx and C → C/s² give w → w/s and the same b; with C small, the larger class alone holds the margin."""
        features, labels = points((), 12, 3)
        labels[0] = 1
        for C in (1e-9, 1.0, 1e3):
            svm, scaled = linear_svm(features, labels, C), linear_svm(unit * features, labels, C / unit**2)
            torch.testing.assert_close(unit * scaled.weights / C, svm.weights / C, rtol=1e-6, atol=1e-6 / C)
            torch.testing.assert_close(scaled.bias, svm.bias, rtol=1e-6, atol=1e-6)
        tiny, small = (linear_svm(features, labels, C) for C in (1e-9, 1e-4))
        torch.testing.assert_close(tiny.weights / 1e-9, small.weights / 1e-4)
        torch.testing.assert_close((1 - tiny.bias) / 1e-9, (1 - small.bias) / 1e-4, rtol=1e-5, atol=1e-5)

    def test_the_origin_does_not_matter(self):
        features, labels = points((), 12, 3)
        svm, far = linear_svm(features, labels), linear_svm(features + 1e4, labels)
        torch.testing.assert_close(far.weights, svm.weights, rtol=1e-6, atol=1e-6)
        query = torch.zeros(1, 3, dtype=DOUBLE)
        torch.testing.assert_close(far.decision(query + 1e4), svm.decision(query), rtol=1e-6, atol=1e-6)

    def test_a_weight_is_a_repetition_and_weight_zero_an_absence(self):
        features, labels = points((), 12, 2)
        weights = torch.ones(12, dtype=DOUBLE)
        weights[0], weights[1] = 2, 0
        repeated = torch.tensor([0, 0, *range(2, 12)])
        weighted, counted = linear_svm(features, labels, 1.0, weights), linear_svm(features[repeated], labels[repeated])
        torch.testing.assert_close(weighted.weights, counted.weights)
        torch.testing.assert_close(weighted.bias, counted.bias)

    def test_leave_one_out_as_a_batch_of_weights(self):
        features, labels = points((), 10, 2)
        svm = linear_svm(features, labels, 1.0, 1 - torch.eye(10, dtype=DOUBLE))
        assert svm.weights.shape == (10, 2)
        for i in range(10):
            keep = torch.arange(10) != i
            torch.testing.assert_close(svm.weights[i], linear_svm(features[keep], labels[keep]).weights)

    def test_prices_are_the_derivatives_of_the_optimal_value(self):
        """The shadow price of missing the margin: d value / d Cᵢ = ξᵢ, and d value / d xᵢ = −λᵢ yᵢ w (envelope)."""
        features, labels = points((), 14, 2, seed=6)
        weights = torch.ones(14, dtype=DOUBLE)

        def value(features, weights):
            svm = linear_svm(features, labels, 2.0, weights)
            xi = (1 - labels * svm.decision(features)).clamp_min(0)
            return svm.weights.square().sum() / 2 + (2.0 * weights * xi).sum()

        by_points, by_weights = torch.func.grad(value, argnums=(0, 1))(features, weights)
        svm = linear_svm(features, labels, 2.0)
        xi = (1 - labels * svm.decision(features)).clamp_min(0)
        torch.testing.assert_close(by_weights, 2.0 * xi, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(by_points, -(svm.dual * labels).unsqueeze(-1) * svm.weights, rtol=1e-6, atol=1e-7)

    def test_hard_margin_of_two_points_is_their_bisector(self):
        features = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=DOUBLE).requires_grad_()
        svm = linear_svm(features, torch.tensor([-1.0, 1.0], dtype=DOUBLE), 1e8)
        torch.testing.assert_close(svm.weights, torch.tensor([1.0, 0.0], dtype=DOUBLE))
        torch.testing.assert_close(svm.bias, torch.tensor(-1.0, dtype=DOUBLE))
        # The boundary is at (x₁ + x₂)/2 along the axis: each point moves it by half its own move.
        (gradient,) = torch.autograd.grad(-svm.bias / svm.weights[0], features)
        torch.testing.assert_close(gradient[:, 0], torch.full((2,), 0.5, dtype=DOUBLE))

    def test_a_bias_that_is_not_unique(self):
        """All multipliers at their bound: an interval of biases is optimal, w is not affected."""
        features = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE).requires_grad_()
        labels = torch.tensor([-1.0, 1.0], dtype=DOUBLE)
        svm = linear_svm(features, labels, 0.1)
        torch.testing.assert_close(svm.weights, torch.tensor([0.2], dtype=DOUBLE))  # C (x₂ − x₁)
        assert svm.bias.abs() <= 0.8 + 1e-9  # both margins missed as long as |b| ≤ 1 − w
        (gradient,) = torch.autograd.grad(svm.weights.sum(), features)
        torch.testing.assert_close(gradient, torch.tensor([[-0.1], [0.1]], dtype=DOUBLE))
        with pytest.raises(SolverError, match="not unique"):
            linear_svm(features, labels, 0.1).bias.backward()
        smooth = linear_svm(features, labels, 0.1, smoothing=1e-3)
        assert torch.isfinite(torch.autograd.grad(smooth.bias, features)[0]).all()

    def test_smoothing_tends_to_the_derivative(self):
        features, labels = points((), 12, 2, seed=7)
        features = features.requires_grad_()

        def gradient(smoothing):
            svm = linear_svm(features, labels, 1.0, smoothing=smoothing)
            return torch.autograd.grad(svm.weights.sum() + svm.bias, features)[0]

        exact = gradient(0.0)
        errors = [(gradient(mu) - exact).norm() / exact.norm() for mu in (1e-2, 1e-6)]
        assert errors[1] < 1e-2 < errors[0]

    @pytest.mark.parametrize("d", [2, 9])
    @pytest.mark.parametrize("mu", [1e-1, 1e-3])
    def test_smoothed_derivative_is_that_of_the_barrier_problem(self, d, mu):
        """min ½‖w‖² + C Σ ξ − μ Σ log s − μ Σ log ξ with s = y (wᵀx + b) − 1 + ξ, differentiated by differences."""
        features, labels = points((), 6, d, seed=7)
        features = features - features.mean(0)
        features = features / features.norm(dim=-1).max()  # the units in which μ is meant

        def barrier(v, x):
            w, b, xi = v[:d], v[d], v[d + 1 :]
            s = labels * (x @ w + b) - 1 + xi
            return w.square().sum() / 2 + xi.sum() - mu * (s.log().sum() + xi.log().sum())

        def minimum(x):
            v = torch.cat([torch.zeros(d + 1, dtype=DOUBLE), torch.full((6,), 2.0, dtype=DOUBLE)])
            for _ in range(40):
                step = torch.linalg.solve(torch.func.hessian(barrier)(v, x), -torch.func.grad(barrier)(v, x))
                length = 1.0
                while not barrier(v + length * step, x) <= barrier(v, x) + 1e-12:  # nor is NaN, outside the domain
                    length /= 2
                v = v + length * step
            return v[:d].sum() + v[d]

        features.requires_grad_()
        svm = linear_svm(features, labels, 1.0, smoothing=mu)
        (ours,) = torch.autograd.grad(svm.weights.sum() + svm.bias, features)
        for i in range(6):
            direction = torch.zeros_like(features)
            direction[i, 0] = 1e-4
            ends = [minimum(features.detach() + sign * direction) for sign in (1, -1)]
            torch.testing.assert_close(ours[i, 0], (ends[0] - ends[1]) / 2e-4, rtol=1e-4, atol=1e-5)

    def test_batch_float32_and_vmap(self, dtype):
        features, labels = points((3,), 8, 2, dtype=dtype)
        svm = linear_svm(features, labels)
        assert svm.weights.shape == (3, 2) and svm.bias.shape == (3,) and svm.dual.shape == (3, 8)
        assert svm.weights.dtype == svm.bias.dtype == dtype and svm.decision(features).shape == (3, 8)
        vmapped = torch.func.vmap(lambda x: linear_svm(x, labels).weights)(features)
        torch.testing.assert_close(vmapped, svm.weights)

    def test_a_solution_is_where_the_solver_stops_at_once(self):
        features, labels = points((4,), 20, 2)
        cold = linear_svm(features, labels)
        warm = linear_svm(features, labels, init=cold)
        assert warm.iterations.max() <= 1
        torch.testing.assert_close(warm.bias, cold.bias)


class TestBadInput:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    labels = torch.tensor([-1.0, 1.0, 1.0])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"features": torch.full((3, 2), torch.inf)}, "features must be finite"),
            ({"labels": torch.tensor([0, 1, 1])}, "labels must be float32 or float64"),
            ({"labels": torch.tensor([0.0, 1.0, 1.0])}, "labels must be -1 or"),
            ({"labels": torch.ones(3)}, "labels must contain both"),
            ({"labels": torch.tensor([-1.0, 1.0])}, "labels must have shape"),
            ({"C": -1.0}, "C must be positive"),
            ({"sample_weights": torch.tensor([1.0, -1.0, 1.0])}, "sample_weights must be at least 0, got -1"),
            ({"sample_weights": torch.ones(2)}, "sample_weights must have shape"),
            ({"smoothing": -1.0}, "smoothing must be at least 0"),
        ],
    )
    def test_of_linear_svm(self, changes, message):
        with pytest.raises(ValueError, match=message):
            linear_svm(**({"features": self.features, "labels": self.labels} | changes))
