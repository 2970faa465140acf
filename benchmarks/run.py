"""Run all cases of a benchmark, show each as it is done, and gather them with their provenance."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from diffopt_lib.experiments.harness.provenance import provenance

from .measure import memory, take_turns, waiting_for
from .method import Method, Problem


def run(
    name: str,
    device: str,
    quick: bool,
    threads: int,
    only: list[str] | None = None,
    tables: list[str] | None = None,
) -> dict[str, Any]:
    """The content of the result file: the cases, with a row for each method.

    Args:
        name: of the benchmark's module, which has ``METHODS``, ``cases(quick)``, ``problem(**sizes)`` and
            ``targets(device)``. One that measures something else than time has a ``measure`` and a ``show`` of its own.
        device: ``"cpu"`` or ``"cuda"``.
        quick: tiny sizes and few turns.
        threads: of torch; the environment tells other libraries.
        only: the methods to run; all of the benchmark's by default.
        tables: the tables to fill; all of the benchmark's by default.

    Raises:
        ValueError: a method or a table is not among the benchmark's.
    """
    benchmark = importlib.import_module(f"benchmarks.{name}")
    methods = choose(benchmark.METHODS, only)
    cases = benchmark.cases(quick)
    if unknown := set(tables or []) - (known := {case.table for case in cases}):
        raise ValueError(f"no table is called {min(unknown)!r}; there are {', '.join(sorted(known))}")
    torch.set_num_threads(threads)
    where = torch.device(device)
    turns = {"turns": 3} if quick else {}
    done = []
    for case in cases:
        if tables and case.table not in tables:
            continue
        problem = benchmark.problem(**case.sizes).to(where, case.dtype)
        suitable = [method for method in methods if method.layer == case.sizes.get("layer")]
        rows = getattr(benchmark, "measure", measure)(problem, suitable, where, **turns)
        done.append({"table": case.table, "sizes": case.sizes, "dtype": str(case.dtype).split(".")[1], "rows": rows})
        print(getattr(benchmark, "show", show)(done[-1]), flush=True)
    packages = tuple(dict.fromkeys(method.package for method in methods))
    return {
        "name": name,
        "description": benchmark.__doc__,
        "targets": [] if quick else benchmark.targets(device),
        "cases": done,
        "provenance": provenance(where, packages=packages),
    }


def choose(methods: list[Method], only: list[str] | None) -> list[Method]:
    """Those that are named, or all."""
    known = [method.name for method in methods]
    if unknown := set(only or []) - set(known):
        raise ValueError(f"no method is called {min(unknown)!r}; there are {', '.join(known)}")
    return [method for method in methods if only is None or method.name in only]


def measure(problem: Problem, methods: list[Method], device: torch.device, **turns: Any) -> list[dict[str, Any]]:
    """Time, memory and accuracy of every method on one batch of problems, or why there are none; ``turns`` says how
    many, for how long and by which clock (:func:`.measure.take_turns`)."""
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(problem.y_shape, generator=generator).to(problem.parameters[0])
    absent = {method.name: reason for method in methods if (reason := method.missing() or method.limits(problem))}
    forwards = {
        method.name: lambda method=method: method.prepare(problem) for method in methods if method.name not in absent
    }
    timings = take_turns(forwards, cotangent, waiting_for(device), **turns)
    rows = []
    for method in methods:
        row: dict[str, Any] = {"method": method.name}
        if method.name in absent:
            row["missing"] = absent[method.name]
        else:
            timing = timings[method.name]
            row |= timing.summary()
            if timing.y is not None and timing.gradients is not None:
                row |= problem.accuracy(timing.y, timing.gradients, cotangent)
                if method.in_torch:
                    row["memory"] = memory(forwards[method.name](), cotangent)
        rows.append(row)
    return rows


def show(case: dict[str, Any]) -> str:
    """A case as text."""
    sizes = ", ".join(f"{key} {value}" for key, value in case["sizes"].items())
    lines = [f"{case['table']}: {sizes}, {case['dtype']}"]
    for row in case["rows"]:
        if "both" in row:
            times = f"{row['forward']:9.3g} + {row['backward']:8.3g} = {row['both']:8.3g} ms"
            errors = f"solution {error(row['solution_error'])}   gradient {error(row['gradient_error'])}"
            tensors = f"   {row['memory'] / 1e6:.3g} MB" if "memory" in row else ""
            lines.append(f"  {row['method']:14} {times}   {errors}{tensors}")
        else:
            lines.append(f"  {row['method']:14} {row.get('missing') or row.get('error')}")
    return "\n".join(lines)


def error(value: float | None) -> str:
    """An error as text."""
    return "not finite" if value is None else f"{value:.0e}"
