"""Nonlinear least squares: batches of small dense problems, and one sparse pose graph, forward and backward.

Theseus solves the dense problems as a batch, with its implicit derivative, which is that of a Gauss–Newton step; for
pose graphs it needs cholmod, which is not installed with the others. scipy, pyceres and gtsam solve one problem after
the other and have no derivative. For the dense problems the solutions
of scipy and pyceres are given the implicit one, all elements at once; for the pose graph the gradient of pyceres and
gtsam is NaN and their backward pass takes no time. pyceres evaluates residuals in Python (numpy, exact Jacobians), as
its users must, and scipy does likewise; gtsam has the residuals of a pose graph in C++.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .least_squares_problems import Poses, Saturated, edge, make, saturated
from .method import Case, Forward, Method, by_autograd, cpu_and_double_only, to_numpy

COLUMNS = ("kind", "batch", "unknowns", "residuals")
TABLE = [("dense", 128, 10, 50), ("poses", 1, 256, 307)]
BY_BATCH = [("dense", batch, 10, 50) for batch in (1, 8, 32, 512)]
BY_POSES = [("poses", 1, poses, poses + poses // 5) for poses in (64, 1024)]
QUICK = [("dense", 4, 3, 6), ("poses", 1, 12, 15)]


def ours(problem: Saturated | Poses) -> Forward:
    from diffopt_lib.layers import least_squares
    from diffopt_lib.layers.least_squares import SE2

    if isinstance(problem, Saturated):
        return by_autograd(problem.parameters, lambda A, b: least_squares(saturated, problem.y0, A, b).y)
    return by_autograd(problem.parameters, lambda z: replace(problem.graph, measured=SE2().from_angle(z)).solve().poses)


def with_implicit_derivative(problem: Saturated, solve_one: Any) -> Forward:
    """A solver of single problems, numpy in and out, and the exact derivative of a batch."""
    from diffopt_lib import implicit

    def gradient(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
        return torch.func.grad(lambda y: 0.5 * saturated(y, A, b).square().sum())(y)

    def solve(A: Tensor, b: Tensor) -> Tensor:
        rows = zip(to_numpy(A), to_numpy(b), to_numpy(problem.y0), strict=True)
        y = torch.as_tensor(np.stack([solve_one(*row) for row in rows]))
        return implicit(gradient, y, A, b)

    return by_autograd(problem.parameters, solve)


def residual_and_jacobian(y: np.ndarray, A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """r of :class:`Saturated`, and its Jacobian."""
    Ay = A @ y
    bent = np.tanh(Ay)
    return bent + 0.1 * Ay - b, (1.1 - bent**2)[:, None] * A


def scipy(problem: Saturated) -> Forward:
    from scipy.optimize import least_squares

    def solve_one(A: np.ndarray, b: np.ndarray, y0: np.ndarray) -> np.ndarray:
        found = least_squares(
            lambda y: residual_and_jacobian(y, A, b)[0],
            y0,
            jac=lambda y: residual_and_jacobian(y, A, b)[1],
            method="lm",
            xtol=1e-10,
            ftol=1e-10,
            gtol=1e-10,
        )
        return found.x

    return with_implicit_derivative(problem, solve_one)


def pyceres(problem: Saturated | Poses) -> Forward:
    import pyceres as package

    options = package.SolverOptions()
    options.max_num_iterations = 200
    options.gradient_tolerance, options.function_tolerance, options.parameter_tolerance = 1e-12, 1e-16, 1e-12
    options.num_threads = 1
    options.minimizer_progress_to_stdout = False

    if isinstance(problem, Poses):
        return ceres_poses(problem, package, options)

    class Cost(package.CostFunction):
        def __init__(self, A: np.ndarray, b: np.ndarray):
            super().__init__()
            self.A, self.b = A, b
            self.set_num_residuals(len(b))
            self.set_parameter_block_sizes([A.shape[1]])

        def Evaluate(self, parameters: Any, residuals: Any, jacobians: Any) -> bool:
            r, J = residual_and_jacobian(parameters[0], self.A, self.b)
            residuals[:] = r
            if jacobians is not None and jacobians[0] is not None:
                jacobians[0][:] = J.ravel()
            return True

    options.linear_solver_type = package.LinearSolverType.DENSE_QR

    def solve_one(A: np.ndarray, b: np.ndarray, y0: np.ndarray) -> np.ndarray:
        y = y0.copy()
        program, cost = package.Problem(), Cost(A, b)
        program.add_residual_block(cost, None, [y])
        package.solve(options, program, package.SolverSummary())
        return y

    return with_implicit_derivative(problem, solve_one)


def theseus(problem: Saturated) -> Forward:
    """Levenberg–Marquardt with adaptive damping and dense Cholesky, Jacobians by ``torch.func``."""
    import theseus as package

    m, n = problem.A.shape[-2:]
    dtype = problem.A.dtype
    A = package.Variable(problem.A.detach().flatten(1), name="A")
    b = package.Variable(problem.b.detach(), name="b")

    def error(optim_vars: Any, aux_vars: Any) -> Tensor:
        (y,), (A, b) = optim_vars, aux_vars
        return saturated(y.tensor, A.tensor.unflatten(-1, (m, n)), b.tensor)

    objective = package.Objective(dtype=dtype)
    weight = package.ScaleCostWeight(torch.ones(1, 1, dtype=dtype))
    unknown = [package.Vector(n, name="y", dtype=dtype)]
    cost = package.AutoDiffCostFunction(unknown, error, m, cost_weight=weight, aux_vars=[A, b], autograd_mode="vmap")
    objective.add(cost)
    tolerances = {"abs_err_tolerance": 1e-14, "rel_err_tolerance": 1e-12}
    solver = package.LevenbergMarquardt(
        objective, linear_solver_cls=package.CholeskyDenseSolver, max_iterations=100, step_size=1.0, **tolerances
    )
    layer = package.TheseusLayer(solver, vectorize=True)
    options = {"backward_mode": package.BackwardMode.IMPLICIT, "adaptive_damping": True, "damping": 1e-3}

    def solve(A: Tensor, b: Tensor) -> Tensor:
        start = {"y": problem.y0, "A": A.flatten(1), "b": b}
        return layer.forward(start, optimizer_kwargs=options)[0]["y"]

    return by_autograd(problem.parameters, solve)


def ceres_poses(problem: Poses, package: Any, options: Any) -> Forward:
    """Poses (x, y, θ), every edge a cost function with the residual root · (Δt in the measured frame, Δθ) and log."""
    graph = problem.graph

    class Edge(package.CostFunction):
        """An edge between poses of which one may be known: only the others are parameters."""

        def __init__(self, z: np.ndarray, root: np.ndarray, fixed: list[np.ndarray | None]):
            super().__init__()
            self.z, self.root, self.fixed = z, root, fixed
            self.set_num_residuals(3)
            self.set_parameter_block_sizes([3] * sum(pose is None for pose in fixed))

        def Evaluate(self, parameters: Any, residuals: Any, jacobians: Any) -> bool:
            free = iter(parameters)
            a, b = (next(free) if pose is None else pose for pose in self.fixed)
            r, *J = edge(a, b, self.z)
            residuals[:] = self.root @ r
            if jacobians is not None:
                moving = (J_i for J_i, pose in zip(J, self.fixed, strict=True) if pose is None)
                for place, J_i in zip(jacobians, moving, strict=True):
                    place[:] = (self.root @ J_i).ravel()
            return True

    options.linear_solver_type = package.LinearSolverType.SPARSE_NORMAL_CHOLESKY
    from diffopt_lib.layers.least_squares import SE2

    start = to_numpy(SE2().to_angle(graph.poses))
    roots = to_numpy(torch.linalg.cholesky(graph.information).mT)
    measured, edges, known = to_numpy(problem.measured), graph.edges.tolist(), graph.known.tolist()

    def forward() -> Any:
        poses = [row.copy() for row in start]
        program = package.Problem()
        costs = []
        for pair, z, root in zip(edges, measured, roots, strict=True):
            if all(known[i] for i in pair):
                continue
            costs.append(Edge(z, root, [poses[i] if known[i] else None for i in pair]))
            program.add_residual_block(costs[-1], None, [poses[i] for i in pair if not known[i]])
        package.solve(options, program, package.SolverSummary())
        y = SE2().from_angle(torch.as_tensor(np.stack(poses)))
        return y, lambda cotangent: [torch.full_like(problem.measured, torch.nan)]

    return forward


def gtsam(problem: Poses) -> Forward:
    import gtsam as package

    from diffopt_lib.layers.least_squares import SE2

    graph = problem.graph
    start, measured = to_numpy(SE2().to_angle(graph.poses)), to_numpy(problem.measured)
    noise = package.noiseModel.Gaussian.Information(to_numpy(graph.information[0]))

    def forward() -> Any:
        factors, guess = package.NonlinearFactorGraph(), package.Values()
        for i, pose in enumerate(start):
            guess.insert(i, package.Pose2(*pose))
            if graph.known[i]:
                factors.add(package.NonlinearEqualityPose2(i, package.Pose2(*pose)))
        for (a, b), z in zip(graph.edges.tolist(), measured, strict=True):
            factors.add(package.BetweenFactorPose2(a, b, package.Pose2(*z), noise))
        settings = package.LevenbergMarquardtParams()
        settings.setRelativeErrorTol(1e-14)
        settings.setAbsoluteErrorTol(1e-14)
        found = package.LevenbergMarquardtOptimizer(factors, guess, settings).optimize()
        poses = [(p.x(), p.y(), p.theta()) for p in (found.atPose2(i) for i in range(len(start)))]
        y = SE2().from_angle(torch.tensor(poses, dtype=torch.float64))
        return y, lambda cotangent: [torch.full_like(problem.measured, torch.nan)]

    return forward


def dense_only(problem: Saturated | Poses) -> str | None:
    return cpu_and_double_only(problem) or (None if isinstance(problem, Saturated) else "dense problems only here")


def poses_only(problem: Saturated | Poses) -> str | None:
    return None if isinstance(problem, Poses) else "pose graphs only here"


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.layers", ours, in_torch=True),
    Method("scipy", "scipy", "scipy.optimize", scipy, dense_only),
    Method("pyceres", "pyceres", "pyceres", pyceres, cpu_and_double_only),
    Method("gtsam", "gtsam", "gtsam", gtsam, poses_only),
    Method("Theseus", "theseus-ai", "theseus", theseus, dense_only, in_torch=True),
]


def cases(quick: bool) -> list[Case]:
    """The tables, in float64."""
    named = (("quick", QUICK),) if quick else (("table", TABLE), ("by batch", BY_BATCH), ("by poses", BY_POSES))
    return [_case(table, sizes) for table, rows in named for sizes in rows]


def _case(table: str, sizes: tuple[Any, ...]) -> Case:
    return Case(table, dict(zip(COLUMNS, sizes, strict=True)), torch.float64)


def targets(device: str) -> list[dict[str, Any]]:
    """How many times as long as ours a method should take, at least."""
    dense, poses = (dict(zip(COLUMNS, sizes, strict=True)) for sizes in TABLE)
    return [
        {"method": "scipy", "sizes": dense, "ratio": 1},
        {"method": "pyceres", "sizes": dense, "ratio": 1},
        {"method": "pyceres", "sizes": poses, "ratio": 1 / 3},
    ]


problem = make
