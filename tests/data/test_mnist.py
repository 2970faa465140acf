"""MNIST is read as published, refused where it is damaged, and asked for where it is missing."""

import gzip
import hashlib

import pytest
import torch

from diffopt_lib.data import mnist
from diffopt_lib.data.mnist import CHECKSUMS, SOURCE, content, parse_idx

NAME = "t10k-labels-idx1-ubyte.gz"
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9])  # three labels in the idx format


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A world with one small file whose checksum is known, an empty cache, and no network."""
    monkeypatch.setitem(CHECKSUMS, NAME, hashlib.sha256(LABELS).hexdigest())
    monkeypatch.setenv("DIFFOPT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DIFFOPT_CACHE", str(tmp_path / "cache"))

    def refuse(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path


def put(folder, packed):
    (folder / "mnist").mkdir(parents=True)
    (folder / "mnist" / NAME).write_bytes(packed)


def test_shapes_counts_and_a_digit(real_data):
    training, test = mnist("train"), mnist("test")
    assert training.images.shape == (60000, 28, 28) and test.images.shape == (10000, 28, 28)
    assert training.images.dtype == torch.float32 and test.labels.dtype == torch.int64
    assert test.images.min() == 0 and test.images.max() == 1
    # As LeCun's page has it: the first training digit is a 5, the first test digit a 7; and 1 is the commonest.
    assert training.labels[0] == 5 and test.labels[0] == 7
    assert torch.bincount(training.labels).argmax() == 1 and torch.bincount(test.labels).tolist()[0] == 980


def test_images_are_upright_and_in_order(real_data):
    """A one is a thin vertical stroke near the middle."""
    images, labels = mnist("test")
    one = images[labels == 1].mean(0)
    assert one[:, 11:17].sum() > 0.8 * one.sum()
    assert (one.sum(1) > 1).sum() >= 18  # rows


def test_the_data_folder_comes_before_the_cache(small):
    put(small / "data", gzip.compress(LABELS))
    put(small / "cache", b"never read")
    assert content(NAME) == LABELS


def test_any_compression_of_the_same_content_will_do(small):
    put(small / "cache", gzip.compress(LABELS, compresslevel=1, mtime=12345))
    assert content(NAME) == LABELS


def test_a_download_is_kept(small, monkeypatch):
    asked = []

    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self):
            return gzip.compress(LABELS)

    def answer(url, timeout):
        asked.append(url)
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert content(NAME) == content(NAME) == LABELS
    assert asked == [SOURCE + NAME]


def test_a_missing_file_says_where_to_put_it(small):
    with pytest.raises(FileNotFoundError, match="DIFFOPT_DATA") as error:
        content(NAME)
    assert str(small / "data" / "mnist" / NAME) in str(error.value) and SOURCE in str(error.value)
    assert not (small / "cache").exists()


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (gzip.compress(LABELS + b"!"), "is not MNIST's"),
        (LABELS, "is not a gzip file"),
        (gzip.compress(LABELS)[:-4], "is not a gzip file"),
    ],
    ids=["of another content", "not packed", "cut off"],  # what is packed bears the second in which it was
)
def test_a_damaged_file_is_refused(small, packed, message):
    put(small / "data", packed)
    with pytest.raises(ValueError, match=message):
        content(NAME)


def test_the_idx_format():
    assert parse_idx(LABELS).tolist() == [7, 0, 9]
    assert parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 1, 5, 6])).tolist() == [[5], [6]]
    with pytest.raises(ValueError, match="begins with"):
        parse_idx(b"\x1f\x8b\x08\x08")
    with pytest.raises(ValueError, match="of unsigned bytes"):
        parse_idx(bytes([0, 0, 13, 1, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="has 2 elements"):
        parse_idx(LABELS[:-1])


def test_only_two_parts():
    with pytest.raises(ValueError, match="part must be"):
        mnist("validation")
