"""Labelled data to fit support vector machines to, and what others make of the same programs."""

import cvxpy as cp
import torch

from diffopt_lib.layers import solve_qp

DOUBLE = torch.float64


def tasks(batch, shots, d, n_classes=3, seed=0, spread=0.5, dtype=DOUBLE):
    """Gaussian classes whose means are ``spread`` apart; features of length about 1."""
    g = torch.Generator().manual_seed(seed)
    centre = spread * torch.randn(*batch, n_classes, 1, d, dtype=DOUBLE, generator=g)
    noise = torch.randn(*batch, n_classes, shots, d, dtype=DOUBLE, generator=g)
    features = (centre + noise).flatten(-3, -2) / d**0.5
    return features.to(dtype), torch.arange(n_classes).repeat_interleave(shots)


def points(batch, n, d, seed=0, spread=1.0, dtype=DOUBLE):
    """Two overlapping Gaussian classes with labels −1 and +1."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.tensor([-1.0, 1.0], dtype=DOUBLE).repeat(n)[:n]
    features = torch.randn(*batch, n, d, dtype=DOUBLE, generator=g) + spread * labels.unsqueeze(-1) / d**0.5 + 0.3
    return features.to(dtype), labels.to(dtype)


def crammer_singer(features, labels, n_classes, C):
    """Eq. (1) with Clarabel: W."""
    W, xi = cp.Variable((n_classes, features.shape[1])), cp.Variable(len(features))
    scores = features @ W.T
    constraints = [xi >= 0]
    for i, own in enumerate(labels):
        constraints += [scores[i, own] - scores[i, k] >= 1 - xi[i] for k in range(n_classes) if k != own]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(W) / 2 + C * cp.sum(xi)), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return W.value


def primal_value(W, features, labels, C):
    """Eq. (1) with the best ξ, for scores computed from scratch."""
    scores = features @ W.mT
    own = scores.gather(-1, labels.expand(scores.shape[:-1]).unsqueeze(-1))
    wished = scores - own + (torch.arange(scores.shape[-1]) != labels.unsqueeze(-1))
    return W.square().sum((-2, -1)) / 2 + C * wished.amax(-1).sum(-1)


def dual_program(features, labels, n_classes, C):
    """Eq. (2), written down for :func:`solve_qp`, which is left to solve it from its own starting point: W."""
    n = len(labels)
    wishes = [(i, k) for i in range(n) for k in range(n_classes) if k != labels[i]]
    e = torch.eye(n_classes, dtype=DOUBLE)
    rows = torch.stack([torch.outer(e[labels[i]] - e[k], features[i]).flatten() for i, k in wishes])
    own = torch.tensor([[float(j == i) for j, _ in wishes] for i in range(n)], dtype=DOUBLE)
    m = len(wishes)
    G = torch.cat([-torch.eye(m, dtype=DOUBLE), own])
    h = torch.cat([torch.zeros(m, dtype=DOUBLE), torch.full((n,), C, dtype=DOUBLE)])
    lam = solve_qp(rows @ rows.mT, -torch.ones(m, dtype=DOUBLE), G=G, h=h).y
    return (lam @ rows).reshape(n_classes, -1)
