"""Convex cones, one file for each, and their products (:mod:`.product`)."""

from .product import (
    Cones,
    dual_projection_jacobian,
    project,
    project_dual,
    project_rows,
    projection_derivative,
    projection_jacobian,
)

__all__ = [
    "Cones",
    "dual_projection_jacobian",
    "project",
    "project_dual",
    "project_rows",
    "projection_derivative",
    "projection_jacobian",
]
