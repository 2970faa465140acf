"""A live explorer calls its `solve` long after its cell has run: no later cell may rebind a name that `solve` uses."""

import ast

import nbformat
import pytest

from tools.build_book import ROOT, chapters_in_toc

SCOPES = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def code_cells(chapter: str) -> list[ast.Module]:
    notebook = nbformat.read(ROOT / chapter, as_version=4)
    sources = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    return [
        ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith("%")))
        for source in sources
    ]


def bound_at_top(node: ast.AST) -> set[str]:
    """Names that the statements of a cell bind, those inside functions and comprehensions aside."""
    names = {node.name} if isinstance(node, ast.FunctionDef) else set()
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        names.add(node.id)
    if isinstance(node, ast.Import | ast.ImportFrom):
        names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    if not isinstance(node, SCOPES):
        names.update(*(bound_at_top(child) for child in ast.iter_child_nodes(node)))
    return names


def globals_of(function: ast.AST) -> set[str]:
    """Names that a function reads and does not bind itself."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    own = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    own.update(node.id for node in names if isinstance(node.ctx, ast.Store))
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - own


def definitions(cells: list[ast.Module], name: str) -> list[ast.AST]:
    """The functions of that name, and the lambdas assigned to it."""
    found: list[ast.AST] = []
    for cell in cells:
        for node in cell.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                found.append(node)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and name in bound_at_top(node):
                found.append(node.value)
    return found[-1:]


def names_behind(cells: list[ast.Module], solve: ast.expr) -> set[str]:
    """Every global that calling `solve` reads, directly or through functions of the notebook."""
    start = definitions(cells, solve.id) if isinstance(solve, ast.Name) else [solve]
    needed, seen = set().union(*map(globals_of, start)), set()
    while fresh := needed - seen:
        name = fresh.pop()
        seen.add(name)
        needed |= set().union(*map(globals_of, definitions(cells, name)))
    return seen


@pytest.mark.parametrize("chapter", chapters_in_toc())
def test_no_later_cell_rebinds_what_an_explorer_uses(chapter):
    cells = code_cells(chapter)
    for k, cell in enumerate(cells):
        later = set().union(*map(bound_at_top, cells[k + 1 :]))
        for call in ast.walk(cell):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Explorer":
                (solve,) = (keyword.value for keyword in call.keywords if keyword.arg == "solve")
                assert not names_behind(cells[: k + 1], solve) & later
