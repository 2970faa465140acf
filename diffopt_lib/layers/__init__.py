"""Optimization problems as layers: each solves a family y*(x) = argmin_{y ∈ C(x)} f(y; x) and can be differentiated."""

from .activations import relu, sigmoid, softargmax
from .cone import ConeSolution, solve_cone
from .cones.product import Cones
from .cvxpy_layer import from_cvxpy
from .integer import IntegerSolution, solve_integer
from .least_squares import LeastSquaresSolution, least_squares
from .permutation import AssignmentSolution, gumbel_sinkhorn, match, sinkhorn_operator, solve_assignment
from .qp import QPSolution, solve_qp
from .ridge import LinearHead, prototype_head, ridge_head
from .simplex import capped_softmax, project_capped_simplex, project_simplex, sparsemax
from .sorting import soft_rank, soft_sort, spearman_loss
from .svm import LinearSVM, SVMHead, linear_svm, svm_head
from .topk import soft_top_k

__all__ = [
    "AssignmentSolution",
    "ConeSolution",
    "Cones",
    "IntegerSolution",
    "LeastSquaresSolution",
    "LinearHead",
    "LinearSVM",
    "QPSolution",
    "SVMHead",
    "capped_softmax",
    "from_cvxpy",
    "gumbel_sinkhorn",
    "least_squares",
    "linear_svm",
    "match",
    "project_capped_simplex",
    "project_simplex",
    "prototype_head",
    "relu",
    "ridge_head",
    "sigmoid",
    "sinkhorn_operator",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
    "softargmax",
    "solve_assignment",
    "solve_cone",
    "solve_integer",
    "solve_qp",
    "sparsemax",
    "spearman_loss",
    "svm_head",
]
