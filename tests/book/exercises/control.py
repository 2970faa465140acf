"""Chapter 10."""

from exercises import Wrong

CELLS = ("c10-01", "c10-02", "c10-12")
WRONG = {
    "ex-control-rank": [
        Wrong("mass and length make up for each other", "[1.0, -2.0, 1.0]", "[0.0, -2.0, 1.0]"),
        Wrong("the sign of the mass", "[1.0, -2.0, 1.0]", "[1.0, 2.0, 1.0]"),
        Wrong("all three by the same factor", "[1.0, -2.0, 1.0]", "[1.0, 1.0, 1.0]"),
        Wrong("a plan with every torque at its limit", "4.0).u", "0.1).u"),
    ],
    "ex-control-forever": [
        Wrong("a few sweeps, V still moves", "range(2000)", "range(20)"),
        Wrong(
            "the cost alone, no later steps",
            "torch.linalg.solve(lyapunov, change_.flatten())",
            "change_.flatten()",
        ),
        Wrong("the equation of a covariance", "torch.kron(closed_.T, closed_.T)", "torch.kron(closed_, closed_)"),
        Wrong("the feedback's sign", "K_ = -torch", "K_ = torch"),
    ],
    "ex-control-rate": [
        Wrong("a price on the torque itself", "u], -1)\n", "0 * u], -1)\n"),
        Wrong("a forgotten half", "0.5 * price", "price"),
        Wrong("the first change is free", "torch.zeros(1)])", "torch.ones(1)])"),
    ],
}
