"""The scoreboard's cells on made-up result files: whatever was measured, and whatever was not."""

import json
import random
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from chapters import read

from benchmarks import cone, control, projections, qp, robustness

SCOREBOARD = "book/appendix/scoreboard.ipynb"


def made_up(benchmark: Any, device: str = "cpu") -> dict[str, Any]:
    """A result file with every case of a benchmark. The first method after ours is wrong, the second fails."""
    rng = random.Random(0)
    cases = []
    for case in benchmark.cases(quick=False):
        rows: list[dict[str, Any]] = []
        for method in benchmark.METHODS:
            if method.layer == case.sizes.get("layer"):
                times = {"forward": rng.uniform(1, 9), "backward": 0.5, "both": rng.uniform(1, 9)}
                rows.append({"method": method.name, **times, "solution_error": 1e-9, "gradient_error": 1e-8})
        rows[1]["gradient_error"] = None
        if len(rows) > 2:
            rows[2] = {"method": rows[2]["method"], "error": "RuntimeError: does not converge"}
        if len(rows) > 3:
            rows[-1] = {"method": rows[-1]["method"], "missing": "left out: takes too long"}
        cases.append({"table": case.table, "sizes": case.sizes, "dtype": str(case.dtype)[6:], "rows": rows})
    return {"cases": cases, "targets": benchmark.targets(device), "provenance": how_it_was_made(device)}


def how_it_was_made(device: str = "cpu") -> dict[str, Any]:
    machine = {"device": device, "processor": "a processor", "threads": 2}
    return {"command": "python -m benchmarks", "date": "2000-01-01", "hardware": machine, "versions": {"torch": "2"}}


def made_up_outcomes() -> dict[str, Any]:
    """Every kind: ours solves all, the next is wrong in silence once, the third takes none, the last can't be run."""
    cases = []
    for case in robustness.cases(quick=False):
        everything = list(range(case.sizes["programs"]))
        rows: list[dict[str, Any]] = []
        for method in robustness.METHODS:
            none: dict[str, list[int]] = {outcome: [] for outcome in robustness.OUTCOMES}
            rows.append({"method": method.name, **none, "solved": everything, "seconds": 0.5})
        rows[1] |= {"solved": everything[1:], "wrong in silence": [0]}
        rows[2] |= {"solved": [], "not taken": everything, "seconds": 0.0}
        rows[-1] = {"method": rows[-1]["method"], "missing": "it can't be imported"}
        cases.append({"table": case.table, "sizes": case.sizes, "dtype": "float64", "rows": rows})
    return {"cases": cases, "targets": [], "provenance": how_it_was_made()}


def run_cells(folder: Path) -> dict[str, Any]:
    """Execute the notebook's code with the results in `folder`; gives its variables."""
    matplotlib.use("Agg")
    variables: dict[str, Any] = {}
    for cell in read(SCOREBOARD).cells:
        if cell.cell_type == "code":
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            exec(source, variables)
            variables["BENCHMARKS"] = folder
            plt.close("all")
    return variables


EVERY = ("qp", "cone", "control", "projections")


@pytest.mark.parametrize(
    "names", [(), *((name,) for name in EVERY), ("robustness",), (*EVERY, "qp-cuda", "robustness")]
)
def test_every_cell_runs_whatever_was_measured(tmp_path: Path, names: tuple[str, ...]) -> None:
    files = {
        "qp": made_up(qp),
        "cone": made_up(cone),
        "control": made_up(control),
        "projections": made_up(projections),
        "qp-cuda": made_up(qp, "cuda"),
        "robustness": made_up_outcomes(),
    }
    for name in names:
        (tmp_path / f"{name}.json").write_text(json.dumps(files[name]))
    (tmp_path / "qp-quick.json").write_text("not to be read")
    variables = run_cells(tmp_path)
    assert set(variables["benchmarks"]) == set(names)
    for name in EVERY:
        shown = variables["full_table"](name).data
        assert ("not finite" in shown and "does not converge" in shown) if name in names else "Not measured" in shown
    counted = variables["count_outcomes"]().data
    assert ("can&#x27;t be imported" in counted) if "robustness" in names else "Not measured" in counted


def cells_of(table: str, first: str) -> list[list[str]]:
    """The entries of the rows of a table whose first entry is the given one."""
    rows = (re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("</tr>"))
    return [row[1:] for row in rows if row and row[0] == first]


def test_outcomes_are_counted_over_all_kinds(tmp_path: Path) -> None:
    result = made_up_outcomes()
    (tmp_path / "robustness.json").write_text(json.dumps(result))
    variables = run_cells(tmp_path)
    sizes = [sum(c["sizes"]["programs"] for c in result["cases"] if c["table"] == t) for t in ("field", "hostile")]
    kinds = [sum(c["table"] == t for c in result["cases"]) for t in ("field", "hostile")]
    shown = variables["count_outcomes"]().data
    assert [row[:2] for row in cells_of(shown, "ours")] == [[str(size), "0"] for size in sizes]
    assert [row[:2] for row in cells_of(shown, "qpth")] == [
        [str(size - count), str(count)] for size, count in zip(sizes, kinds, strict=True)
    ]
    assert [row[5] for row in cells_of(shown, "QPLayer")] == [str(size) for size in sizes]
    (first,) = cells_of(variables["solved_by_kind"]().data, "soft box (24)")
    assert first[:3] == ["24", "23", "–"]
    assert variables["fewer"] == []


