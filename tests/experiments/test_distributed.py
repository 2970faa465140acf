"""Two processes learn what one learns, also when they are interrupted on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from line import fit_line

from diffopt_lib.experiments.harness.checkpoint import load_checkpoint
from diffopt_lib.experiments.harness.distributed import SINGLE, Processes, join_processes

HERE = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ERRORS = "stderr.txt"
STARTED = 60  # seconds after which a program must be at work, on a busy machine


def start(folder: Path, *arguments: str, torchrun: bool = False, pause: float = 0.0) -> subprocess.Popen:
    """The command line on the line, in a process of its own, or in two."""
    where = ["--output", str(folder), "--checkpoints", str(folder)]
    command = [sys.executable, *(TORCHRUN if torchrun else []), str(HERE / "line.py"), *arguments, *where]
    settings = {"OMP_NUM_THREADS": "1", "LINE_PAUSE": str(pause), "LINE_FOLDER": str(folder)}
    environment = os.environ | settings | {"PYTHONPATH": str(HERE.parents[1])}
    with open(folder / ERRORS, "w") as errors:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)


def finish(process: subprocess.Popen, folder: Path) -> tuple[int, str]:
    """Its return code, and what it wrote to stderr."""
    return process.wait(timeout=100), (folder / ERRORS).read_text()


def wait_for_steps(path: Path, count: int) -> None:
    deadline = time.monotonic() + STARTED
    while not path.exists() or path.stat().st_size < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def result(folder: Path) -> dict:
    return json.loads((folder / "line.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The result of one process that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    code, errors = finish(start(folder, "run", "line", "--seed", "3"), folder)
    assert code == 0, errors
    return result(folder)


def test_two_processes_under_torchrun_learn_what_one_learns(run, tmp_path):
    """Each process writes its own file: lines that two processes print may be mixed."""
    code, errors = finish(start(tmp_path, "run", "line", "--seed", "3", torchrun=True), tmp_path)
    assert code == 0, errors
    first, second = (torch.load(tmp_path / f"{rank} of 2.pt") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)

    assert load_checkpoint(tmp_path / "line" / "line.pt")["record"]["steps"] == 40
    torch.testing.assert_close(dict(first), dict(fit_line(run).weights["line"]), rtol=1e-4, atol=1e-5)
    origin = result(tmp_path)["provenance"]
    assert origin["processes"] == 2
    assert origin["command"].startswith("torchrun --nproc-per-node 2 line.py run line --seed 3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("torchrun", [False, True], ids=["alone", "torchrun"])
def test_an_interrupted_program_goes_on_to_the_same_result(torchrun, number, whole, tmp_path):
    process = start(tmp_path, "run", "line", "--seed", "3", torchrun=torchrun, pause=0.25)
    wait_for_steps(tmp_path / "steps", 8)
    process.send_signal(number)
    code, errors = finish(process, tmp_path)
    assert code != 0 if torchrun else code == 130, errors
    assert "resume line" in errors
    assert 0 < load_checkpoint(tmp_path / "line" / "line.pt")["record"]["steps"] < 40
    assert not (tmp_path / "line.json").exists()

    code, errors = finish(start(tmp_path, "resume", torchrun=torchrun), tmp_path)
    assert code == 0, errors
    resumed = result(tmp_path)
    assert resumed["complete"] and resumed["provenance"]["resumed"] and resumed["provenance"]["seed"] == 3
    assert resumed["provenance"]["command"].split(" --output")[0].endswith("line.py run line --seed 3")
    assert resumed["provenance"]["seconds"] > 0.5  # those before the interrupt
    if torchrun:  # sums in another order
        assert resumed["figures"]["test error"] == pytest.approx(whole["figures"]["test error"], rel=1e-4)
    else:
        assert resumed["figures"] == whole["figures"]
        assert resumed["trainings"]["line"]["losses"] == whole["trainings"]["line"]["losses"]


def test_a_batch_is_shared_evenly_or_not_at_all():
    x = torch.arange(6)
    parts = [Processes(rank, 3).share(x) for rank in range(3)]
    assert [part.tolist() for part in parts] == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ValueError, match="a batch of 6 can't be shared evenly by 4"):
        Processes(0, 4).share(x)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as (processes, device):
        assert processes == SINGLE and processes.is_first and device == torch.device("cpu")
        assert processes.largest(3, device) == 3 and processes.from_first("settings") == "settings"
