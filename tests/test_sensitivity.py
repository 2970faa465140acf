"""Fits as functions of their data: scikit-learn's solutions, refits without each point of a real data set, attacks."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from diffopt_lib import SolverError
from diffopt_lib.layers import linear_svm, solve_qp
from diffopt_lib.sensitivity import influence, logistic_loss, logistic_regression, loss_influence, poison, sensitivity

DOUBLE = torch.float64


def points(batch, n, d, seed=0, dtype=DOUBLE):
    g = torch.Generator().manual_seed(seed)
    labels = torch.tensor([-1.0, 1.0], dtype=DOUBLE).repeat(n)[:n]
    return (torch.randn(*batch, n, d, dtype=DOUBLE, generator=g) + 0.7 * labels[:, None]).to(dtype), labels.to(dtype)


@pytest.fixture(scope="module")
def cancer():
    """Standardised features with a column of ones, labels ±1, of every fourth tumour."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    return torch.tensor(np.c_[X, np.ones(len(X))])[::4], torch.tensor(2.0 * y - 1)[::4]


class TestLogisticRegression:
    @pytest.mark.parametrize("weight_decay", [0.1, 1.0, 30.0])
    def test_parameters_on_real_data_are_scikit_learns(self, cancer, weight_decay):
        X, y = cancer
        theirs = LogisticRegression(C=1 / weight_decay, fit_intercept=False, tol=1e-12, max_iter=10_000)
        theirs.fit(X.numpy(), y.numpy())
        fit = logistic_regression(X, y, weight_decay)
        assert fit.converged
        np.testing.assert_allclose(fit.y.numpy(), theirs.coef_[0], atol=1e-5)

    def test_weights_are_scikit_learns(self, cancer):
        X, y = cancer
        w = torch.rand(len(y), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        theirs = LogisticRegression(fit_intercept=False, tol=1e-12, max_iter=10_000)
        theirs.fit(X.numpy(), y.numpy(), sample_weight=w.numpy())
        np.testing.assert_allclose(logistic_regression(X, y, 1.0, w).y.numpy(), theirs.coef_[0], atol=1e-5)

    def test_first_and_second_derivatives_in_every_argument(self):
        X, y = points((2,), 5, 2)
        w = 0.5 + torch.rand(2, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        decay = torch.tensor([0.3, 1.0], dtype=DOUBLE)
        arguments = tuple(t.requires_grad_() for t in (X, decay, w))

        def fit(X, decay, w):
            return logistic_regression(X, y, decay, w, tolerance=1e-12).y

        assert torch.autograd.gradcheck(fit, arguments)
        assert torch.autograd.gradgradcheck(fit, arguments)

    def test_forward_mode(self):
        X, y = points((), 5, 2)
        reverse = torch.func.jacrev(lambda X: logistic_regression(X, y, 1.0).y)(X)
        forward = torch.func.jacfwd(lambda X: logistic_regression(X, y, 1.0).y)(X)
        torch.testing.assert_close(forward, reverse)

    def test_the_derivative_in_a_label_is_defined_too(self):
        """Labels are numbers to the loss, though only ±1 are admitted."""
        X, y = points((), 6, 2)
        (gradient,) = torch.autograd.grad(logistic_regression(X, y.requires_grad_(), 1.0).y.sum(), y)
        assert (gradient.abs() > 1e-6).all()

    @pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
    def test_any_batch_shape(self, batch, dtype, device):
        X, y = points(batch, 8, 3, dtype=dtype)
        fit = logistic_regression(X.to(device), y.to(device), 1.0)
        assert fit.y.shape == (*batch, 3) and fit.y.dtype == dtype
        assert fit.converged.shape == fit.value.shape == batch

    def test_a_path_of_decays_shares_the_data(self):
        X, y = points((), 8, 3)
        decays = torch.tensor([0.1, 1.0, 10.0], dtype=DOUBLE)
        path = logistic_regression(X, y, decays).y
        for theta, decay in zip(path, decays, strict=True):
            torch.testing.assert_close(theta, logistic_regression(X, y, decay.item()).y)

    def test_vmap(self):
        X, y = points((3,), 6, 2)
        each = torch.func.vmap(lambda X: logistic_regression(X, y, 1.0).y)(X)
        torch.testing.assert_close(each, logistic_regression(X, y, 1.0).y)

    def test_a_solution_is_where_the_solver_stops_at_once(self):
        X, y = points((), 8, 3)
        theta = logistic_regression(X, y, 1.0).y
        assert logistic_regression(X, y, 1.0, init=theta).iterations <= 1

    def test_separable_data_have_a_solution_as_long_as_weights_decay(self):
        X = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)
        fit = logistic_regression(X, X.squeeze(-1), 1e-6)
        assert fit.converged and fit.y > 10

    def test_next_to_no_decay_ends_somewhere_on_the_way_to_infinity(self):
        """The gradient −2 σ(−θ) + λθ falls below the tolerance long before its root, which is near log(2/λ)."""
        X = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)
        weak = logistic_regression(X, X.squeeze(-1), 1e-200)
        assert weak.converged and weak.y < 50  # θ* > 400
        strong = logistic_regression(X, X.squeeze(-1), 1e-3, tolerance=1e-12).y
        torch.testing.assert_close(2 * torch.sigmoid(-strong), 1e-3 * strong)  # where the gradient is 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"features": torch.full((2, 1), torch.nan)}, "features must be finite"),
            ({"labels": torch.tensor([1, -1])}, "labels must be float32 or float64"),
            ({"labels": torch.tensor([1.0, 0.0])}, "labels must be -1 or"),
            ({"labels": torch.tensor([1.0, 1.0])}, "labels must contain both"),
            ({"labels": torch.tensor([1.0, -1.0, 1.0])}, "labels must have shape"),
            ({"weight_decay": 0.0}, "weight_decay must be positive"),
            ({"sample_weights": torch.tensor([1.0, -0.5])}, "sample_weights must be at least 0, got -0.5"),
            ({"weight_decay": torch.ones(3), "sample_weights": torch.ones(2, 2)}, "must broadcast"),
        ],
    )
    def test_bad_input(self, changes, message):
        good = {"features": torch.tensor([[1.0], [-2.0]]), "labels": torch.tensor([1.0, -1.0]), "weight_decay": 1.0}
        with pytest.raises(ValueError, match=message):
            logistic_regression(**(good | changes))

    def test_no_convergence_raises(self):
        X, y = points((), 8, 3)
        with pytest.raises(SolverError, match="no convergence"):
            logistic_regression(X, y, 1.0, max_iterations=1)


