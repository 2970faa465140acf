"""Chapter 1."""

from exercises import Wrong

CELLS = (
    "setup",
    "pendulum",
    "swing-up",
    "swing-up-figure",
    "qp",
    "widget",
    "photos",
    "branch",
    "learning",
    "learning-fits",
)
SHORTER = {
    "swing-up": [("argmin(f, guesses,", "argmin(f, guesses[:1],")],
    "widget": [("\nExplorer(", "\n(lambda *_, **__: None)(")],
    "learning-fits": [
        ("planned = argmin(f, start_both, release(asked, models, 0.0))\n", ""),
        ("frictionless, refitted = cost(LIMIT * torch.sin(planned.y), real)\n", ""),
    ],
}
WRONG = {
    "ex-argmin-rank": [
        Wrong("the projection onto the wall", "np.outer(J @ g, J @ g) / (g @ J @ g)", "np.outer(g, g) / (g @ g)"),
        Wrong(
            "lengths without the curvature", "np.outer(J @ g, J @ g) / (g @ J @ g)", "J @ np.outer(g, g) @ J / (g @ g)"
        ),
        Wrong("the sign", "return J - np", "return J + np"),
    ],
    "ex-argmin-width": [
        Wrong("an LP", "x = tie + soft @ y", "x = tie + 0 * y"),
        Wrong("the width of the full curvature", "x = tie + soft @ y", "x = tie + Q @ y"),
        Wrong("without Q", "x = tie + soft @ y", "x = tie + eps * y"),
    ],
    "ex-argmin-sort": [
        Wrong("not sorted", "np.sort(a[:, 0]) - np.sort(b[:, 0])", "a[:, 0] - b[:, 0]"),
        Wrong("smallest with largest", "- np.sort(b[:, 0])", "- np.sort(b[:, 0])[::-1]"),
        Wrong(
            "each to the nearest",
            "((np.sort(a[:, 0]) - np.sort(b[:, 0])) ** 2)",
            "(cdist(a[:, :1], b[:, :1]).min(1) ** 2)",
        ),
    ],
    "ex-argmin-tanh": [
        Wrong("the sine", "torch.tanh(y)", "torch.sin(y)"),
        Wrong("no limit", "LIMIT * torch.tanh(y)", "y"),
    ],
    "ex-argmin-both": [
        Wrong(
            "without the guess",
            "guess = torch.asin((predicted / LIMIT).clamp(-0.98, 0.98))",
            "guess = torch.zeros(len(asked), STEPS)",
        ),
        Wrong("the mirror image", "argmin(f, guess,", "argmin(f, -guess,"),
    ],
}
