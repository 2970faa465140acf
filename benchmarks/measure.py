"""Time: methods take turns, each turn is a forward and a backward pass, and the figure is the median.

Memory is measured in a turn of its own, because watching every tensor takes time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffopt_lib.memory import peak_memory

from .method import Forward

TURNS = 15  # at most
SECONDS = 6.0  # a method that needs long gets fewer turns, but at least three


@dataclass
class Timing:
    """Seconds of each turn, and what the last one gave."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    y: Tensor | None = None
    gradients: list[Tensor] | None = None
    error: str | None = None

    @property
    def spent(self) -> float:
        return sum(self.forward) + sum(self.backward)

    def wants_another(self, turns: int, seconds: float) -> bool:
        done = len(self.forward)
        return self.error is None and (done < min(3, turns) or (done < turns and self.spent < seconds))

    def summary(self) -> dict:
        """Medians in milliseconds."""
        if self.error is not None:
            return {"error": self.error}
        both = [f + b for f, b in zip(self.forward, self.backward, strict=True)]
        milliseconds = {
            "forward": 1e3 * statistics.median(self.forward),
            "backward": 1e3 * statistics.median(self.backward),
            "both": 1e3 * statistics.median(both),
            "fastest": 1e3 * min(both),
            "slowest": 1e3 * max(both),
        }
        return {key: float(f"{value:.4g}") for key, value in milliseconds.items()} | {"turns": len(both)}


def take_turns(
    methods: Mapping[str, Callable[[], Forward]],
    cotangent: Tensor,
    synchronise: Callable[[], None],
    turns: int = TURNS,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every method: warm-up first, then one turn each, round after round.

    Args:
        methods: gives the forward pass of each, prepared but not run; raises if the method fails.
        cotangent: for the backward pass.
        synchronise: waits for the device.
        turns: at most, for each method.
        seconds: after which a method takes no further turn, warm-up aside.
        clock: ``time.process_time`` on a machine whose cores are wanted by others.
    """
    timings = {name: Timing() for name in methods}
    forwards: dict[str, Forward] = {}
    threads = torch.get_num_threads()

    def turn(timing: Timing, name: str) -> None:
        torch.set_num_threads(threads)  # some methods set it to 1 for everybody
        _turn(timing, forwards[name], cotangent, synchronise, clock)

    for name, prepare in methods.items():
        try:
            forwards[name] = prepare()
            for _ in range(2):
                turn(Timing(), name)
        except Exception as error:  # whatever it is, it is that method's result
            timings[name].error = f"{type(error).__name__}: {str(error)[:200]}"
    while True:
        due = [name for name, timing in timings.items() if timing.wants_another(turns, seconds)]
        if not due:
            torch.set_num_threads(threads)
            return timings
        for name in due:
            try:
                turn(timings[name], name)
            except Exception as error:
                timings[name].error = f"{type(error).__name__}: {str(error)[:200]}"


def _turn(
    timing: Timing,
    forward: Forward,
    cotangent: Tensor,
    synchronise: Callable[[], None],
    clock: Callable[[], float],
) -> None:
    synchronise()
    start = clock()
    timing.y, pull = forward()
    synchronise()
    middle = clock()
    timing.gradients = pull(cotangent)
    synchronise()
    end = clock()
    timing.forward.append(middle - start)
    timing.backward.append(end - middle)


def waiting_for(device: torch.device) -> Callable[[], None]:
    """The function that waits until the device has done what it was asked to."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def memory(forward: Forward, cotangent: Tensor) -> int:
    """The most bytes that tensors of a forward and a backward pass take up at a time, the inputs aside."""

    def turn() -> tuple[Tensor, list[Tensor]]:
        y, pull = forward()
        return y, pull(cotangent)

    return peak_memory(turn)
