"""Right-hand sides as columns: those of one matrix share it, whichever batch dimensions they have."""

import pytest
import torch

from diffopt_lib.batch.columns import as_columns


@pytest.mark.parametrize(
    ("batch", "rhs", "matrices", "columns"),
    [
        ((), (), 1, 1),
        ((3,), (3,), 3, 1),
        ((1,), (4,), 1, 4),
        ((1, 3), (5, 3), 3, 5),
        ((2, 1, 3), (2, 4, 3), 6, 4),
        ((1, 2, 1), (3, 2, 5), 2, 15),
        ((0,), (0,), 0, 1),
    ],
)
def test_solving_with_columns_is_solving_one_by_one(batch, rhs, matrices, columns, generator):
    n = 3
    A = torch.randn(*batch, n, n, dtype=torch.float64, generator=generator) + 3 * torch.eye(n, dtype=torch.float64)
    b = torch.randn(*rhs, n, dtype=torch.float64, generator=generator)
    C, restore = as_columns(b, torch.Size(batch))
    assert C.shape == (matrices, n, columns)
    x = restore(torch.linalg.solve(A.reshape(-1, n, n), C))
    torch.testing.assert_close(x, torch.linalg.solve(A, b.unsqueeze(-1)).squeeze(-1))


def test_the_way_back_undoes_the_way_there(generator):
    b = torch.randn(2, 3, 4, 5, generator=generator)
    columns, restore = as_columns(b, torch.Size((1, 3, 1)))
    assert columns.shape == (3, 5, 8)
    assert torch.equal(restore(columns), b)
