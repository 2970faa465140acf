"""Chapter 13."""

from exercises import Wrong

CELLS = ("setup", "world", "scratch", "fig-block", "widget")
SHORTER = {"widget": [("\nExplorer(", "\n(lambda *_, **__: None)(")]}
WRONG = {
    "ex-nls-rate": [
        Wrong("the exact derivative on both sides", 'gradient="one_step", ', ""),
        Wrong("the sign of the rate", "1 - ratios[:, 1]", "1 + ratios[:, 1]"),
        Wrong("Newton's method", "/ (4 * y**2 + 1)", "/ (6 * y**2 - 2 * a.item() + 1)"),
        Wrong("a forgotten two", "y = y - (2 * y * (y**2", "y = y - (y * (y**2"),
    ],
    "ex-nls-redescend": [
        Wrong("the radius for its square", 'peak = RADIUS["welsch"] ** 2', 'peak = RADIUS["welsch"]'),
        Wrong("distances not weighed by their deviations", "off @ information[-1] @ off", "off @ off"),
        Wrong("a right measurement", ".reshape(-1, 3)[-1]", ".reshape(-1, 3)[-2]"),
        Wrong("the map that believes it", "chart(torch.tensor(0.0))", "chart(torch.tensor(1.0))"),
    ],
    "ex-nls-bound": [
        Wrong(
            "Gauss–Newton's matrix",
            "torch.func.hessian(objective)(y.detach())",
            "(lambda J: J.T @ J)(torch.func.jacrev(decay)(y.detach(), data))",
        ),
        Wrong("the sign", "-torch.linalg.solve(H[:2", "torch.linalg.solve(H[:2"),
        Wrong("as if the other coordinate stayed", "-torch.linalg.solve(H[:2, :2], H[:2, 2])[0]", "-H[0, 2] / H[0, 0]"),
        Wrong("as if the bound always pressed", "if y[2] == u:", "if True:"),
        Wrong("as if it never pressed", "if y[2] == u:", "if False:"),
    ],
}
