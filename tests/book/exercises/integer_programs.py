"""Chapter 15."""

from exercises import Wrong

CELLS = ("6f62bc51", "038a35e3")
WRONG = {
    "ex-ip-shrink": [
        Wrong(
            "a wish that is not feasible",
            "wish = solve_integer(others, A, b, 0, 1).y",
            "wish = torch.rand(200, 4, generator=generator).round()",
        ),
        Wrong("the sign", "((y - wish).square()", "(-(y - wish).square()"),
        Wrong("a division that is not differentiated", "keepdim=True) if divide", "keepdim=True).detach() if divide"),
        Wrong("one length for all programs", "leaf.norm(dim=-1, keepdim=True)", "leaf.norm()"),
        Wrong(
            "a length that is kept away from zero",
            "leaf.norm(dim=-1, keepdim=True)",
            "(1 + leaf.norm(dim=-1, keepdim=True))",
        ),
    ],
    "ex-ip-basis": [
        Wrong("the exchange as a whole", "g * unit) for unit", "g) for unit"),
        Wrong("the wish's sign", "g = torch.tensor([1.0, -1.0])", "g = torch.tensor([-1.0, 1.0])"),
        Wrong("the same wish for both", "g * unit) for unit", "unit) for unit"),
        Wrong("the first step alone", "for unit in torch.eye(2))", "for unit in torch.eye(2)[:1])"),
    ],
    "ex-ip-half": [
        Wrong(
            "a row of people, the last of whom keeps a key",
            "torch.eye(5).roll(1, 1)\n",
            "torch.eye(5).roll(1, 1).triu()\n",
        ),
        Wrong("no more than one key for two", "-pairs, -torch.ones(5), 0", "pairs, torch.ones(5), 0"),
        Wrong("one key for each person", "torch.eye(5) + torch.eye(5).roll(1, 1)", "torch.eye(5)"),
        Wrong("as many keys as possible", "solve_integer(torch.ones(5)", "solve_integer(-torch.ones(5)"),
    ],
}
