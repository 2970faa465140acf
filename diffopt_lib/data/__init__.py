"""Data: generated from a seed, packaged, or downloaded with a checksum."""

from .signals import Signals, piecewise_constant
from .sudoku import Puzzles, board_of, grids, one_hot, puzzles

__all__ = ["Puzzles", "Signals", "board_of", "grids", "one_hot", "piecewise_constant", "puzzles"]
