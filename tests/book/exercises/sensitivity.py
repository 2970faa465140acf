"""Chapter 9."""

from exercises import Wrong

CELLS = ("setup", "data", "scratch", "loo", "cook-code")
SHORTER = {"loo": [("DECAYS = (1.0, 0.1, 0.01)", "DECAYS = (1.0,)")]}
WRONG = {
    "ex-sens-sum": [
        Wrong("the intercept decays as well", "theta[..., :2].square()", "theta.square()"),
        Wrong("the other side of the line", "normal_ = free_fit", "normal_ = -free_fit"),
    ],
    "ex-sens-decay": [
        Wrong("a forgotten half", "first_ = t_ @ t_ / 2", "first_ = t_ @ t_"),
        Wrong("the sign of the second derivative", "second_ = -t_", "second_ = t_"),
    ],
    "ex-sens-press": [
        Wrong("the training residuals", "return residuals / (1 - leverages)", "return residuals"),
        Wrong(
            "the mean leverage, as in generalized cross-validation", "/ (1 - leverages)\n", "/ (1 - leverages.mean())\n"
        ),
    ],
    "ex-sens-group": [
        Wrong("the curvature kept whole", "((s_ * ~gone)[:, None] * X_arc)", "(s_[:, None] * X_arc)"),
        Wrong("the sum of single Newton steps", "group = -torch", 'group = study["newton"][gone].sum(0) + 0 * -torch'),
    ],
    "ex-sens-poison": [
        Wrong("one step", "steps=12", "steps=1"),
        Wrong("the other tumors as well", "movable=owned, steps=12", "steps=12"),
        Wrong("too far", "X_train, 4.0, movable", "X_train, 8.0, movable"),
        Wrong(
            "labels turned over in place of moves",
            "classifier(attack.data))",
            "classifier(X_train, torch.where(owned, -y_train, y_train)))",
        ),
        Wrong("moves at random", "classifier(attack.data)", "classifier(X_train + noise[0])"),
        Wrong("down in place of up", "poison(classifier, known_loss", "poison(classifier, lambda t: -known_loss(t)"),
    ],
}
