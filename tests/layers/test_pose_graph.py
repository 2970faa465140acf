"""Pose graphs: files as they were written, derivatives of radius and weights, outliers that a robust loss ignores."""

from dataclasses import replace

import pytest
import scipy.optimize
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers.least_squares import SE2
from diffopt_lib.layers.least_squares.g2o import read_g2o, write_g2o
from diffopt_lib.layers.least_squares.pose_graph import synthetic

DOUBLE = torch.float64


@pytest.fixture
def made(generator):
    return synthetic(20, batch=(2,), closures=0.5, generator=generator)


def of_one(made):
    graph = made.graph
    return replace(graph, poses=graph.poses[0], measured=graph.measured[0]), made.truth[0]


def test_synthetic_graphs_have_the_shares_and_the_noise_they_are_asked_for(generator):
    made = synthetic(256, batch=(20,), generator=generator)
    graph = made.graph
    assert graph.edges.shape == (255 + 51, 2) and made.closure.sum() == 51 and graph.known.sum() == 26
    assert abs(made.outlier.sum() / (20 * 51) - 0.25) < 0.05
    off = graph.differences(made.truth, graph.measured)
    good = off[~made.outlier]
    torch.testing.assert_close(good.std(0), torch.tensor([0.05, 0.05, 0.02], dtype=DOUBLE), rtol=0.05, atol=0)
    assert off[made.outlier].abs().max() > 4
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()


@pytest.mark.parametrize("form", ["sparse", "dense", "cg"])
def test_estimate_is_scipys_and_known_poses_stay(made, form):
    graph, truth = of_one(made)
    estimate = graph.solve(form=form)
    assert torch.equal(estimate.poses[graph.known], truth[graph.known])
    root = torch.linalg.cholesky(graph.information).mT

    def whitened(v):
        poses = graph.poses.clone()
        poses[graph.unknown] = SE2().from_angle(torch.tensor(v).reshape(-1, 3))
        off = graph.differences(poses, graph.measured)
        return (root @ off.unsqueeze(-1)).flatten().numpy()

    start = SE2().to_angle(graph.poses)[graph.unknown].flatten()
    theirs = scipy.optimize.least_squares(whitened, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    found = SE2().from_angle(torch.tensor(theirs.x).reshape(-1, 3))
    torch.testing.assert_close(estimate.poses[graph.unknown], found, rtol=1e-5, atol=1e-6)
    assert estimate.solution.value.item() == pytest.approx(theirs.cost, rel=1e-9)


def test_derivatives_of_radius_weight_and_measurements_are_exact(made):
    graph, truth = of_one(made)
    radius = torch.tensor(4.0, dtype=DOUBLE, requires_grad=True)
    weight = torch.ones(len(graph.edges), dtype=DOUBLE, requires_grad=True)

    def loss(radius, weight):
        estimate = graph.solve(loss="welsch", radius=radius, weight=weight, tolerance=1e-12)
        return (estimate.poses - truth).square().sum()

    slopes = torch.autograd.grad(loss(radius, weight), (radius, weight))
    step = 1e-4
    with torch.no_grad():
        by_radius = (loss(radius + step, weight) - loss(radius - step, weight)) / (2 * step)
        torch.testing.assert_close(slopes[0], by_radius, rtol=1e-5, atol=1e-8)
        for e in (0, 25):
            one = step * torch.eye(len(weight), dtype=DOUBLE)[e]
            by_weight = (loss(radius, weight + one) - loss(radius, weight - one)) / (2 * step)
            torch.testing.assert_close(slopes[1][e], by_weight, rtol=1e-5, atol=1e-8)


def test_a_robust_loss_ignores_what_the_square_does_not(generator):
    made = synthetic(40, closures=0.5, generator=generator)
    errors = {}
    for loss in ("squared", "welsch"):
        poses = made.graph.solve(loss=loss, radius=8.0).poses
        errors[loss] = (poses[:, :2] - made.truth[:, :2]).norm(dim=-1).mean()
    assert errors["welsch"] < 0.3 * errors["squared"]


def test_a_graph_without_a_known_pose_is_found_but_has_no_derivative(made):
    graph, _ = of_one(made)
    measured = graph.measured.clone().requires_grad_()
    free = replace(graph, known=torch.zeros(20, dtype=torch.bool), measured=measured)
    estimate = free.solve()
    assert estimate.solution.converged
    with pytest.raises(SolverError, match="not positive definite"):
        torch.autograd.grad(estimate.poses.square().sum(), measured)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"known": torch.tensor([1] + 39 * [0])}, "known must be bool"),
        ({"known": torch.ones(40, dtype=torch.bool)}, "known must leave some pose unknown"),
        ({"edges": lambda g: g.edges - 1}, "edges must be indices of 40 poses, got some from -1"),
        ({"edges": lambda g: g.edges.to(torch.int32)}, "edges must be int64"),
        ({"measured": lambda g: 1.5 * g.measured}, "measured must be poses"),
        ({"measured": lambda g: g.measured[1:]}, "measured must have shape"),
    ],
)
def test_what_is_no_graph_is_named(change, complaint):
    graph = synthetic(40, generator=torch.Generator().manual_seed(0)).graph
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=complaint):
        replace(graph, **{name: value(graph) if callable(value) else value}).solve()


def test_a_graph_is_read_as_it_was_written(made, tmp_path):
    graph, _ = of_one(made)
    write_g2o(tmp_path / "graph.g2o", graph)
    again = read_g2o(tmp_path / "graph.g2o")
    for name in ("poses", "edges", "measured", "information", "known"):
        torch.testing.assert_close(getattr(again, name), getattr(graph, name).expand_as(getattr(again, name)))
    with pytest.raises(ValueError, match="single"):
        write_g2o(tmp_path / "graph.g2o", made.graph)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("VERTEX_SE2 0 0 0", "line 1: expected 3 numbers"),
        ("VERTEX_SE3:QUAT 0 0 0 0 0 0 0 1", "is not VERTEX_SE2"),
        ("VERTEX_SE2 0 0 0 0\nEDGE_SE2 0 7 1 0 0 1 0 0 1 0 1", "no VERTEX_SE2 for \\[7\\]"),
        ("# nothing", "no VERTEX_SE2"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text, match, tmp_path):
    path = tmp_path / "bad.g2o"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_g2o(path)


def test_a_file_from_elsewhere_is_understood(tmp_path):
    path = tmp_path / "small.g2o"
    path.write_text(
        "VERTEX_SE2 10 0 0 0\nVERTEX_SE2 11 1 0.1 0.2  # a guess\n\nFIX 10\nEDGE_SE2 10 11 1 0 0.1 2 0.5 0 3 0 4\n"
    )
    graph = read_g2o(path)
    assert graph.known.tolist() == [True, False] and graph.edges.tolist() == [[0, 1]]
    assert graph.information[0].tolist() == [[2, 0.5, 0], [0.5, 3, 0], [0, 0, 4]]
    pose = graph.solve().poses[1]
    torch.testing.assert_close(SE2().to_angle(pose), torch.tensor([1, 0, 0.1], dtype=DOUBLE), rtol=0, atol=1e-9)
