"""CVXPY problems as layers: the problem is written as one writes it, and solved and differentiated by this package.

CVXPY rewrites a disciplined parametrised problem (DPP) once as a program in standard form whose data are affine
functions of the parameters θ:

    min ½ xᵀPx + qᵀx  s.t.  b − Ax ∈ K,        (P, q, A, b) = affine functions of θ                      (1)

We keep those functions as sparse maps and evaluate them with torch, so that a call is: map the parameters, solve (1)
with :func:`.solve_qp` if K has only zero and nonnegative rows and with :func:`.solve_cone` otherwise, pick the
variables out of x. A large program with few nonzero entries goes to :func:`.solve_sparse`. Every step is
differentiable, batched, and on the device of the parameters.

Chapter: book/2_differentiable/05_cone_programs. Source: Agrawal, Amos, Barratt, Boyd, Diamond & Kolter, Differentiable
convex optimization layers, 2019; for geometric programs Agrawal & Boyd, Differentiating through log-log convex
programs, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ...autograd.precision import full_precision
from ...batch.shapes import broadcast_batch
from ...solution import STUCK, raise_failed
from ...validate import check_option, check_same_kind, values_visible
from ..cone import solve_cone
from ..qp import solve_qp
from ..sparse import Pattern, count_entries, solve_sparse
from ..sparse.layer import REASONS as SPARSE_REASONS
from .affine import AffineMap
from .attributes import declared
from .canonical import Canonical, check_problem

if TYPE_CHECKING:
    import cvxpy as cp

# Of the system of the optimality conditions, which has a row for every variable and every constraint: where a sparse
# factorisation of each element is faster than a dense one of the whole batch, and what still fits as a dense one.
SMALLEST_SPARSE, DENSEST_SPARSE, LARGEST_DENSE = 400, 0.05, 3000

Value = Tensor | tuple[Tensor, ...]


def from_cvxpy(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    *,
    duals: Sequence[cp.Constraint] = (),
    gp: bool = False,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    on_failure: Literal["raise", "nan"] = "raise",
    singular: Literal["raise", "least_norm"] = "raise",
) -> CvxpyLayer:
    """The solution map of a CVXPY problem as a module: parameter tensors in, a tuple of tensors out.

    Args:
        problem: a convex problem that is DPP, with zero, nonnegative, second-order, semidefinite and exponential cones.
        parameters: all its parameters, in the order in which the module takes their tensors. What they are declared to
            be (``PSD=True``, bounds, …) is checked at every call.
        variables: those of its variables that the module returns, in that order.
        duals: those of its constraints whose dual variables come after them, with CVXPY's signs: as
            ``constraint.dual_value`` has them, a tensor, or a tuple of tensors for a constraint that has several.
        gp: whether the problem is a geometric program (``problem.is_dgp()``), convex in the logarithms of its
            variables. Dual variables are then those of the convex problem, as with ``problem.solve(gp=True)``.
        tolerance, max_iterations, on_failure: as :func:`.solve_qp` and :func:`.solve_cone` have them.
        singular: as :func:`.solve_cone` has it; quadratic programs always raise.

    Raises:
        ValueError: the problem is not DPP, has integer or complex variables or power cones, or the parameters,
            variables or constraints are not its own.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_option("singular", singular, ("raise", "least_norm"))
    check_problem(problem, parameters, variables, duals, gp)
    options: dict[str, Any] = {"on_failure": on_failure}
    if tolerance is not None:
        options["tolerance"] = tolerance
    if max_iterations is not None:
        options["max_iterations"] = max_iterations
    return CvxpyLayer(problem, parameters, variables, duals, gp, options, singular)


