"""Sizes of what is in a batch: rounding is told from numbers, and numbers of one size from those of another."""

import torch

from diffopt_lib.batch.products import least_of_groups, without_dust


def test_groups_begin_where_sizes_leap():
    sizes = torch.tensor([[3.0, 0.0, 1e-17, 2e9, 5.0], [0.0, 0.0, 7.0, 0.0, 8.0], [0.0] * 5], dtype=torch.float64)
    least = torch.cat(least_of_groups(sizes), dim=1)
    expected = torch.tensor([[1e-17, 3.0, 2e9], [7.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(least, expected, rtol=0, atol=0)
    assert least_of_groups(sizes[2:]) == least_of_groups(sizes[:, :0]) == least_of_groups(sizes[:0]) == []


def test_dust_is_measured_beside_the_largest_of_its_own_element():
    sizes = torch.tensor([[1e-16, 1.0], [1e-16, 1e-15]], dtype=torch.float64)
    torch.testing.assert_close(
        without_dust(sizes, sizes), torch.tensor([[0.0, 1.0], [1e-16, 1e-15]], dtype=torch.float64)
    )
    columns = sizes.unsqueeze(-1)
    torch.testing.assert_close(without_dust(columns, columns).squeeze(-1), without_dust(sizes, sizes))
    assert without_dust(sizes[:, :0], sizes[:, :0]).shape == (2, 0)
