"""``python -m benchmarks NAME [--device cuda] [--quick] [--threads 2]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

NAMES = ("qp", "cone", "control", "projections", "robustness", "least_squares", "inner", "integer", "tasks")
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    limit_threads(options.threads)
    import torch

    from .run import run

    if options.device == "cuda" and not torch.cuda.is_available():
        parser().error("argument --device: torch sees no CUDA device")
    try:
        result = run(options.name, options.device, options.quick, options.threads, options.methods, options.tables)
    except ValueError as error:
        parser().error(str(error))
    folder = options.output or RESULTS
    path = folder / f"{file_name(options)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)
    return 0


def file_name(options: argparse.Namespace) -> str:
    """A run that is not the whole benchmark does not take the place of one that is."""
    parts = [options.name]
    parts += ["cuda"] if options.device == "cuda" else []
    parts += ["quick"] if options.quick else []
    parts += ["partial"] if options.methods or options.tables else []
    return "-".join(parts)


def limit_threads(threads: int) -> None:
    """The same limit for every library. They read it when they are loaded, so it comes before every import of one."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these")
    parser.add_argument("--tables", nargs="+", metavar="TABLE", help="only these")
    parser.add_argument("--output", type=Path, help="folder for the result, instead of benchmarks/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
