"""Two processes learn what one learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from line import fit_line

from diffopt_lib.experiments.checkpoint import load_checkpoint
from diffopt_lib.experiments.distributed import SINGLE, Processes, join_processes

HERE = Path(__file__).parent


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=200)


def test_two_processes_under_torchrun_learn_what_one_learns(run, tmp_path):
    """Each process writes its own file: lines that two processes print may be mixed."""
    result = torchrun(HERE / "line.py", tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = (torch.load(tmp_path / f"weights {rank} of 2.pt") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)

    assert load_checkpoint(tmp_path / "line.pt")["record"]["steps"] == 40
    torch.testing.assert_close(first, dict(fit_line(run).weights["line"]), rtol=1e-4, atol=1e-5)


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
        assert processes.any(True, device) and not processes.any(False, device)
