"""Create a virtual environment with pip in it: `python3 tools/make_env.py .venv`.

Debian's python3 comes without `ensurepip` (that is the package python3-venv), so `python3 -m venv` fails there.
Then the environment is made without pip, and pip's own wheel, checked against the digest that PyPI publishes,
installs itself.
"""

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from pathlib import Path

PIP_RELEASES = "https://pypi.org/pypi/pip/json"


def download_pip(folder: Path) -> Path:
    """Fetch the newest pip wheel into `folder`; raise if its SHA-256 is not the published one."""
    with urllib.request.urlopen(PIP_RELEASES, timeout=60) as answer:
        files = json.load(answer)["urls"]
    wheel = next(file for file in files if file["packagetype"] == "bdist_wheel")
    with urllib.request.urlopen(urllib.parse.urljoin(PIP_RELEASES, wheel["url"]), timeout=60) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        raise RuntimeError(f"{wheel['filename']} does not have the SHA-256 digest that PyPI states")
    path = folder / wheel["filename"]
    path.write_bytes(content)
    return path


def install_pip(python: Path) -> None:
    """Let the pip wheel, which Python can run as it is, install itself into the environment of `python`."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = download_pip(Path(folder))
        subprocess.run([python, wheel / "pip", "install", "--quiet", "--no-index", wheel], check=True)


def has_pip(python: Path) -> bool:
    """Whether the environment of `python` exists and can run pip."""
    command = [python, "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def make_env(folder: Path) -> None:
    """Create the environment in `folder`, or leave one that works as it is."""
    python = folder / "bin" / "python"
    if has_pip(python):
        return
    if importlib.util.find_spec("ensurepip"):
        venv.create(folder, with_pip=True, clear=True)
    else:
        venv.create(folder, with_pip=False, clear=True)
        install_pip(python)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells an older Python so
        sys.exit(f"The book needs Python 3.11 or newer, not {sys.version.split()[0]}; try: make PYTHON=python3.12 ...")
    print(f"Creating {sys.argv[1]} ...", flush=True)
    make_env(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
