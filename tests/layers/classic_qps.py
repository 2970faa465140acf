"""Small quadratic programs with published optima, from Hock & Schittkowski (1981) and the Maros–Mészáros set (1999)."""

import torch

DOUBLE = torch.float64


def tensor(rows):
    return torch.tensor(rows, dtype=DOUBLE)


def squares(F, g):
    """‖Fy − g‖² as Q, p and the constant that ½ yᵀQy + pᵀy lacks."""
    F, g = tensor(F), tensor(g)
    return 2 * F.T @ F, -2 * F.T @ g, (g @ g).item()


def box(lower, upper):
    """lower ≤ y ≤ upper as rows of G and h."""
    n = len(lower)
    return torch.cat([torch.eye(n, dtype=DOUBLE), -torch.eye(n, dtype=DOUBLE)]), torch.cat([upper, -lower])


def hs51():
    Q, p, constant = squares(
        [[1, -1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], [0.0, 2.0, 1.0, 1.0]
    )
    A = tensor([[1.0, 3, 0, 0, 0], [0, 0, 1, 1, -2], [0, 1, 0, 0, -1]])
    return Q, p, A, tensor([4.0, 0, 0]), None, None, constant, 0.0


def hs52():
    Q, p, constant = squares(
        [[4, -1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], [0.0, 2.0, 1.0, 1.0]
    )
    A = tensor([[1.0, 3, 0, 0, 0], [0, 0, 1, 1, -2], [0, 1, 0, 0, -1]])
    return Q, p, A, tensor([0.0, 0, 0]), None, None, constant, 1859 / 349


def hs53():
    Q, p, _, _, _, _, constant, _ = hs51()
    _, _, A, b, _, _, _, _ = hs52()
    G, h = box(torch.full((5,), -10.0, dtype=DOUBLE), torch.full((5,), 10.0, dtype=DOUBLE))
    return Q, p, A, b, G, h, constant, 176 / 43


def hs118():
    """15 production levels over five quarters, with limits on their changes."""
    Q = torch.diag(tensor([2e-4, 2e-4, 3e-4] * 5))
    p = tensor([2.3, 1.7, 2.2] * 5)
    change = torch.zeros(12, 15, dtype=DOUBLE)
    change[range(12), range(3, 15)], change[range(12), range(12)] = 1, -1
    demand = torch.zeros(5, 15, dtype=DOUBLE)
    for quarter in range(5):
        demand[quarter, 3 * quarter : 3 * quarter + 3] = 1
    bounds, limits = box(tensor([8.0, 43, 3] + [0.0] * 12), tensor([21.0, 57, 16] + [90.0, 120, 60] * 4))
    G = torch.cat([change, -change, -demand, bounds])
    h = torch.cat([tensor([6.0, 7, 6] * 4), tensor([7.0] * 12), -tensor([60.0, 50, 70, 85, 100]), limits])
    return Q, p, None, None, G, h, 0.0, 664.8204500


def tame():
    Q, p, constant = squares([[1, -1]], [0.0])
    return Q, p, tensor([[1.0, 1.0]]), tensor([1.0]), -torch.eye(2, dtype=DOUBLE), tensor([0.0, 0.0]), constant, 0.0


def zecevic2():
    Q, p = torch.diag(tensor([0.0, 4.0])), tensor([-2.0, -3.0])
    bounds, limits = box(tensor([0.0, 0.0]), tensor([10.0, 10.0]))
    G, h = torch.cat([tensor([[1.0, 1], [1, 4]]), bounds]), torch.cat([tensor([2.0, 4.0]), limits])
    return Q, p, None, None, G, h, 0.0, -4.125


PROBLEMS = [hs51, hs52, hs53, hs118, tame, zecevic2]
