"""CVXPY problems as layers: the problem is written as one writes it, and solved and differentiated by this package.

CVXPY rewrites a disciplined parametrised problem (DPP) once as a program in standard form whose data are affine
functions of the parameters θ:

    min ½ xᵀPx + qᵀx  s.t.  b − Ax ∈ K,        (P, q, A, b) = affine functions of θ                      (1)

We keep those functions as sparse maps and evaluate them with torch, so that a call is: map the parameters, solve (1)
with :func:`.solve_qp` if K has only zero and nonnegative rows and with :func:`.solve_cone` otherwise, pick the
variables out of x. Every step is differentiable, batched, and on the device of the parameters.

Chapter: book/2_differentiable/05_cone_programs. Source: Agrawal, Amos, Barratt, Boyd, Diamond & Kolter, Differentiable
convex optimization layers, 2019.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..autograd.precision import full_precision
from ..validate import check_finite, check_floating, check_option, check_same_kind, values_visible
from .cone import solve_cone
from .cones.product import Cones
from .qp import solve_qp

if TYPE_CHECKING:
    import cvxpy as cp

SYMMETRIC = ("symmetric", "PSD", "NSD")
SIGNS = {
    "nonneg": ("nonnegative", lambda t: t >= 0),
    "nonpos": ("nonpositive", lambda t: t <= 0),
    "pos": ("positive", lambda t: t > 0),
    "neg": ("negative", lambda t: t < 0),
}


def from_cvxpy(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    on_failure: Literal["raise", "nan"] = "raise",
    singular: Literal["raise", "least_norm"] = "raise",
) -> CvxpyLayer:
    """The solution map of a CVXPY problem as a module: parameter tensors in, a tuple of variable tensors out.

    Args:
        problem: a convex problem that is DPP, with zero, nonnegative, second-order, semidefinite and exponential cones.
        parameters: all its parameters, in the order in which the module takes their tensors.
        variables: those of its variables that the module returns, in that order.
        tolerance, max_iterations, on_failure: as :func:`.solve_qp` and :func:`.solve_cone` have them.
        singular: as :func:`.solve_cone` has it; quadratic programs always raise.

    Raises:
        ValueError: the problem is not DPP, has integer or complex variables or power cones, or the parameters or
            variables are not its own.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_option("singular", singular, ("raise", "least_norm"))
    _check_problem(problem, parameters, variables)
    options: dict[str, Any] = {"on_failure": on_failure}
    if tolerance is not None:
        options["tolerance"] = tolerance
    if max_iterations is not None:
        options["max_iterations"] = max_iterations
    return CvxpyLayer(problem, parameters, variables, options, singular)


