"""Chapter 14."""

from exercises import Wrong

CELLS = ("setup", "data", "first-gradient", "scratch", "library")
WRONG = {
    "ex-inner-first": [
        Wrong("the two exchanged", "for p in (6, 3))", "for p in (3, 6))"),
        Wrong("the plain mean weighted by curvature, without the loop", "for p in (6, 3))", "for p in (0, 3))"),
        Wrong("K factors in both", "for p in (6, 3))", "for p in (3, 3))"),
        Wrong("2 K factors in both", "for p in (6, 3))", "for p in (6, 6))"),
        Wrong("the mean for first-order MAML", "for p in (6, 3))", "for p in (6, 0))"),
        Wrong("the inner gradients' curvature forgotten", "(h * (1 - 0.5 * h) ** p * c)", "((1 - 0.5 * h) ** p * c)"),
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
            "0.5 * torch.linalg.inv(X.T @ X / 5 + 0.5 * torch.eye(8, dtype=torch.float64))",
            "torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(X) @ X",
        ),
        Wrong("ridge regression towards zero", "expected = 0.5", "expected = 0.0"),
    ],
}
