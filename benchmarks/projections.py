"""Projections as layers: soft top-k, sparsemax, soft sorting and ranking, doubly stochastic matrices.

The table of sizes, how time and memory grow with the number of entries, and what a low temperature costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .method import Case, Forward, Method, by_autograd, cpu_and_double_only, cpu_only
from .projection_problems import Projection, random_projection

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}  # on sums of rows and columns: ours, but for loops in float32,
# which can't reach the 1e-7 that our arithmetic in float64 allows
PUBLISHED_ROUNDS = 20
MOST_ROUNDS = 500


# Soft top-k


def our_top_k(problem: Projection) -> Forward:
    from diffopt_lib.layers.topk import soft_top_k

    return by_autograd(problem.parameters, lambda x: soft_top_k(x, **problem.settings))


def bracketing(problem: Projection) -> Forward:
    k, tau = problem.settings["k"], problem.settings["tau"]
    branches = 100 if problem.x.is_cuda else 10
    return by_autograd(problem.parameters, lambda x: Bracketing.apply(x / tau, k, branches))


class Bracketing(torch.autograd.Function):
    """The algorithm that came with the limited multi-label projection (Amos, Koltun & Kolter 2019), written anew.

    The authors' package can't be installed by pip, which knows another one as ``lml``. Their constants are kept: a
    bracket for the multiplier that reaches 7 beyond the k-th and the next largest score, which takes a sort, and 7
    further if that was too high; as many points in it as there are branches; and a width of 1e-4 at which the middle
    of the bracket is taken as the solution.
    """

    @staticmethod
    def forward(ctx, x: Tensor, k: int, branches: int) -> Tensor:
        y = torch.sigmoid(x + bracketed_multiplier(x, k, branches).unsqueeze(-1))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        (y,) = ctx.saved_tensors
        d = 1 / (1 / y + 1 / (1 - y))
        mean = (d * cotangent).sum(-1, keepdim=True) / d.sum(-1, keepdim=True)
        return d * (cotangent - mean), None, None


def bracketed_multiplier(x: Tensor, k: int, branches: int) -> Tensor:
    """ν with Σ σ(x + ν) = k to half of 1e-4, ``(batch,)`` for x ``(batch, n)``."""
    descending = x.sort(dim=-1, descending=True).values
    low, high = -descending[:, k - 1] - 7, -descending[:, k] + 7
    fractions = torch.linspace(0, 1, branches, dtype=x.dtype, device=x.device)
    for _ in range(100):
        rows = (high - low > 1e-4).nonzero().squeeze(-1)
        if len(rows) == 0:
            break
        points = low[rows, None] + (high - low)[rows, None] * fractions
        sums = torch.sigmoid(x[rows, None, :] + points.unsqueeze(-1)).sum(-1)
        before = (sums < k).sum(-1, keepdim=True) - 1
        at = before.clamp(0, branches - 2)
        too_high = (before < 0).squeeze(1)
        low[rows] = points.gather(1, at).squeeze(1) - 7.0 * too_high
        high[rows] = points.gather(1, at + 1).squeeze(1)
    return (low + high) / 2


def cvxpylayers(problem: Projection) -> Forward:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    k, tau = problem.settings["k"], problem.settings["tau"]
    x, y = cp.Parameter(problem.x.shape[1]), cp.Variable(problem.x.shape[1])
    entropy = cp.sum(cp.entr(y)) + cp.sum(cp.entr(1 - y))
    layer = CvxpyLayer(cp.Problem(cp.Maximize(x @ y + tau * entropy), [cp.sum(y) == k]), parameters=[x], variables=[y])
    return by_autograd(problem.parameters, lambda x: layer(x)[0])


def small_only(problem: Projection) -> str | None:
    """cvxpylayers needs minutes beyond this."""
    return cpu_and_double_only(problem) or ("left out: takes too long" if problem.x.numel() > 1000 else None)


# Sparsemax


def our_sparsemax(problem: Projection) -> Forward:
    from diffopt_lib.layers.simplex import sparsemax

    return by_autograd(problem.parameters, lambda x: sparsemax(x, **problem.settings))


def entmax(problem: Projection) -> Forward:
    from entmax import sparsemax

    return by_autograd(problem.parameters, lambda x: sparsemax(x / problem.settings["tau"], dim=-1))


# Soft sorting and ranking


def our_rank(problem: Projection) -> Forward:
    from diffopt_lib.layers.sorting import soft_rank

    return by_autograd(problem.parameters, lambda x: soft_rank(x, **problem.settings))


def our_sort(problem: Projection) -> Forward:
    from diffopt_lib.layers.sorting import soft_sort

    return by_autograd(problem.parameters, lambda x: soft_sort(x, **problem.settings))


def torchsort_rank(problem: Projection) -> Forward:
    from torchsort import soft_rank

    tau = problem.settings["tau"]
    return by_autograd(problem.parameters, lambda x: soft_rank(x, regularization_strength=tau))


def torchsort_sort(problem: Projection) -> Forward:
    from torchsort import soft_sort

    tau = problem.settings["tau"]
    return by_autograd(problem.parameters, lambda x: soft_sort(x, regularization_strength=tau))


# Doubly stochastic matrices


def our_sinkhorn(problem: Projection) -> Forward:
    from diffopt_lib.layers.permutation import sinkhorn_operator

    return by_autograd(problem.parameters, lambda S: sinkhorn_operator(S, **problem.settings))


def published_loop(problem: Projection) -> Forward:
    tau = problem.settings["tau"]
    return by_autograd(problem.parameters, lambda S: balance_in_turn(S / tau, PUBLISHED_ROUNDS))


def loop_to_tolerance(problem: Projection) -> Forward:
    """The loop with as many rounds as this batch needs; they are counted beforehand, outside the measurement."""
    tau = problem.settings["tau"]
    rounds = rounds_needed(problem.x / tau, TOLERANCE[problem.x.dtype])
    return by_autograd(problem.parameters, lambda S: balance_in_turn(S / tau, rounds))


def balance_in_turn(log_P: Tensor, rounds: int) -> Tensor:
    """Rows and columns scaled to unit sums, in turn, in logarithms (Sinkhorn 1967)."""
    for _ in range(rounds):
        log_P = log_P - log_P.logsumexp(-1, keepdim=True)
        log_P = log_P - log_P.logsumexp(-2, keepdim=True)
    return log_P.exp()


def rounds_needed(log_P: Tensor, tolerance: float) -> int:
    """How many rounds it takes until the sums of rows are within the tolerance; those of columns are exact after each.

    Raises:
        RuntimeError: they are not after the most that the benchmark has time and memory for.
    """
    for rounds in range(1, MOST_ROUNDS + 1):
        log_P = log_P - log_P.logsumexp(-1, keepdim=True)
        log_P = log_P - log_P.logsumexp(-2, keepdim=True)
        error = (log_P.exp().sum(-1) - 1).abs().max().item()
        if error <= tolerance:
            return rounds
    raise RuntimeError(f"sums off by {error:.0e} after {MOST_ROUNDS} rounds")


def pot(problem: Projection) -> Forward:
    from ot.batch import solve_batch

    tau, n = problem.settings["tau"], problem.x.shape[-1]
    tolerance = TOLERANCE[problem.x.dtype] / n  # its rows and columns have sums of 1/n

    def solve(S: Tensor, grad: str):
        return solve_batch(-S, tau, max_iter=MOST_ROUNDS, tol=tolerance, grad=grad)

    if solve(problem.x, "detach").log["n_iter"] == MOST_ROUNDS - 1:  # it counts from 0
        raise RuntimeError(f"not converged after {MOST_ROUNDS} rounds")
    return by_autograd(problem.parameters, lambda S: n * solve(S, "autodiff").plan)


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.layers.topk", our_top_k, layer="soft_top_k", in_torch=True),
    Method("LML bracketing", "torch", "torch", bracketing, layer="soft_top_k", in_torch=True),
    Method("cvxpylayers", "cvxpylayers", "cvxpylayers.torch", cvxpylayers, small_only, layer="soft_top_k"),
    Method("ours", "diffopt_lib", "diffopt_lib.layers.simplex", our_sparsemax, layer="sparsemax", in_torch=True),
    Method("entmax", "entmax", "entmax", entmax, layer="sparsemax", in_torch=True),
    Method("ours", "diffopt_lib", "diffopt_lib.layers.sorting", our_rank, layer="soft_rank", in_torch=True),
    Method("torchsort", "torchsort", "torchsort", torchsort_rank, cpu_only, layer="soft_rank", in_torch=True),
    Method("ours", "diffopt_lib", "diffopt_lib.layers.sorting", our_sort, layer="soft_sort", in_torch=True),
    Method("torchsort", "torchsort", "torchsort", torchsort_sort, cpu_only, layer="soft_sort", in_torch=True),
    Method(
        "ours", "diffopt_lib", "diffopt_lib.layers.permutation", our_sinkhorn, layer="sinkhorn_operator", in_torch=True
    ),
    Method("20 rounds", "torch", "torch", published_loop, layer="sinkhorn_operator", in_torch=True),
    Method("unrolled loop", "torch", "torch", loop_to_tolerance, layer="sinkhorn_operator", in_torch=True),
    Method("POT", "POT", "ot.batch", pot, layer="sinkhorn_operator", in_torch=True),
]


# The cases. Temperatures of sorting and ranking grow and shrink with n, so that some neighbours are pooled, not all.

TOP_K = [(1024, 1000, 20, 1.0), (1024, 1000, 20, 0.01), (16, 50, 5, 1.0)]
SPARSEMAX = [(128, 100), (1024, 1000), (1, 1_000_000)]
SORTING = [(128, 100), (16, 1000), (1, 100_000)]
MATRICES = [(64, 10), (16, 50), (2, 200)]
TEMPERATURES = [1.0, 0.1, 0.01, 0.001]
GROWTH = [100, 1000, 10_000, 100_000, 1_000_000]


def top_k_sizes(batch: int, n: int, k: int, tau: float) -> dict[str, Any]:
    return {"layer": "soft_top_k", "batch": batch, "n": n, "k": k, "tau": tau}


def sparsemax_sizes(batch: int, n: int) -> dict[str, Any]:
    return {"layer": "sparsemax", "batch": batch, "n": n, "tau": 1.0}


def rank_sizes(batch: int, n: int) -> dict[str, Any]:
    return {"layer": "soft_rank", "batch": batch, "n": n, "tau": 1 / n}


def sort_sizes(batch: int, n: int) -> dict[str, Any]:
    return {"layer": "soft_sort", "batch": batch, "n": n, "tau": n / 4}


def matrix_sizes(batch: int, n: int, tau: float) -> dict[str, Any]:
    return {"layer": "sinkhorn_operator", "batch": batch, "n": n, "tau": tau}


TABLE = [
    *(top_k_sizes(*sizes) for sizes in TOP_K),
    *(sparsemax_sizes(*sizes) for sizes in SPARSEMAX),
    *(rank_sizes(*sizes) for sizes in SORTING),
    *(sort_sizes(*sizes) for sizes in SORTING),
    *(matrix_sizes(*sizes, tau) for sizes in MATRICES for tau in TEMPERATURES),
]
BY_SIZE = [
    *(top_k_sizes(1, n, 20, 1.0) for n in GROWTH),
    *(rank_sizes(1, n) for n in GROWTH),
]
BY_TEMPERATURE = [matrix_sizes(16, 50, tau) for tau in (2.0, 1.0, 0.5, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)]
QUICK = [
    top_k_sizes(4, 30, 3, 0.5),
    sparsemax_sizes(4, 30),
    rank_sizes(4, 30),
    sort_sizes(4, 30),
    matrix_sizes(2, 6, 0.5),
]


def cases(quick: bool) -> list[Case]:
    """The table of sizes and the growth with n in both precisions, the growth as the temperature falls in float64."""
    if quick:
        return [Case("quick", sizes, torch.float64) for sizes in QUICK]
    named = (("table", TABLE), ("by size", BY_SIZE), ("by temperature", BY_TEMPERATURE))
    double = [Case(table, sizes, torch.float64) for table, rows in named for sizes in rows]
    single = [Case(table, sizes, torch.float32) for table, rows in named[:2] for sizes in rows]
    return double + single


def targets(device: str) -> list[dict[str, Any]]:
    """What we set out to reach in the table: how many times as long as ours a method should take, at least.

    An unrolled loop and POT count where they reach our accuracy; 20 rounds do not, so that there is no target for them.
    """
    issue = [goal("LML bracketing", top_k_sizes(*TOP_K[0]), 10, dtype) for dtype in ("float64", "float32")]
    if device == "cuda":
        return issue
    return [
        *issue,
        goal("cvxpylayers", top_k_sizes(*TOP_K[2]), 10),
        *(goal("entmax", sparsemax_sizes(*sizes), 1) for sizes in SPARSEMAX),
        *(goal("torchsort", rank_sizes(*sizes), 1) for sizes in SORTING),
        *(goal("torchsort", sort_sizes(*sizes), 1) for sizes in SORTING),
        *(
            goal(method, matrix_sizes(*sizes, tau), 1)
            for sizes in MATRICES
            for tau in TEMPERATURES
            for method in ("unrolled loop", "POT")
        ),
    ]


def goal(method: str, sizes: dict[str, Any], ratio: float, dtype: str = "float64") -> dict[str, Any]:
    return {"method": method, "sizes": sizes, "dtype": dtype, "ratio": ratio}


problem = random_projection
