"""The command line, the result files and the weights they come with."""

import json
import re
import sys

import pytest
import torch

from diffopt_lib import experiments, pretrained
from diffopt_lib.experiments import Outcome, __main__, find, names
from diffopt_lib.experiments.provenance import git_commit, version
from diffopt_lib.experiments.results import describe, read_result

FOLDERS = ["--output", "out", "--checkpoints", "checkpoints"]


@pytest.fixture
def command(line, tmp_path, monkeypatch):
    """Runs the command line on the small experiment, below a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "MODULES", ("line",))
    monkeypatch.setattr(__main__, "find", lambda name: line)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
        return __main__.main(list(arguments))

    return call


@pytest.mark.parametrize("name", names())
def test_experiments_are_described(name):
    experiment = find(name)
    assert experiment.name == name
    assert experiment.claim.endswith(".") and experiment.source and experiment.chapter.startswith("book/")
    assert all(isinstance(value, float) for value in experiment.published.values())


def test_unknown_experiment():
    with pytest.raises(ValueError, match="no experiment is called 'chess'; there are sudoku"):
        find("chess")


def test_list_shows_every_claim_and_whether_it_was_run(capsys):
    assert __main__.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in names():
        assert find(name).claim in shown and find(name).source in shown
        result = read_result(name)
        assert ("not run yet" if result is None else result["provenance"]["command"]) in shown


def test_run_writes_result_and_weights(command, tmp_path, capsys):
    assert command("run", "line", "--seed", "5", "--device", "cpu", *FOLDERS) == 0
    result = read_result("line", tmp_path / "out")
    assert result["complete"] and result["weights"] == ["line"]
    assert result["published"] == {"test error": 0.5} and result["figures"]["test error"] > 0
    assert result["trainings"]["line"]["steps"] == 40
    origin = result["provenance"]
    assert origin["seed"] == 5 and origin["processes"] == 1 and origin["budget"] is None
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$", origin["date"])
    assert origin["command"].endswith("run line --seed 5 --device cpu --output out --checkpoints checkpoints")
    assert origin["versions"]["torch"] == torch.__version__ and origin["versions"]["python"]
    assert origin["hardware"]["device"] == "cpu" and origin["hardware"]["threads"] == torch.get_num_threads()
    assert origin["commit"] is None or re.match(r"[0-9a-f]{12}\+?$", origin["commit"])
    assert pretrained.load("line", folder=tmp_path / "out")["weight"].shape == (1, 5)
    assert "test error" in capsys.readouterr().out


def test_resume_goes_on_with_the_settings_of_the_run(command, tmp_path, capsys):
    command("run", "line", "--seed", "5", "--device", "cpu", "--budget", "0", *FOLDERS)
    stopped = read_result("line", tmp_path / "out")
    assert not stopped["complete"] and stopped["trainings"]["line"]["steps"] == 0
    assert "stopped before the end" in capsys.readouterr().out

    assert command("resume", "line", *FOLDERS) == 0
    resumed = read_result("line", tmp_path / "out")
    assert resumed["complete"] and resumed["provenance"]["seed"] == 5

    command("run", "line", "--seed", "5", "--device", "cpu", *FOLDERS)
    assert read_result("line", tmp_path / "out")["figures"] == resumed["figures"]


def test_resume_without_a_checkpoint_says_what_to_do(command, capsys):
    assert command("resume", "line", *FOLDERS) == 2
    assert "start it with `run`" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(command, line, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "carry_out", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command("run", "line", *FOLDERS) == 130
    assert "resume line" in capsys.readouterr().err


def test_an_outcome_must_have_the_published_figures(line, run):
    with pytest.raises(ValueError, match="lacks \\['test error'\\]"):
        describe(line, run, Outcome({"another": 1.0}), 0.0)


@pytest.mark.parametrize("name", names())
def test_shipped_results_are_whole(name):
    """What ships was run to its end from a commit, reproduces every published figure, and its weights are there."""
    result = read_result(name)
    experiment = find(name)
    assert result["complete"]
    assert result["published"] == dict(experiment.published) and set(experiment.published) <= set(result["figures"])
    assert set(result["weights"]) <= set(pretrained.names())
    assert json.dumps(result["provenance"]).count("null") <= 2


def test_weights_round_trip_and_have_a_limit(tmp_path):
    weights = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(2, dtype=torch.int64)}
    path = pretrained.save("tiny", weights, tmp_path)
    assert path.stat().st_size < 1000 and pretrained.names(tmp_path) == ["tiny"]
    loaded = pretrained.load("tiny", folder=tmp_path)
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    with pytest.raises(ValueError, match="no weights are called 'none'; there are tiny"):
        pretrained.load("none", folder=tmp_path)
    with pytest.raises(ValueError, match="more than 5 MB"):
        pretrained.save("huge", {"a": torch.zeros(2_000_000)}, tmp_path)


def test_versions_of_what_is_not_installed():
    assert version("no-such-package-anywhere") is None
    assert git_commit() is None or len(git_commit()) in (12, 13)
