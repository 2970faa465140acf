"""Imitation: who knows the truth has no loss, learners do not disturb each other, and every plan has its turn."""

from pathlib import Path

import pytest
import torch

from diffopt_lib.experiments import Run, imitation, lqr_recovery
from diffopt_lib.experiments.imitators import SEEDS, SIZES, SYSTEMS, Learners, System, record

FEW = 100


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(0, torch.device("cpu"), Path(tmp_path_factory.mktemp("imitation")))


@pytest.fixture(scope="module")
def plans(run):
    return record(run, SYSTEMS["pendulum"], FEW, 0)


def who_knows(plans) -> Learners:
    pendulum = SYSTEMS["pendulum"]
    return Learners(System(**{**vars(pendulum), "guess": pendulum.truth}), ("dx",), plans)


def test_whoever_knows_the_truth_plans_what_the_expert_does(run, plans):
    model = who_knows(plans)
    batch = imitation.batches(run, plans)(0)
    loss = imitation.imitation_loss(model, *batch)
    assert loss < 1e-12
    everything = torch.ones(len(model.warm), FEW), *(v.repeat_interleave(len(SIZES), 0) for v in (plans.x, plans.u))
    assert imitation.next_state_loss(model, *everything) < 1e-20


def test_a_learners_gradient_is_its_own(run, plans):
    """The pendulum's plans depend on g / l and m l² only, so that g, m and l can't all be told."""
    model = who_knows(plans)
    with torch.no_grad():
        model.physics["mass"][3] = 1.2
    imitation.imitation_loss(model, *imitation.batches(run, plans)(0)).backward()
    slope = model.physics["mass"].grad
    assert slope[3].abs() > 1e-3 and (slope[[0, 1, 2, 4, 5]].abs() < 1e-5).all()


def test_every_plan_of_a_learner_has_its_turn(run, plans):
    batch, seen = imitation.batches(run, plans), [set() for _ in range(SEEDS * len(SIZES))]
    for step in range(FEW // imitation.BATCH):
        who, which, x_init, u, now = batch(step)
        assert (now == step).all() and torch.equal(x_init, plans.x_init[who // len(SIZES), which])
        for i, j in zip(who.tolist(), which.tolist(), strict=True):
            seen[i].add(j)
    counts = {size: {len(s) for i, s in enumerate(seen) if SIZES[i % len(SIZES)] == size} for size in SIZES}
    assert counts[10] == {10} and counts[100] == {96} and min(counts[50]) > 32


def test_what_is_published_is_measured():
    names = {f"{name}, {size} plans, imitation loss: {kind}" for name in imitation.KINDS for size in SIZES
             for kind in imitation.KINDS[name]}  # fmt: skip
    assert {what for what in imitation.EXPERIMENT.published if what.startswith("pendulum")} <= names


def test_a_regulator_with_the_experts_dynamics_has_no_loss_and_gradients_are_separate():
    generator = torch.Generator().manual_seed(0)
    F, c = lqr_recovery.random_dynamics(generator), torch.randn(6, generator=generator).double()
    x_init = torch.randn(7, 3, generator=generator).double()
    plan = lqr_recovery.plan(x_init, c, F)
    for states in (False, True):
        model = lqr_recovery.Learners(torch.stack([F, F]), c)
        assert lqr_recovery.total_loss(states, model, x_init, *plan) < 1e-20
        with torch.no_grad():
            model.F[1] += 0.1
        lqr_recovery.total_loss(states, model, x_init, *plan).backward()
        assert (model.F.grad[0].abs() < 1e-12).all() and (model.F.grad[1].abs() > 1e-4).any()
