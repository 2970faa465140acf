"""Tasks never mix classes or images, a learner's gradient goes through its head, and the shipped weights generalise."""

import math

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.svm import LinearSVC
from torch import nn

from diffopt_lib import pretrained
from diffopt_lib.data import Digits, mnist
from diffopt_lib.experiments import Run, few_shot
from diffopt_lib.experiments.few_shot import WAYS, Episodes, Learner, episodes, ordered


@pytest.fixture
def numbered():
    """Six classes of eleven 2 × 2 images, each of which says which it is: class and number within the class."""
    k, i = torch.meshgrid(torch.arange(6.0), torch.arange(11.0), indexing="ij")
    images = torch.stack([k, i, k, i], -1).view(6, 11, 2, 2)
    return list(images)


@pytest.fixture
def blobs(generator):
    """Images of five classes of noise around a mean, as tasks with three shots."""
    means = torch.rand(WAYS, 1, 4, 4, generator=generator)
    images = list(means + 0.4 * torch.randn(WAYS, 40, 4, 4, generator=generator))
    return episodes(images, 6, 3, 10, generator)


def test_support_and_queries_are_different_images_of_the_same_five_classes(numbered, generator):
    tasks = episodes(numbered, 50, 2, 3, generator)
    assert tasks.support.shape == (50, 10, 2, 2) and tasks.query.shape == (50, 15, 2, 2)
    for support, query in zip(*tasks, strict=True):
        classes = support[:, 0, 0]
        assert torch.equal(classes, classes[::2].repeat_interleave(2)) and len(classes.unique()) == WAYS
        assert torch.equal(query[:, 0, 0], classes[::2].repeat_interleave(3))
        seen = {tuple(image.flatten().tolist()) for image in torch.cat([support, query])}
        assert len(seen) == 25


@pytest.mark.parametrize("head", few_shot.HEADS)
def test_on_pixels_a_learner_is_the_classifier_of_scikit_learn(head, blobs):
    model = Learner(head, few_shot.pixels()).double()
    with torch.no_grad():
        found = model(blobs.support.double(), blobs.query.double()).argmax(-1)
    for support, query, mine in zip(*blobs, found, strict=True):
        x, q = (nn.functional.normalize(t.flatten(1), dim=-1).double().numpy() for t in (support, query))
        y = ordered(15).numpy()
        if head == "SVM":
            theirs = LinearSVC(multi_class="crammer_singer", C=10.0, fit_intercept=False, tol=1e-9, max_iter=10**6)
            expected = theirs.fit(x, y).predict(q)
        elif head == "ridge":
            targets = nn.functional.one_hot(ordered(15)).numpy()
            expected = Ridge(alpha=1.0, fit_intercept=False).fit(x, targets).predict(q).argmax(-1)
        else:
            expected = NearestCentroid().fit(x, y).predict(q)
        assert (mine.numpy() == expected).all()


@pytest.mark.parametrize("head", few_shot.HEADS)
def test_the_gradient_goes_through_the_head(head, blobs, run: Run):
    with run.seeded():
        model = Learner(head, few_shot.convolutions(2)).double()
    task = Episodes(*(t[:2].double() for t in blobs))
    few_shot.loss(model, *task).backward()
    learned = dict(model.named_parameters())
    if head == "prototype":
        assert learned.pop("log_price").grad is None and learned.pop("power").grad is None
    generator = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in learned.items()}

    def at(step):
        moved = {name: p.detach() + step * direction[name] for name, p in learned.items()}
        labels = ordered(task.query.shape[1]).repeat(2)
        logits = torch.func.functional_call(model, moved, tuple(task))
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels)

    expected = (at(1e-6) - at(-1e-6)) / 2e-6
    found = sum((p.grad * direction[name]).sum() for name, p in learned.items())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_price_is_a_power_law_of_the_shots():
    model = Learner("ridge", few_shot.pixels())
    with torch.no_grad():
        model.log_price.fill_(math.log(0.3))
        model.power.fill_(2.0)
    assert model.price(1).item() == pytest.approx(0.3) and model.price(5).item() == pytest.approx(7.5)


def test_eight_symmetries_of_an_image_without_any():
    image = torch.arange(9.0).view(1, 3, 3)
    turned = few_shot.with_symmetries([image])
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    assert all(t[0, 1, 1] == 4 and t.sum() == 36 for t in turned)


