"""Create a virtual environment with pip in it: `python3 tools/make_env.py .venv`.

The pip comes with Python, as `ensurepip`. Debian has that in a package of its own, which is installed first if it is
missing and we may install it.
"""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PACKAGE = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"


def has_pip(python: Path) -> bool:
    """Whether the environment of `python` exists and can run pip."""
    command = [str(python), "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def install_ensurepip() -> None:
    """Install Debian's package of it, where that can be done."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment)
        subprocess.run(["apt-get", "install", "-q", "-y", PACKAGE], env=environment)
        importlib.invalidate_caches()


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells an older Python so
        sys.exit(f"The book needs Python 3.11 or newer, not {sys.version.split()[0]}; try: make PYTHON=python3.12 ...")
    folder = Path(sys.argv[1])
    if has_pip(folder / "bin" / "python"):
        return
    if importlib.util.find_spec("ensurepip") is None:
        install_ensurepip()
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(f"This Python has no ensurepip; install it (Debian's package {PACKAGE}) and try again.")
    print(f"Creating {folder} ...", flush=True)
    venv.create(folder, with_pip=True, clear=True)


if __name__ == "__main__":
    main()
