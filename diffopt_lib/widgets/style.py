"""The look of the book's figures."""

from __future__ import annotations

PALETTE = ["#1788d7", "#e27512", "#19a77a", "#904a7d", "#1c4bfe", "#885b2a"]
"""Six colours that stay 27 apart in CIELAB for normal, protanopic and deuteranopic eyes, each with a contrast of at
least 3:1 on white and on #121212. They were found by a search over these two conditions; the tests measure both."""


def use_book_style() -> None:
    """Set matplotlib's rcParams for the book, and SVG output for inline figures when run in IPython.

    Figures are transparent with dark ink (the book's style sheet inverts them on dark pages) and reproducible byte by
    byte.
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (5.2, 3.4),
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "axes.facecolor": "none",
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#666666",
            "axes.linewidth": 0.7,
            "axes.labelcolor": "#222222",
            "axes.titlesize": 10,
            "axes.labelsize": 9.5,
            "axes.axisbelow": True,
            "text.color": "#222222",
            "font.size": 9.5,
            "mathtext.fontset": "cm",
            "xtick.color": "#666666",
            "ytick.color": "#666666",
            "xtick.labelcolor": "#222222",
            "ytick.labelcolor": "#222222",
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "xtick.major.size": 3,
            "ytick.major.size": 3,
            "grid.color": "#cccccc",
            "grid.linewidth": 0.5,
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
            "patch.linewidth": 1.0,
            "image.cmap": "viridis",
            "svg.fonttype": "path",
            "svg.hashsalt": "diffopt",
        }
    )
    _inline_svg()


def _inline_svg() -> None:
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        # Without a date the same figure gives the same bytes.
        set_matplotlib_formats("svg", metadata={"Date": None})
