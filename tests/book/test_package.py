"""The library as a package: what its wheel holds, and what importing it needs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Only torch, numpy and scipy, and what they need themselves, may be imported; the rest is as if not installed.
BARE_IMPORT = """
import sys

HIDDEN = ["cvxpy", "cvxpylayers", "diffcp", "matplotlib", "anywidget", "ipywidgets", "IPython", "sklearn", "PIL",
          "safetensors", "tqdm", "yaml", "pandas", "requests"]
sys.modules.update(dict.fromkeys(HIDDEN))  # None makes `import` raise ModuleNotFoundError

import torch
import diffopt_lib
import diffopt_lib.layers

x = torch.tensor([-1.0, 2.0], requires_grad=True)
y = diffopt_lib.argmin(lambda y, x: ((y - x) ** 2).sum(-1), torch.zeros(2), x).y
y.sum().backward()
assert torch.allclose(y, x) and torch.allclose(x.grad, torch.ones(2)), (y, x.grad)
"""


def test_imports_with_torch_numpy_and_scipy_alone() -> None:
    result = subprocess.run([sys.executable, "-c", BARE_IMPORT], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` builds, from a copy of the sources: building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "diffopt_lib", folder / "source" / "diffopt_lib", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(command, check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_every_file_of_the_library(wheel: zipfile.ZipFile) -> None:
    """Modules, JavaScript, stylesheet, weights and the typing marker; nothing else of the repository."""
    names = set(wheel.namelist())
    for path in (ROOT / "diffopt_lib").rglob("*"):
        if path.suffix in (".py", ".js", ".css", ".json", ".safetensors", ".npz", ".typed"):
            assert path.relative_to(ROOT).as_posix() in names
    assert "diffopt_lib/py.typed" in names
    assert "diffopt_lib/widgets/js/view.js" in names
    assert {name.partition("/")[0] for name in names} == {"diffopt_lib", "diffopt_lib-0.1.0.dist-info"}


def test_wheel_needs_torch_numpy_and_scipy_only(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read("diffopt_lib-0.1.0.dist-info/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in required) == ["numpy", "scipy", "torch"]


# The hosts of package registries, in pieces, so that they do not stand here either.
REGISTRIES = [
    ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("anaconda", "org"))
]
REGISTRIES += [".".join(parts) for parts in (("download", "pytorch", "org"), ("yarnpkg", "com"), ("jsdelivr", "net"))]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    """Where packages come from is the affair of whoever installs them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    texts = {name: (ROOT / name).read_bytes().decode(errors="ignore") for name in listed.stdout.split("\0") if name}
    assert [(name, host) for name, text in texts.items() for host in REGISTRIES if host in text] == []
