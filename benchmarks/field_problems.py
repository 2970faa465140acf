"""Programs of the kinds that users of such layers have reported trouble with; random numbers, known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .cone_problems import Shape
from .robustness_problems import Program, Random, either, gram, power, solvable


def no_bound(rng: Random) -> Program:
    """0 ≤ x ≤ u, where u says that there is no upper bound."""
    n, u = 8, power(rng, 6, 20)
    x, z = either(rng, n)
    G = np.vstack([-np.eye(n), np.eye(n)])
    s, z = np.append(x, u - x), np.append(z, np.zeros(n))
    return solvable(gram(rng, n, n, 0.2), G, x, s, z, Shape(nonneg=2 * n))


def dear_price(rng: Random) -> Program:
    """x ≥ 0 with one price so high that nothing is bought there."""
    n = 7
    x, z = either(rng, n)
    x[0], z[0] = 0, power(rng, 4, 12)
    return solvable(gram(rng, n, n, 0.2), -np.eye(n), x, x, z, Shape(nonneg=n))


def cvar_portfolio(rng: Random) -> Program:
    """min CVaR of the loss − expected return + ½·0.03 ‖w‖² over a portfolio: x = (w, level, excess losses)."""
    n, T, tail = 8, 60, 7.5  # the tail is seven scenarios and a half
    w, mu = either(rng, n)
    w[0], mu[0] = 1, 0
    w, mu = w / w.sum(), 0.01 * mu
    R = 0.05 * rng.standard_normal((T, n))
    loss = -R @ w
    order = np.argsort(-loss)
    a = np.zeros(T)
    a[order[:7]], a[order[7]] = 1 / tail, 0.5 / tail
    level = loss[order[7]]
    excess = np.maximum(loss - level, 0)
    one, zero = np.ones((T, 1)), np.zeros((n, 1))
    A = np.vstack([
        np.concatenate([np.ones(n), np.zeros(1 + T)]),
        np.hstack([-R, -one, -np.eye(T)]),
        np.hstack([np.zeros((T, n + 1)), -np.eye(T)]),
        np.hstack([-np.eye(n), zero, np.zeros((n, T))]),
    ])  # fmt: skip
    P = np.diag(np.append(np.full(n, 0.03), np.zeros(1 + T)))
    s = np.concatenate([[0], level + excess - loss, excess, w])
    z = np.concatenate([[0.02], a, 1 / tail - a, mu])
    return solvable(P, A, np.concatenate([w, [level], excess]), s, z, Shape(zero=1, nonneg=2 * T + n))


def soft_box(rng: Random) -> Program:
    """x is given, |x| ≤ 1.5 up to a slack that costs w e²."""
    weight, x0 = power(rng, 0, 9), rng.uniform(-4, 4)
    slack = np.array([max(x0 - 1.5, 0), max(-x0 - 1.5, 0)])
    A = np.array([[1.0, 0, 0], [1, -1, 0], [-1, 0, -1], [0, -1, 0], [0, 0, -1]])
    z = np.concatenate([[0], 2 * weight * slack, [0, 0]])
    z[0] = z[2] - z[1]
    s = np.concatenate([[0], [1.5 - x0 + slack[0], 1.5 + x0 + slack[1]], slack])
    return solvable(np.diag([0, 2 * weight, 2 * weight]), A, np.array([x0, *slack]), s, z, Shape(zero=1, nonneg=4))


def soft_mpc(rng: Random) -> Program:
    """Track a reference over three steps; |state| ≤ 1 up to slacks that cost ½ w e², |control| ≤ 0.5."""
    states, controls, steps, weight = 3, 2, 3, power(rng, 2, 9)
    F, B = np.eye(states) + 0.1 * rng.standard_normal((states, states)), 0.4 * rng.standard_normal((states, controls))
    nx, nu = steps * states, steps * controls
    walls, e = 2 * nx, np.zeros(2 * nx)
    X = rng.choice([0.3, -0.6, 1.0, -1.0], size=nx)
    outside = (np.abs(X) == 1) & (rng.random(nx) < 0.7)
    e[:nx], e[nx:] = outside * (X > 0) * rng.random(nx) / weight, outside * (X < 0) * rng.random(nx) / weight
    X = X + e[:nx] - e[nx:]
    su, zu = either(rng, nu)
    U = np.where(zu > 0, 0.5, 0.5 - 0.5 * su)
    dynamics = np.eye(nx) - np.kron(np.eye(steps, k=-1), F)
    inputs, eye = -np.kron(np.eye(steps), B), np.eye(nx)
    A = np.vstack([
        np.hstack([dynamics, inputs, np.zeros((nx, walls))]),
        np.hstack([np.vstack([eye, -eye]), np.zeros((walls, nu)), -np.eye(walls)]),
        np.hstack([np.zeros((walls, nx + nu)), -np.eye(walls)]),
        np.hstack([np.zeros((nu, nx)), np.eye(nu), np.zeros((nu, walls))]),
        np.hstack([np.zeros((nu, nx)), -np.eye(nu), np.zeros((nu, walls))]),
    ])  # fmt: skip
    P = np.diag(np.concatenate([np.ones(nx), np.full(nu, 0.09), np.full(walls, weight)]))
    s = np.concatenate([np.zeros(nx), 1 - np.append(X, -X) + e, e, 0.5 - U, 0.5 + U])
    s[np.append(np.zeros(nx, bool), e > 0).nonzero()[0]] = 0
    z = np.concatenate([rng.standard_normal(nx), weight * e, np.zeros(walls), zu, np.zeros(nu)])
    return solvable(P, A, np.concatenate([X, U, e]), s, z, Shape(zero=nx, nonneg=2 * walls + 2 * nu))


def control_barrier(rng: Random) -> Program:
    """min ‖u − u_ref‖² + w r s.t. Lg u + Lf ≤ r, r ≥ 0, |u| ≤ 1: the barrier may rest, push, or be broken."""
    weight, Lg = power(rng, 1, 9), rng.standard_normal(2)
    kind = rng.integers(3)
    if kind == 2:  # even the best corner breaks it
        u, r, push = -np.sign(Lg), rng.random(), weight
        box = np.where(Lg > 0, -1, 1) * (weight * np.abs(Lg) + rng.random(2))
    else:
        u, r, push, box = rng.uniform(-0.9, 0.9, 2), 0.0, kind * min(weight, 1.0) * rng.uniform(0.1, 0.9), np.zeros(2)
    A = np.vstack([np.append(Lg, -1), [0, 0, -1], np.hstack([np.vstack([np.eye(2), -np.eye(2)]), np.zeros((4, 1))])])
    s = np.concatenate([[0 if kind else rng.random()], [r], 1 - u, 1 + u])
    z = np.concatenate([[push, weight - push], np.maximum(box, 0), np.maximum(-box, 0)])
    return solvable(np.diag([2.0, 2, 0]), A, np.append(u, r), s, z, Shape(nonneg=6))


def entropic_assignment(rng: Random) -> Program:
    """max Σ Sᵢⱼ Xᵢⱼ − τ Xᵢⱼ log Xᵢⱼ with given row and column sums, and X ≥ 0 said although it follows: x = (X, t)."""
    n, tau = 4, power(rng, -1.5, 0)
    X = np.exp(2 * rng.standard_normal(n * n))
    X = X / X.sum() * n
    N, eye = n * n, np.eye(n * n)
    sums = np.vstack([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))[:-1]])  # the last one follows
    exponential = np.zeros((3 * N, 2 * N))  # (t, X, 1) ∈ K: X exp(t/X) ≤ 1
    exponential[::3, N:], exponential[1::3, :N] = -eye, -eye
    A = np.vstack([np.hstack([sums, np.zeros_like(sums)]), np.hstack([-eye, np.zeros((N, N))]), exponential])
    t = -X * np.log(X)
    s = np.concatenate([np.zeros(2 * n - 1), X, np.stack([t, X, np.ones(N)], 1).ravel()])
    # Multipliers lie along minus the gradient of y exp(x/y) − z at (t, X, 1).
    slope = np.stack([-1 / X, -(1 + np.log(X)) / X, np.ones(N)], 1) * (tau * X)[:, None]
    z = np.concatenate([rng.standard_normal(2 * n - 1), np.zeros(N), slope.ravel()])
    b = A @ np.append(X, t) + s
    b[2 * n - 1 :] = np.concatenate([np.zeros(N), np.tile([0.0, 0, 1], N)])
    return replace(solvable(np.zeros((2 * N, 2 * N)), A, np.append(X, t), s, z, Shape(2 * n - 1, N, exp=N)), b=b)


def distance(rng: Random) -> Program:
    """min ‖D(x − q)‖ s.t. x ≥ 0, Σx ≤ budget, x ≤ u, where u says that there is no bound: (x, t)."""
    n, u, radius = 6, power(rng, 4, 20), 0.5 + rng.random()
    x, mu = either(rng, n)
    x[0], mu[0] = 1, 0
    D, push = np.arange(1.0, n + 1), 0.5 + rng.random()
    v = (mu - push) / D
    length = float(np.linalg.norm(v))
    mu, push, v = mu / length, push / length, v / length
    zero, eye = np.zeros((n, 1)), np.eye(n)
    A = np.vstack([
        np.hstack([-eye, zero]), np.append(np.ones(n), 0), np.hstack([eye, zero]),
        np.append(np.zeros(n), -1), np.hstack([-np.diag(D), zero]),
    ])  # fmt: skip
    s = np.concatenate([x, [0], u - x, [radius], radius * v])
    z = np.concatenate([mu, [push], np.zeros(n), [1], -v])
    return solvable(np.zeros((n + 1, n + 1)), A, np.append(x, radius), s, z, Shape(nonneg=2 * n + 1, soc=(n + 1,)))


def exact(make: Callable[[Random], Program]) -> Callable[[Random], Program]:
    """The same with the zeros of b and c exact, as people write them. As constructed, some are 1e-17 by rounding."""

    def made(rng: Random) -> Program:
        base = make(rng)
        b, c = (np.where(np.abs(v) < 1e-14, 0, v) for v in (base.b, base.c))
        return replace(base, b=b, c=c)

    return made


FIELD: dict[str, Callable[[Random], Program]] = {
    "no upper bound": no_bound,
    "one dear price": dear_price,
    "CVaR portfolio": exact(cvar_portfolio),
    "CVaR, zeros rounded": cvar_portfolio,
    "soft box": soft_box,
    "soft MPC": soft_mpc,
    "control barrier": control_barrier,
    "entropic assignment": entropic_assignment,
    "distance, no upper bound": exact(distance),
    "distance, zeros rounded": distance,
}
