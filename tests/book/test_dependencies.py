"""Which files of a package a piece of code depends on: those behind the names it uses, and never too few."""

from pathlib import Path

import pytest
from chapters import ROOT

from tools.dependencies import files_behind, files_below

PACKAGE = {
    "__init__.py": "from .base import solve\n\n__version__ = '1'\n",
    "base.py": "import torch\nfrom .checks import positive\n\n\ndef solve(x): return positive(x)\n",
    "checks.py": "positive = abs\n",
    "late.py": "def f():\n    from . import checks\n    return checks.positive\n",
    "relative.py": "from ..package.layers.qp import interior as inner\n",
    "layers/__init__.py": "from .qp import solve_qp\nfrom .cone import solve_cone\nfrom .qp.kkt import factor as f\n",
    "layers/cone.py": "from ..base import solve as solve_cone\n",
    "layers/qp/__init__.py": "from .layer import solve_qp\n",
    "layers/qp/layer.py": "from package.layers.qp.kkt import factor\n\n\ndef solve_qp(): ...\n",
    "layers/qp/kkt.py": "def factor(): ...\n",
    "layers/qp/interior.py": "from .kkt import *\n",
    "weights/__init__.py": "from pathlib import Path\n\n\ndef load(): ...\n",
    "weights/one.bin": "1",
    "lab/__init__.py": "import importlib\nfrom .read import read\n\nfind = importlib.import_module\n",
    "lab/read.py": "from pathlib import Path\n\nread = (Path(__file__).parent / 'results').read_text\n",
    "lab/chess.py": "from ..layers import solve_cone\n",
    "lab/results/chess.json": "{}",
    "lab/others/unread.json": "{}",
}
TOP = {"__init__.py"}
QP = TOP | {"layers/__init__.py", "layers/qp/__init__.py", "layers/qp/layer.py", "layers/qp/kkt.py"}
LAYERS = QP | {"layers/cone.py", "layers/qp/interior.py", "base.py", "checks.py"}
CHESS = {"lab/chess.py", "layers/__init__.py", "layers/cone.py", "base.py", "checks.py"}
READ = TOP | {"lab/__init__.py", "lab/read.py", "lab/results/chess.json"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "package"


def behind(source: str, package: Path) -> set[str]:
    return {path.relative_to(package).as_posix() for path in files_behind(source, package)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", set()),
        ("import torch.package\nfrom torch import package", set()),
        ("from package import solve", TOP | {"base.py", "checks.py"}),
        ("def f():\n    from package import solve", TOP | {"base.py", "checks.py"}),
        ("from package import checks", TOP | {"checks.py"}),
        ("from package.late import f", TOP | {"late.py", "checks.py"}),
        ("from package.layers import solve_qp", QP),
        ("from package import layers\nlayers.solve_qp()", QP),
        ("import package.layers as l\nl.qp.solve_qp()", QP),
        ("from package.layers.qp import layer", QP),
        ("from package.layers import f", QP - {"layers/qp/layer.py"}),
        ("from package.layers.qp.kkt import factor", QP - {"layers/qp/layer.py"}),
        ("import package.layers.qp.kkt", QP - {"layers/qp/layer.py"}),
        ("from package.relative import inner", QP - {"layers/qp/layer.py"} | {"relative.py", "layers/qp/interior.py"}),
        ("from package.layers import *", LAYERS - {"layers/qp/interior.py"}),
        ("from package import layers\nf(layers)", LAYERS),
        ("import package.layers\npackage.layers.__file__", LAYERS),
        ("from package import __version__", TOP | {"base.py", "checks.py"}),
        ("from package.weights import load", TOP | {"weights/__init__.py", "weights/one.bin"}),
        ("from package.lab import read", READ),
        ("from package.lab import find", READ | CHESS),
    ],
)  # fmt: skip
def test_names_lead_to_the_modules_that_define_them(package: Path, source: str, expected: set[str]) -> None:
    assert behind(source, package) == expected


@pytest.mark.parametrize("source", ["import package\nprint(package)", "import package\npackage.__file__", "1 +"])
def test_what_cannot_be_told_apart_is_everything(package: Path, source: str) -> None:
    modules = {name for name in PACKAGE if name.endswith(".py")}
    assert modules <= behind(source, package)


def test_a_module_loaded_while_its_code_runs_is_among_the_files() -> None:
    """Beside what importing really loads: every name of a module, taken alone, brings the module that defines it."""
    import diffopt_lib.layers

    library = ROOT / "diffopt_lib"
    for name in diffopt_lib.layers.__all__:
        source = getattr(diffopt_lib.layers, name).__module__.replace(".", "/") + ".py"
        assert ROOT / source in files_behind(f"from diffopt_lib.layers import {name}", library)


@pytest.mark.parametrize(
    ("chapter", "without"),
    [
        ("1_optimization/02_activations", ["sensitivity.py", "layers/qp/layer.py", "layers/cone/layer.py"]),
        ("2_differentiable/04_quadratic_programs", ["sensitivity.py", "layers/cone/layer.py", "layers/svm/layer.py"]),
        ("2_differentiable/09_sensitivity", ["layers/cone/layer.py", "layers/sorting.py", "experiments/sudoku.py"]),
    ],
)
def test_chapters_do_not_depend_on_families_they_do_not_use(chapter: str, without: list[str]) -> None:
    from tools.build_book import code_of

    files = behind(code_of(f"book/{chapter}.ipynb"), ROOT / "diffopt_lib")
    assert all((ROOT / "diffopt_lib" / name).exists() for name in without)
    assert not files & set(without)
    assert (
        {"solution.py", "layers/__init__.py", "widgets/explorer.js"}
        <= files
        < {path.relative_to(ROOT / "diffopt_lib").as_posix() for path in files_below(ROOT / "diffopt_lib")}
    )
