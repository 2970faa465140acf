"""What tests/book/test_exercises.py needs of each chapter, in a module of the chapter's name.

`CELLS` names the cells of the chapter that its solutions stand on, and `SHORTER`, if there is one, what is replaced in
them to save time. `WRONG` holds, for each exercise, plausible wrong answers: the solution with one idea replaced.
"""

from typing import NamedTuple


class Wrong(NamedTuple):
    """A plausible wrong answer: why one might give it, and what it has in place of a part of the solution."""

    why: str
    right: str
    wrong: str
