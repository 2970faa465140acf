"""Chapter 6."""

from exercises import Wrong

CELLS = ("setup", "scratch", "digits", "table")
SHORTER = {
    "digits": [("levels = (0.0, 0.6, 0.9)", "levels = (0.6,)")],
    "table": [("for p in levels:", "for p in ():")],
}
WRONG = {
    "ex-topk-price": [
        Wrong("the entropy of the simplex", "torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)", "torch.xlogy(y, y)"),
        Wrong("the multiplier's sign", "threshold(x.detach()", "-threshold(x.detach()"),
    ],
    "ex-topk-hot": [
        Wrong(
            "the upper edge alone",
            "max(offset.max() / (1 - level), -offset.min() / level)",
            "offset.max() / (1 - level)",
        ),
        Wrong(
            "the slope of the softargmax",
            "level * (1 - level) * (x - x.mean()) / tau",
            "level * (x - x.mean()) / tau",
        ),
    ],
    "ex-topk-never": [
        Wrong(
            "twice the temperature, as for two entries", "own = 1.3 / (y[0] / y[1]).log()", "own = torch.tensor(1.2)"
        ),
        Wrong(
            "two different scores where there are three",
            "torch.tensor([1.0, 0.6, 0.0])",
            "torch.tensor([1.0, 0.0, 0.0])",
        ),
    ],
    "ex-topk-sets": [
        Wrong("LML itself", "return torch.func.grad(log_sum)(x)", "return soft_top_k(x, k, tau)"),
        Wrong("the softargmax k times", "return torch.func.grad(log_sum)(x)", "return k * softargmax(x, tau)"),
    ],
    "ex-topk-both": [
        Wrong("one question only", "asking(1, 3)", "asking(3)"),
        Wrong("cross-entropy, the baseline", "train(0.6, asking(1, 3))", 'found[0.6, "cross-entropy"]'),
    ],
}
