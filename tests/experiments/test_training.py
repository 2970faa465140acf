"""A training that was stopped and resumed is the training that was not."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from line import fit_line, squared_error
from torch import nn

from diffopt_lib.experiments import Run, epochs, train
from diffopt_lib.experiments.harness.checkpoint import interrupt_flag, load_checkpoint


def weights_of(outcome):
    return outcome.weights["line"]


def assert_identical(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def whole(run, tmp_path):
    return fit_line(replace(run, folder=tmp_path / "whole", trainings={}))


def test_training_reduces_the_loss_and_keeps_a_record(run):
    outcome = fit_line(run)
    record = run.trainings["line"]
    assert record.steps == record.planned == 40 and run.is_complete
    assert [step for step, _ in record.losses] == list(range(1, 41))
    assert record.losses[-1][1] < 0.5 * record.losses[0][1]
    assert outcome.figures["test error"] < record.losses[0][1]


@pytest.mark.parametrize("at", [1, 7, 39])
def test_ctrl_c_finishes_the_step_and_resuming_gives_the_same_bits(run, whole, at, monkeypatch):
    steps = 0

    def press_ctrl_c_at_once(*args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGINT)
        return squared_error(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("line.squared_error", press_ctrl_c_at_once)
        with pytest.raises(KeyboardInterrupt):
            fit_line(run)
    assert run.trainings["line"].steps == at
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    resumed = fit_line(run)
    assert run.trainings["line"].steps == 40
    assert_identical(weights_of(resumed), weights_of(whole))
    assert resumed.figures == whole.figures


def test_a_crash_goes_on_from_the_last_checkpoint(run, whole, monkeypatch):
    monkeypatch.setattr("diffopt_lib.experiments.harness.training.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    steps = 0

    def crash_later(*args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 11:
            raise RuntimeError("power cut")
        return squared_error(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("line.squared_error", crash_later)
        with pytest.raises(RuntimeError, match="power cut"):
            fit_line(run)
    assert load_checkpoint(run.folder / "line.pt")["record"]["steps"] == 10
    resumed = fit_line(run)
    assert_identical(weights_of(resumed), weights_of(whole))
    assert [entry[0] for entry in run.trainings["line"].losses] == list(range(1, 41))


def test_a_checkpoint_of_another_seed_is_refused(run):
    """Two runs at once would otherwise mix in the folder they share."""
    fit_line(run)
    with pytest.raises(ValueError, match="is of a run with seed 3, this one has 4"):
        fit_line(replace(run, seed=4))


def test_sigterm_finishes_the_step_however_often_it_comes():
    before = signal.getsignal(signal.SIGTERM)
    with interrupt_flag() as interrupted:
        assert not interrupted()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_training_is_not_repeated(run, whole):
    fit_line(run)
    first = run.trainings.pop("line")
    assert_identical(weights_of(fit_line(run)), weights_of(whole))
    assert run.trainings["line"] == first


def test_a_budget_stops_the_training_and_says_so(run):
    fit_line(replace(run, budget=0.0))
    assert run.trainings["line"].steps == 0
    assert not run.is_complete


def test_other_seeds_give_other_results(run, whole, tmp_path):
    other = fit_line(replace(run, seed=4, folder=tmp_path / "other", trainings={}))
    assert not torch.equal(weights_of(other)["weight"], weights_of(whole)["weight"])


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(run):
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(FloatingPointError, match="nan"):
        train(run, "bad", model, optimizer, lambda m, x: m(x).sum() * torch.nan, lambda s: (torch.ones(1, 1),), steps=3)
    assert torch.equal(model.weight, before)


def test_epochs_shows_every_row_once_in_an_order_of_its_own():
    x = torch.arange(12)
    batches = epochs(x, 2 * x, batch_size=4, seed=0)
    first, second = ([batches(step) for step in steps] for steps in (range(3), range(3, 6)))
    rows = [torch.cat([batch[0] for batch in epoch]) for epoch in (first, second)]
    assert all(torch.equal(order.sort().values, x) for order in rows)
    assert not torch.equal(*rows)
    assert all(torch.equal(b, 2 * a) for a, b in first + second)
    again = epochs(x, 2 * x, batch_size=4, seed=0)
    assert torch.equal(again(4)[0], second[1][0])  # the batch of a step does not depend on those before
    assert not torch.equal(epochs(x, batch_size=12, seed=1)(0)[0], epochs(x, batch_size=12, seed=0)(0)[0])


def test_epochs_needs_a_full_batch():
    with pytest.raises(ValueError, match="batch_size"):
        epochs(torch.zeros(3), batch_size=4, seed=0)


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), interrupt_flag() as pressed:
        os.kill(os.getpid(), signal.SIGINT)
        assert pressed()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_data_do_not_depend_on_what_was_drawn_before(run: Run):
    first = torch.rand(3, generator=run.generator(2))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=run.generator(2)))
    assert not torch.equal(first, torch.rand(3, generator=run.generator(3)))
    state = torch.get_rng_state()
    with run.seeded():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
