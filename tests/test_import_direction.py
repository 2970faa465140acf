"""The house's floors: imports run one way, from the sources as they stand; nothing is imported to find out."""

from pathlib import Path

import pytest

from tools.dependencies import Search, imports, parse

ROOT = Path(__file__).parents[1]

# A room may import from the floors below its own, and from rooms named on its own floor to its left.
FLOORS = [
    ["solution", "autograd", "batch", "memory"],
    ["linear", "validate"],
    ["implicit", "unroll", "descent", "balancing"],
    ["gradient"],
    ["minimize", "layers"],
    ["sensitivity", "controllers", "transport"],
    ["tasks", "amortizers"],
    ["data", "pretrained", "experiments"],
    ["widgets"],
]
PLACE = {room: place for place, room in enumerate(room for floor in FLOORS for room in floor)}
# What needs nothing of the rest: figures call the library through the function they are given.
APART = {"widgets", "data"}
# Every module may ask the package for its version and its first names.
FRONT_DOOR = "diffopt_lib"

Edges = dict[str, set[str]]


def edges_between_modules() -> Edges:
    """For every module of the library those that it imports, anywhere in its code."""
    library = Search(ROOT / "diffopt_lib")
    edges: Edges = {}
    for module, path in library.modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        names = [".".join((base, *chain)) for _, _, (base, chain) in imports(parse(path.read_text("utf-8")), package)]
        edges[module] = {found for name in names if (found := longest_prefix(name, library.modules))} - {module}
    return edges


def longest_prefix(name: str, modules: dict[str, Path]) -> str:
    """The module that a dotted name is, or is in; empty if it is another package's."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def between(edges: Edges, depth: int, below: str = "diffopt_lib") -> Edges:
    """The same between the rooms below a package: what `depth` names say of a module."""
    found: Edges = {}
    for module, targets in edges.items():
        for target in targets:
            if all(name.startswith(f"{below}.") for name in (module, target)):
                a, b = (name.split(".")[depth] for name in (module, target))
                if a != b:
                    found.setdefault(a, set()).add(b)
    return found


def levels(edges: Edges) -> dict[str, int]:
    """How many imports deep a room stands on others. Raises if they stand on each other."""
    known: dict[str, int] = {}

    def level(room: str, above: tuple[str, ...]) -> int:
        assert room not in above, f"a circle: {' → '.join([*above[above.index(room) :], room])}"
        if room not in known:
            known[room] = 1 + max((level(below, (*above, room)) for below in sorted(edges.get(room, ()))), default=0)
        return known[room]

    for room in sorted(edges):
        level(room, ())
    return known


EDGES = edges_between_modules()
ROOMS = between(EDGES, 1)


def test_every_room_has_its_floor() -> None:
    rooms = {module.split(".")[1] for module in EDGES if module != FRONT_DOOR}
    assert rooms <= PLACE.keys()


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_run_down(room: str) -> None:
    assert [below for below in sorted(ROOMS[room]) if PLACE[below] >= PLACE[room]] == []


def test_figures_and_data_stand_apart() -> None:
    assert {room: ROOMS[room] for room in APART if ROOMS.get(room)} == {}


def test_layers_are_few_and_stand_on_at_most_four_levels() -> None:
    layers = {module.split(".")[2] for module in EDGES if module.startswith("diffopt_lib.layers.")}
    assert len(layers) <= 20
    assert max(levels(between(EDGES, 2, "diffopt_lib.layers")).values()) <= 4


def test_no_modules_import_each_other() -> None:
    inside = {module: targets for module, targets in EDGES.items() if module != FRONT_DOOR}
    packages = {module for module in EDGES if any(other.startswith(f"{module}.") for other in EDGES)}
    # An __init__ re-exports what stands in its folder, which may be asked for by the folder's name.
    levels({module: targets - packages for module, targets in inside.items() if module not in packages})


def test_a_circle_is_found() -> None:
    with pytest.raises(AssertionError, match="a circle: a → b → a"):
        levels({"a": {"b"}, "b": {"a"}})