class TestSensitivity:
    def test_moving_a_tumour_moves_the_fit_as_refitting_does(self, cancer):
        X, y = cancer
        J = sensitivity(lambda X: logistic_regression(X, y, 1.0).y, X)
        assert J.shape == (31, len(y), 31)
        direction = torch.randn(X.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        predicted = (J * direction).sum((1, 2))
        step = 1e-5
        plus, minus = (logistic_regression(X + s * step * direction, y, 1.0).y for s in (1, -1))
        torch.testing.assert_close(predicted, (plus - minus) / (2 * step), rtol=1e-5, atol=1e-6)

    def test_the_formula(self):
        """∂θ*/∂xᵢ = −H⁻¹ (σσ xᵢ θᵀ − y σ(−yz) I), written out."""
        X, y = points((), 7, 3)
        theta = logistic_regression(X, y, 0.5).y
        z = X @ theta
        curvature = torch.sigmoid(z) * torch.sigmoid(-z)
        H = X.T @ (curvature[:, None] * X) + 0.5 * torch.eye(3, dtype=DOUBLE)
        for i in range(7):
            mixed = curvature[i] * torch.outer(X[i], theta)
            mixed = mixed - y[i] * torch.sigmoid(-y[i] * z[i]) * torch.eye(3, dtype=DOUBLE)
            J = sensitivity(lambda X: logistic_regression(X, y, 0.5).y, X)[:, i]
            torch.testing.assert_close(J, -torch.linalg.solve(H, mixed))

    def test_batches_are_independent(self):
        X, y = points((2, 2), 6, 3)
        J = sensitivity(lambda X: logistic_regression(X, y, 1.0).y, X)
        assert J.shape == (2, 2, 3, 6, 3)
        torch.testing.assert_close(J[1, 0], torch.func.jacrev(lambda X: logistic_regression(X, y, 1.0).y)(X[1, 0]))

    def test_of_any_layer(self):
        X, y = points((3,), 10, 2)
        J = sensitivity(lambda X: linear_svm(X, y).weights, X)
        torch.testing.assert_close(J[2], torch.func.jacrev(lambda X: linear_svm(X, y).weights)(X[2]))

    def test_a_fit_with_other_batch_dimensions_is_refused(self):
        X, y = points((2,), 6, 3)
        with pytest.raises(ValueError, match="fit must return"):
            sensitivity(lambda X: logistic_regression(X, y, 1.0).y.T, X)


class TestInfluence:
    def refits(self, X, y, weight_decay):
        without = 1 - torch.eye(len(y), dtype=DOUBLE)
        return logistic_regression(X, y, weight_decay, without, tolerance=1e-11).y

    def test_predicts_what_refitting_without_each_tumour_does(self, cancer):
        X, y = cancer
        actual = self.refits(X, y, 1.0) - logistic_regression(X, y, 1.0, tolerance=1e-11).y
        size = actual.norm(dim=-1)
        first, newton = (
            (influence(X, y, 1.0, order=order) - actual).norm(dim=-1) / size for order in ("first", "newton")
        )
        matters = size > 0.01 * size.max()
        assert matters.sum() > 20
        assert first[matters].median() < 0.1 and newton[matters].median() < 0.01
        assert (newton < first)[matters].double().mean() > 0.95

    def test_upweighting_is_the_derivative(self):
        X, y = points((), 9, 2)
        w = 0.5 + torch.rand(9, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
        by_weight = -influence(X, y, 0.5, w) / w[:, None]
        step = 1e-6
        for i, e in enumerate(torch.eye(9, dtype=DOUBLE)):
            plus, minus = (logistic_regression(X, y, 0.5, w + s * step * e, tolerance=1e-12).y for s in (1, -1))
            torch.testing.assert_close(by_weight[i], (plus - minus) / (2 * step), rtol=1e-6, atol=1e-7)

    def test_the_newton_step_is_one_newton_step_from_the_solution(self):
        X, y = points((), 9, 2)
        w = 0.5 + torch.rand(9, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
        theta = logistic_regression(X, y, 0.5, w, tolerance=1e-12).y
        change = influence(X, y, 0.5, w, order="newton")
        for i in range(9):
            left = torch.where(torch.arange(9) == i, 0, w)

            def objective(theta, left=left):
                return (left * logistic_loss(theta, X, y)).sum() + 0.25 * theta.square().sum()

            gradient, H = torch.func.grad(objective)(theta), torch.func.hessian(objective)(theta)
            torch.testing.assert_close(change[i], -torch.linalg.solve(H, gradient), rtol=1e-6, atol=1e-8)

    def test_of_the_test_loss_with_one_adjoint_solve(self, cancer):
        """The adjoint gives the same as all n influences do, and what refitting does to the loss, to first order."""
        X, y = cancer
        train, test = torch.arange(len(y)) < 100, torch.arange(len(y)) >= 100

        def loss(theta):
            return logistic_loss(theta, X[test], y[test]).mean(-1)

        ones = torch.ones(100, dtype=DOUBLE)
        predicted = loss_influence(loss, lambda w: logistic_regression(X[train], y[train], 1.0, w).y, ones)
        theta = logistic_regression(X[train], y[train], 1.0).y
        by_parts = influence(X[train], y[train], 1.0) @ torch.func.grad(loss)(theta)
        torch.testing.assert_close(predicted, by_parts, rtol=1e-6, atol=1e-9)

        actual = loss(self.refits(X[train], y[train], 1.0)) - loss(theta)
        assert torch.corrcoef(torch.stack([predicted, actual]))[0, 1] > 0.95

    def test_a_loss_of_another_shape_is_refused(self):
        X, y = points((2,), 6, 2)
        with pytest.raises(ValueError, match="loss must return the batch dimensions"):
            loss_influence(
                lambda theta: theta.sum(),
                lambda w: logistic_regression(X, y, 1.0, w).y,
                torch.ones(2, 6, dtype=DOUBLE),
            )

    def test_batch_and_weight_zero(self):
        X, y = points((3,), 6, 2)
        w = torch.ones(3, 6, dtype=DOUBLE)
        w[1, 2] = 0
        change = influence(X, y, 1.0, w, order="newton")
        assert change.shape == (3, 6, 2) and (change[1, 2] == 0).all()
        torch.testing.assert_close(change[0], influence(X[0], y, 1.0, order="newton"))
        shared = influence(X[0], y, torch.tensor([1.0, 2.0], dtype=DOUBLE))
        torch.testing.assert_close(shared[0], influence(X[0], y, 1.0))

    def test_unknown_order(self):
        with pytest.raises(ValueError, match="order must be one of 'first', 'newton'"):
            influence(*points((), 6, 2), 1.0, order="second")


class TestPoisoning:
    def test_beats_random_moves_and_stays_in_the_balls(self, cancer):
        X, y = cancer
        train = torch.arange(len(y)) % 2 == 0
        X_train, y_train = X[train], y[train]
        movable = torch.arange(len(y_train)) < 10

        def fit(X):
            return logistic_regression(X, y_train, 1.0).y

        def loss(theta):
            return logistic_loss(theta, X[~train], y[~train]).mean(-1)

        attack = poison(fit, loss, X_train, 1.0, movable=movable, steps=15)
        moved = (attack.data - X_train).norm(dim=-1)
        assert (moved[~movable] == 0).all() and (moved <= 1 + 1e-12).all()
        torch.testing.assert_close(attack.loss[0], loss(fit(X_train)))
        torch.testing.assert_close(loss(fit(attack.data)), attack.loss.max())
        g = torch.Generator().manual_seed(5)
        for _ in range(20):
            noise = torch.randn(X_train.shape, dtype=DOUBLE, generator=g) * movable[:, None]
            noise = noise / noise.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            assert loss(fit(X_train + noise)) < attack.loss.max()
        assert attack.loss.max() > 1.1 * attack.loss[0]

    def test_finds_the_maximum_where_it_is_known(self):
        """θ* = the mean of the points and loss = θ* · c: every point goes as far along c as it may."""
        data = torch.zeros(2, 3, 2, dtype=DOUBLE)
        c = torch.tensor([[3.0, 4.0], [0.0, -1.0]], dtype=DOUBLE)
        attack = poison(lambda x: x.mean(-2), lambda theta: (theta * c).sum(-1), data, 0.5, steps=20)
        expected = 0.5 * (c / c.norm(dim=-1, keepdim=True)).unsqueeze(-2).expand(2, 3, 2)
        torch.testing.assert_close(attack.data, expected)
        assert attack.loss.shape == (21, 2)

    def test_a_support_vector_machine_can_be_attacked(self):
        X, y = points((), 20, 2)
        attack = poison(lambda X: linear_svm(X, y).weights, lambda w: -(X @ w * y).mean(-1), X, 0.3, steps=5)
        assert attack.loss.max() > attack.loss[0]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data": torch.zeros(3)}, "data must have shape"),
            ({"data": torch.full((3, 2), torch.nan)}, "data must be finite"),
            ({"radius": 0.0}, "radius must be positive"),
            ({"radius": torch.inf}, "radius must be positive and finite"),
            ({"step_size": -1.0}, "step_size must be positive"),
            ({"steps": -1}, "steps must be at least 0"),
            ({"movable": torch.ones(3)}, "movable must be a bool tensor"),
            ({"movable": torch.ones(2, dtype=torch.bool)}, "movable must have shape"),
            ({"data": torch.zeros(5, 3, 2), "loss": lambda theta: theta.sum()}, "loss must return"),
        ],
    )
    def test_bad_input(self, changes, message):
        good = {"fit": lambda x: x.mean(-2), "loss": lambda t: t.sum(-1), "data": torch.zeros(3, 2), "radius": 1.0}
        with pytest.raises(ValueError, match=message):
            poison(**(good | changes))

    def test_no_steps_are_no_attack(self):
        data = torch.ones(3, 2)
        attack = poison(lambda x: x.mean(-2), lambda theta: theta.sum(-1), data, 1.0, steps=0)
        assert torch.equal(attack.data, data) and attack.loss.tolist() == [2.0]


def test_shadow_prices_are_the_adjoint_that_backpropagation_computes():
    """d value / d h of a quadratic program is −λ, d value / d b is −ν: sensitivity analysis is the same adjoint."""
    g = torch.Generator().manual_seed(6)
    L, G, A, y = (torch.randn(5, *shape, dtype=DOUBLE, generator=g) for shape in ((4, 4), (6, 4), (1, 4), (4, 1)))
    Q, p = L @ L.mT + 0.1 * torch.eye(4, dtype=DOUBLE), torch.randn(5, 4, dtype=DOUBLE, generator=g)
    b, h = (A @ y).squeeze(-1), (G @ y).squeeze(-1) + torch.rand(5, 6, dtype=DOUBLE, generator=g)
    b, h = b.requires_grad_(), h.requires_grad_()
    solution = solve_qp(Q, p, A, b, G, h)
    by_b, by_h = torch.autograd.grad(solution.value.sum(), (b, h))
    torch.testing.assert_close(by_b, -solution.equality_dual)
    torch.testing.assert_close(by_h, -solution.inequality_dual)
    assert (solution.inequality_dual > 1e-6).any()
