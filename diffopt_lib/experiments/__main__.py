"""``python -m diffopt_lib.experiments list | run NAME | resume NAME``: reproduce a published result.

Several processes share a training when the command runs under torchrun, say
``torchrun --nproc-per-node 2 -m diffopt_lib.experiments run sudoku``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch

from .. import pretrained
from ..data.files import cache_folder, write_whole
from . import find, names
from .distributed import join_processes
from .experiment import Experiment, Run
from .results import RESULTS, describe, read_result, write_result

SETTINGS = "settings.json"


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.command == "list":
        print(listing(RESULTS))
        return 0
    experiment = find(options.name)
    folder = (options.checkpoints or cache_folder() / "checkpoints") / experiment.name
    if options.command == "resume" and not (folder / SETTINGS).exists():
        print(f"{experiment.name} has no checkpoint in {folder}; start it with `run`", file=sys.stderr)
        return 2
    default = "cuda" if torch.cuda.is_available() else "cpu"
    with join_processes(getattr(options, "device", None) or default) as (processes, device):
        if options.command == "resume":
            settings = json.loads((folder / SETTINGS).read_text())
        else:
            settings = {"seed": options.seed, "device": device.type}
            if processes.is_first:
                start_afresh(folder, settings)
        run = Run(settings["seed"], torch.device(device), folder, options.budget, processes)
        try:
            carry_out(experiment, run, options.output)
        except KeyboardInterrupt:
            print(f"\nStopped; `python -m diffopt_lib.experiments resume {experiment.name}` goes on.", file=sys.stderr)
            return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m diffopt_lib.experiments", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the claims, the papers' figures and ours")
    for name, help in (("run", "reproduce a result from the start"), ("resume", "go on after an interrupt")):
        command = commands.add_parser(name, help=help)
        command.add_argument("name", choices=names())
        if name == "run":
            command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", help="cpu or cuda; the default is cuda where there is one")
        command.add_argument("--budget", type=float, help="seconds of training, those before an interrupt included")
        command.add_argument("--output", type=Path, help="folder for the result and weights, instead of the library's")
        command.add_argument("--checkpoints", type=Path, help="folder for checkpoints, instead of the user's cache")
    return top


def start_afresh(folder: Path, settings: dict) -> None:
    """Forget earlier checkpoints of the experiment."""
    shutil.rmtree(folder, ignore_errors=True)
    write_whole(folder / SETTINGS, lambda beside: beside.write_text(json.dumps(settings)))


def carry_out(experiment: Experiment, run: Run, output: Path | None) -> None:
    """Run it, and write its result and weights."""
    started = time.monotonic()
    outcome = experiment.run(run)
    if not run.processes.is_first:
        return
    result = describe(experiment, run, outcome, time.monotonic() - started)
    for name, weights in outcome.weights.items():
        pretrained.save(name, weights, output or pretrained.FOLDER)
    path = write_result(output or RESULTS, result)
    print(compare(experiment, result))
    print(path)


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
        f"({hardware['device']}, {hardware['threads']} threads){whole}: {origin['command']}"
    )


if __name__ == "__main__":
    sys.exit(main())
