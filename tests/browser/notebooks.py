"""A chapter's explorers as its notebook makes them: only the statements that an explorer's cell needs are executed."""

import ast
import builtins
import dis
import json
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import diffopt_lib.widgets

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ("book/arm.ipynb",)
"""Where what the explorer needs is changed by the steps of an optimizer: all of it is executed."""


class Recorder(SimpleNamespace):
    """What an `Explorer` was given, without its bake."""

    def __init__(self, figure: Any, controls: Any, marks: Any, solve: Any, **options: Any) -> None:
        super().__init__(figure=figure, controls=controls, marks=marks, solve=solve, options=options)
        recorded.append(self)


recorded: list[Recorder] = []


def statements(path: Path) -> Iterator[tuple[int, ast.stmt]]:
    """The statements of the code cells, with the number of their cell; IPython's own commands are left out."""
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            for statement in ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!")))).body:
                yield number, statement


def instructions(code: CodeType) -> Iterator[dis.Instruction]:
    """Those of the code and of the functions and comprehensions in it."""
    yield from dis.get_instructions(code)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from instructions(inner)


def names(statement: ast.stmt) -> tuple[set[str], set[str], set[str]]:
    """The notebook's names, no function's own, that a statement sets anew, those it changes, and those it reads."""
    code = compile(ast.Module([statement], []), "statement", "exec")
    steps = list(instructions(code))
    stored = {step.argval for step in steps if step.opname in ("STORE_NAME", "STORE_GLOBAL")}
    read = {step.argval for step in steps if step.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    changed = {
        inner.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store)
        for inner in ast.walk(node.value)
        if isinstance(inner, ast.Name)
    }
    # What a call as a statement of its own does, it does to what it is called on.
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr.startswith("assert"):
                continue
            while isinstance(called, ast.Attribute):
                called = called.value
            changed |= {called.id} if isinstance(called, ast.Name) else set()
    certain = isinstance(statement, ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef)
    changed -= set(dir(builtins))
    return (stored, changed, read) if certain else (set(), stored | changed, read)


def needed(path: Path) -> list[ast.stmt]:
    """The statements of the cells with an explorer, and before them those that set what they read."""
    listed = list(statements(path))
    wanted_cells = {
        number
        for number, statement in listed
        if any(isinstance(node, ast.Name) and node.id == "Explorer" for node in ast.walk(statement))
        and not isinstance(statement, ast.ImportFrom)
    }
    if path.relative_to(ROOT).as_posix() in TRAINED:
        return [statement for number, statement in listed if number <= max(wanted_cells)]
    kept: list[ast.stmt] = []
    wanted, later = {"torch", "plt"}, set[str]()
    for number, statement in reversed([found for found in listed if found[0] <= max(wanted_cells)]):
        stored, changed, read = names(statement)
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not is_docstring and (number in wanted_cells or (stored | changed) & (wanted | later)):
            kept.append(statement)
            wanted -= stored  # whatever had these names before is not what is read
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                later |= read  # when it is called
            else:
                wanted |= read
    return kept[::-1]


def explorers_of(page: str) -> list[Recorder]:
    """What each explorer of a page was made of, in the order of the page."""
    path = (ROOT / page).with_suffix(".ipynb")
    recorded.clear()
    space: dict[str, Any] = {"glue": lambda *_, **__: None, "__name__": "__main__"}
    real = diffopt_lib.widgets.Explorer
    diffopt_lib.widgets.Explorer = Recorder  # type: ignore[misc, assignment]
    try:
        exec(compile(ast.Module(needed(path), []), str(path), "exec"), space)
    finally:
        diffopt_lib.widgets.Explorer = real  # type: ignore[misc]
    return list(recorded)
