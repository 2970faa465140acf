"""Heads in closed form: scikit-learn's ridge regression and nearest centroid, both forms, derivatives."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from diffopt_lib.layers import prototype_head, ridge_head

DOUBLE = torch.float64


def tasks(batch, n, d, n_classes=3, dtype=DOUBLE):
    g = torch.Generator().manual_seed(0)
    return torch.randn(*batch, n, d, dtype=DOUBLE, generator=g).to(dtype), torch.arange(n) % n_classes


@pytest.mark.parametrize(("n", "d"), [(9, 4), (6, 6), (6, 20)])
@pytest.mark.parametrize("lam", [1e-3, 1.0, 50.0])
def test_ridge_weights_are_scikit_learns(n, d, lam):
    features, labels = tasks((2,), n, d)
    head = ridge_head(features, labels, 3, lam)
    for i in range(2):
        targets = torch.nn.functional.one_hot(labels, 3).double()
        theirs = Ridge(alpha=lam, fit_intercept=False, solver="svd").fit(features[i].numpy(), targets.numpy())
        torch.testing.assert_close(head.weights[i], torch.tensor(theirs.coef_), rtol=1e-8, atol=1e-9)


def test_ridge_weights_are_where_the_gradient_of_the_objective_vanishes():
    features, labels = tasks((), 8, 5)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    W = ridge_head(features, labels, 3, 0.7).weights
    gradient = torch.func.grad(lambda W: (features @ W.T - targets).square().sum() + 0.7 * W.square().sum())(W)
    assert gradient.abs().max() < 1e-12


def test_prototypes_on_real_digits_classify_as_scikit_learns_nearest_centroid():
    data = load_digits()
    X, y = torch.tensor(data.data / 16), torch.tensor(data.target)
    head = prototype_head(X[:500], y[:500], 10)
    theirs = NearestCentroid().fit(X[:500].numpy(), y[:500].numpy()).predict(X[500:].numpy())
    assert (head.scores(X[500:]).argmax(-1) == torch.tensor(theirs)).all()
    distances = torch.cdist(X[500:], torch.tensor(NearestCentroid().fit(X[:500], y[:500]).centroids_)).square()
    torch.testing.assert_close(head.scores(X[500:]).softmax(-1), (-distances).softmax(-1))


@pytest.mark.parametrize(("n", "d"), [(6, 3), (4, 7)])
def test_first_and_second_derivatives(n, d):
    features, labels = tasks((2,), n, d)
    lam = torch.tensor([0.5, 2.0], dtype=DOUBLE)
    query = torch.randn(2, 2, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    arguments = tuple(t.requires_grad_() for t in (features, query, lam))

    def ridge(features, query, lam):
        return ridge_head(features, labels, 3, lam).scores(query)

    def prototypes(features, query):
        return prototype_head(features, labels, 3).scores(query)

    for f, inputs in ((ridge, arguments), (prototypes, arguments[:2])):
        assert torch.autograd.gradcheck(f, inputs)
        assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("head", [ridge_head, prototype_head])
@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
def test_any_batch_shape(head, batch, dtype, device):
    features, labels = tasks(batch, 6, 4, dtype=dtype)
    fitted = head(features.to(device), labels.to(device), 3)
    assert fitted.weights.shape == (*batch, 3, 4) and fitted.bias.shape == (*batch, 3)
    assert fitted.weights.dtype == dtype and fitted.scores(features.to(device)).shape == (*batch, 6, 3)


def test_labels_and_prices_of_their_own():
    features, labels = tasks((), 6, 4)
    many = torch.stack([labels, labels.flip(0)])
    lam = torch.tensor([[0.1], [10.0]], dtype=DOUBLE)
    weights = ridge_head(features, many, 3, lam).weights
    assert weights.shape == (2, 2, 3, 4)
    torch.testing.assert_close(weights[1, 0], ridge_head(features, labels, 3, 10.0).weights)
    torch.testing.assert_close(weights[0, 1], ridge_head(features, labels.flip(0), 3, 0.1).weights)


def test_vmap_and_jacrev():
    features, labels = tasks((3,), 6, 4)
    for head in (ridge_head, prototype_head):
        weights = torch.func.vmap(lambda f, y, head=head: head(f, y, 3).weights)(features, labels.expand(3, 6))
        torch.testing.assert_close(weights, head(features, labels, 3).weights)
        J = torch.func.vmap(torch.func.jacrev(lambda f, head=head: head(f, labels, 3).weights))(features)
        assert J.shape == (3, 3, 4, 6, 4) and torch.isfinite(J).all()


def test_a_class_without_examples():
    features, labels = tasks((), 4, 3, n_classes=2)
    assert (ridge_head(features, labels, 3).weights[2] == 0).all()
    with pytest.raises(ValueError, match="labels must contain each of the 3 classes"):
        prototype_head(features, labels, 3)


@pytest.mark.parametrize("lam", [0.0, -1.0, torch.nan])
def test_bad_prices(lam):
    with pytest.raises(ValueError, match="lam must be"):
        ridge_head(*tasks((), 4, 3), 3, lam)


def test_ridge_in_single_precision_keeps_a_small_price():
    """‖φ‖² = 10⁸ λ, and twins: ΦΦᵀ + λI is singular in float32."""
    features, labels = tasks((), 6, 20)
    features = 1e4 * features[[0, 0, 1, 2, 3, 4]]
    single, double = (ridge_head(f, labels, 3) for f in (features.float(), features))
    torch.testing.assert_close(single.weights.double(), double.weights, rtol=1e-4, atol=1e-9)


def test_prototypes_far_from_zero_keep_their_digits():
    features, labels = tasks((), 9, 4, dtype=torch.float32)
    far = 1e4 + features
    exact = -torch.cdist(far.double(), far.double().reshape(3, 3, 4).mean(0)).square()
    scores = prototype_head(far, labels, 3).scores(far).double()
    torch.testing.assert_close(scores.softmax(-1), exact.softmax(-1), rtol=0, atol=2e-2)
    assert (scores.argmax(-1) == exact.argmax(-1)).all()
