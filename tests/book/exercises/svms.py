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
        Wrong("never a gradient inside", "inner if held == 3 else cross", "inner"),
    ],
    "ex-svm-identity": [
        Wrong("the usual half", "delta.square().sum() / 4", "delta.square().sum() / 2"),
        Wrong("features without the identity", "padded = torch.cat([f, torch.eye(20)], 1)", "padded = f"),
    ],
    "ex-svm-c": [
        Wrong("a price that only grows, without any gradient", "    optimizer.step()", "    theta.data += 0.2"),
        Wrong("from the plateau", "theta = torch.tensor(0.01)", "theta = torch.tensor(10.0)"),
    ],
}
