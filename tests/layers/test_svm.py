"""Support vector machines: the solutions of liblinear, libsvm and Clarabel, derivatives with singular kernels too."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.svm import SVC, LinearSVC

from diffopt_lib import SolverError
from diffopt_lib.layers import linear_svm, solve_qp, svm_head

DOUBLE = torch.float64


def tasks(batch, shots, d, n_classes=3, seed=0, spread=0.5, dtype=DOUBLE):
    """Gaussian classes whose means are ``spread`` apart; features of length about 1."""
    g = torch.Generator().manual_seed(seed)
    centre = spread * torch.randn(*batch, n_classes, 1, d, dtype=DOUBLE, generator=g)
    noise = torch.randn(*batch, n_classes, shots, d, dtype=DOUBLE, generator=g)
    features = (centre + noise).flatten(-3, -2) / d**0.5
    return features.to(dtype), torch.arange(n_classes).repeat_interleave(shots)


def points(batch, n, d, seed=0, spread=1.0, dtype=DOUBLE):
    """Two overlapping Gaussian classes with labels −1 and +1."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.tensor([-1.0, 1.0], dtype=DOUBLE).repeat(n)[:n]
    features = torch.randn(*batch, n, d, dtype=DOUBLE, generator=g) + spread * labels.unsqueeze(-1) / d**0.5 + 0.3
    return features.to(dtype), labels.to(dtype)


def crammer_singer(features, labels, n_classes, C):
    """Eq. (1) with Clarabel: W."""
    W, xi = cp.Variable((n_classes, features.shape[1])), cp.Variable(len(features))
    scores = features @ W.T
    constraints = [xi >= 0]
    for i, own in enumerate(labels):
        constraints += [scores[i, own] - scores[i, k] >= 1 - xi[i] for k in range(n_classes) if k != own]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(W) / 2 + C * cp.sum(xi)), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return W.value


def primal_value(W, features, labels, C):
    """Eq. (1) with the best ξ, for scores computed from scratch."""
    scores = features @ W.mT
    own = scores.gather(-1, labels.expand(scores.shape[:-1]).unsqueeze(-1))
    wished = scores - own + (torch.arange(scores.shape[-1]) != labels.unsqueeze(-1))
    return W.square().sum((-2, -1)) / 2 + C * wished.amax(-1).sum(-1)


MORE_EXAMPLES, MORE_DIMENSIONS = (2, 2), (2, 7)  # (shots, d) for 3 classes: n = 6 > d = 2, and n = 6 < d = 7


