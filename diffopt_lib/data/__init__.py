"""Data: generated from a seed, packaged, or downloaded with a checksum."""

from .mnist import Digits, mnist
from .signals import Signals, piecewise_constant
from .sudoku import Puzzles, board_of, grids, one_hot, puzzles

__all__ = ["Digits", "Puzzles", "Signals", "board_of", "grids", "mnist", "one_hot", "piecewise_constant", "puzzles"]
