"""Which files of a package a piece of code depends on, read from the sources; nothing is imported.

A chapter that says `from diffopt_lib.layers import solve_qp` runs `layers/__init__.py`, which imports every layer; but
what the chapter shows depends on `solve_qp` alone. So a name is followed through the re-exports of an `__init__` to the
module that defines it, and of that `__init__` nothing counts but the file itself. Otherwise this errs towards too much:

- a module depends on whatever it imports, at its top or inside a function, and on what is behind that;
- it depends on the files beside it that are not Python, and on every folder of such files that a string in it names;
- a package that is used as a value (handed on, or asked for its `__file__`) stands for all the files below it, and so
  does the package of a module that imports by computed names.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

# A module, and what is looked up in it: one attribute after the other.
Name = tuple[str, tuple[str, ...]]

LOADERS = {"import_module", "__import__"}
LOCATIONS = {"__file__", "__path__"}
NOT_SOURCES = {"__pycache__", ".ipynb_checkpoints"}

parse = cache(ast.parse)


def files_below(folder: Path) -> list[Path]:
    """The source files below `folder`, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not NOT_SOURCES & set(path.parts))


def files_behind(source: str, folder: Path) -> set[Path]:
    """The files of the package in `folder` that the code depends on; all of them if it does not parse."""
    search = Search(folder)
    try:
        search.read(parse(source), package="")
    except SyntaxError:
        return set(files_below(folder))
    search.finish()
    return search.files


class Search:
    """What has been found of a package so far, and the modules that are still to be read."""

    def __init__(self, folder: Path):
        paths = files_below(folder)
        self.top = folder.name
        self.modules = {module_name(path, folder): path for path in paths if path.suffix == ".py"}
        self.data = [path for path in paths if path.suffix != ".py"]
        self.files: set[Path] = set()
        self.seen: set[str] = set()
        self.waiting: list[str] = []

    def finish(self) -> None:
        """Read the modules that are waiting, and those that they use."""
        while self.waiting:
            module = self.waiting.pop()
            path = self.modules[module]
            tree = parse(path.read_text(encoding="utf-8"))
            self.read(tree, module if self.is_package(module) else module.rpartition(".")[0])
            strings = {part for text in strings_in(tree) for part in Path(text).parts}
            folders = {data.parent for data in self.data if data.parent.name in strings} | {path.parent}
            self.files.update(data for data in self.data if data.parent in folders)

    def read(self, tree: ast.Module, package: str) -> None:
        """Follow every name that code takes from the package; `package` is where its relative imports start."""
        for module, chain in names_used(tree, package):
            self.follow(module, chain)
        if any(getattr(node, "id", getattr(node, "attr", None)) in LOADERS for node in ast.walk(tree)):
            self.enter_all(package or self.top)

    def follow(self, module: str, chain: tuple[str, ...]) -> None:
        """Find what the attribute `chain` of a module is, and note the modules on the way there."""
        while self.is_package(module):
            self.note(module)
            if not chain or chain[0] in LOCATIONS:
                self.enter_all(module)
                return
            name, *rest = chain
            if name in (exports := self.exports(module)):
                base, inner = exports[name]
                self.follow(base, (*inner, *rest))
                return
            if f"{module}.{name}" not in self.modules:
                break  # defined in the __init__ itself, which then counts with all that it imports
            module, chain = f"{module}.{name}", tuple(rest)
        self.enter(module)

    def enter(self, module: str) -> None:
        """Have a module read, if it is one of the package's and has not been."""
        if module in self.modules and module not in self.seen:
            self.seen.add(module)
            self.waiting.append(module)
            self.note(module)

    def enter_all(self, package: str) -> None:
        """The same for all modules below a package."""
        for module in self.modules:
            if f"{module}.".startswith(f"{package}."):
                self.enter(module)

    def note(self, module: str) -> None:
        """A module is imported: its file counts, and so do the `__init__` files of the packages around it."""
        parts = module.split(".")
        self.files.update(self.modules[".".join(parts[: i + 1])] for i in range(len(parts)))

    def is_package(self, module: str) -> bool:
        return module in self.modules and self.modules[module].name == "__init__.py"

    def exports(self, package: str) -> dict[str, Name]:
        """What a package's `__init__` imports from elsewhere, by the names under which it has it."""
        found = imports(parse(self.modules[package].read_text(encoding="utf-8")), package)
        return {name: target for name, target, _ in found if target != (package, (name,))}


def module_name(path: Path, folder: Path) -> str:
    """The dotted name of the module in a file of the package in `folder`."""
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Import(NamedTuple):
    """A name that an import statement binds: what it stands for, and what the statement loads."""

    name: str
    target: Name
    loaded: Name


def imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """Every import anywhere in the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, *rest = alias.name.split(".")
                loaded = top, tuple(rest)
                yield Import(alias.asname, loaded, loaded) if alias.asname else Import(top, (top, ()), loaded)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: package.count(".") + 2 - node.level], *filter(None, [base])])
            for alias in node.names:
                yield Import(alias.asname or alias.name, (base, (alias.name,)), (base, (alias.name,)))


def names_used(tree: ast.Module, package: str) -> set[Name]:
    """What the code takes from modules: each imported name with the attributes that are looked up in it."""
    chains = attribute_chains(tree)
    used: set[Name] = set()
    for name, (base, inner), loaded in imports(tree, package):
        used |= {(base, inner + chain) for chain in chains[name]} if name in chains else {loaded}
    return used


def attribute_chains(tree: ast.AST) -> dict[str, set[tuple[str, ...]]]:
    """For every name that is read, the attributes that follow it: `a.b.c` and `a` give {"a": {("b", "c"), ()}}."""
    found: dict[str, set[tuple[str, ...]]] = {}
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):  # an attribute comes before what it is an attribute of
        chain: tuple[str, ...] = ()
        start = node
        while isinstance(start, ast.Attribute):
            chain = (start.attr, *chain)
            start = start.value
            inner.add(start)
        if isinstance(start, ast.Name) and node not in inner:
            found.setdefault(start.id, set()).add(chain)
    return found


def strings_in(tree: ast.AST) -> Iterator[str]:
    """The strings in the code that could be paths."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            yield node.value
