"""Chapter 2."""

from exercises import Wrong

CELLS = ("setup",)
WRONG = {
    "ex-act-sparsemax": [
        Wrong("the softargmax", "return relu(x - nu.gather(-1, size - 1))", "return softargmax(x, 1.0)"),
        Wrong(
            "cut and divided",
            "return relu(x - nu.gather(-1, size - 1))",
            "return relu(x) / relu(x).sum(-1, keepdim=True).clamp_min(1e-9)",
        ),
        Wrong("as if all were positive", "nu.gather(-1, size - 1)", "nu[..., -1:]"),
        Wrong(
            "the smallest number that sums to one",
            "(ordered > nu).sum(-1, keepdim=True)",
            "torch.ones_like(x[..., :1]).long()",
        ),
    ],
    "ex-act-clamp": [
        Wrong("half of it", "3 * cp.square(y) - 3 * y", "1.5 * cp.square(y) - 1.5 * y"),
        Wrong("without the shift", "3 * cp.square(y) - 3 * y", "3 * cp.square(y)"),
        Wrong(
            "multipliers of the sigmoid's scale",
            "max(-x - 3, 0), max(x - 3, 0)",
            "max(-x - 3, 0) / 6, max(x - 3, 0) / 6",
        ),
        Wrong("multipliers as if the walls were at zero", "max(-x - 3, 0), max(x - 3, 0)", "max(-x, 0), max(x, 0)"),
        Wrong("the walls exchanged", "max(-x - 3, 0), max(x - 3, 0)", "max(x - 3, 0), max(-x - 3, 0)"),
    ],
    "ex-act-prior": [
        Wrong("without the temperature", "x + tau * q.log()", "x + q.log()"),
        Wrong("a mixture of both", "return softargmax(x + tau * q.log(), tau)", "return (softargmax(x, tau) + q) / 2"),
        Wrong("the prior ignored", "x + tau * q.log()", "x"),
    ],
    "ex-act-leaky": [
        Wrong(
            "the factor for its inverse",
            "return cp.square(y) / 2 + spring",
            "return cp.square(cp.pos(y)) / 2 + a * cp.square(cp.neg(y)) / 2",
        ),
        Wrong("no spring", "return cp.square(y) / 2 + spring", "return cp.square(y) / 2"),
        Wrong(
            "a forgotten half",
            "spring = (1 / a - 1) * cp.square(cp.neg(y)) / 2",
            "spring = (1 / a - 1) * cp.square(cp.neg(y))",
        ),
        Wrong("a pair on which GELU increases", "x1, x2 = -2.0, -1.0", "x1, x2 = -0.5, 1.0"),
    ],
    "ex-act-barrier": [
        Wrong("the limit", "return (x + (x**2 + 4 * mu).sqrt()) / 2", "return relu(x)"),
        Wrong("the other root", "(x + (x**2", "(x - (x**2"),
        Wrong("a forgotten four", "4 * mu", "mu"),
    ],
}
