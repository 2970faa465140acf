"""MNIST: 60,000 + 10,000 handwritten digits of 28 × 28 pixels, from the four original files.

The files are looked for in ``$DIFFOPT_DATA/mnist``, then in the user's cache (:func:`.cache_folder`), and are otherwise
downloaded into the latter. The checksum is that of the content, not of the compressed file, because mirrors compress it
anew.

Source: LeCun, Bottou, Bengio & Haffner 1998. Licence: CC BY-SA 3.0.
Chapters: book/2_differentiable/08_svms and others.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .files import cache_folder, write_whole

DATA_VARIABLE = "DIFFOPT_DATA"
SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SECONDS = 60.0  # without an answer, before a download is given up
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
    places = [cache_folder() / "mnist" / name]
    if folder := os.environ.get(DATA_VARIABLE):
        places.insert(0, Path(folder) / "mnist" / name)
    for path in places:
        if path.exists():
            return checked(name, path.read_bytes(), str(path))
    packed = download(name, places)
    data = checked(name, packed, SOURCE + name)
    write_whole(places[-1], lambda beside: beside.write_bytes(packed))
    return data


def download(name: str, places: list[Path]) -> bytes:
    """The compressed file from its public source."""
    try:
        with urllib.request.urlopen(SOURCE + name, timeout=SECONDS) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        looked = " and ".join(str(path) for path in places)
        raise FileNotFoundError(
            f"{name} is not at {looked}, and {SOURCE + name} did not answer ({error}). Put the file there, or name a "
            f"folder that has it in mnist/ with the environment variable {DATA_VARIABLE}"
        ) from None


def checked(name: str, packed: bytes, where: str) -> bytes:
    """Decompress, and compare the checksum."""
    try:
        data = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where} is not a gzip file: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != CHECKSUMS[name]:
        raise ValueError(f"{where} is not MNIST's {name}: the sha256 of its content is {found}")
    return data


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
