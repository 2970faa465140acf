"""Chapter 3."""

from exercises import Wrong

CELLS = ("setup", "patients", "four-answers", "referee", "from-scratch")
CARRY = "    for _ in range(steps):\n        y, J = jvp(update, (y, x.detach()), (J, torch.ones(())))"
KEEP = CARRY.replace("    for", "    kept = []\n    for", 1) + "\n        kept.append((y, J))"
GAUSS_NEWTON = """y_ = argmin(f, y0, s.detach(), tolerance=1e-12).y
J_ = jacfwd(lambda v: argmin(f, y0, v, tolerance=1e-12).y)(s.detach())
second = (J_ @ hessian(ell)(y_) @ J_).item()"""
WRONG = {
    "ex-deriv-forward": [
        Wrong("x itself does not move", "(J, torch.ones(()))", "(J, torch.zeros(()))"),
        Wrong("all states are kept", CARRY, KEEP),
        Wrong("the implicit derivative", "return (grad(ell)(y) @ J).item()", 'return answers["implicit"]'),
    ],
    "ex-deriv-equilibrium": [
        Wrong(
            "one step",
            "J = jacfwd(lambda x: implicit(residual, y_in, x, W.detach()))(x_in)",
            "J = torch.diag(1 - y_in.square())",
        ),
        Wrong("the transpose", "W.detach()))(x_in)", "W.detach()))(x_in).T"),
        Wrong(
            "without the slope of the tanh",
            "J = jacfwd(lambda x: implicit(residual, y_in, x, W.detach()))(x_in)",
            "J = torch.linalg.inv(torch.eye(8) - W.detach())",
        ),
        Wrong("a matrix that moves with W", "residual(*a) @ P.T", "residual(*a) @ (P + a[2]).T + a[2].sum(1)"),
    ],
    "ex-deriv-newton": [
        Wrong(
            "without third derivatives",
            "second = torch.autograd.grad(outer_slope(s), s)[0].item()",
            GAUSS_NEWTON,
        ),
        Wrong("one step", "range(5)", "range(1)"),
        Wrong("steps along the gradient", "first / second", "first"),
    ],
    "ex-deriv-labels": [
        Wrong("their own loss", "roc_auc_score(turned, influence)", "roc_auc_score(turned, each_loss(y.detach()))"),
        Wrong("the sign", "roc_auc_score(turned, influence)", "roc_auc_score(turned, -influence)"),
        Wrong(
            "far from the mean",
            "roc_auc_score(turned, influence)",
            "roc_auc_score(turned, features[training].norm(dim=1))",
        ),
    ],
    "ex-deriv-adam": [
        Wrong(
            "the plain square root",
            "torch.autograd.grad(adam(x_adam), x_adam)",
            "torch.autograd.grad(naive_adam(x_adam), x_adam)",
        ),
        Wrong("zero, as one step's", "isclose(ours, quotient", "isclose(0 * ours, quotient"),
        Wrong("ε under the root, another method", "g.square().sqrt() + 1e-8", "(g.square() + 1e-16).sqrt()"),
    ],
}
