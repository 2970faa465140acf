"""Chapter 5."""

from exercises import Wrong

CELLS = ("setup", "by-hand-cones")
SIZES = "return J.square().sum(-1).sqrt()"
SOLVED = "return solve_cone(c, A, b, cones).x[1 : 1 + n]"
COUNTED = "torch.tensor(np.bincount(classifier.predict(images[pile] / 16), minlength=10) / 60)"
WRONG = {
    "ex-cone-shares": [
        Wrong("the classifier's digits counted", "x, sd = shares(P, torch.ones(60)),", f"x, sd = {COUNTED},"),
        Wrong("bars of a binomial", SIZES, "y = shares(likelihood, ones)\n    return (y * (1 - y) / 60).sqrt()"),
        Wrong("sizes added up", SIZES, "return J.abs().sum(-1)"),
        Wrong(
            "one answer for the whole batch",
            "-weights], -1)",
            "-weights.reshape(-1, n).mean(0).expand_as(weights)], -1)",
        ),
    ],
    "ex-cone-lasso": [
        Wrong("half the penalty", "lam.expand(n)", "lam.expand(n) / 2"),
        Wrong("a penalty without a slope", "lam.expand(n)", "lam.detach().expand(n)"),
        Wrong(
            "a matrix without a slope",
            "fit = torch.cat([torch.zeros(m, 1), F,",
            "fit = torch.cat([torch.zeros(m, 1), F.detach(),",
        ),
        Wrong("readings without a slope", "torch.zeros(2 * n + 1), -g]", "torch.zeros(2 * n + 1), -g.detach()]"),
        Wrong("ridge regression", SOLVED, "return torch.linalg.solve(F.T @ F + lam * torch.eye(n), F.T @ g)"),
    ],
    "ex-cone-eigenvalue": [
        Wrong(
            "the forgotten root of two",
            "smat(solution.y)",
            "smat(solution.y) * (2**0.5 + (1 - 2**0.5) * torch.eye(len(M)))",
        ),
        Wrong("the smallest eigenvalue", "b = -svec((M + M.T) / 2)", "b = svec((M + M.T) / 2)"),
        Wrong("the slack", "smat(solution.y)", "solution.value * torch.eye(len(M)) - M"),
    ],
    "ex-cone-kelly": [
        Wrong("negative stakes", "A[0, 0] = -1", "A[0, 0] = 0"),
        Wrong("the odds exchanged", "-pi, pi - 1]", "pi - 1, -pi]"),
        Wrong("no slope in what it pays", "-beta, 1", "-beta.detach() + 0 * beta, 1"),
        Wrong("no slope in the chance", "-pi, pi - 1]", "-pi.detach() + 0 * pi, pi - 1]"),
    ],
}
