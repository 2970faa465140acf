"""Chapter 4."""

from exercises import Wrong

CELLS = ("setup", "widget", "scratch-gradients", "denoising")
SHORTER = {
    "widget": [("\nExplorer(", "\n(lambda *_, **__: None)(")],
    "denoising": [
        ("min(range(700, 1601, 100), key=error_of_price)", "1000"),
        ("fewest_jumps(noisy, price)", "noisy[:3]"),
        ("(noisy)", "(noisy[:3])"),
        ("- clean)", "- clean[:3])"),
    ],
}
ALL = "torch.cat([pull.abs() / forces, outside, holds_on, both]).max()"
OFF = "torch.cat([pull.abs(), (-slack).clamp_min(0), torch.minimum(lam, slack.clamp_min(0)).abs()]).max()"
WRONG = {
    "ex-qp-relative": [
        Wrong("relative to the largest number", ALL, OFF + " / (1 + max(v.abs().max() for v in (Q, p, G, h)))"),
        Wrong("relative to nothing", ALL, OFF),
        Wrong("0 of 0, where a bound of 0 is met", "none = 1e-300", "none = 0"),
        Wrong("without complementarity", "outside, holds_on, both]", "outside, holds_on]"),
        Wrong("multipliers of either sign", "outside, holds_on, both]", "outside, both]"),
    ],
    "ex-qp-pinv": [
        Wrong(
            "the first term alone",
            "for_A = -outer(pinv.T @ g_, pinv @ b_) - outer(nu_, open_part)",
            "for_A = -outer(pinv.T @ g_, pinv @ b_)",
        ),
        Wrong("the second term alone", "for_A = -outer(pinv.T @ g_, pinv @ b_) - outer", "for_A = -outer"),
        Wrong("the multiplier's sign", "nu_ = -torch", "nu_ = torch"),
        Wrong(
            "the part that A sees for the other", "open_part = g_ - pinv @ (A_ @ g_)", "open_part = pinv @ (A_ @ g_)"
        ),
    ],
    "ex-qp-dual": [
        Wrong("the signal itself", "y_dual = seen_ - u @ D", "y_dual = seen_"),
        Wrong(
            "without the box",
            "u = solve_qp(D @ D.T, -seen_ @ D.T, G=torch.cat([eye, -eye]), h=sides).y",
            "u = torch.linalg.solve(D @ D.T, (seen_ @ D.T).mT).mT",
        ),
        Wrong("the sign of y's change", "y_dual = seen_ - u @ D", "y_dual = seen_ + u @ D"),
        Wrong("the sign of u at a jump", "omega * jumps", "-omega * jumps"),
    ],
    "ex-qp-walls": [
        Wrong(
            "the smoothed gradient for the exact one",
            "torch.autograd.grad(error_of(far), far)",
            "torch.autograd.grad(error_of(far, smoothing=0.1), far)",
        ),
        Wrong(
            "walls brought in by the exact gradient",
            "error_of(far, smoothing=0.1).backward()",
            "error_of(far).backward()",
        ),
        Wrong("a single step from the near start", "max_iter=60", "max_iter=1"),
    ],
}
