"""Batch dimensions: aligned without a copy where they are shared, and one complaint where they don't fit."""

import pytest
import torch

from diffopt_lib.batch.shapes import align, flatten, flatten_whole


def test_shared_tensors_get_ones_and_no_copies():
    Q, p = torch.ones(3, 3), torch.ones(4, 2, 3)
    batch, (Q_aligned, p_aligned) = align(("Q", Q, 2), ("p", p, 1))
    assert batch == (4, 2) and Q_aligned.shape == (1, 1, 3, 3) and p_aligned.shape == p.shape
    assert Q_aligned.data_ptr() == Q.data_ptr()
    assert flatten(Q_aligned, 2, batch).shape == (1, 3, 3)
    assert flatten_whole(Q_aligned, 2, batch).shape == (8, 3, 3)


def test_rows_come_in_the_order_of_the_batch():
    x = torch.arange(6).reshape(2, 3, 1)
    assert flatten(x, 1, torch.Size((2, 3))).flatten().tolist() == list(range(6))
    partly = torch.arange(3).reshape(1, 3, 1)
    assert flatten(partly, 1, torch.Size((2, 3))).flatten().tolist() == [0, 1, 2, 0, 1, 2]


def test_the_complaint_names_every_argument_and_its_shape():
    message = r"the batch dimensions must broadcast against each other, got Q \(2, 3, 3\), p \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        align(("Q", torch.ones(2, 3, 3), 2), ("p", torch.ones(4, 3), 1))
