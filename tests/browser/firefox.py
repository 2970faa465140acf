"""A stock Firefox, driven by WebDriver BiDi, which it speaks itself: open a page, evaluate in it, press keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

NAMES = ("firefox-esr", "firefox")
START_SECONDS = 60


def find_firefox() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Firefox:
    def __init__(self, address: str):
        self.socket = websocket.create_connection(f"{address}/session", timeout=60, suppress_origin=True)
        self.sent = 0
        self.call("session.new", capabilities={})
        self.context = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.sent:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, path: Path) -> None:
        self.call("browsingContext.navigate", context=self.context, url=path.as_uri(), wait="complete")

    def resize(self, width: int, height: int) -> None:
        viewport = {"width": width, "height": height}
        self.call("browsingContext.setViewport", context=self.context, viewport=viewport)

    def evaluate(self, function: str, *arguments: Any) -> Any:
        """What `function`, which may be async, gives for the arguments, by way of JSON."""
        body = f"async () => JSON.stringify(await ({function})(...{json.dumps(arguments)}) ?? null)"
        target = {"context": self.context}
        answer = self.call("script.callFunction", functionDeclaration=body, awaitPromise=True, target=target)
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"]["value"])

    def press(self, *keys: str) -> None:
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.perform({"type": "key", "id": "keyboard", "actions": steps})

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y)} for x, y in points]
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        self.perform({"type": "pointer", "id": "mouse", "actions": [moves[0], down, *moves[1:], up]})

    def hover(self, x: float, y: float) -> None:
        move = {"type": "pointerMove", "x": round(x), "y": round(y)}
        self.perform({"type": "pointer", "id": "mouse", "actions": [move]})

    def perform(self, actions: dict[str, Any]) -> None:
        self.call("input.performActions", context=self.context, actions=[actions])


@contextmanager
def start_firefox(path: str) -> Iterator[Firefox]:
    """A Firefox with a profile of its own, and no window."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [path, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"]
        log = Path(profile) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                yield Firefox(address_in(log, process))
            finally:
                process.terminate()
                process.wait(timeout=30)


def address_in(log: Path, process: subprocess.Popen) -> str:
    """Where it listens, as it says on starting."""
    for _ in range(4 * START_SECONDS):
        if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.25)
    raise TimeoutError(log.read_text())
