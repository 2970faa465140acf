"""Chapter 11."""

from exercises import Wrong

CELLS = ("setup", "scratch", "fig-stairs")
WRONG = {
    "ex-cem-linear": [
        Wrong("the best tenth, at every temperature", "soft_top_k(grid, 2_000, tau)", "best(grid, 2_000)"),
        Wrong("the weights of a softargmax", "soft_top_k(grid, 2_000, tau) / 2_000", "torch.softmax(grid / tau, -1)"),
        Wrong("the spread about the old mean", "(grid - c) ** 2", "grid ** 2"),
        Wrong("the variance for the deviation", ".sqrt()", ""),
    ],
    "ex-cem-shift": [
        Wrong("the other way", "landscape(y - shift", "landscape(y + shift"),
        Wrong("the start moves along", "cross_entropy(f, mean,", "cross_entropy(f, mean + shift,"),
        Wrong("the classical method", "shift, tau=0.3)", "shift, tau=None)"),
    ],
    "ex-cem-score": [
        Wrong("the mean of the noise", "e.sum(1)", "e.mean(1)"),
        Wrong("the sign", "(y - y.mean())", "(y.mean() - y)"),
        Wrong(
            "the score of the elites alone", "e.sum(1)", "e.gather(1, value(e).topk(4, largest=False).indices).sum(1)"
        ),
        Wrong("the score of one sample", "e.sum(1)", "e[:, 0]"),
    ],
}
