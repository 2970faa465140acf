"""What CVXPY makes of a problem: a program in standard form with affine data, and where everything is in it.

    min ½ xᵀPx + qᵀx  s.t.  b − Ax ∈ K,        (P, q, A, b) = affine functions of (θ, 1)                 (1)

With ``gp=True`` the problem is a geometric program, convex in the logarithms of its variables: θ has the logarithms of
its parameters, and x those of its variables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cones.product import Cones
from .affine import AffineMap, Entries

SYMMETRIC = ("symmetric", "PSD", "NSD")


@dataclass(frozen=True)
class Source:
    """A part of θ: which of the parameters it is, its entries, and whether it is their logarithms."""

    parameter: int
    entries: Entries
    is_log: bool


class Canonical:
    """A problem as program (1).

    Attributes:
        cones: K.
        is_polyhedral: whether K has zero and nonnegative rows only.
        P, q, A, b: the data as functions of (θ, 1).
        sources: the parts of θ in their order.
    """

    def __init__(self, problem: Any, parameters: Sequence[Any], gp: bool):
        self.gp = gp
        self._canonicalise(problem, quadratic=not gp)
        if not gp and _is_polyhedral(self.dims) and not problem.is_qp():
            self._canonicalise(problem, quadratic=False)
        dims = self.dims
        if dims.p3d or dims.pnd:
            raise ValueError("problem must not need power cones (powers other than 2 and 1/2, geometric means)")
        self.cones = Cones(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp)
        self.is_polyhedral = _is_polyhedral(dims)
        self.sources = self._sources(parameters)

        program = self.program
        n, m, size = program.x.size, self.cones.rows, 1 + program.total_param_size
        vector, matrix = program.q.tocoo(), program.A.tocoo()
        objective = vector.row < n  # the last row is a constant of the objective
        self.q = AffineMap(vector.row[objective], vector.col[objective], vector.data[objective], (n,), size)
        # CVXPY stacks the columns of (A, b), and has Ax + b ∈ K where we have b − Ax ∈ K.
        row, column = matrix.row % max(m, 1), matrix.row // max(m, 1)
        of_A = column < n
        self.A = AffineMap((row * n + column)[of_A], matrix.col[of_A], -matrix.data[of_A], (m, n), size)
        self.b = AffineMap(row[~of_A], matrix.col[~of_A], matrix.data[~of_A], (m,), size)
        nothing = np.zeros(0)
        coefficients = nothing, nothing, nothing
        if program.P is not None:
            quadratic = program.P.tocoo()
            coefficients = quadratic.row, quadratic.col, quadratic.data
        self.P = AffineMap(*coefficients, (n, n), size)

    def _canonicalise(self, problem: Any, quadratic: bool) -> None:
        """CVXPY's data in the row order of SCS, and the chain of rewritings that led there."""
        import cvxpy as cp
        from cvxpy.utilities import scopes

        with scopes.quad_form_dpp_scope() if quadratic else contextlib.nullcontext():
            data, chain, inverse = problem.get_problem_data(cp.SCS, gp=self.gp, solver_opts={"use_quad_obj": quadratic})
        self.program, self.dims, self.chain, self.inverse = data["param_prob"], data["dims"], chain, inverse

    def _sources(self, parameters: Sequence[Any]) -> tuple[Source, ...]:
        columns, names = self.program.param_id_to_col, self.chain.compose_param_id_map()
        found = []
        for i, parameter in enumerate(parameters):
            renamed = [name for name in names.get(parameter.id, []) if name in columns]
            entries = parameter_entries(parameter)
            found += [(columns[name], Source(i, entries, is_log=self.gp)) for name in renamed]
            if parameter.id in columns and parameter.id not in renamed:  # itself, as an exponent is
                found.append((columns[parameter.id], Source(i, entries, is_log=False)))
        return tuple(source for _, source in sorted(found, key=lambda entry: entry[0]))

    def variable(self, variable: Any) -> Entries:
        """Where the entries of a variable are in x."""
        names = {old: new[0] for old, new in self.chain.compose_var_id_map().items()}
        return variable_entries(variable, self.program.var_id_to_col[names.get(variable.id, variable.id)])

    def dual(self, constraint: Any) -> tuple[Entries, ...]:
        """Where the entries of a constraint's dual variables are in the dual variable y of (1), with CVXPY's signs.

        CVXPY is asked what it makes of some y: an entry of the result is a factor times one of y, which the answers for
        1 and for (1, …, m) tell, and a third answer confirms.

        Raises:
            ValueError: the constraint has no dual variable, or one that is not read off y.
        """
        m = self.cones.rows
        ones, count, check = np.ones(m), np.arange(1.0, m + 1), np.random.default_rng(0).standard_normal(m)
        maps = []
        for factor, counted, checked in zip(
            *(self._duals_of(constraint, y) for y in (ones, count, check)), strict=True
        ):
            index = np.rint(counted / np.where(factor == 0, np.inf, factor)).astype(np.int64) - 1
            index = index.clip(0, max(m - 1, 0))
            if not np.allclose(factor * check[index], checked):
                raise ValueError(f"duals must be constraints whose dual variables CVXPY knows, got {constraint}")
            maps.append(Entries(index, factor=factor))
        return tuple(maps)

    def _duals_of(self, constraint: Any, y: np.ndarray) -> list[np.ndarray]:
        """The values that a constraint's dual variables would get from y."""
        times = {"iter": 0, "solve_time": 0.0, "setup_time": 0.0, "pobj": 0.0, "status_val": 1, "status": "solved"}
        raw = {"x": np.zeros(self.program.x.size), "y": y, "s": np.zeros(len(y)), "info": times}
        solution = self.chain.invert(raw, self.inverse)
        before = [(dual, dual.value) for dual in constraint.dual_variables]
        try:
            constraint.save_dual_value(solution.dual_vars[constraint.id])
            return [np.asarray(dual.value, dtype=float).reshape(dual.shape) for dual in constraint.dual_variables]
        except (KeyError, TypeError):
            raise ValueError(f"duals must be constraints that have dual variables, got {constraint}") from None
        finally:
            for dual, value in before:
                dual.save_value(value)


