"""Files are whole or absent; checkpoints hold data only."""

import pickle

import pytest
import torch

from diffopt_lib.data.files import cache_folder, write_whole
from diffopt_lib.experiments.harness.checkpoint import load_checkpoint, save_checkpoint


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file"
    write_whole(path, lambda beside: beside.write_text("old"))

    def fail(beside):
        beside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_checkpoints_round_trip(tmp_path):
    state = {"step": 3, "losses": [[1, 0.5]], "model": {"w": torch.arange(3.0)}}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["step"] == 3 and loaded["losses"] == [[1, 0.5]]
    assert torch.equal(loaded["model"]["w"], torch.arange(3.0))
    assert load_checkpoint(tmp_path / "none.pt") is None


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"model": Trap()}, tmp_path / "c.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "c.pt")


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFOPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("DIFFOPT_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "diffopt_lib")