class TestSVMHead:
    @pytest.mark.parametrize(("shots", "d"), [MORE_EXAMPLES, MORE_DIMENSIONS, (1, 5), (6, 2)])
    @pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
    def test_weights_are_clarabels(self, shots, d, C):
        features, labels = tasks((2,), shots, d)
        head = svm_head(features, labels, 3, C)
        for i in range(2):
            expected = crammer_singer(features[i].numpy(), labels.tolist(), 3, C)
            np.testing.assert_allclose(head.weights[i].numpy(), expected, atol=1e-6, rtol=1e-6)

    def test_weights_on_real_digits_are_liblinears(self):
        data = load_digits()
        features, classes = torch.tensor(data.data[:50] / 16), torch.tensor(data.target[:50])
        theirs = LinearSVC(multi_class="crammer_singer", C=0.1, fit_intercept=False, tol=1e-10, max_iter=1_000_000)
        theirs.fit(features.numpy(), classes.numpy())
        ours = svm_head(features, classes, 10, 0.1)
        np.testing.assert_allclose(ours.weights.numpy(), theirs.coef_, atol=1e-6)
        assert (ours.scores(features).argmax(-1).numpy() == theirs.predict(features.numpy())).all()

    def test_primal_and_dual_values_agree(self):
        """Strong duality, with the dual value from ``dual`` alone: Σᵢ αᵢ,own − ½ ‖αᵀΦ‖²."""
        features, labels = tasks((5,), 5, 4)
        head = svm_head(features, labels, 3, 0.7)
        reward = head.dual.gather(-1, labels.expand(5, -1).unsqueeze(-1)).sum((-2, -1))
        dual_value = reward - (head.dual.mT @ features).square().sum((-2, -1)) / 2
        torch.testing.assert_close(dual_value, primal_value(head.weights, features, labels, 0.7))
        own = torch.arange(3) == labels.unsqueeze(-1)
        assert ((head.dual >= -1e-12) | ~own).all() and ((head.dual <= 1e-12) | own).all()
        torch.testing.assert_close(head.dual.sum(-1), torch.zeros(5, 15, dtype=DOUBLE))
        assert head.dual.abs().max() <= 0.7 + 1e-12 and head.converged.all()

    @pytest.mark.parametrize(("shots", "d"), [MORE_EXAMPLES, MORE_DIMENSIONS, (1, 4)])
    @pytest.mark.parametrize("C", [0.2, 2.0])
    def test_first_and_second_derivatives_of_the_scores(self, shots, d, C):
        features, labels = tasks((), shots, d, seed=1)
        query = torch.randn(1, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        C = torch.tensor(C, dtype=DOUBLE).requires_grad_()
        arguments = (features.requires_grad_(), query.requires_grad_(), C)

        def scores(features, query, C):
            return svm_head(features, labels, 3, C).scores(query)

        assert torch.autograd.gradcheck(scores, arguments)
        assert torch.autograd.gradgradcheck(scores, arguments)

    def test_forward_mode(self):
        features, labels = tasks((2,), 2, 3, seed=3)
        assert torch.autograd.gradcheck(
            lambda f: svm_head(f, labels, 3, 0.5).weights,
            features.requires_grad_(),
            check_forward_ad=True,
            check_backward_ad=False,
        )

    def test_derivative_by_refitting_with_clarabel(self):
        features, labels = tasks((), *MORE_EXAMPLES, seed=4)
        direction = torch.randn(features.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
        _, ours = torch.func.jvp(lambda f: svm_head(f, labels, 3, 1.0).weights, (features,), (direction,))
        step = 1e-4
        plus, minus = (
            crammer_singer((features + sign * step * direction).numpy(), labels.tolist(), 3, 1.0) for sign in (1, -1)
        )
        np.testing.assert_allclose(ours.numpy(), (plus - minus) / (2 * step), atol=1e-4, rtol=1e-4)

    def test_scores_do_not_change_when_support_and_query_rotate(self):
        features, labels = tasks((2,), 3, 4)
        g = torch.Generator().manual_seed(6)
        rotation = torch.linalg.qr(torch.randn(4, 4, dtype=DOUBLE, generator=g)).Q
        query = torch.randn(2, 7, 4, dtype=DOUBLE, generator=g)
        rotated = svm_head(features @ rotation, labels, 3).scores(query @ rotation)
        torch.testing.assert_close(rotated, svm_head(features, labels, 3).scores(query))

    def test_the_order_of_examples_does_not_matter_and_that_of_classes_permutes_the_scores(self):
        features, labels = tasks((), 3, 4)
        head = svm_head(features, labels, 3, 1.0)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(7))
        shuffled = svm_head(features[order], labels[order], 3, 1.0)
        torch.testing.assert_close(shuffled.weights, head.weights)
        torch.testing.assert_close(shuffled.dual, head.dual[order])
        rename = torch.tensor([2, 0, 1])
        torch.testing.assert_close(svm_head(features, rename[labels], 3, 1.0).weights[rename], head.weights)

    @pytest.mark.parametrize("scale", [1e-4, 1e4])
    @pytest.mark.parametrize("C", [1e-8, 0.1, 1e4])
    def test_other_units_give_the_same_classifier(self, scale, C):
        """φ → sφ and C → C/s² give W → W/s; C = 10⁻⁸ is as well conditioned as any."""
        features, labels = tasks((2,), 4, 3, spread=0.3)

        def fit(features, C):
            features = features.clone().requires_grad_()
            weights = svm_head(features, labels, 3, C).weights
            return weights, torch.autograd.grad(weights.square().sum(), features)[0]

        weights, gradient = fit(features, C)
        scaled, scaled_gradient = fit(scale * features, C / scale**2)
        assert (scale * scaled - weights).norm() <= 1e-6 * weights.norm()
        assert (scale**3 * scaled_gradient - gradient).norm() <= 1e-5 * gradient.norm()

    def test_small_prices_give_weights_in_proportion(self):
        """As C → 0 every wish is missed, and W is C times the solution of a problem without C."""
        features, labels = tasks((3,), 4, 3)
        large, small = (svm_head(features, labels, 3, C).weights for C in (1e-3, 1e-9))
        torch.testing.assert_close(large / 1e-3, small / 1e-9)

    def test_separable_data_with_a_huge_price_have_the_hard_margin(self):
        features, labels = tasks((3,), 2, 10)
        soft, huge = (svm_head(features, labels, 3, C).weights for C in (1e3, 1e8))
        torch.testing.assert_close(soft, huge, rtol=1e-5, atol=1e-5)
        wished = primal_value(soft, features, labels, 1.0) - soft.square().sum((-2, -1)) / 2
        torch.testing.assert_close(wished, torch.zeros(3, dtype=DOUBLE), atol=1e-8, rtol=0)

    def test_a_class_absent_from_one_element_only(self):
        features, _ = tasks((2,), 2, 4)
        labels = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 0, 1]])
        features = features.requires_grad_()
        head = svm_head(features, labels, 3, 1.0)
        expected = crammer_singer(features[1].detach().numpy(), labels[1].tolist(), 3, 1.0)
        np.testing.assert_allclose(head.weights[1].detach().numpy(), expected, atol=1e-6)
        assert torch.autograd.gradcheck(lambda f: svm_head(f, labels, 3, 1.0).weights, features)

    def test_identical_examples_move_together(self):
        """λ is not unique then, but W is, and so is its derivative along moves that keep the twins together."""
        features, labels = tasks((), 3, 2, seed=8)
        twin = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 3, 8])

        def weights(features):
            return svm_head(features[twin], labels[twin], 3, 1.0).weights

        expected = crammer_singer(features[twin].numpy(), labels[twin].tolist(), 3, 1.0)
        np.testing.assert_allclose(weights(features).numpy(), expected, atol=1e-6)
        assert torch.autograd.gradcheck(weights, features.requires_grad_())

    def test_where_no_direction_helps_weights_and_derivative_are_zero(self):
        """Classes so mixed that W = 0 is optimal, and stays so: every wish is missed, λ is far from unique."""
        features, labels = tasks((2,), 6, 2)
        features = features[1].requires_grad_()
        assert np.abs(crammer_singer(features.detach().numpy(), labels.tolist(), 3, 1.0)).max() < 1e-8
        head = svm_head(features, labels, 3, 1.0)
        direction = torch.randn(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(9))
        (gradient,) = torch.autograd.grad((direction * head.weights).sum(), features)
        assert head.weights.abs().max() < 1e-12 and gradient.abs().max() < 1e-12

    @pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
    def test_features_that_are_zero_equal_or_collinear(self, C):
        """Kernels without full rank although n < d."""
        features, labels = tasks((), 3, 20, seed=8)
        zeros, twins, line = (
            features.clone(),
            features.clone(),
            features[:1] * torch.linspace(-1, 1, 9)[:, None].to(DOUBLE),
        )
        zeros[[0, 4]] = 0
        twins[1] = twins[0]
        for support in (zeros, twins, line, features[:1].expand(9, 20)):
            head = svm_head(support, labels, 3, C)
            np.testing.assert_allclose(head.weights, crammer_singer(support.numpy(), labels.tolist(), 3, C), atol=1e-6)

    def test_conflicting_labels_of_one_point(self):
        features = torch.ones(2, 3, dtype=DOUBLE)
        head = svm_head(features, torch.tensor([0, 1]), 2, 1.0)
        torch.testing.assert_close(head.weights, torch.zeros(2, 3, dtype=DOUBLE))

    def test_features_that_are_all_zero_have_weights_zero(self):
        head = svm_head(torch.zeros(4, 3, dtype=DOUBLE), torch.tensor([0, 1, 0, 1]), 2)
        torch.testing.assert_close(head.weights, torch.zeros(2, 3, dtype=DOUBLE))

    def test_float32_is_float64_rounded(self):
        features, labels = tasks((4,), 5, 3, dtype=torch.float32)

        def fit(features):
            features = features.clone().requires_grad_()
            head = svm_head(features, labels, 3, 1.0)
            return head, torch.autograd.grad(head.weights.square().sum(), features)[0]

        (single, gradient), (double, exact) = fit(features), fit(features.double())
        assert single.weights.dtype == single.dual.dtype == single.residual.dtype == gradient.dtype == torch.float32
        torch.testing.assert_close(single.weights.double(), double.weights, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2), (0,)])
    def test_any_batch_shape(self, batch, dtype, device):
        features, labels = tasks(batch, 2, 4, dtype=dtype)
        head = svm_head(features.to(device), labels.to(device), 3)
        assert head.weights.shape == (*batch, 3, 4) and head.bias.shape == (*batch, 3)
        assert head.dual.shape == (*batch, 6, 3)
        assert head.converged.shape == head.iterations.shape == head.residual.shape == batch
        assert head.scores(features.to(device)).shape == (*batch, 6, 3)

    def test_prices_of_a_batch_share_the_features(self):
        features, labels = tasks((), 3, 4)
        C = torch.tensor([[0.1, 1.0], [3.0, 10.0]], dtype=DOUBLE)
        path = svm_head(features, labels, 3, C).weights
        assert path.shape == (2, 2, 3, 4)
        torch.testing.assert_close(path[1, 0], svm_head(features, labels, 3, 3.0).weights)

    def test_vmap_and_jacrev(self):
        features, labels = tasks((3,), 2, 4)
        each = labels[torch.stack([torch.arange(6), torch.arange(6).flip(0), torch.arange(6).roll(1)])]

        def weights(features, labels):
            return svm_head(features, labels, 3, 0.5).weights

        torch.testing.assert_close(torch.func.vmap(weights)(features, each), weights(features, each))
        reverse = torch.func.vmap(torch.func.jacrev(weights))(features, each)
        forward = torch.func.vmap(torch.func.jacfwd(weights))(features, each)
        torch.testing.assert_close(reverse, forward)

    def test_a_solution_is_where_the_solver_stops_at_once(self):
        features, labels = tasks((4,), 5, 4)
        cold = svm_head(features, labels, 3, 1.0)
        warm = svm_head(features, labels, 3, 1.0, init=cold)
        assert cold.iterations.min() > 2 and warm.iterations.max() <= 1
        torch.testing.assert_close(warm.weights, cold.weights)

    def test_failures_raise_or_become_nan(self):
        features, labels = tasks((2,), 5, 2, spread=0.1)
        with pytest.raises(SolverError, match="did not reach"):
            svm_head(features, labels, 3, 10.0, max_iterations=1)
        features = features.requires_grad_()
        head = svm_head(features, labels, 3, 10.0, max_iterations=1, on_failure="nan")
        assert not head.converged.any() and head.weights.isnan().all()
        assert torch.autograd.grad(head.weights.sum(), features)[0].isnan().all()


