"""Chapter 7."""

from exercises import Wrong

CELLS = ("setup", "scratch", "sweeps")
SHORTER = {"sweeps": [("for tau in (1.0, 0.3, 0.1):", "for tau in (0.3, 0.1):")]}
WRONG = {
    "ex-perm-decompose": [
        Wrong("as much as there is in the mean", "rest[M == 1].min()", "rest[M == 1].mean()"),
        Wrong("half of what is possible", "rest[M == 1].min()", "rest[M == 1].min() / 2"),
    ],
    "ex-perm-value": [
        Wrong("the reward alone", "(S_ * P_).sum() + tau_ * entropy", "(S_ * P_).sum() + 0 * tau_"),
        Wrong("the entropy's sign", "isclose(for_tau_, entropy", "isclose(for_tau_, -entropy"),
    ],
    "ex-perm-exact": [
        Wrong("the largest gap for the smallest", "gaps.min()", "gaps.max()"),
        Wrong("and the other way round", "gaps.max()", "gaps.min()"),
    ],
    "ex-perm-series": [
        Wrong("one product in place of two", "dv = P.mT @ (P @ dv) + P.mT @ r - c", "dv = P @ dv + P.mT @ r - c"),
        Wrong("the right side's sign", "P.mT @ (P @ dv) + P.mT @ r - c", "P.mT @ (P @ dv) - P.mT @ r + c"),
    ],
}
