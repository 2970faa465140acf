"""Find a Chromium for the browser tests; run as a program, install one if there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE = """No Chromium could be found or installed; the browser tests need one. Any of these will do:
  apt-get install chromium libatomic1               (Debian, as root; Playwright needs the library)
  .venv/bin/python -m playwright install --with-deps chromium
  a chromium or google-chrome of your own on the PATH"""


def playwright_download() -> str | None:
    """The path of the Chromium that Playwright has downloaded, if it has."""
    query = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    # In a process of its own: where a system library is missing, Playwright's driver dies with its caller.
    answer = subprocess.run([sys.executable, "-c", query], capture_output=True, text=True)
    path = answer.stdout.strip()
    return path if answer.returncode == 0 and Path(path).exists() else None


def find_chromium() -> str | None:
    """The path of a Chromium: a system one first, then Playwright's own download."""
    for name in SYSTEM_NAMES:
        if path := shutil.which(name):
            return path
    return playwright_download()


def install_chromium() -> None:
    """Install a Chromium as Debian's package (as root), otherwise as Playwright's own download."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment)
        # Playwright's driver needs libatomic, which a small Debian lacks.
        subprocess.run(["apt-get", "install", "-q", "-y", "chromium", "libatomic1"], env=environment)
    if find_chromium() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


def main() -> None:
    if find_chromium() is None:
        install_chromium()
    path = find_chromium()
    if path is None:
        raise SystemExit(ADVICE)
    print(f"Chromium for the browser tests: {path}")


if __name__ == "__main__":
    main()
