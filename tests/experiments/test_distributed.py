"""Two processes learn what one learns."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from line import fit_line

from diffopt_lib.experiments.checkpoint import load_checkpoint
from diffopt_lib.experiments.distributed import SINGLE, Processes, join_processes

HERE = Path(__file__).parent


def test_two_processes_under_torchrun_learn_what_one_learns(run, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(HERE / "line.py"), str(tmp_path / "two")]
    result = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    printed = dict(line.split(": ") for line in result.stdout.splitlines())
    assert printed["0 of 2"] == printed["1 of 2"]

    single = fit_line(run).weights["line"]["weight"]
    together = load_checkpoint(tmp_path / "two" / "line.pt")
    assert together["record"]["steps"] == 40
    torch.testing.assert_close(together["model"]["weight"], single, rtol=1e-4, atol=1e-5)


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
