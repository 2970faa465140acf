"""Data: generated from a seed, packaged, or downloaded with a checksum."""

from .electricity import Homes, Load, Market, homes, pjm, storage_market
from .mnist import Digits, mnist
from .signals import Signals, piecewise_constant
from .sudoku import Puzzles, board_of, grids, one_hot, puzzles

__all__ = [
    "Digits",
    "Homes",
    "Load",
    "Market",
    "Puzzles",
    "Signals",
    "board_of",
    "grids",
    "homes",
    "mnist",
    "one_hot",
    "piecewise_constant",
    "pjm",
    "puzzles",
    "storage_market",
]
