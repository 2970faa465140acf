"""The result files: figures together with how they were obtained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...data.files import write_whole
from .experiment import Experiment, Outcome, Run
from .provenance import provenance

RESULTS = Path(__file__).parents[1] / "results"


def describe(experiment: Experiment, run: Run, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The content of a result file.

    Args:
        experiment: that was run.
        run: how.
        outcome: what it found.
        seconds: since it was started or last resumed; those that its trainings had taken before are added.

    Raises:
        ValueError: the outcome lacks a figure that the paper has.
    """
    missing = set(experiment.published) - set(outcome.figures)
    if missing:
        raise ValueError(f"the outcome of {experiment.name} lacks {sorted(missing)}")
    return {
        "name": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "chapter": experiment.chapter,
        "published": dict(experiment.published),
        "figures": dict(outcome.figures),
        "complete": run.is_complete,
        "weights": sorted(outcome.weights),
        "trainings": {name: asdict(record) for name, record in run.trainings.items()},
        "provenance": provenance(run.device)
        | ({"command": run.command} if run.command else {})
        | {
            "seed": run.seed,
            "budget": run.budget,
            "processes": run.processes.count,
            "seconds": round(seconds + run.inherited, 1),
            "resumed": run.inherited > 0,
        },
    }


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write ``NAME.json``, with the numbers of a list in one line."""
    path = folder / f"{result['name']}.json"
    text = json.dumps(result, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}\"]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    write_whole(path, lambda beside: beside.write_text(text + "\n", encoding="utf-8"))
    return path


def read_result(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The result of an experiment as it was last run, or None if it has not been."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
