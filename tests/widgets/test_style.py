"""The palette is measured: contrast as WCAG 2 defines it, distances in CIELAB as colour-blind eyes see them."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from diffopt_lib.widgets.style import PALETTE, use_book_style

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: str) -> np.ndarray:
    channel = np.array(mpl.colors.to_rgb(color))
    return np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(XYZ @ np.clip(rgb, 1e-3, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("paper", ["#ffffff", "#121212"])
@pytest.mark.parametrize("color", PALETTE)
def test_colours_stand_out_on_both_papers(color, paper):
    light, dark = sorted((XYZ[1] @ linear(color) + 0.05, XYZ[1] @ linear(paper) + 0.05), reverse=True)
    assert light / dark >= 3


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart(vision):
    seen = [lab(np.array(VISION[vision]) @ linear(color)) for color in PALETTE]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 25


def test_figures_are_reproducible_and_transparent():
    def draw() -> str:
        figure, ax = plt.subplots()
        ax.plot([0, 1], [0, 1])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
        return buffer.getvalue()

    with mpl.rc_context():
        use_book_style()
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == PALETTE
        first = draw()
        assert first == draw()
    assert "#ffffff" not in first
