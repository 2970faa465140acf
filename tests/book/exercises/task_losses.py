"""Chapter 12."""

from exercises import Wrong

CELLS = ("setup", "data", "twins", "jacobian")
WRONG = {
    "ex-task-sigma": [
        Wrong("the sign of t", "((h - 1) * t)", "(-(h - 1) * t)"),
        Wrong("the whole curvature", "((h - 1) * t)", "(h * t)"),
        Wrong(
            "each hour by itself",
            "together * ((h - 1) * t) / (together * h)",
            "torch.eye(24) * ((h - 1) * t) / (torch.eye(24) * h)",
        ),
        Wrong("the curvature of one hour for that of the block", "(together * h).sum(1, keepdim=True)", "h"),
    ],
    "ex-task-ramp": [
        Wrong("prices with their signs", "rho.abs().sum()", "rho.sum()"),
        Wrong("the slopes for their sums", ".cumsum(0)[:-1]", "[:-1]"),
        Wrong("each limit counted twice", "rho.abs().sum()", "2 * rho.abs().sum()"),
        Wrong("a cost in place of a worth", "return -torch", "return torch"),
    ],
    "ex-task-own": [
        Wrong("no steps", "optimizer.step()", "pass"),
        Wrong("up in place of down", "bill.backward()", "(-bill).backward()"),
        Wrong("the old bill", "+ 100 * plans.amax(1)).mean()", "+ 0 * plans.amax(1)).mean()"),
        Wrong("a charge for all that is bought", "plans.amax(1)).mean()", "plans.sum(1)).mean()"),
        Wrong("the whole day", "evening_hours[16:22] = 1", "evening_hours[:] = 1"),
    ],
}