def test_jitter_moves_each_image_a_little(generator):
    blob = torch.zeros(200, 14, 14)
    blob[:, 5:9, 5:9] = 1
    moved = few_shot.jitter(blob, generator)
    assert moved.shape == blob.shape and moved.min() >= 0 and moved.max() <= 1 + 1e-6
    place = torch.arange(14.0) - 6.5
    mass = moved.sum((1, 2))
    shift = (moved.sum(1) * place).sum(-1) / mass
    assert mass.mean().item() == pytest.approx(16, rel=0.1)
    assert abs(shift.mean()) < 0.3 and shift.std().item() == pytest.approx(0.12 * 7, rel=0.2)


def test_batches_depend_on_the_step_alone(numbered):
    first, again, other = (few_shot.batch(numbered, 3, torch.device("cpu"), step) for step in (4, 4, 5))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert first[0].shape[1] == WAYS and other[0].shape[1] == 5 * WAYS  # one shot, five shots


def test_accuracy_of_answers_known_in_advance(numbered, generator):
    tasks = episodes(numbered[:WAYS], 8, 1, 2, generator)

    class Knows(nn.Module):
        """The class of an image is written on it; one in five answers is wrong."""

        def forward(self, support, query):
            score = -(query[:, :, 0, :1] - support[:, :, 0, 0].unsqueeze(1)).abs()
            score[:, :2] = torch.eye(WAYS)[-1]  # the first class's queries
            return score

    assert torch.equal(few_shot.accuracy(Knows(), tasks), torch.full((8,), 80.0, dtype=torch.float64))


def test_half_width_covers_the_mean_in_95_of_100_cases(generator):
    samples = torch.rand(2000, 100, generator=generator)
    hits = [abs(sample.mean().item() - 0.5) <= few_shot.half_width(sample) for sample in samples]
    assert 0.93 < sum(hits) / 2000 < 0.97


def small_digits(part, generator):
    labels = torch.arange(10).repeat(30)
    means = torch.rand(10, 28, 28, generator=torch.Generator().manual_seed(0))
    return Digits((means[labels] + 0.3 * torch.randn(300, 28, 28, generator=generator)).clamp(0, 1), labels)


def test_a_small_run_from_end_to_end(run: Run, monkeypatch, generator):
    sizes = {"STEPS": 4, "STEPS_OF_PIXELS": 2, "SPLITS": 2, "EPISODES": 2, "TEST_EPISODES": 5, "CHANNELS": 2}
    for constant, value in sizes.items():
        monkeypatch.setattr(few_shot, constant, value)
    monkeypatch.setattr(few_shot, "mnist", lambda part: small_digits(part, generator))
    outcome = few_shot.EXPERIMENT.run(run)
    assert set(few_shot.EXPERIMENT.published) <= set(outcome.figures) and run.is_complete
    assert len(run.trainings) == 2 * 2 * len(few_shot.HEADS)
    for head in few_shot.HEADS:
        weights = {k.removeprefix(f"{head}."): v for k, v in outcome.weights["few_shot"].items() if k.startswith(head)}
        Learner(head, few_shot.convolutions()).load_state_dict(weights)
    name = "5-shot, %: SVM head, pixels"
    assert outcome.figures[name] == pytest.approx(sum(outcome.figures[f"{name}, split {s}"] for s in (1, 2)) / 2)


def test_shipped_embedding_beats_pixels_on_digits_it_never_saw(real_data):
    """Split 1 of seed 0; the tasks are new ones."""
    order = torch.randperm(10, generator=Run(0, torch.device("cpu"), real_data).generator(0)).tolist()
    held_out = few_shot.by_class(mnist("test"), order[WAYS:])
    tasks = episodes(held_out, 100, 5, 15, torch.Generator().manual_seed(5))
    shipped = pretrained.load("few_shot")
    for head in few_shot.HEADS:
        model = Learner(head, few_shot.convolutions())
        model.load_state_dict({k.removeprefix(f"{head}."): v for k, v in shipped.items() if k.startswith(head)})
        gain = few_shot.accuracy(model, tasks) - few_shot.accuracy(Learner(head, few_shot.pixels()), tasks)
        assert gain.mean() - few_shot.half_width(gain) > 0
