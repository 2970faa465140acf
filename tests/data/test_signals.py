"""The signals have the distribution that their docstring states."""

import pytest
import torch

from diffopt_lib.data import piecewise_constant


@pytest.fixture
def signals(generator):
    return piecewise_constant(5000, generator)


def test_shapes_and_types(signals):
    assert signals.noisy.shape == signals.clean.shape == (5000, 100)
    assert signals.noisy.dtype == signals.clean.dtype == torch.float32


def test_noise_is_white_with_standard_deviation_ten(signals):
    noise = signals.noisy - signals.clean
    assert abs(noise.mean()) < 0.1
    assert noise.std().item() == pytest.approx(10, rel=0.01)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 1


def test_heights_are_integers_from_ten_to_ninety_nine(signals):
    assert torch.equal(signals.clean, signals.clean.round())
    assert signals.clean.min() == 10 and signals.clean.max() == 99
    assert signals.clean.mean().item() == pytest.approx(54.5, abs=1)


def test_one_to_nine_pieces_with_cuts_anywhere_inside(signals):
    jumps = signals.clean[:, 1:] != signals.clean[:, :-1]
    count = jumps.sum(1)
    assert count.min() == 0 and count.max() == 8
    # 0 … 8 cuts equally often, less those that nobody sees because both heights are equal, one in 90.
    assert count.float().mean().item() == pytest.approx(4 * 89 / 90, abs=0.15)
    assert not jumps[:, -1].any()
    assert jumps[:, :-1].float().mean(0).std() < 0.01


def test_a_seed_gives_the_same_signals():
    first, again, other = (piecewise_constant(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.noisy, again.noisy) and torch.equal(first.clean, again.clean)
    assert not torch.equal(first.clean, other.clean)


def test_none_and_impossible_requests(generator):
    assert piecewise_constant(0, generator).noisy.shape == (0, 100)
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        piecewise_constant(-1, generator)
    with pytest.raises(ValueError, match="length must be at least 11, got 10"):
        piecewise_constant(1, generator, length=10)
