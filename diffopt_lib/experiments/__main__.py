"""``python -m diffopt_lib.experiments list | run NAME | resume [NAME]``: reproduce a published result.

Several processes share a training when the command runs under torchrun, say
``torchrun --nproc-per-node 2 -m diffopt_lib.experiments run sudoku``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from .. import pretrained
from ..data.files import cache_folder, write_whole
from . import find, names
from .harness.distributed import join_processes
from .harness.experiment import Experiment, Outcome, Run
from .harness.provenance import code_behind, command_line
from .harness.results import RESULTS, describe, read_result, write_result

SETTINGS = "settings.json"
NEEDED = ("safetensors", "tqdm")
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.command == "list":
        print(listing(RESULTS))
        return 0
    try:
        check(options)
        experiment, folder, settings = prepare(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with join_processes(options.device or settings["device"]) as (processes, device):
        if options.command == "run" and processes.is_first:
            start_afresh(folder, settings)
        settings = processes.from_first(settings) or settings  # the others wait until old checkpoints are gone
        run = Run(settings["seed"], device, folder, options.budget, processes, settings["command"])
        started = time.monotonic()
        try:
            outcome = experiment.run(run)
        except KeyboardInterrupt:
            if processes.is_first:
                print(f"\nStopped; `{parser().prog} resume {experiment.name}` goes on.", file=sys.stderr)
            return INTERRUPTED
        if processes.is_first:
            write(experiment, run, outcome, time.monotonic() - started, options.output)
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m diffopt_lib.experiments", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the claims, the papers' figures and ours")
    run = commands.add_parser("run", help="reproduce a result from the start")
    run.add_argument("name", choices=names())
    run.add_argument("--seed", type=seed, default=0, help="everything random follows from it; 0 by default")
    resume = commands.add_parser("resume", help="go on after an interrupt")
    resume.add_argument("name", choices=names(), nargs="?", help="by default the one that was at work last")
    for command in (run, resume):
        command.add_argument("--device", type=device_name, help="cpu or cuda; by default cuda where there is one")
        command.add_argument("--budget", type=seconds, help="seconds of training, those before an interrupt included")
        command.add_argument("--output", type=Path, help="folder for the result and weights, instead of the library's")
        command.add_argument("--checkpoints", type=Path, help="folder for checkpoints, instead of the user's cache")
    return top


# The arguments


def seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2147483647, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, got {text!r}")
    return value


def device_name(text: str) -> str:
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {text!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"torch sees {torch.cuda.device_count()} CUDA device(s), got {text!r}")
    return text


def check(options: argparse.Namespace) -> None:
    """Find out now what would only come to light after the training.

    Raises:
        ValueError: a package is missing, or a folder can't be written to.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"experiments need {' and '.join(missing)}: pip install 'diffopt_lib[experiments]'")
    for folder in [options.output] if options.output else [RESULTS, pretrained.FOLDER]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"no folder {folder} can be made for the result: {error.strerror}") from None
        if not os.access(folder, os.W_OK):
            raise ValueError(f"the folder {folder} can't be written to; name another with --output")


def prepare(options: argparse.Namespace) -> tuple[Experiment, Path, dict[str, Any]]:
    """The experiment, its folder of checkpoints, and its settings: new ones, or those of the run that is resumed.

    Raises:
        ValueError: there is nothing to resume.
    """
    top = options.checkpoints or cache_folder() / "checkpoints"
    if options.command == "run":
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return (
            find(options.name),
            top / options.name,
            {"seed": options.seed, "device": device, "command": command_line()},
        )
    candidates = [top / name / SETTINGS for name in ([options.name] if options.name else names())]
    begun = [path for path in candidates if path.exists()]
    if not begun:
        what = options.name or "no experiment"
        raise ValueError(f"{what} has {'no' if options.name else 'a'} checkpoint in {top}; start it with `run`")
    last = max(begun, key=lambda path: max(file.stat().st_mtime for file in path.parent.iterdir()))
    settings = json.loads(last.read_text())
    if not options.device and settings["device"].startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("the run was on cuda, which is not there; name another device with --device")
    return find(last.parent.name), last.parent, settings


# Running


def start_afresh(folder: Path, settings: dict[str, Any]) -> None:
    """Forget earlier checkpoints of the experiment."""
    shutil.rmtree(folder, ignore_errors=True)
    write_whole(folder / SETTINGS, lambda beside: beside.write_text(json.dumps(settings)))


def write(experiment: Experiment, run: Run, outcome: Outcome, duration: float, output: Path | None) -> None:
    """Write the result and the weights. Those of a run that its budget has cut short do not replace what ships."""
    result = describe(experiment, run, outcome, duration)
    beside = None if run.is_complete else run.folder
    for name, weights in outcome.weights.items():
        pretrained.save(name, weights, output or beside or pretrained.FOLDER)
    path = write_result(output or beside or RESULTS, result)
    print(compare(experiment, result))
    print(path)


# Showing


def listing(folder: Path) -> str:
    """Every claim, the paper's figures beside ours, and how ours were obtained."""
    return "\n\n".join(compare(find(name), read_result(name, folder)) for name in names())


def compare(experiment: Experiment, result: dict | None) -> str:
    lines = [f"{experiment.name}: {experiment.claim}", f"  {experiment.source}; taught in {experiment.chapter}"]
    figures = result["figures"] if result else {}
    for what in [*experiment.published, *(key for key in figures if key not in experiment.published)]:
        paper = experiment.published.get(what)
        lines.append(f"  {what:56} {'':8} {number(paper)} {number(figures.get(what))}")
    head = f"  {'':65} {'paper':>9} {'ours':>9}"
    lines.insert(2, head)
    lines.append(f"  {how(result)}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:>9.4g}"


def how(result: dict | None) -> str:
    if result is None:
        return "not run yet"
    origin = result["provenance"]
    hardware = origin["hardware"]
    whole = "" if result["complete"] else ", stopped before the end"
    return (
        f"{origin['date'][:10]}, seed {origin['seed']}, {origin['seconds']:.0f} s on {hardware['processor']} "
        f"({hardware['device']}, {hardware['threads']} threads){whole}: {origin['command']} ({code_behind(origin)})"
    )


if __name__ == "__main__":
    sys.exit(main())