def test_kinds_of_which_another_method_solves_more_are_shown(tmp_path: Path) -> None:
    result = made_up_outcomes()
    case = next(case for case in result["cases"] if case["sizes"]["kind"] == "soft rows")
    case["rows"][0] |= {"solved": list(range(20)), "false error": [20, 21, 22, 23]}
    (tmp_path / "robustness.json").write_text(json.dumps(result))
    (row,) = run_cells(tmp_path)["fewer"]
    assert row[:2] == ["soft rows", "20"] and "qpth 23" in row[2] and "QPLayer" not in row[2]


def test_a_table_that_is_newer_than_the_result_is_said_to_be_missing(tmp_path: Path) -> None:
    result = made_up(cone)
    result["cases"] = [case for case in result["cases"] if case["table"] != "small"]
    (tmp_path / "cone.json").write_text(json.dumps(result))
    shown = run_cells(tmp_path)["full_table"]
    assert "older than this table" in shown("cone", table_name="small").data
    assert "older" not in shown("cone").data


def test_losses_and_missed_targets_are_shown(tmp_path: Path) -> None:
    """A method that is faster and right is a loss, one that is faster and wrong is not; a slower one is none."""
    result = made_up(qp)
    for case in result["cases"]:
        for row, time in zip(case["rows"], (10.0, 1.0, None, 2.0, 40.0, None), strict=True):
            if time:
                row["both"] = time
    (tmp_path / "qp.json").write_text(json.dumps(result))
    variables = run_cells(tmp_path)
    assert {row["method"] for *_, row in variables["slower"]} == {"Moreau"}
    assert {row["method"] for *_, row in variables["right"]} == {"Moreau", "qpax"}
    count = len(result["cases"])
    assert f"Moreau in {count} of {count}" in variables["sentence"]
    targets = variables["target_table"]("qp").data
    assert targets.count("missed") == len(qp.TABLE) * 2 and "reached" not in targets


def test_where_ours_is_less_exact_is_shown(tmp_path: Path) -> None:
    result = made_up(qp)
    result["cases"][0]["rows"][0]["gradient_error"] = 0.4
    (tmp_path / "qp.json").write_text(json.dumps(result))
    rows = run_cells(tmp_path)["rows"]
    assert [(row[1], row[3]) for row in rows] == [("Moreau", "0.4"), ("qpax", "0.4")]


def measured_row(method: str, time: float, **more: float | None) -> dict[str, Any]:
    row = {"method": method, "forward": time / 2, "backward": time / 2, "both": time}
    return row | {"solution_error": 1e-9, "constraint_error": 2e-5, "gradient_error": 1e-8} | more


def test_memory_and_sums_have_columns_where_they_were_measured(tmp_path: Path) -> None:
    result = made_up(projections)
    result["cases"][0]["rows"] = [
        measured_row("ours", 10, memory=5_000_000),
        measured_row("LML bracketing", 20, memory=9_000_000),
        measured_row("cvxpylayers", 90),
    ]
    (tmp_path / "projections.json").write_text(json.dumps(result))
    (tmp_path / "qp.json").write_text(json.dumps(made_up(qp)))
    shown = run_cells(tmp_path)["full_table"]
    with_memory = shown("projections", layers=("soft_top_k",)).data
    assert "memory, MB" in with_memory and "sums' error".replace("'", "&#x27;") in with_memory
    assert ">5<" in with_memory and ">9<" in with_memory and ">2e-5<" in with_memory
    assert "soft_top_k, batch 1024: n = 1000, k = 20, τ = 1" in with_memory and "soft_rank" not in with_memory
    assert "memory, MB" not in shown("qp").data


def test_targets_count_methods_that_fail_apart(tmp_path: Path) -> None:
    result = made_up(projections)
    case = next(case for case in result["cases"] if case["sizes"]["layer"] == "sinkhorn_operator")
    case["rows"] = [measured_row("ours", 10), measured_row("20 rounds", 1), measured_row("unrolled loop", 30)]
    case["rows"].append({"method": "POT", "error": "RuntimeError: not converged"})
    result["targets"] = [goal for goal in result["targets"] if goal["sizes"] == case["sizes"]]
    (tmp_path / "projections.json").write_text(json.dumps(result))
    variables = run_cells(tmp_path)
    sentence = variables["count_of_targets"]("projections")
    assert sentence == "1 of 1 targets were reached; in 1 further cases the other method failed."
    shown = variables["target_table"]("projections").data
    assert shown.count("reached") == 1 and "failed: RuntimeError: not converged" in shown


def test_where_ours_needs_more_memory_is_shown(tmp_path: Path) -> None:
    """By a tenth or more, and only against methods that are right."""
    result = made_up(projections)
    case = next(case for case in result["cases"] if case["sizes"]["layer"] == "sinkhorn_operator")
    case["rows"] = [
        measured_row("ours", 10, memory=4000),
        measured_row("20 rounds", 1, memory=1000, gradient_error=0.5),
        measured_row("unrolled loop", 30, memory=1600),
        measured_row("POT", 30, memory=3900),
    ]
    (tmp_path / "projections.json").write_text(json.dumps(result))
    variables = run_cells(tmp_path)
    assert [row["method"] for *_, row in variables["heavier"]] == ["unrolled loop"]
    assert variables["lighter"] == [["unrolled loop, sinkhorn_operator", "1 of 1", "2.5"]]