class CvxpyLayer(torch.nn.Module):
    """What :func:`from_cvxpy` returns. Cast to another precision it stays the same problem.

    Attributes:
        cones: K of eq. (1).
        is_quadratic: whether (1) is solved as a quadratic program.
        is_sparse: whether its matrices are kept sparse for that.
    """

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        duals: Sequence[cp.Constraint],
        gp: bool,
        options: dict[str, Any],
        singular: str,
    ):
        super().__init__()
        program = Canonical(problem, parameters, gp)
        self.cones, self.is_quadratic, self.gp = program.cones, program.is_polyhedral, gp
        self.options = options if self.is_quadratic else {**options, "singular": singular}
        self.declared = tuple(map(declared, parameters))
        self.P, self.q, self.A, self.b = program.P, program.q, program.A, program.b
        self.patterns = _pattern(self.P), _pattern(self.A)
        size, entries = sum(self.A.shape), count_entries(*self.patterns, self.cones)
        fits = size >= SMALLEST_SPARSE and entries <= DENSEST_SPARSE * size**2
        self.is_sparse = fits and (self.is_quadratic or singular == "raise")
        self.places = tuple((source.parameter, source.is_log) for source in program.sources)
        self.reductions = torch.nn.ModuleList(source.entries for source in program.sources)
        self.variables = torch.nn.ModuleList(program.variable(v) for v in variables)
        self.duals = torch.nn.ModuleList(torch.nn.ModuleList(program.dual(c)) for c in duals)

    @full_precision
    def forward(self, *parameters: Tensor) -> tuple[Value, ...]:
        """Solve for parameter tensors ``(*batch, *shape)``; their batch dimensions broadcast, and what comes back is
        ``(*batch, *shape)``, the variables first.

        Raises:
            ValueError: a parameter has the wrong shape or dtype, is not finite, or not what it is declared to be.
            SolverError: as :func:`.solve_qp` and :func:`.solve_cone` raise it.
        """
        theta = self._stack(parameters)
        x, y = (t.expand(*theta.shape[:-1], t.shape[-1]) for t in self._solve(theta))
        dtype = parameters[0].dtype if parameters else theta.dtype
        primal = tuple((torch.exp(of(x)) if self.gp else of(x)).to(dtype) for of in self.variables)
        dual = [tuple(of(y).to(dtype) for of in parts.children()) for parts in self.duals]
        return (*primal, *(parts[0] if len(parts) == 1 else parts for parts in dual))

    def _solve(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """x of (1) and the dual variable of its rows, y ∈ K* with Px + q + Aᵀy = 0."""
        if self.is_sparse and (sparse := self._solve_sparse(theta)):
            return sparse
        P, q, A, b = self.P(theta), self.q(theta), self.A(theta), self.b(theta)
        if self.is_quadratic:
            e = self.cones.zero
            qp = solve_qp(P, q, A[..., :e, :], b[..., :e], A[..., e:, :], b[..., e:], **self.options)
            return qp.y, torch.cat([qp.equality_dual, qp.inequality_dual], dim=-1)
        cone = solve_cone(q, A, b, self.cones, P if len(self.P.places) else None, **self.options)
        return cone.x, cone.y

    def _solve_sparse(self, theta: Tensor) -> tuple[Tensor, Tensor] | None:
        """The same without a dense matrix; None if not every element could be settled that way and a dense one fits."""
        P, q, A, b = self.P.entries(theta), self.q(theta), self.A.entries(theta), self.b(theta)
        sparse = solve_sparse(P, q, A, b, self.patterns, self.cones, on_failure="nan")
        if values_visible(sparse.status):
            if (sparse.status == STUCK).any() and sum(self.A.shape) <= LARGEST_DENSE:
                return None
            if self.options["on_failure"] == "raise":
                raise_failed(sparse.status, SPARSE_REASONS)
        return sparse.x, sparse.y

    def _stack(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """(θ, 1) ``(*batch, size)``, in double precision whatever the parameters are."""
        if len(parameters) != len(self.declared):
            raise ValueError(f"the layer takes {len(self.declared)} parameters, got {len(parameters)}")
        for parameter, t in zip(self.declared, parameters, strict=True):
            parameter.check(t)
        if not parameters:
            return torch.ones(1, dtype=torch.float64, device=self.q.constants["value"].device)
        named = [
            (parameter.name, t, len(parameter.shape)) for parameter, t in zip(self.declared, parameters, strict=True)
        ]
        check_same_kind(named[0][0], parameters[0], [(name, t) for name, t, _ in named])
        batch = broadcast_batch(named)
        flat = []
        for (i, is_log), entries in zip(self.places, self.reductions, strict=True):
            t = parameters[i].double().expand(batch + self.declared[i].shape)
            vector = entries(t.reshape(batch + (math.prod(self.declared[i].shape),)))
            flat.append(torch.log(vector) if is_log else vector)
        one = torch.ones(batch + (1,), dtype=torch.float64, device=parameters[0].device)
        return torch.cat([*flat, one], dim=-1)


def _pattern(matrix: AffineMap) -> Pattern:
    rows, columns = matrix.shape
    return Pattern(matrix.places // max(columns, 1), matrix.places % max(columns, 1), (rows, columns))
