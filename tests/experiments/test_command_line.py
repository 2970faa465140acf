"""The command line, the result files and the weights they come with."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import diffopt_lib
from diffopt_lib import experiments, pretrained
from diffopt_lib.experiments import Outcome, __main__, find, names
from diffopt_lib.experiments.harness.provenance import code_behind, command_line, git_commit, library_digest, version
from diffopt_lib.experiments.harness.results import describe, read_result

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
    assert origin["command"].endswith("run line --seed 5 --device cpu")
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
    assert "line has no checkpoint in checkpoints; start it with `run`" in capsys.readouterr().err
    assert command("resume", *FOLDERS) == 2
    assert "no experiment has a checkpoint in checkpoints; start it with `run`" in capsys.readouterr().err


def test_resume_without_a_name_takes_the_one_that_was_at_work_last(command, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "MODULES", ("line", "older"))
    command("run", "line", "--device", "cpu", "--budget", "0", *FOLDERS)
    older = tmp_path / "checkpoints" / "older" / "settings.json"
    older.parent.mkdir()
    older.write_text("{}")
    os.utime(older, (1, 1))
    assert command("resume", *FOLDERS) == 0
    assert read_result("line", tmp_path / "out")["complete"]


def test_resume_stays_on_the_device_of_the_run(command, tmp_path, monkeypatch, capsys):
    command("run", "line", "--device", "cpu", "--budget", "0", *FOLDERS)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert command("resume", "line", *FOLDERS) == 0
    assert read_result("line", tmp_path / "out")["provenance"]["hardware"]["device"] == "cpu"

    settings = tmp_path / "checkpoints" / "line" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"device": "cuda"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command("resume", "line", *FOLDERS) == 2
    assert "name another device with --device" in capsys.readouterr().err


def test_what_a_budget_cut_short_does_not_replace_what_ships(command, tmp_path, monkeypatch):
    """Without --output, a whole result goes to the library and one that is not stays with the checkpoints."""
    for name in ("results", "weights"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "weights")
    checkpoints = tmp_path / "checkpoints"
    command("run", "line", "--device", "cpu", "--budget", "0", "--checkpoints", str(checkpoints))
    assert not list((tmp_path / "results").iterdir()) and not list((tmp_path / "weights").iterdir())
    assert not read_result("line", checkpoints / "line")["complete"]
    assert pretrained.names(checkpoints / "line") == ["line"]

    command("resume", "line", "--checkpoints", str(checkpoints))
    assert read_result("line", tmp_path / "results")["complete"] and pretrained.names(tmp_path / "weights") == ["line"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "chess"], "invalid choice: 'chess'"),
        (["run"], "the following arguments are required: name"),
        (["run", "line", "--seed", "-1"], "argument --seed: must be a whole number from 0 to 2147483647, got '-1'"),
        (["run", "line", "--seed", "1.5"], "argument --seed: must be a whole number"),
        (["run", "line", "--seed", str(2**31)], "argument --seed: must be a whole number"),
        (["run", "line", "--budget", "-1"], "argument --budget: must be a number of seconds, 0 or more, got '-1'"),
        (["run", "line", "--budget", "nan"], "argument --budget: must be a number of seconds"),
        (["run", "line", "--budget", "soon"], "argument --budget: must be a number of seconds"),
        (["run", "line", "--device", "gpu"], "argument --device: must be cpu or cuda, got 'gpu'"),
        (["run", "line", "--device", "mps"], "argument --device: must be cpu or cuda"),
        (["run", "line", "--device", "cuda:99"], "CUDA device(s), got 'cuda:99'"),
        (["resume", "line", "--seed", "5"], "unrecognized arguments: --seed 5"),
        ([], "the following arguments are required: command"),
    ],
)
def test_bad_arguments_are_told_in_one_line(command, arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(*arguments)
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_before_the_training(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("a file")
    assert command("run", "line", *FOLDERS) == 2
    assert "no folder out can be made" in capsys.readouterr().err
    monkeypatch.setattr(__main__.os, "access", lambda path, mode: False)
    assert command("run", "line", "--output", "elsewhere") == 2
    assert "can't be written to; name another with --output" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_missing_packages_are_found_before_the_training(command, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "NEEDED", ("tqdm", "no_such_package"))
    assert command("run", "line", *FOLDERS) == 2
    assert "experiments need no_such_package: pip install 'diffopt_lib[experiments]'" in capsys.readouterr().err


def test_listing_needs_no_packages_beside_torch():
    hidden = "import sys; sys.modules.update(dict.fromkeys(['safetensors', 'tqdm', 'sklearn', 'matplotlib']))"
    call = "from diffopt_lib.experiments.__main__ import main; main(['list'])"
    done = subprocess.run([sys.executable, "-c", f"{hidden}; {call}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert find("sudoku").claim in done.stdout


def test_ctrl_c_says_how_to_go_on(command, line, monkeypatch, capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "find", lambda name: replace(line, run=interrupted))
    assert command("run", "line", *FOLDERS) == 130
    assert "resume line" in capsys.readouterr().err


def test_commands_are_as_one_would_type_them(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "run", "line", "--device", "cuda 1", "--checkpoints", "a/b", "--output=c"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="package.experiments.__main__"))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert command_line() == "python -m package.experiments run line --device 'cuda 1'"
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command_line().startswith("torchrun --nnodes 2 --nproc-per-node 4 -m package.experiments run line")


def test_a_result_says_with_which_code_it_was_computed():
    now = {"commit": "0123456789ab", "sources": library_digest()}
    assert code_behind(now) == "commit 0123456789ab"
    assert code_behind(now | {"commit": "0123456789ab+"}) == "commit 0123456789ab with changes that were not committed"
    assert code_behind(now | {"commit": None}) == "no commit"
    assert code_behind(now | {"sources": "ba9876543210"}) == "commit 0123456789ab; the library has changed since"
    assert code_behind({"commit": "0123456789ab"}) == "commit 0123456789ab; the library has changed since"


@pytest.mark.parametrize("name", names())
def test_shipped_commands_name_no_folder_of_a_machine(name):
    assert "/" not in read_result(name)["provenance"]["command"]


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
    assert version("diffopt_lib") == diffopt_lib.__version__
    assert git_commit() is None or len(git_commit()) in (12, 13)
