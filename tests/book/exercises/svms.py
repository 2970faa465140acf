"""Chapter 8."""

from exercises import Wrong

CELLS = ("setup", "points", "first-figure", "digits-data", "identity")
WRONG = {
    "ex-svm-price": [
        Wrong(
            "only points on the margin count", "-torch.outer(lam * y, w)", "-torch.outer(lam * (lam < 1 - 1e-7) * y, w)"
        ),
        Wrong("the mean violation", "allclose(by_price, xi.sum()", "allclose(by_price, xi.mean()"),
    ],
    "ex-svm-held": [
        Wrong("two and three exchange their roles", "inner if held == 3 else cross", "inner if held == 2 else cross"),
    ],
    "ex-svm-identity": [Wrong("the usual half", "delta.square().sum() / 4", "delta.square().sum() / 2")],
    "ex-svm-c": [
        Wrong("a price that only grows, without any gradient", "    optimizer.step()", "    theta.data += 0.2")
    ],
}