class CvxpyLayer(torch.nn.Module):
    """What :func:`from_cvxpy` returns.

    Attributes:
        cones: K of eq. (1).
        is_quadratic: whether (1) is solved as a quadratic program.
    """

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[cp.Variable],
        options: dict[str, Any],
        singular: str,
    ):
        super().__init__()
        data, chain = _canonicalise(problem, quadratic=True)
        if not _is_quadratic(data["dims"]) or not problem.is_qp():
            data, chain = _canonicalise(problem, quadratic=False)
        program, dims = data["param_prob"], data["dims"]
        if dims.p3d or dims.pnd:
            raise ValueError("problem must not need power cones (powers other than 2 and 1/2, geometric means)")
        self.cones = Cones(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp)
        self.is_quadratic = _is_quadratic(dims)
        self.options = options if self.is_quadratic else {**options, "singular": singular}
        self.parameter_names = tuple(p.name() for p in parameters)
        self.parameter_shapes = tuple(tuple(p.shape) for p in parameters)
        self.parameter_signs = tuple(tuple(sign for sign in SIGNS if p.attributes[sign]) for p in parameters)

        names = {old: new[0] for old, new in chain.compose_param_id_map().items()}
        columns = {p.id: program.param_id_to_col[names.get(p.id, p.id)] for p in parameters}
        order = sorted(range(len(parameters)), key=lambda i: columns[parameters[i].id])
        self.order = tuple(order)
        self.reductions = torch.nn.ModuleList(_Entries.of_parameter(p) for p in parameters)

        n, m = program.x.size, self.cones.rows
        size = 1 + program.total_param_size
        vector, matrix = program.q.tocoo(), program.A.tocoo()
        row, column = matrix.row % m if m else matrix.row, matrix.row // m if m else matrix.row
        of_A = column < n
        objective = vector.row < n  # the last row is a constant of the objective
        self.q = AffineMap(vector.row[objective], vector.col[objective], vector.data[objective], (n,), size)
        # CVXPY has Ax + b ∈ K where we have b − Ax ∈ K.
        index = row * n + column
        self.A = AffineMap(index[of_A], matrix.col[of_A], -matrix.data[of_A], (m, n), size)
        self.b = AffineMap(row[~of_A], matrix.col[~of_A], matrix.data[~of_A], (m,), size)
        if self.is_quadratic and program.P is not None:
            quadratic = program.P.tocoo()
            self.P = AffineMap(quadratic.row, quadratic.col, quadratic.data, (n, n), size)
        else:
            self.P = AffineMap(np.zeros(0), np.zeros(0), np.zeros(0), (n, n), size)

        names = {old: new[0] for old, new in chain.compose_var_id_map().items()}
        self.variables = torch.nn.ModuleList(
            _Entries.of_variable(v, program.var_id_to_col[names.get(v.id, v.id)]) for v in variables
        )

    @full_precision
    def forward(self, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Solve for parameter tensors ``(*batch, *shape)``; their batch dimensions broadcast, and the variables that
        come back are ``(*batch, *shape)``.

        Raises:
            ValueError: a parameter has the wrong shape, dtype or sign, or is not finite.
            SolverError: as :func:`.solve_qp` and :func:`.solve_cone` raise it.
        """
        theta = self._stack(parameters)
        P, q, A, b = self.P(theta), self.q(theta), self.A(theta), self.b(theta)
        if self.is_quadratic:
            e = self.cones.zero
            x = solve_qp(P, q, A[..., :e, :], b[..., :e], A[..., e:, :], b[..., e:], **self.options).y
        else:
            x = solve_cone(q, A, b, self.cones, **self.options).x
        x = x.expand(*theta.shape[:-1], x.shape[-1])
        return tuple(entries(x) for entries in self.variables)

    def _stack(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """One vector (θ, 1) ``(*batch, size)`` in the order of CVXPY."""
        if len(parameters) != len(self.parameter_shapes):
            raise ValueError(f"the layer takes {len(self.parameter_shapes)} parameters, got {len(parameters)}")
        batches = []
        for name, shape, signs, t in zip(
            self.parameter_names, self.parameter_shapes, self.parameter_signs, parameters, strict=True
        ):
            check_floating(name, t)
            check_finite(name, t)
            if t.ndim < len(shape) or tuple(t.shape[t.ndim - len(shape) :]) != shape:
                raise ValueError(f"{name} must have shape (*batch, {', '.join(map(str, shape))}), got {tuple(t.shape)}")
            for sign in signs:
                word, holds = SIGNS[sign]
                if values_visible(t) and not holds(t).all():
                    raise ValueError(f"{name} must be {word}, as its cvxpy.Parameter is declared")
            batches.append(t.shape[: t.ndim - len(shape)])
        if not parameters:
            return torch.ones(1, dtype=torch.float64, device=self.q.value.device)
        check_same_kind(self.parameter_names[0], parameters[0], zip(self.parameter_names, parameters, strict=True))
        try:
            batch = torch.broadcast_shapes(*batches)
        except RuntimeError:
            found = ", ".join(f"{name} {tuple(b)}" for name, b in zip(self.parameter_names, batches, strict=True))
            raise ValueError(f"the batch dimensions of the parameters must broadcast, got {found}") from None
        flat = []
        for i in self.order:
            t = parameters[i].expand(*batch, *self.parameter_shapes[i])
            flat.append(self.reductions[i](t.flatten(len(batch)) if self.parameter_shapes[i] else t.unsqueeze(-1)))
        one = torch.ones(*batch, 1, dtype=parameters[0].dtype, device=parameters[0].device)
        return torch.cat([*flat, one], dim=-1)


class AffineMap(torch.nn.Module):
    """An affine function of θ with few nonzero coefficients: from (θ, 1) ``(*batch, size)`` to ``(*batch, *shape)``.

    Where it does not depend on θ at all the result has no batch dimensions, so that the solver can share it.
    """

    row: Tensor
    column: Tensor
    value: Tensor

    def __init__(self, row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, ...], size: int):
        super().__init__()
        self.shape = shape
        self.constant = bool((column == size - 1).all())
        self.register_buffer("row", torch.as_tensor(np.asarray(row, dtype=np.int64)), persistent=False)
        self.register_buffer("column", torch.as_tensor(np.asarray(column, dtype=np.int64)), persistent=False)
        self.register_buffer("value", torch.as_tensor(np.asarray(value, dtype=np.float64)), persistent=False)

    def forward(self, theta: Tensor) -> Tensor:
        if self.constant:
            theta = theta.new_ones(theta.shape[-1])
        row, column, value = (t.to(theta.device) for t in (self.row, self.column, self.value))
        terms = theta[..., column] * value.to(theta.dtype)
        flat = theta.new_zeros(*terms.shape[:-1], math.prod(self.shape)).index_add(-1, row, terms)
        return flat.unflatten(-1, self.shape)


class _Entries(torch.nn.Module):
    """Reads entries of a vector in a new order and shape; entries without a source are 0."""

    index: Tensor
    present: Tensor | None
    mirror: Tensor | None

    def __init__(self, index: np.ndarray, present: np.ndarray | None = None, mirror: np.ndarray | None = None):
        super().__init__()
        self.shape = tuple(index.shape)
        self.register_buffer("index", torch.as_tensor(index.reshape(-1).astype(np.int64)), persistent=False)
        self.register_buffer("present", None if present is None else torch.as_tensor(present), persistent=False)
        self.register_buffer(
            "mirror", None if mirror is None else torch.as_tensor(mirror.astype(np.int64)), persistent=False
        )

    @classmethod
    def of_variable(cls, variable: cp.Variable, start: int) -> _Entries:
        """Where the entries of a variable are in x; CVXPY stores a symmetric one as its upper triangle, row by row."""
        if _has(variable, SYMMETRIC):
            n = variable.shape[0]
            index = np.zeros((n, n), dtype=np.int64)
            index[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
            return cls(start + np.maximum(index, index.T))
        if _has(variable, ("diag",)):
            n = variable.shape[0]
            return cls(start + np.diag(np.arange(n)), present=np.eye(n, dtype=bool))
        return cls(start + np.arange(variable.size).reshape(variable.shape, order="F"))

    @classmethod
    def of_parameter(cls, parameter: cp.Parameter) -> _Entries:
        """Where CVXPY's vector of a parameter is in the tensor flattened row by row. The two triangles of a symmetric
        one are averaged, so that both get their part of the gradient."""
        place = np.arange(parameter.size).reshape(parameter.shape)
        if _has(parameter, SYMMETRIC):
            upper = np.triu_indices(parameter.shape[0])
            return cls(place[upper], mirror=place.T[upper])
        if _has(parameter, ("diag",)):
            return cls(np.diag(place).copy())
        return cls(place.reshape(-1, order="F"))

    def forward(self, vector: Tensor) -> Tensor:
        """``(*batch, size)`` to ``(*batch, *shape)``."""
        picked = vector[..., self.index.to(vector.device)]
        if self.mirror is not None:
            picked = 0.5 * (picked + vector[..., self.mirror.to(vector.device)])
        picked = picked.reshape(*vector.shape[:-1], *self.shape)
        return picked if self.present is None else torch.where(self.present.to(vector.device), picked, 0)


def _canonicalise(problem: cp.Problem, quadratic: bool) -> tuple[dict[str, Any], Any]:
    """CVXPY's data of eq. (1) in the row order of SCS, and the chain of rewritings that led there."""
    import cvxpy as cp
    from cvxpy.utilities import scopes

    with scopes.quad_form_dpp_scope() if quadratic else contextlib.nullcontext():
        data, chain, _ = problem.get_problem_data(cp.SCS, solver_opts={"use_quad_obj": quadratic})
    return data, chain


def _is_quadratic(dims: Any) -> bool:
    return not (dims.soc or dims.psd or dims.exp or dims.p3d or dims.pnd)


def _check_problem(problem: Any, parameters: Sequence[Any], variables: Sequence[Any]) -> None:
    import cvxpy as cp

    if not isinstance(problem, cp.Problem):
        raise ValueError(f"problem must be a cvxpy.Problem, got {type(problem).__name__}")
    if not problem.is_dcp():
        raise ValueError("problem must be convex by the rules of disciplined convex programming (problem.is_dcp())")
    quadratic = problem.is_dpp(quad_form_dpp="qp")  # type: ignore[call-arg]  # also allows a parameter as quadratic form
    if not problem.is_dpp() and not quadratic:
        raise ValueError(
            "problem must follow the rules of disciplined parametrised programming (problem.is_dpp()): no products of "
            "parameters, and parameters only where the data of the problem depend on them affinely"
        )
    for name, given, own in (
        ("parameters", list(parameters), problem.parameters()),
        ("variables", list(variables), problem.variables()),
    ):
        known = {x.id for x in own}
        for x in given:
            if getattr(x, "id", None) not in known:
                raise ValueError(f"{name} must be {name} of the problem, got {x}")
            if _has(x, ("sparsity",)) or len(x.shape) > 2 or x.is_complex():
                raise ValueError(f"{name} must be real, of at most two dimensions, without sparsity pattern, got {x}")
        if len({x.id for x in given}) != len(given):
            raise ValueError(f"{name} must not repeat")
    missing = {p.id: p.name() for p in problem.parameters()}.keys() - {p.id for p in parameters}
    if missing:
        names = ", ".join(p.name() for p in problem.parameters() if p.id in missing)
        raise ValueError(f"parameters must have all the parameters of the problem, missing {names}")
    if problem.is_mixed_integer():
        raise ValueError("problem must not have boolean or integer variables")


def _has(leaf: Any, attributes: Sequence[str]) -> bool:
    return any(leaf.attributes[attribute] for attribute in attributes)
