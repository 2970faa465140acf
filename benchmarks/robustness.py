"""Right answers: how often a method solves a program, fails with an error, or is wrong and does not say so.

Programs of the kinds that users of such layers write, and random hostile ones; all small, one at a time, each with an
answer that is known by construction. Four digits are right. Forward only.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import cone
from .cone_problems import clarabel_order
from .field_problems import FIELD
from .method import Case, Method, rounded
from .robustness_problems import HOSTILE, Program

COUNT = 24  # programs of a kind
RIGHT = 1e-4
OUTCOMES = ("solved", "wrong in silence", "false certificate", "false error", "missed error", "not taken")


class Answer(NamedTuple):
    """What a method gave for x, if anything, and what it said: solved, infeasible, unbounded or failed."""

    x: np.ndarray | None
    says: str


Solve = Callable[[], Answer]


@dataclass(frozen=True)
class Programs:
    """Several programs of one kind."""

    members: tuple[Program, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> Programs:
        if device.type != "cpu" or dtype != torch.float64:
            raise ValueError("robustness is measured in float64 on the CPU")
        return self


def problem(kind: str, programs: int, seed: int = 0) -> Programs:
    """The first programs of a kind; each has a seed of its own."""
    make = (FIELD | HOSTILE)[kind]
    return Programs(tuple(make(np.random.default_rng([seed, i])) for i in range(programs)))


# The methods


def ours(program: Program) -> Solve:
    from diffopt_lib.layers.cone import solve_cone
    from diffopt_lib.layers.cones import Cones
    from diffopt_lib.layers.qp import solve_qp

    said = {1: "solved", 2: "infeasible", 3: "unbounded", 4: "failed"}

    def solve() -> Answer:
        if program.quadratic:
            found = solve_qp(*(t[0] for t in as_qp(program)), on_failure="nan")
            return Answer(found.y.numpy(), said[int(found.status)])
        P, c, A, b = tensors(program)
        solution = solve_cone(c[0], A[0], b[0], Cones(**vars(program.shape)), P[0], on_failure="nan")
        return Answer(solution.x.numpy(), said[int(solution.status)])

    return solve


def qpth(program: Program) -> Solve:
    from qpth.qp import QPFunction

    Q, p, A, b, G, h = as_qp(program)
    nothing = p.new_zeros(0)
    equalities = (A, b) if A.shape[1] else (nothing, nothing)

    def solve() -> Answer:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # it prints where it does not trust its solution
            x = QPFunction(verbose=0)(Q, p, G, h, *equalities)
        return Answer(x[0].numpy(), "failed" if said.getvalue() else "solved")

    return solve


def qplayer(program: Program) -> Solve:
    from proxsuite.torch import qplayer as package

    package.os = SimpleNamespace(cpu_count=lambda: 2 * torch.get_num_threads())  # as in benchmarks.qp
    layer = package.QPFunction(eps=1e-9)
    Q, p, A, b, G, h = as_qp(program)
    lower = torch.full_like(h, -1e20)
    return lambda: Answer(layer(Q, p, A, b, G, lower, h)[0][0].numpy(), "solved")


def moreau(program: Program) -> Solve:
    import moreau as package
    from moreau.torch import Solver

    shape, n = program.shape, len(program.c)
    P, c, A, b = tensors(program)
    order = torch.tensor(clarabel_order(shape))
    cones = cone.as_moreau_has_them(shape)
    dense = [part for rows in (n, shape.rows) for part in (n * torch.arange(rows + 1), torch.arange(n).repeat(rows))]
    settings = package.Settings(batch_size=1, device="cpu", enable_grad=True)
    solver = Solver(n, shape.rows, *dense, cones=cones, settings=settings)

    def solve() -> Answer:
        solution = solver.solve(P.flatten(1), A[:, order].flatten(1), c, b[:, order])
        (status,) = solver.info.status
        said = {"Solved": "solved", "PrimalInfeasible": "infeasible", "DualInfeasible": "unbounded"}
        return Answer(solution.x[0].numpy(), said.get(status.name, "failed"))

    return solve


def cvxpylayers(program: Program, **solver: str) -> Solve:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    P, c, A, b = tensors(program)
    n, m = len(program.c), len(program.b)
    x, rows, bounds, linear = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Parameter(n)
    objective, parameters, values = linear @ x, [rows, bounds, linear], [A, b, c]
    if program.P.any():
        root = cp.Parameter((n, n))
        objective = 0.5 * cp.sum_squares(root @ x) + objective
        eigenvalues, V = torch.linalg.eigh(P)
        parameters.append(root)
        values.append(V.mT * eigenvalues.clamp_min(0).sqrt().unsqueeze(-1))
    constraints = cone.constraints(bounds - rows @ x, program.shape)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), constraints), parameters=parameters, variables=[x])
    return lambda: Answer(layer(*values, solver_args=solver)[0][0].numpy(), "solved")


def with_clarabel(program: Program) -> Solve:
    """cvxpylayers as one can ask for it: its own choice, SCS, stops at three or four digits."""
    return cvxpylayers(program, solve_method="CLARABEL")


def tensors(program: Program) -> list[Tensor]:
    """P, c, A and b, as a batch of one."""
    return [torch.tensor(array)[None] for array in (program.P, program.c, program.A, program.b)]


def as_qp(program: Program) -> list[Tensor]:
    """Q, p, A, b, G and h, as a batch of one."""
    P, c, A, b = tensors(program)
    k = program.shape.zero
    return [P, c, A[:, :k], b[:, :k], A[:, k:], b[:, k:]]


def quadratic_only(program: Program) -> str | None:
    return None if program.quadratic else "quadratic programs only"


def strictly_convex_only(program: Program) -> str | None:
    """qpth asks for a positive definite Q."""
    singular = np.linalg.eigvalsh(program.P)[0] <= 1e-12 * np.abs(program.P).max(initial=0)
    return quadratic_only(program) or ("a positive definite Q only" if singular else None)


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.layers", ours),
    Method("qpth", "qpth", "qpth.qp", qpth, strictly_convex_only),
    Method("QPLayer", "proxsuite", "proxsuite.torch.qplayer", qplayer, quadratic_only),
    Method("Moreau", "moreau", "moreau.torch", moreau),
    Method("cvxpylayers", "cvxpylayers", "cvxpylayers.torch", cvxpylayers),
    Method("cvxpylayers, Clarabel", "cvxpylayers", "cvxpylayers.torch", with_clarabel),
]


# The measurement


def measure(problem: Programs, methods: list[Method], device: torch.device, **turns: int) -> list[dict[str, Any]]:
    """For every method: the numbers of the programs with each outcome, seconds in all, and the largest right error."""
    return [try_all(problem, method) for method in methods]


def try_all(problem: Programs, method: Method) -> dict[str, Any]:
    if reason := method.missing():
        return {"method": method.name, "missing": reason}
    found: dict[str, list[int]] = {outcome: [] for outcome in OUTCOMES}
    seconds = 0.0
    for i, program in enumerate(problem.members):
        if method.limits(program):
            found["not taken"].append(i)
            continue
        answer, spent = ask(method, program)
        found[outcome(program, answer)].append(i)
        seconds += spent
    return {"method": method.name} | found | {"seconds": rounded(seconds)}


def ask(method: Method, program: Program) -> tuple[Answer, float]:
    """The answer and the seconds it took, preparations aside. An exception is an answer, a warning part of one."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            solve = method.prepare(program)
            warned.clear()  # what is said before it solves is not about the solution
            start = time.perf_counter()
            answer = solve()
        except Exception as error:
            answer = Answer(None, what_it_says(error))
        spent = time.perf_counter() - start
    doubtful = any(issubclass(warning.category, UserWarning) for warning in warned)
    if doubtful and not right(program, answer):
        answer = answer._replace(says=answer.says.replace("solved", "failed"))
    return answer, spent


