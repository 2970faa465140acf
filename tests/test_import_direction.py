"""The floor plan of ``diffopt_lib``, read from its sources: which way imports run, and how large a room may be.

``DIFFOPT_SOURCES`` names another checkout's ``diffopt_lib`` to be read instead of this one.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("DIFFOPT_SOURCES", Path(__file__).parents[1] / "diffopt_lib"))

# A module imports from its own storey and from those before it.
STOREYS = (
    {"autograd", "batch", "solution", "data", "pretrained"},
    {"linear", "validate", "memory"},
    {"implicit", "unroll", "descent", "balancing"},
    {"gradient"},
    {"minimize", "layers", "sensitivity", "poisoning", "inner_loop"},
    {"controllers", "transport"},
    {"amortizers", "tasks"},
    {"experiments"},
)
APART = "widgets"  # which draw what they are given and compute nothing

LONG_MODULES = {
    "widgets/marks.py": "nine kinds of mark, alike in form, each with its row in the table at the head"
}  # of more than 300 lines


def paths() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """``layers.qp.layer``; a package has the name of its folder, and the library itself the empty one."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports() -> dict[str, set[str]]:
    """Of every module, the modules of ours that it imports, wherever in its source the import stands."""
    modules = {name_of(path): path for path in paths()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        found: set[str] = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                if node.level:
                    base = package[: len(package) - node.level + 1]
                elif (node.module or "").split(".")[0] == "diffopt_lib":
                    base = []
                else:
                    continue
                inner = (node.module or "").removeprefix("diffopt_lib").strip(".") if not node.level else node.module
                base = [part for part in [*base, *(inner or "").split(".")] if part]
                for alias in (a for a in node.names if a.name != "__version__"):
                    whole = ".".join([*base, alias.name])
                    found.add(whole if whole in modules else ".".join(base))
            elif isinstance(node, ast.Import):
                found |= {a.name.removeprefix("diffopt_lib.") for a in node.names if a.name.startswith("diffopt_lib.")}
        graph[name] = {target for target in found if target in modules and target != name}
    return graph


def room(module: str, inside: str = "") -> str:
    """The file or folder directly inside a package that a module belongs to."""
    return module.removeprefix(f"{inside}.").split(".")[0] if inside else module.split(".")[0]


def storey(module: str) -> int:
    return next(i for i, rooms in enumerate(STOREYS) if room(module) in rooms)


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle in a graph, or nothing."""
    done: set[str] = set()

    def search(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph[node]):
            if circle := search(target, [*trail, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := search(node, []))), [])


def rooms_of_layers() -> dict[str, set[str]]:
    """Which rooms of ``layers/`` each of them imports from."""
    graph: dict[str, set[str]] = {}
    for module, targets in imports().items():
        if module.startswith("layers."):
            here = room(module, "layers")
            inside = {room(target, "layers") for target in targets if target.startswith("layers.")}
            graph.setdefault(here, set()).update(inside - {here})
    return graph


def numerical() -> list[str]:
    return [module for module in imports() if module and room(module) != APART]


def test_every_room_has_its_storey():
    assert {room(module) for module in numerical()} <= set().union(*STOREYS)


def test_imports_run_one_way():
    up = [
        (module, target)
        for module in numerical()
        for target in sorted(imports()[module])
        if room(target) != APART and target and storey(target) > storey(module)
    ]
    assert not up


def test_nothing_imports_the_library_as_a_whole_from_inside():
    assert not [module for module in imports() if module and "" in imports()[module]]


def test_widgets_and_numerics_do_not_know_each_other():
    crossing = [
        (module, target)
        for module, targets in imports().items()
        for target in targets
        if module and target and (room(module) == APART) != (room(target) == APART)
    ]
    assert not crossing


def test_no_circle_between_modules():
    assert not find_circle(imports())


def test_layers_are_at_most_20_rooms_on_4_levels_without_a_circle():
    rooms = rooms_of_layers()
    assert not find_circle(rooms)
    assert len(rooms) <= 20, sorted(rooms)

    def level(name: str) -> int:
        return 1 + max((level(target) for target in rooms[name]), default=0)

    assert max(map(level, rooms)) <= 4, {name: level(name) for name in rooms}


def test_modules_have_at_most_300_lines():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths()}
    long = {name for name, length in lengths.items() if length > 300}
    assert long <= set(LONG_MODULES), {name: lengths[name] for name in long - set(LONG_MODULES)}


def test_functions_have_at_most_60_lines_besides_their_docstring():
    def length(node: ast.FunctionDef) -> int:
        first = node.body[0]
        text = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0  # type: ignore[operator]
        return node.end_lineno - node.lineno + 1 - text  # type: ignore[operator]

    functions = [(path, n) for path in paths() for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef)]
    assert not [(name_of(path), n.name, length(n)) for path, n in functions if length(n) > 60]


def compactions(tree: ast.AST) -> Iterator[int]:
    """The lines where a batch is narrowed by hand, to be put together again later.

    Such code calls ``masked_scatter``, or inside a loop replaces variables by some of their rows: ``x = x[keep]``, or
    ``x, y = (v[keep] for v in (x, y))``, or the same through ``take(x, keep)``, ``x.take(keep)`` or ``x.select(keep)``.
    """

    def mask(index: ast.expr) -> bool:
        inverted = isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.Invert)
        return isinstance(index.operand if inverted else index, ast.Name)

    def narrows(value: ast.expr, name: str) -> bool:
        """Whether it is rows of the variable of this name."""
        if isinstance(value, ast.Subscript):
            return isinstance(value.value, ast.Name) and value.value.id == name and mask(value.slice)
        if isinstance(value, ast.Call):
            function, arguments = value.func, value.args
            if isinstance(function, ast.Attribute):
                called, arguments = function.attr, [function.value, *arguments]
            else:
                called = getattr(function, "id", "")
            names = [a.id for a in arguments[:1] if isinstance(a, ast.Name)]
            return called.strip("_") in ("take", "select") and names == [name] and any(map(mask, arguments[1:]))
        return False

    def parts(side: ast.expr) -> list[ast.expr]:
        return side.elts if isinstance(side, ast.Tuple) else [side]

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("masked_scatter", "masked_scatter_"):
            yield node.lineno
        if not isinstance(node, (ast.For, ast.While)):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, (ast.GeneratorExp, ast.ListComp)):
                variables = [g.target.id for g in inner.generators if isinstance(g.target, ast.Name)]
                if any(narrows(inner.elt, name) for name in variables):
                    yield inner.lineno
            elif isinstance(inner, ast.Assign):
                targets, values = parts(inner.targets[0]), parts(inner.value)
                pairs = zip(targets, values, strict=False)
                if any(isinstance(target, ast.Name) and narrows(value, target.id) for target, value in pairs):
                    yield inner.lineno


def test_batches_are_narrowed_in_one_place():
    by_hand = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths()
        if path.relative_to(ROOT).parts[0] != "batch"
        for line in sorted(set(compactions(tree_of(path))))
    ]
    assert not by_hand


@pytest.mark.parametrize(
    "source",
    [
        "for k in range(9):\n    if done.any():\n        S, v = (x[keep] for x in (S, v))",
        "while True:\n    y = y[~done]",
        "for k in range(9):\n    state = [take(t, keep) for t in state]",
        "for k in range(9):\n    point, y = point.select(~keep), y[keep]",
        "y = y.masked_scatter(left, part)",
    ],
)
def test_narrowing_by_hand_is_seen(source):
    assert list(compactions(ast.parse(source)))


def test_indexing_that_narrows_nothing_is_not_complained_of():
    assert not list(compactions(ast.parse("for i in order:\n    v = V[i]\n    total = [x[0] for x in pieces]")))
