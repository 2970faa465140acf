"""The losses against their definitions, the label noise against its, and what the shipped networks can do."""

from itertools import combinations

import pytest
import torch
from torch.nn.functional import cross_entropy

from diffopt_lib import pretrained
from diffopt_lib.data.mnist import mnist
from diffopt_lib.experiments import Run, find, top_k

DOUBLE = torch.float64


@pytest.fixture
def x(generator):
    return 3 * torch.randn(4, 6, generator=generator, dtype=DOUBLE)


@pytest.fixture
def label():
    return torch.tensor([0, 5, 2, 2])


def over_all_sets(x, label, k, tau, margin):
    """Eq. (3) of the module as it is printed."""
    sets = list(combinations(range(len(x)), k))
    score = torch.stack([x[list(S)].sum() / k for S in sets])
    has = torch.tensor([label in S for S in sets])
    return tau * (torch.logsumexp((score + margin * (~has)) / tau, 0) - torch.logsumexp(score[has] / tau, 0))


@pytest.mark.parametrize(("k", "tau", "margin"), [(1, 1.0, 0.0), (2, 1.0, 1.0), (3, 0.2, 0.5), (5, 3.0, 1.0)])
def test_smooth_top_k_loss_is_the_sum_over_all_sets(k, tau, margin, x, label):
    expected = torch.stack([over_all_sets(row, i.item(), k, tau, margin) for row, i in zip(x, label, strict=True)])
    torch.testing.assert_close(top_k.smooth_top_k_loss(x, label, k, tau, margin), expected)


def test_smooth_top_k_loss_survives_large_scores(x, label):
    for wide in (12 * x.float(), -12 * x.float()):  # scores of about a hundred
        expected = torch.stack([over_all_sets(r, i.item(), 3, 1.0, 1.0) for r, i in zip(wide, label, strict=True)])
        torch.testing.assert_close(top_k.smooth_top_k_loss(wide, label), expected)


def test_smooth_top_k_loss_has_its_gradient(x, label):
    assert torch.autograd.gradcheck(lambda x: top_k.smooth_top_k_loss(x, label), x.requires_grad_())


def test_one_guess_without_margin_is_cross_entropy(x, label):
    expected = cross_entropy(x, label, reduction="none")
    torch.testing.assert_close(top_k.cross_entropy(x, label), expected)
    torch.testing.assert_close(top_k.smooth_top_k_loss(x, label, 1, 1.0, 0.0), expected)


def test_soft_top_k_loss_pushes_the_undecided_and_not_the_strongest(label):
    """Its gradient is −(1 − y_ℓ)(1[j = ℓ] − d_j / Σd) with d = y (1 − y)."""
    x = torch.tensor([9.0, 8.0, 1.0, 0.9, 0.0, -4.0], dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(top_k.soft_top_k_loss(x, torch.tensor(4)), x)
    y = top_k.soft_top_k(x, 3).detach()
    d = y * (1 - y)
    expected = (1 - y[4]) * (d / d.sum() - torch.eye(6, dtype=DOUBLE)[4])
    torch.testing.assert_close(gradient, expected)
    assert gradient[2] > 10 * gradient[0] > 0


def test_soft_top_k_loss_is_finite_where_the_label_underflows():
    x = torch.tensor([0.0, 1.0, 2.0, 500.0])
    assert top_k.soft_top_k_loss(x, torch.tensor(0), 1).isfinite()


def test_look_alikes_are_the_nearest_means(generator):
    centres = torch.tensor([0.0, 1.0, 3.0, 7.0])
    labels = torch.arange(4).repeat(50)
    images = centres[labels].unsqueeze(1) + 0.01 * torch.randn(200, 1, generator=generator)
    assert top_k.look_alikes(images, labels, 3).tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]]


def test_redrawn_labels_stay_within_their_set_and_have_the_stated_frequencies(generator):
    alike = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]])
    labels = torch.randint(4, (30_000,), generator=generator)
    noisy = top_k.redraw(labels, alike, 0.6, generator)
    assert (noisy.unsqueeze(1) == alike[labels]).any(1).all()
    assert (noisy == labels).double().mean().item() == pytest.approx(0.4 + 0.6 / 3, abs=0.01)
    assert torch.equal(top_k.redraw(labels, alike, 0.0, generator), labels)


def test_networks_side_by_side_learn_as_each_would_alone(run: Run, generator):
    images, labels = torch.randn(20, 2, 5, generator=generator), torch.randint(10, (20, 2), generator=generator)

    def after_a_step(decays):
        model = top_k.Networks(5, 4, decays, [run.generator(i) for i in range(2)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        top_k.objective(top_k.soft_top_k_loss, model, images, labels).backward()
        optimizer.step()
        return model.first.detach()

    together = after_a_step((0.0, 0.1))
    for i, decay in enumerate((0.0, 0.1)):
        torch.testing.assert_close(together[:, i], after_a_step((decay,))[:, 0])
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3


def test_accuracy_counts_first_and_further_guesses():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return logits.expand(1, 1, 2, 4)

    one, two = top_k.accuracy(Fixed(), torch.zeros(1, 2, 1), torch.tensor([[1, 3]]), k=2)
    assert one.item() == 0.5 and two.item() == 1.0


def small(monkeypatch):
    sizes = {"SEEDS": 2, "TRAIN": 60, "VALIDATION": 40, "HIDDEN": 8, "DECAYS": (0.0, 0.1), "BATCH": 20, "STEPS": 6}
    for constant, value in sizes.items():
        monkeypatch.setattr(top_k, constant, value)


def test_a_small_run_from_end_to_end(run: Run, monkeypatch, real_data):
    small(monkeypatch)
    outcome = find("top_k").run(run)
    assert run.is_complete and len(run.trainings) == 9
    assert all(0 <= value <= 100 for what, value in outcome.figures.items() if "points" not in what)
    again = find("top_k").run(run)  # everything is found in the checkpoints
    assert again.figures == outcome.figures


def test_shipped_networks_have_the_digit_among_three_guesses(run: Run, real_data):
    digits = mnist("test")
    images = top_k.shrink(digits.images).unsqueeze(0)
    found = {}
    for name in top_k.LOSSES:
        model = top_k.Networks(images.shape[-1], top_k.HIDDEN, (0.0,), [run.generator()])
        weights = pretrained.load("top_k")
        model.load_state_dict(
            {key: weights[f"{name}.{key}"][None, None] for key, _ in model.named_parameters()}, strict=False
        )
        found[name] = [share.item() for share in top_k.accuracy(model, images, digits.labels.unsqueeze(0))]
    assert all(share > 0.9 for _, share in found.values())
    assert found["cross-entropy"][0] > found["soft top-k"][0]  # the first guess is not what that loss asks for