def what_it_says(error: Exception) -> str:
    """The verdict in a message, those of the dual program translated."""
    text = str(error).lower().replace(" ", "").replace("_", "")
    if "dualinfeasible" in text or "unbounded" in text:
        return "unbounded"
    return "infeasible" if "infeasible" in text else "failed"


def right(program: Program, answer: Answer) -> bool:
    return program.verdict == "solvable" and answer.x is not None and program.error(answer.x) <= RIGHT


def outcome(program: Program, answer: Answer) -> str:
    """One of ``OUTCOMES``. A program without a solution is solved by saying so, in whatever words."""
    gives = answer.says == "solved" and answer.x is not None and bool(np.isfinite(answer.x).all())
    if program.verdict != "solvable":
        return "missed error" if gives else "solved"
    if gives:
        return "solved" if right(program, answer) else "wrong in silence"
    return "false certificate" if answer.says in ("infeasible", "unbounded") else "false error"


def show(case: dict[str, Any]) -> str:
    """A case as text."""
    lines = [f"{case['table']}: {case['sizes']['kind']}, {case['sizes']['programs']} programs"]
    for row in case["rows"]:
        if "missing" in row:
            lines.append(f"  {row['method']:22} {row['missing']}")
        else:
            counts = "   ".join(f"{outcome} {len(row[outcome])}" for outcome in OUTCOMES if row[outcome])
            lines.append(f"  {row['method']:22} {row['seconds']:8.2g} s   {counts}")
    return "\n".join(lines)


# The cases


def cases(quick: bool) -> list[Case]:
    """Every kind."""
    count = 1 if quick else COUNT
    named = (("field", FIELD), ("hostile", HOSTILE))
    return [Case(table, {"kind": kind, "programs": count}, torch.float64) for table, kinds in named for kind in kinds]


def targets(device: str) -> list[dict[str, Any]]:
    """None are about time."""
    return []
