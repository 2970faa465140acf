"""The multi-class machine: the solutions of liblinear and Clarabel, derivatives with singular kernels too."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC
from svm_problems import DOUBLE, crammer_singer, primal_value, tasks

from diffopt_lib import SolverError
from diffopt_lib.layers import svm_head

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


class TestBadInput:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    labels = torch.tensor([0, 1, 2])

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
