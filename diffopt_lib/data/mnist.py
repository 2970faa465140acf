"""MNIST: 60,000 + 10,000 handwritten digits of 28 × 28 pixels, from the four original files.

The files are looked for in ``$DIFFOPT_DATA/mnist``, then in the user's cache, and are otherwise
downloaded into the latter: :func:`.files.content`.

Source: LeCun, Bottou, Bengio & Haffner 1998. Licence: CC BY-SA 3.0.
Chapters: book/2_differentiable/08_svms and others.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import files

SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
UNSIGNED_BYTE = 8  # the only element type that the files use


class Digits(NamedTuple):
    """Images ``(count, 28, 28)`` in [0, 1], float32, and what they show, ``(count,)`` int64."""

    images: Tensor
    labels: Tensor


def mnist(part: Literal["train", "test"] = "train") -> Digits:
    """The 60,000 training or the 10,000 test digits.

    Raises:
        ValueError: there is no such part, or a file is not MNIST's.
        FileNotFoundError: a file is neither there nor can it be downloaded; the message says where to put it.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    prefix = "train" if part == "train" else "t10k"
    images = parse_idx(content(f"{prefix}-images-idx3-ubyte.gz"))
    labels = parse_idx(content(f"{prefix}-labels-idx1-ubyte.gz"))
    return Digits(images.float() / 255, labels.long())


def content(name: str) -> bytes:
    """The uncompressed content of one of the four files, from the first place that has it."""
    return files.content("mnist", name, SOURCE + name, CHECKSUMS[name], "MNIST")


def parse_idx(data: bytes) -> Tensor:
    """The array in a file of the idx format: 0, 0, element type, number of dimensions, each as 4 bytes, the elements.

    Raises:
        ValueError: it is not that format, or its elements are not unsigned bytes, or not as many as it says.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTE:
        raise ValueError(f"not an idx file of unsigned bytes: it begins with {data[:4]!r}")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[k : k + 4], "big") for k in range(4, start, 4))
    elements = torch.frombuffer(bytearray(data), dtype=torch.uint8)[start:]
    if elements.numel() != int(torch.tensor(shape).prod()):
        raise ValueError(f"an idx file of shape {shape} has {elements.numel()} elements")
    return elements.view(shape)
