"""Run all cases of a benchmark, show each as it is done, and gather them with their provenance."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from diffopt_lib.experiments.provenance import provenance


def run(name: str, device: str, quick: bool, threads: int, only: list[str] | None = None) -> dict[str, Any]:
    """The content of the result file: the cases, with a row for each method.

    Args:
        name: of the benchmark's module.
        device: ``"cpu"`` or ``"cuda"``.
        quick: tiny sizes and few turns.
        threads: of torch; the environment tells other libraries.
        only: the methods to run; all of the benchmark's by default.

    Raises:
        ValueError: a method is not among the benchmark's.
    """
    benchmark = importlib.import_module(f"benchmarks.{name}")
    known = [method.name for method in benchmark.METHODS]
    if unknown := set(only or []) - set(known):
        raise ValueError(f"no method is called {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    methods = [method for method in benchmark.METHODS if only is None or method.name in only]
    torch.set_num_threads(threads)
    where = torch.device(device)
    turns = {"turns": 3} if quick else {}
    results = []
    for table, sizes, dtype in benchmark.cases(quick):
        rows = list(benchmark.measure(sizes, dtype, where, methods, **turns))
        case = {"table": table, "sizes": list(sizes), "dtype": str(dtype).removeprefix("torch."), "rows": rows}
        results.append(case)
        print(show(case), flush=True)
    packages = tuple(dict.fromkeys(method.package for method in methods))
    return {
        "name": name,
        "description": benchmark.__doc__,
        "cases": results,
        "provenance": provenance(where, packages=packages),
    }


def show(case: dict[str, Any]) -> str:
    """A case as text."""
    lines = [f"{case['table']}: {case['sizes']} {case['dtype']}"]
    for row in case["rows"]:
        if "both" in row:
            times = f"{row['forward']:9.3g} + {row['backward']:8.3g} = {row['both']:8.3g} ms"
            lines.append(f"  {row['method']:14} {times}   kkt {row['kkt']:.0e}   gradient {row['gradient_error']:.0e}")
        else:
            lines.append(f"  {row['method']:14} {row.get('missing') or row.get('error')}")
    return "\n".join(lines)
