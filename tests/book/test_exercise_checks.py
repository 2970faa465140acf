"""The checks of exercises tell right from wrong: each one passes the solution and fails a plausible wrong answer.

A solution is the code folded under its exercise, and ends in the check. It runs on the cells of its chapter that it
needs, as a reader would run it below them. A wrong answer is the solution with one idea replaced: a sign, a forgotten
factor, the approximation that the text warns of, or a method that does not use what the exercise is about.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from chapters import markdown, read

FOLDER = "book/2_differentiable"
# The cells that the solutions of a chapter stand on, and what may be left out of them to save time.
CELLS = {
    "06_top_k": ("setup", "scratch", "digits", "table"),
    "07_permutations": ("setup", "scratch", "sweeps"),
    "08_svms": ("setup", "points", "first-figure", "digits-data", "identity"),
    "09_sensitivity": ("setup", "data", "scratch", "loo", "cook-code"),
}
SHORTER = {
    ("06_top_k", "digits"): [("levels = (0.0, 0.6, 0.9)", "levels = (0.6,)")],
    ("06_top_k", "table"): [("for p in levels:", "for p in ():")],
    ("07_permutations", "sweeps"): [("for tau in (1.0, 0.3, 0.1):", "for tau in (0.3, 0.1):")],
    ("09_sensitivity", "loo"): [("DECAYS = (1.0, 0.1, 0.01)", "DECAYS = (1.0,)")],
}


@dataclass(frozen=True)
class Wrong:
    """A plausible wrong answer to an exercise: what it has in place of a part of the solution."""

    chapter: str
    exercise: str
    right: str
    wrong: str


WRONG = [
    # the entropy of the simplex; the sign of the multiplier
    Wrong("06_top_k", "ex-topk-price", "torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)", "torch.xlogy(y, y)"),
    Wrong("06_top_k", "ex-topk-price", "threshold(x.detach()", "-threshold(x.detach()"),
    # the slope of the softargmax
    Wrong("06_top_k", "ex-topk-hot", "level * (1 - level) * (x - x.mean()) / tau", "level * (x - x.mean()) / tau"),
    # twice the temperature, as for two entries; two different scores where there are three
    Wrong("06_top_k", "ex-topk-never", "own = 1.3 / (y[0] / y[1]).log()", "own = torch.tensor(1.2)"),
    Wrong("06_top_k", "ex-topk-never", "torch.tensor([1.0, 0.6, 0.0])", "torch.tensor([1.0, 0.0, 0.0])"),
    # LML itself, and the softargmax k times
    Wrong("06_top_k", "ex-topk-sets", "return torch.func.grad(log_sum)(x)", "return soft_top_k(x, k, tau)"),
    Wrong("06_top_k", "ex-topk-sets", "return torch.func.grad(log_sum)(x)", "return k * softargmax(x, tau)"),
    # one question only
    Wrong("06_top_k", "ex-topk-both", "for k in (1, 3))", "for k in (3,))"),
    # as much as there is in the mean
    Wrong("07_permutations", "ex-perm-decompose", "rest[M == 1].min()", "rest[M == 1].mean()"),
    # the reward alone; the entropy's sign
    Wrong("07_permutations", "ex-perm-value", "(S_ * P_).sum() + tau_ * entropy", "(S_ * P_).sum() + 0 * tau_"),
    Wrong("07_permutations", "ex-perm-value", "isclose(for_tau_, entropy", "isclose(for_tau_, -entropy"),
    # the largest gap for the smallest, and the other way round
    Wrong("07_permutations", "ex-perm-exact", "gaps.min()", "gaps.max()"),
    Wrong("07_permutations", "ex-perm-exact", "gaps.max()", "gaps.min()"),
    # one product in place of two; the right side's sign
    Wrong("07_permutations", "ex-perm-series", "dv = P.mT @ (P @ dv) + P.mT @ r - c", "dv = P @ dv + P.mT @ r - c"),
    Wrong("07_permutations", "ex-perm-series", "P.mT @ (P @ dv) + P.mT @ r - c", "P.mT @ (P @ dv) - P.mT @ r + c"),
    # only those on the margin; the mean violation
    Wrong("08_svms", "ex-svm-price", "-torch.outer(lam * y, w)", "-torch.outer(lam * (lam < 1 - 1e-7) * y, w)"),
    Wrong("08_svms", "ex-svm-price", "allclose(by_price, xi.sum()", "allclose(by_price, xi.mean()"),
    # the roles of two and three exchanged
    Wrong("08_svms", "ex-svm-held", "inner if held == 3 else cross", "inner if held == 2 else cross"),
    # the usual half
    Wrong("08_svms", "ex-svm-identity", "delta.square().sum() / 4", "delta.square().sum() / 2"),
    # a price that only grows, without any gradient
    Wrong("08_svms", "ex-svm-c", "    optimizer.step()", "    theta.data += 0.2"),
    # the intercept decays as well
    Wrong("09_sensitivity", "ex-sens-sum", "theta[..., :2].square()", "theta.square()"),
    # a forgotten half; the sign of the second derivative
    Wrong("09_sensitivity", "ex-sens-decay", "first_ = t_ @ t_ / 2", "first_ = t_ @ t_"),
    Wrong("09_sensitivity", "ex-sens-decay", "second_ = -t_", "second_ = t_"),
    # the training residuals; the denominator of generalized cross-validation
    Wrong("09_sensitivity", "ex-sens-press", "return residuals / (1 - leverages)", "return residuals"),
    Wrong("09_sensitivity", "ex-sens-press", "/ (1 - leverages)\n", "/ (1 - leverages.mean())\n"),
    # the curvature kept whole; the sum of single Newton steps
    Wrong("09_sensitivity", "ex-sens-group", "((s_ * ~gone)[:, None] * X_arc)", "(s_[:, None] * X_arc)"),
    Wrong("09_sensitivity", "ex-sens-group", "group = -torch", 'group = study["newton"][gone].sum(0) + 0 * -torch'),
    # one step; the other tumors as well; too far; labels turned over in place of moves; moves at random; down, not up
    Wrong("09_sensitivity", "ex-sens-poison", "steps=12", "steps=1"),
    Wrong("09_sensitivity", "ex-sens-poison", "movable=owned, steps=12", "steps=12"),
    Wrong("09_sensitivity", "ex-sens-poison", "X_train, 4.0, movable", "X_train, 8.0, movable"),
    Wrong(
        "09_sensitivity",
        "ex-sens-poison",
        "classifier(attack.data))",
        "classifier(X_train, torch.where(owned, -y_train, y_train)))",
    ),
    Wrong("09_sensitivity", "ex-sens-poison", "classifier(attack.data)", "classifier(X_train + noise[0])"),
    Wrong(
        "09_sensitivity",
        "ex-sens-poison",
        "poison(classifier, known_loss",
        "poison(classifier, lambda t: -known_loss(t)",
    ),
]


def solutions(chapter: str) -> dict[str, str]:
    """The code of every folded solution, by the label of its exercise."""
    text = markdown(read(f"{FOLDER}/{chapter}.ipynb"))
    found = re.findall(r"::::\{solution\} ([\w-]+)\n(.*?)^::::$", text, re.DOTALL | re.MULTILINE)
    return {label: "\n".join(re.findall(r"```python\n(.*?)```", body, re.DOTALL)) for label, body in found}


@cache
def namespace(chapter: str) -> dict[str, Any]:
    """What the chapter's cells define."""
    sources = {cell.id: cell.source for cell in read(f"{FOLDER}/{chapter}.ipynb").cells}
    names: dict[str, Any] = {}
    for name in CELLS[chapter]:
        source = re.sub(r"^%.*$", "", sources[name], flags=re.MULTILINE)
        for long, short in SHORTER.get((chapter, name), []):
            assert long in source
            source = source.replace(long, short)
        exec(source, names)
    return names


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    """The chapters' setup changes torch's default dtype and matplotlib's backend."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    matplotlib.pyplot.close("all")


EXERCISES = [(chapter, exercise) for chapter in CELLS for exercise in solutions(chapter)]


@pytest.mark.parametrize(("chapter", "exercise"), EXERCISES)
def test_passes_the_solution(chapter: str, exercise: str) -> None:
    exec(solutions(chapter)[exercise], dict(namespace(chapter)))


@pytest.mark.parametrize("answer", WRONG, ids=lambda answer: f"{answer.exercise}-{answer.wrong[:24]}")
def test_fails_a_plausible_wrong_answer(answer: Wrong) -> None:
    solution = solutions(answer.chapter)[answer.exercise]
    assert answer.right in solution
    with pytest.raises(AssertionError):
        exec(solution.replace(answer.right, answer.wrong), dict(namespace(answer.chapter)))


def test_every_exercise_has_a_wrong_answer() -> None:
    assert {(answer.chapter, answer.exercise) for answer in WRONG} == set(EXERCISES)