def dual_program(features, labels, n_classes, C):
    """Eq. (2), written down for :func:`solve_qp`, which is left to solve it from its own starting point: W."""
    n = len(labels)
    wishes = [(i, k) for i in range(n) for k in range(n_classes) if k != labels[i]]
    e = torch.eye(n_classes, dtype=DOUBLE)
    rows = torch.stack([torch.outer(e[labels[i]] - e[k], features[i]).flatten() for i, k in wishes])
    own = torch.tensor([[float(j == i) for j, _ in wishes] for i in range(n)], dtype=DOUBLE)
    m = len(wishes)
    G = torch.cat([-torch.eye(m, dtype=DOUBLE), own])
    h = torch.cat([torch.zeros(m, dtype=DOUBLE), torch.full((n,), C, dtype=DOUBLE)])
    lam = solve_qp(rows @ rows.mT, -torch.ones(m, dtype=DOUBLE), G=G, h=h).y
    return (lam @ rows).reshape(n_classes, -1)


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
    labels = torch.tensor([0, 1, 2])
    signs = torch.tensor([-1.0, 1.0, 1.0])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"features": [[1.0]]}, "features must be a torch tensor"),
            ({"features": torch.ones(3, dtype=torch.float32)}, "features must have shape"),
            ({"features": torch.full((3, 2), torch.nan)}, "features must be finite"),
            ({"labels": torch.tensor([0.0, 1.0, 2.0])}, "labels must be an int64 tensor, got torch.float32"),
            ({"labels": torch.tensor([0, 1])}, "labels must have shape"),
            ({"labels": torch.tensor([0, 1, 3])}, "labels must lie in 0 … 2, got values from 0 to 3"),
            ({"labels": torch.zeros(2, 3, dtype=torch.int64), "features": torch.ones(3, 3, 2)}, "must broadcast"),
            ({"n_classes": 1}, "n_classes must be an integer, at least 2"),
            ({"n_classes": 3.0}, "n_classes must be an integer"),
            ({"C": 0.0}, "C must be positive"),
            ({"C": torch.inf}, "C must be finite"),
            ({"C": torch.ones((), dtype=DOUBLE)}, "C must have the dtype of features"),
            ({"on_failure": "closest"}, "on_failure must be one of"),
        ],
    )
    def test_of_svm_head(self, changes, message):
        arguments = {"features": self.features, "labels": self.labels, "n_classes": 3} | changes
        with pytest.raises(ValueError, match=message):
            svm_head(**arguments)

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
            linear_svm(**({"features": self.features, "labels": self.signs} | changes))
