"""Weights that experiments wrote, as safetensors files that ship with the library.

>>> module.load_state_dict(pretrained.load("sudoku"))

``python -m diffopt_lib.experiments run NAME`` makes them anew; its result file says how they were obtained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..data.files import write_whole

FOLDER = Path(__file__).parent
LARGEST = 5_000_000  # bytes


def names(folder: Path = FOLDER) -> list[str]:
    """The weights there are."""
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def load(name: str, device: str | torch.device = "cpu", folder: Path = FOLDER) -> dict[str, Tensor]:
    """The state dict of that name.

    Raises:
        ValueError: there is none.
    """
    from safetensors.torch import load_file

    if name not in names(folder):
        raise ValueError(f"no weights are called {name!r}; there are {', '.join(names(folder)) or 'none'}")
    return load_file(folder / f"{name}.safetensors", device=str(device))


def save(name: str, weights: Mapping[str, Tensor], folder: Path = FOLDER) -> Path:
    """Write a state dict.

    Raises:
        ValueError: it needs more than 5 MB, too much to ship.
    """
    from safetensors.torch import save_file

    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if size > LARGEST:
        raise ValueError(f"the weights {name!r} need {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f} MB")
    path = folder / f"{name}.safetensors"
    write_whole(path, lambda beside: save_file({k: t.detach().cpu().contiguous() for k, t in weights.items()}, beside))
    return path