def variable_entries(variable: Any, start: int) -> Entries:
    """Where the entries of a variable are in x; CVXPY stores a symmetric one as its upper triangle, row by row."""
    if has(variable, SYMMETRIC):
        n = variable.shape[0]
        index = np.zeros((n, n), dtype=np.int64)
        index[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
        return Entries(start + np.maximum(index, index.T))
    if has(variable, ("diag",)):
        n = variable.shape[0]
        return Entries(start + np.diag(np.arange(n)), factor=np.eye(n))
    return Entries(start + np.arange(variable.size).reshape(variable.shape, order="F"))


def parameter_entries(parameter: Any) -> Entries:
    """Where CVXPY's vector of a parameter is in the tensor flattened row by row. The two triangles of a symmetric one
    are averaged, so that both get their part of the gradient."""
    place = np.arange(parameter.size).reshape(parameter.shape)
    if has(parameter, SYMMETRIC):
        upper = np.triu_indices(parameter.shape[0])
        return Entries(place[upper], mirror=place.T[upper])
    if has(parameter, ("diag",)):
        return Entries(np.diag(place).copy())
    return Entries(place.reshape(-1, order="F"))


def has(leaf: Any, attributes: Sequence[str]) -> bool:
    return any(leaf.attributes[attribute] for attribute in attributes)


def _is_polyhedral(dims: Any) -> bool:
    return not (dims.soc or dims.psd or dims.exp or dims.p3d or dims.pnd)


# Checks


def check_problem(
    problem: Any, parameters: Sequence[Any], variables: Sequence[Any], duals: Sequence[Any], gp: bool
) -> None:
    """Raise a ValueError for what can't be made a layer."""
    import cvxpy as cp

    if not isinstance(problem, cp.Problem):
        raise ValueError(f"problem must be a cvxpy.Problem, got {type(problem).__name__}")
    (_check_geometric if gp else _check_convex)(problem)
    for name, given, own in (
        ("parameters", list(parameters), problem.parameters()),
        ("variables", list(variables), problem.variables()),
    ):
        known = {x.id for x in own}
        for x in given:
            if getattr(x, "id", None) not in known:
                raise ValueError(f"{name} must be {name} of the problem, got {x}")
            if has(x, ("sparsity",)) or len(x.shape) > 2 or x.is_complex():
                raise ValueError(f"{name} must be real, of at most two dimensions, without sparsity pattern, got {x}")
        if len({x.id for x in given}) != len(given):
            raise ValueError(f"{name} must not repeat")
    missing = {p.id: p.name() for p in problem.parameters()}.keys() - {p.id for p in parameters}
    if missing:
        names = ", ".join(p.name() for p in problem.parameters() if p.id in missing)
        raise ValueError(f"parameters must have all the parameters of the problem, missing {names}")
    known = {constraint.id for constraint in problem.constraints}
    for constraint in duals:
        if getattr(constraint, "id", None) not in known:
            raise ValueError(f"duals must be constraints of the problem, got {constraint}")
    if problem.is_mixed_integer():
        raise ValueError("problem must not have boolean or integer variables")


def _check_convex(problem: Any) -> None:
    if bad := _undeclared_quad_form(problem):
        raise ValueError(
            f"the quadratic form {bad} takes a parameter that is declared positive semidefinite, or negative: "
            "cvxpy.Parameter((n, n), PSD=True)"
        )
    if not problem.is_dcp():
        hint = "; it is a geometric program, for which there is gp=True" if problem.is_dgp() else ""
        raise ValueError(
            f"problem must be convex by the rules of disciplined convex programming (problem.is_dcp()){hint}"
        )
    quadratic = problem.is_dpp(quad_form_dpp="qp")  # also allows a parameter as quadratic form
    if not problem.is_dpp() and not quadratic:
        raise ValueError(
            "problem must follow the rules of disciplined parametrised programming (problem.is_dpp()): no products of "
            "parameters, and parameters only where the data of the problem depend on them affinely"
        )


def _check_geometric(problem: Any) -> None:
    if not problem.is_dgp():
        raise ValueError("with gp=True problem must be a geometric program (problem.is_dgp())")
    if not problem.is_dpp("dgp"):
        raise ValueError(
            "with gp=True problem must follow the rules of disciplined parametrised programming "
            "(problem.is_dpp('dgp')): parameters must be positive, and exponents must not be products of parameters"
        )


def _undeclared_quad_form(problem: Any) -> str | None:
    """A quadratic form whose matrix is a parameter of unknown sign."""

    def walk(expression: Any) -> Any:
        if type(expression).__name__ in ("QuadForm", "SymbolicQuadForm"):
            matrix = expression.args[1]
            if matrix.parameters() and not (matrix.is_psd() or matrix.is_nsd()):
                return str(expression)
        return next((found for argument in expression.args if (found := walk(argument))), None)

    parts: list[Callable[..., Any] | Any] = [problem.objective, *problem.constraints]
    return next((found for part in parts if (found := walk(part))), None)
