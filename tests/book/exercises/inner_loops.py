"""Chapter 14."""

from exercises import Wrong

CELLS = ("setup", "data", "first-gradient", "scratch", "library")
BALANCED = "balance(6), balance(3)"
WRONG = {
    "ex-inner-first": [
        Wrong("the two exchanged", BALANCED, "balance(3), balance(6)"),
        Wrong("the plain mean weighted by curvature, without the loop", BALANCED, "balance(0), balance(3)"),
        Wrong("K factors in both", BALANCED, "balance(3), balance(3)"),
        Wrong("2 K factors in both", BALANCED, "balance(6), balance(6)"),
        Wrong("the mean for first-order MAML", BALANCED, "balance(6), balance(0)"),
        Wrong(
            "the inner gradients' curvature forgotten",
            "weights = h * (1 - 0.5 * h) ** p",
            "weights = (1 - 0.5 * h) ** p",
        ),
    ],
    "ex-inner-online": [
        Wrong("the sign", "-(after @ before)", "after @ before"),
        Wrong("the old gradient twice", "-(after @ before)", "-(before @ before)"),
        Wrong("the new gradient twice", "-(after @ before)", "-(after @ after)"),
        Wrong("times the rate", "-(after @ before)", "-0.3 * (after @ before)"),
    ],
    "ex-inner-prox": [
        Wrong("the penalty's factor forgotten", "expected = 0.5 * torch", "expected = torch"),
        Wrong("the sum for the mean", "X.T @ X / 5", "X.T @ X"),
        Wrong(
            "the limit of no penalty",
            "0.5 * torch.linalg.inv(S + 0.5 * eye)",
            "eye - torch.linalg.pinv(X) @ X",
        ),
        Wrong("ridge regression towards zero", "expected = 0.5", "expected = 0.0"),
    ],
}
