"""Planar pose graphs in the text format of g2o, which most programs for such graphs read and write.

    VERTEX_SE2 id x y θ
    EDGE_SE2 id id x y θ  Ω₁₁ Ω₁₂ Ω₁₃ Ω₂₂ Ω₂₃ Ω₃₃
    FIX id

Source: Kümmerle, Grisetti, Strasdat, Konolige & Burgard, g2o, 2011.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .groups import SE2
from .pose_graph import PoseGraph

UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # the order of Ω's entries


def read_g2o(path: str | Path, dtype: torch.dtype = torch.float64) -> PoseGraph:
    """The graph of a file; its poses are in the order of the file. If none is fixed the first one counts as known.

    Raises:
        ValueError: a line that is none of the three, or is incomplete, or an edge to an unknown vertex, by its number.
    """
    vertices: dict[int, list[float]] = {}
    edges: list[tuple[int, int]] = []
    measured: list[list[float]] = []
    information: list[list[float]] = []
    fixed: list[int] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            if words[0] == "VERTEX_SE2":
                vertices[int(words[1])] = _numbers(words[2:], 3)
            elif words[0] == "EDGE_SE2":
                edges.append((int(words[1]), int(words[2])))
                numbers = _numbers(words[3:], 9)
                measured.append(numbers[:3])
                information.append(numbers[3:])
            elif words[0] == "FIX":
                fixed.extend(map(int, words[1:]))
            else:
                raise ValueError(f"{words[0]} is not VERTEX_SE2, EDGE_SE2 or FIX")
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    index = {vertex: i for i, vertex in enumerate(vertices)}
    missing = {v for edge in edges for v in edge} - set(index) | set(fixed) - set(index)
    if missing or not vertices:
        raise ValueError(f"{path}: no VERTEX_SE2 for {sorted(missing)[:5]}")
    known = torch.zeros(len(vertices), dtype=torch.bool)
    known[[index[v] for v in fixed] or [0]] = True
    omega = torch.tensor(information, dtype=dtype).reshape(-1, 6)
    square = omega.new_zeros(len(edges), 3, 3)
    for k, (i, j) in enumerate(UPPER):
        square[:, i, j] = square[:, j, i] = omega[:, k]
    return PoseGraph(
        _poses(list(vertices.values()), dtype),
        torch.tensor([[index[a], index[b]] for a, b in edges], dtype=torch.int64).reshape(-1, 2),
        _poses(measured, dtype),
        square,
        known,
    )


def write_g2o(path: str | Path, graph: PoseGraph) -> None:
    """The graph as a file, with 17 digits, so that it is read back as it was."""
    if graph.poses.ndim != 2 or graph.measured.ndim != 2:
        raise ValueError(f"graph must be a single one, got poses {tuple(graph.poses.shape)}")
    lines = [f"VERTEX_SE2 {i} {_words(pose)}" for i, pose in enumerate(SE2().to_angle(graph.poses))]
    lines += [f"FIX {i}" for i in graph.known.nonzero().squeeze(-1).tolist()]
    information = graph.information.expand(len(graph.edges), 3, 3)
    omega = torch.stack([information[:, i, j] for i, j in UPPER], -1)
    for (a, b), z, entries in zip(graph.edges.tolist(), SE2().to_angle(graph.measured), omega, strict=True):
        lines.append(f"EDGE_SE2 {a} {b} {_words(z)} {_words(entries)}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbers(words: list[str], count: int) -> list[float]:
    if len(words) != count:
        raise ValueError(f"expected {count} numbers, got {len(words)}")
    return [float(word) for word in words]


def _poses(rows: list[list[float]], dtype: torch.dtype) -> Tensor:
    return SE2().from_angle(torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)).to(dtype)


def _words(values: Tensor) -> str:
    return " ".join(f"{v:.17g}" for v in values.tolist())
