"""least_squares: minima that scipy finds, exact derivatives to second order, and what other libraries get wrong."""

import numpy as np
import pytest
import scipy.optimize
import torch

from diffopt_lib import SolverError
from diffopt_lib.layers import least_squares
from diffopt_lib.layers.least_squares import SE2, SO2, SO3, Euclidean, Power, Product, Sparsity
from diffopt_lib.linear import least_norm_solve

DOUBLE = torch.float64
METHODS = ["levenberg_marquardt", "gauss_newton", "dogleg"]
FORMS = ["dense", "sparse", "cg"]
LOSSES = ["squared", "huber", "soft_l1", "cauchy", "geman_mcclure", "welsch"]
T = torch.linspace(0, 4, 20, dtype=DOUBLE)


def tensor(*values):
    return torch.tensor(values, dtype=DOUBLE)


def decay(y, data):
    """y₁ exp(−y₂ t) + y₃ against data at 20 times."""
    t = T[:: 20 // data.shape[-1]] if isinstance(data, torch.Tensor) else T
    t = t.to(y.device, y.dtype)
    return y[..., :1] * torch.exp(-y[..., 1:2] * t) + y[..., 2:3] - data


@pytest.fixture
def data(device, generator):
    truth = torch.tensor([2.0, 1.3, 0.5], dtype=DOUBLE)
    noise = 0.2 * torch.randn(4, 20, dtype=DOUBLE, generator=generator)
    return (decay(truth, 0) + noise).to(device)


@pytest.fixture
def y0(device):
    return torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE, device=device)


def rosenbrock(y):
    return torch.stack([10 * (y[..., 1] - y[..., 0].square()), 1 - y[..., 0]], -1)


def square_and_line(y, x):
    return torch.cat([y.square(), y - x], -1)


def by_differences(f, x, step=1e-5):
    """The Jacobian of f ``(n,)`` at x ``(k,)`` by central differences, ``(n, k)``."""
    columns = []
    for e in torch.eye(len(x), dtype=x.dtype):
        columns.append((f(x + step * e) - f(x - step * e)) / (2 * step))
    return torch.stack(columns, -1)


# The solution


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_minimum_equals_scipys(method, form, y0, data):
    sparsity = Sparsity.detect(decay, y0, data[0])
    solution = least_squares(decay, y0, data, method=method, form=form, sparsity=sparsity)
    assert solution.converged.all()
    for y, row in zip(solution.y.cpu(), data.cpu(), strict=True):
        theirs = scipy.optimize.least_squares(
            lambda v, row=row: decay(torch.tensor(v), row).numpy(), [1.0, 1, 0], xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        torch.testing.assert_close(y, torch.tensor(theirs.x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy"])
def test_robust_minimum_and_value_equal_scipys(loss, y0, data):
    data = data[0].cpu().clone()
    data[[3, 11]] += 3.0
    solution = least_squares(decay, y0.cpu(), data, loss=loss, radius=0.3)
    theirs = scipy.optimize.least_squares(
        lambda v: decay(torch.tensor(v), data).numpy(), [1.0, 1, 0], loss=loss, f_scale=0.3, ftol=1e-15, xtol=1e-15
    )
    torch.testing.assert_close(solution.y, torch.tensor(theirs.x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(solution.value, torch.tensor(theirs.cost, dtype=DOUBLE), rtol=1e-9, atol=0)


def test_bounded_minimum_equals_scipys(y0, data):
    data = data[0].cpu()
    lower, upper = tensor(0, 0, 0.6), tensor(1.5, 5, 2)
    solution = least_squares(decay, y0.cpu(), data, lower=lower, upper=upper)
    theirs = scipy.optimize.least_squares(
        lambda v: decay(torch.tensor(v), data).numpy(), [1.0, 1, 0.7], bounds=(lower, upper), ftol=1e-15, xtol=1e-15
    )
    torch.testing.assert_close(solution.y, torch.tensor(theirs.x), rtol=1e-5, atol=1e-6)
    assert solution.active.tolist() == [1, 0, 1] or solution.active.abs().sum() > 0
    assert ((solution.y == lower) | (solution.y == upper))[solution.active != 0].all()


@pytest.mark.parametrize("kind", ["scalar", "vector", "matrix"])
def test_weights_are_whitened_residuals(kind, y0, data, generator):
    root = torch.randn(20, 20, dtype=DOUBLE, generator=generator).to(data.device)
    vector = torch.rand(20, dtype=DOUBLE, generator=generator).to(data.device)
    W = {"scalar": {"weight": 3.0}, "vector": {"weight": vector}}.get(kind)
    W = W or {"information": (root.mT @ root).unsqueeze(0), "block": 20}
    whiten = {"scalar": lambda r: 3**0.5 * r, "vector": lambda r: vector.sqrt() * r}.get(kind, lambda r: r @ root.mT)
    ours = least_squares(decay, y0, data, **W)
    theirs = least_squares(lambda y, d: whiten(decay(y, d)), y0, data)
    torch.testing.assert_close(ours.y, theirs.y, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.value, theirs.value)


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1e4, 1e9])
@pytest.mark.parametrize("method", METHODS)
def test_neither_units_of_residuals_nor_of_unknowns_matter(scale, method, y0, data):
    reference = least_squares(decay, y0, data, method=method)
    scaled = least_squares(lambda y, d: scale * decay(y, d), y0, data, method=method)
    torch.testing.assert_close(scaled.y, reference.y, rtol=1e-6, atol=1e-7)
    units = y0.new_tensor([scale, 1 / scale, 1.0])
    scaled = least_squares(lambda y, d: decay(y * units, d), y0 / units, data, method=method)
    torch.testing.assert_close(scaled.y * units, reference.y, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_started_at_its_solution_it_takes_at_most_one_iteration(method, y0, data):
    y = least_squares(decay, y0, data, method=method).y
    assert least_squares(decay, y, data, method=method).iterations.max() <= 1


def test_an_element_does_not_depend_on_its_batch(y0, data):
    together = least_squares(decay, y0, data)
    alone = least_squares(decay, y0, data[2])
    torch.testing.assert_close(together.y[2], alone.y, rtol=1e-8, atol=1e-9)
    assert together.iterations[2] == alone.iterations
    assert least_squares(decay, y0, data[:0]).y.shape == (0, 3)
    assert least_squares(decay, y0, data.reshape(2, 2, 20)).y.shape == (2, 2, 3)


def test_residuals_of_length_0_and_1(device):
    y = torch.ones(3, 2, dtype=DOUBLE, device=device)
    assert torch.equal(least_squares(lambda y: y[..., :0], y).y, y)
    one = least_squares(lambda y: y.sum(-1, keepdim=True) - 5, y)
    torch.testing.assert_close(one.y.sum(-1), torch.full((3,), 5.0, dtype=DOUBLE, device=device))


def test_float32_and_autocast(y0, data):
    exact = least_squares(decay, y0, data).y
    single = least_squares(decay, y0.float(), data.float())
    assert single.y.dtype == torch.float32
    torch.testing.assert_close(single.y.double(), exact, rtol=1e-3, atol=1e-3)
    with torch.autocast(data.device.type, dtype=torch.bfloat16):
        within = least_squares(decay, y0.float(), data.float().requires_grad_())
        within.y.sum().backward()
    torch.testing.assert_close(within.y, single.y)


# The derivative


CASES = {
    "plain": {},
    "weights": {"weight": torch.linspace(0.5, 2, 20, dtype=DOUBLE)},
    "huber": {"loss": "huber", "radius": 0.3},
    "welsch": {"loss": "welsch", "radius": 1.0},
    "bounds": {"upper": tensor(1.7, torch.inf, torch.inf)},
}


@pytest.mark.parametrize(
    ("case", "form"), [*((case, "dense") for case in CASES), *((c, f) for c in ("welsch", "bounds") for f in FORMS[1:])]
)
def test_derivative_is_within_a_millionth_of_finite_differences(case, form, y0, data):
    y0, data = y0.cpu(), data[0].cpu()
    sparsity = Sparsity.detect(decay, y0, data)

    def fit(data):
        return least_squares(decay, y0, data, form=form, sparsity=sparsity, tolerance=1e-12, **CASES[case]).y

    J = torch.autograd.functional.jacobian(fit, data)
    differences = by_differences(fit, data, 1e-4)
    assert (J - differences).abs().max() <= 1e-6 * max(1, J.abs().max())


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck_in_data_weight_radius_and_bounds(loss, y0, data):
    data = data[0, ::4].clone().requires_grad_()
    weight = torch.linspace(0.5, 2, 5, dtype=DOUBLE, device=data.device).requires_grad_()
    radius = torch.tensor(0.7, dtype=DOUBLE, device=data.device, requires_grad=loss != "squared")
    upper = torch.tensor([1.7, 50, 50], dtype=DOUBLE, device=data.device, requires_grad=True)

    def fit(data, weight, radius, upper):
        found = least_squares(
            decay, y0, data, weight=weight, loss=loss, radius=radius, upper=upper, tolerance=1e-13, max_iterations=500
        )
        return found.y, found.value

    assert torch.autograd.gradcheck(fit, (data, weight, radius, upper), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bounded", [False, True])
def test_second_derivatives_are_exact(form, bounded):
    x = tensor(1.0, -0.4).requires_grad_()
    upper = tensor(0.2).requires_grad_()
    sparsity = Sparsity.of(np.ones((4, 2)))

    def residual(y, x):
        return torch.cat([y.square(), y - x], -1) + 0.3 * y[..., :1] * y[..., 1:]

    def fit(x, upper):
        high = torch.cat([upper, upper.new_full((1,), torch.inf)]) if bounded else None
        return least_squares(residual, x.new_zeros(2), x, upper=high, form=form, sparsity=sparsity, tolerance=1e-13).y

    assert not bounded or fit(x, upper)[0] == upper
    assert torch.autograd.gradcheck(fit, (x, upper.requires_grad_(bounded)))
    assert torch.autograd.gradgradcheck(fit, (x, upper))


def test_derivative_reaches_a_network_around_and_inside(y0, data):
    net = torch.nn.Linear(3, 20).to(data.device, DOUBLE)
    parameters = list(net.parameters())

    def residual(y, d):
        return decay(y, d) + 0.1 * torch.tanh(net(y))

    def loss():
        return least_squares(residual, y0, data, tolerance=1e-12).y.square().sum()

    gradient = torch.autograd.grad(loss(), parameters)[1]
    with torch.no_grad():
        for i in (0, 7):
            parameters[1][i] += 1e-5
            above = loss()
            parameters[1][i] -= 2e-5
            difference = (above - loss()) / 2e-5
            parameters[1][i] += 1e-5
            torch.testing.assert_close(gradient[i], difference, rtol=1e-5, atol=1e-7)


def test_every_gradient_mode_where_it_should_be_exact_and_by_how_much_where_not(device):
    """r = (y², y − x) at x = 1: H = 1 + 6y², M = 1 + 4y²; exact 1/H, one step 1/M, K steps (1 − A^K)/H, A = 1 − H/M."""
    x = torch.ones(1, dtype=DOUBLE, device=device, requires_grad=True)
    start = torch.zeros(1, dtype=DOUBLE, device=device)

    def derivative(**options):
        found = least_squares(square_and_line, start, x, tolerance=1e-13, **options)
        return torch.autograd.grad(found.y, x)[0].item(), found.y.item()

    exact, y = derivative()
    H, M = 1 + 6 * y * y, 1 + 4 * y * y
    A = 1 - H / M
    assert exact == pytest.approx(1 / H, rel=1e-9)
    assert derivative(gradient="one_step")[0] == pytest.approx(1 / M, rel=1e-9)
    for K in (1, 2, 5):
        assert derivative(gradient="truncated", steps=K)[0] == pytest.approx((1 - A**K) / H, rel=1e-7)
        assert derivative(gradient="dlm", steps=K)[0] == pytest.approx((1 - A**K) / H, rel=1e-5)
    assert derivative(gradient="unroll", method="gauss_newton")[0] == pytest.approx(1 / H, rel=1e-6)
    assert derivative(gradient="one_step", form="cg")[0] == pytest.approx(1 / M, rel=1e-7)


@pytest.mark.parametrize("gradient", ["truncated", "dlm", "unroll"])
def test_other_gradients_approach_the_exact_one_with_bounds_and_weights(gradient, y0, data):
    data = data.clone().requires_grad_()
    weight = torch.linspace(0.5, 2, 20, dtype=DOUBLE, device=data.device).requires_grad_()
    upper = torch.tensor([1.7, 50, 50], dtype=DOUBLE, device=data.device, requires_grad=True)

    def gradients(**options):
        y = least_squares(decay, y0, data, weight=weight, upper=upper, tolerance=1e-12, **options).y
        return torch.autograd.grad(y.square().sum(), (data, weight, upper))

    for ours, exact in zip(gradients(gradient=gradient, steps=30), gradients(), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", ["implicit", "one_step", "truncated"])
def test_vmap_and_jacrev(gradient, y0, data):
    def fit(d):
        return least_squares(decay, y0, d, upper=1.9, gradient=gradient).y

    torch.testing.assert_close(torch.func.vmap(fit)(data), fit(data))
    if gradient == "implicit":
        J = torch.func.vmap(torch.func.jacrev(fit))(data)
        torch.testing.assert_close(J[1], torch.autograd.functional.jacobian(fit, data[1]))


def test_a_training_loop_learns_a_weight(device, generator):
    """Half of the sensors are bad; which ones is learned from the error of the fit."""
    truth = torch.randn(64, 2, dtype=DOUBLE, generator=generator).to(device)
    A = torch.randn(10, 2, dtype=DOUBLE, generator=generator).to(device)
    sd = torch.tensor([0.05] * 5 + [2.0] * 5, dtype=DOUBLE, device=device)
    measured = truth @ A.mT + sd * torch.randn(64, 10, dtype=DOUBLE, generator=generator).to(device)
    log_weight = torch.zeros(10, dtype=DOUBLE, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([log_weight], lr=0.1)
    losses = []
    for _ in range(60):
        fit = least_squares(lambda y, z: y @ A.mT - z, truth.new_zeros(2), measured, weight=log_weight.exp())
        loss = (fit.y - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert log_weight[:5].min() > log_weight[5:].max()


# Poses


def test_groups_are_those_of_their_matrices(generator):
    a, b = (torch.randn(5, 3, dtype=DOUBLE, generator=generator) for _ in range(2))

    def planar(p):
        c, s = p[..., 2], p[..., 3]
        zero, one = torch.zeros_like(c), torch.ones_like(c)
        rows = [torch.stack(row, -1) for row in ([c, -s, p[..., 0]], [s, c, p[..., 1]], [zero, zero, one])]
        return torch.stack(rows, -2)

    p, q = SE2().from_angle(a), SE2().from_angle(b)
    torch.testing.assert_close(planar(SE2().compose(p, q)), planar(p) @ planar(q))
    torch.testing.assert_close(SE2().to_angle(SE2().from_angle(a[:, :3])), a)
    for small in (1.0, 1e-3, 1e-9, 0.0):
        v = small * a
        generators = torch.zeros(5, 3, 3, dtype=DOUBLE)
        generators[:, 0, 1], generators[:, 1, 0] = -v[:, 2], v[:, 2]
        generators[:, :2, 2] = v[:, :2]
        moved = torch.linalg.matrix_exp(generators)
        pose = torch.stack([moved[:, 0, 2], moved[:, 1, 2], moved[:, 0, 0], moved[:, 1, 0]], -1)
        torch.testing.assert_close(SE2().log(pose), v, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(SO3().log(SO3().exp(v)), v, rtol=1e-9, atol=1e-12)
    import scipy.spatial.transform

    theirs = scipy.spatial.transform.Rotation.from_rotvec(a) * scipy.spatial.transform.Rotation.from_rotvec(b)
    ours = SO3().compose(SO3().exp(a), SO3().exp(b))
    vector = torch.randn(5, 3, dtype=DOUBLE, generator=generator)
    torch.testing.assert_close(SO3().rotate(ours, vector), torch.tensor(theirs.apply(vector)))


@pytest.mark.parametrize(
    "f", [lambda v: SO3().exp(v), lambda v: SO3().log(SO3().exp(v)), lambda v: SE2().log(SE2().from_angle(v))]
)
@pytest.mark.parametrize("at", [0.0, 1e-6, 0.06, 1.0])
def test_groups_are_smooth_at_the_identity(f, at):
    v = (at * tensor(1.0, -2.0, 0.5)).requires_grad_()
    assert torch.autograd.gradcheck(f, v)
    assert torch.autograd.gradgradcheck(f, v)


def ring(manifold, count=4):
    """Poses in a ring, each measured from the one before it, and the last from the first."""
    edges = torch.tensor([(i, (i + 1) % count) for i in range(count)])

    def residual(y, measured):
        poses = torch.cat(
            [manifold.project(y.new_tensor([0.0, 0, 1, 0])).expand(*y.shape[:-1], 1, 4), y.unflatten(-1, (-1, 4))], -2
        )
        a, b = poses[..., edges[:, 0], :], poses[..., edges[:, 1], :]
        return manifold.log(manifold.between(measured.unflatten(-1, (-1, 4)), manifold.between(a, b))).flatten(-2)

    unknowns = edges - 1
    return residual, Power(manifold, count - 1), Sparsity.of_terms(unknowns, 3, 3, count - 1)


def noisy_ring(generator, count=4):
    steps = tensor(1.0, 0, 2 * torch.pi / count).expand(count, 3) + 0.15 * torch.randn(
        count, 3, dtype=DOUBLE, generator=generator
    )
    chain = [SE2().from_angle(tensor(0.0, 0, 0))]
    for step in steps[:-1]:
        chain.append(SE2().compose(chain[-1], SE2().from_angle(step)))
    return steps, torch.stack(chain[1:]).flatten()


@pytest.mark.parametrize("form", FORMS)
def test_pose_graph_has_the_minimum_that_scipy_finds_in_angles_and_exact_derivatives(form, generator):
    residual, manifold, sparsity = ring(SE2())
    steps, start = noisy_ring(generator)
    options = {"manifold": manifold, "form": form, "sparsity": sparsity, "block": 3, "tolerance": 1e-13}

    def fit(steps):
        return least_squares(residual, start, SE2().from_angle(steps).flatten(), **options).y

    def in_angles(v):
        y = SE2().from_angle(torch.tensor(v).reshape(-1, 3)).flatten()
        return residual(y, SE2().from_angle(steps).flatten()).numpy()

    theirs = scipy.optimize.least_squares(
        in_angles, SE2().to_angle(start.reshape(-1, 4)).flatten(), xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    y = fit(steps)
    torch.testing.assert_close(
        y, SE2().from_angle(torch.tensor(theirs.x).reshape(-1, 3)).flatten(), rtol=1e-6, atol=1e-7
    )
    c = torch.randn(12, dtype=DOUBLE, generator=generator)
    slope = torch.func.grad(lambda steps: fit(steps) @ c)(steps)
    differences = by_differences(lambda s: (fit(s.reshape(4, 3)) @ c).unsqueeze(0), steps.flatten())
    assert (slope.flatten() - differences).abs().max() <= 1e-6 * slope.abs().max()
    if form == "cg":  # the same code as for vectors, where its second derivatives are checked
        return
    one = steps[:1].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda one: fit(torch.cat([one, steps[1:]]))[-4:], one, atol=1e-5)


@pytest.mark.parametrize("gradient", ["truncated", "dlm", "unroll"])
def test_other_gradients_on_poses(gradient, generator):
    residual, manifold, _ = ring(SE2())
    steps, start = noisy_ring(generator)
    steps = steps.requires_grad_()
    c = torch.randn(12, dtype=DOUBLE, generator=generator)

    def slope(**options):
        y = least_squares(
            residual, start, SE2().from_angle(steps).flatten(), manifold=manifold, tolerance=1e-12, **options
        ).y
        return torch.autograd.grad(y @ c, steps)[0]

    torch.testing.assert_close(slope(gradient=gradient, steps=20), slope(), rtol=1e-4, atol=1e-5)


def test_rotations_average_and_stay_rotations(generator):
    """The mean of rotations is scipy's, weights and all, and its derivative exact; SO(2) knows no jump at π."""
    import scipy.spatial.transform

    vectors = 0.05 * torch.randn(7, 3, dtype=DOUBLE, generator=generator) + tensor(0.0, 3.1, 0)
    weight = torch.rand(7, dtype=DOUBLE, generator=generator)
    start = SO3().exp(tensor(0.3, 2.5, 0.1))

    def difference(y, q):
        axes = torch.eye(3, dtype=DOUBLE).expand(7, 3, 3)
        turned = (SO3().rotate(p.unsqueeze(-2).expand(7, 3, 4), axes) for p in (y.unsqueeze(-2), q))
        return (next(turned) - next(turned)).flatten(-3)

    def fit(vectors):
        options = {"block": 9, "weight": weight, "tolerance": 1e-12}
        return least_squares(difference, start, SO3().exp(vectors), manifold=SO3(), **options).y

    theirs = scipy.spatial.transform.Rotation.from_rotvec(vectors).mean(weight).as_quat()
    y = fit(vectors)
    torch.testing.assert_close(y.norm(), tensor(1.0).squeeze())
    torch.testing.assert_close(y * torch.sign(y @ torch.tensor(theirs)), torch.tensor(theirs), rtol=1e-8, atol=1e-9)
    slope = torch.autograd.functional.jacobian(lambda v: fit(torch.cat([v, vectors[1:]])), vectors[:1])
    differences = by_differences(lambda v: fit(torch.cat([v.reshape(1, 3), vectors[1:]])), vectors[0])
    torch.testing.assert_close(slope[:, 0], differences, rtol=1e-6, atol=1e-7)

    angles = tensor(3.1, -3.1, 3.0)
    mean = least_squares(
        lambda y, a: SO2().log(SO2().between(SO2().from_angle(a), y.unsqueeze(-2))).flatten(-2),
        SO2().from_angle(tensor(2.0).squeeze()),
        angles,
        manifold=SO2(),
    ).y
    expected = (3.1 + (2 * torch.pi - 3.1) + 3.0) / 3
    torch.testing.assert_close(mean, tensor(np.cos(expected), np.sin(expected)))


def test_a_pose_and_a_bounded_number_together(generator):
    """A scale in [0.5, 1.5] and a pose: what a user writes with Product."""
    points = torch.randn(9, 2, dtype=DOUBLE, generator=generator)[:4]
    pose = SE2().from_angle(tensor(0.3, -0.2, 0.9))
    manifold = Product(Euclidean(1), SE2())

    def residual(y, seen):
        scale, pose = manifold.points(y)
        c, s = pose[..., 2:3], pose[..., 3:4]
        turned = torch.stack([c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1]], -1)
        return (scale.unsqueeze(-1) * turned + pose[..., None, :2] - seen).flatten(-2)

    seen = residual(torch.cat([tensor(2.0), pose]), torch.zeros(4, 2, dtype=DOUBLE)).reshape(4, 2).requires_grad_()
    y0 = torch.cat([tensor(1.0), SE2().from_angle(tensor(0.0, 0, 0))])

    def fit(seen):
        return least_squares(residual, y0, seen, manifold=manifold, lower=0.5, upper=1.5, tolerance=1e-13).y

    y = fit(seen)
    assert y[0] == 1.5
    torch.testing.assert_close(y[3:], pose[2:])
    assert torch.autograd.gradcheck(fit, seen)


# What others get wrong


def test_theseus_the_derivative_is_with_the_full_hessian():
    """r = (a², a − x) at x = 1: .324, where one Gauss–Newton step with the Hessian detached says .418."""
    x = tensor(1.0).requires_grad_()
    y = least_squares(square_and_line, tensor(0.0), x).y
    (slope,) = torch.autograd.grad(y, x)
    assert round(slope.item(), 3) == 0.324
    one_step = least_squares(square_and_line, tensor(0.0), x, gradient="one_step").y
    assert round(torch.autograd.grad(one_step, x)[0].item(), 3) == 0.418


@pytest.mark.parametrize("method", METHODS)
def test_theseus_619_a_singular_gauss_newton_matrix_does_not_return_the_start(method):
    solution = least_squares(lambda y: y.square().sum(-1, keepdim=True), torch.ones(10, dtype=DOUBLE), method=method)
    assert solution.converged and solution.y.abs().max() < 1e-8


@pytest.mark.parametrize("form", FORMS)
def test_theseus_397_an_unobserved_unknown_is_damped_and_reported_by_the_backward_pass(form):
    x = tensor(2.0).requires_grad_()
    sparsity = Sparsity.of(np.ones((1, 2)))
    solution = least_squares(
        lambda y, x: y.sum(-1, keepdim=True) - x, tensor(0.0, 1.0), x, form=form, sparsity=sparsity
    )
    torch.testing.assert_close(solution.y.sum(), x.squeeze())
    with pytest.raises(SolverError, match="not positive definite"):
        torch.autograd.grad(solution.y.square().sum(), x)


def test_a_minimum_that_is_not_strict_has_the_least_norm_derivative_if_asked():
    x = tensor(2.0).requires_grad_()
    y = least_squares(lambda y, x: y.sum(-1, keepdim=True) - x, tensor(0.0, 1.0), x, solve=least_norm_solve).y
    with pytest.warns(UserWarning, match="least-norm"):
        (slope,) = torch.autograd.grad(y[0], x)
    torch.testing.assert_close(slope, tensor(0.5))


@pytest.mark.parametrize("form", FORMS)
def test_theseus_659_no_nan_where_a_loss_or_a_norm_has_a_kink_at_zero_residual(form):
    x = tensor(1.0, 2.0).requires_grad_()
    sparsity = Sparsity.of(np.eye(2))
    for loss in LOSSES:

        def fit(x, loss=loss):
            found = least_squares(lambda y, x: y - x, tensor(0.0, 0.0), x, loss=loss, form=form, sparsity=sparsity)
            return found.y

        torch.testing.assert_close(torch.autograd.functional.jacobian(fit, x), torch.eye(2, dtype=DOUBLE))


def test_theseus_484_and_625_bounds_hold_and_carry_gradients():
    upper = tensor(0.3).requires_grad_()
    x = tensor(1.0).requires_grad_()
    y = least_squares(lambda y, x: y - x, tensor(0.0), x, upper=upper).y
    assert y == upper
    assert [g.item() for g in torch.autograd.grad(y, (x, upper))] == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_optimistix_63_rosenbrock_from_a_batch_of_starts(method, generator):
    starts = torch.cat(
        [torch.zeros(4, 10, 2, dtype=DOUBLE), 3 * torch.randn(4, 10, 2, dtype=DOUBLE, generator=generator)]
    )
    solution = least_squares(rosenbrock, starts, method=method)
    torch.testing.assert_close(solution.y, torch.ones_like(solution.y), rtol=1e-7, atol=1e-7)
    chained = torch.zeros(4, 10, dtype=DOUBLE)

    def long(y):
        return torch.cat([10 * (y[..., 1:] - y[..., :-1].square()), 1 - y[..., :-1]], -1)

    solution = least_squares(long, chained, method=method)
    torch.testing.assert_close(solution.y, torch.ones_like(solution.y), rtol=1e-7, atol=1e-7)


# Failures


def test_a_start_where_the_jacobian_vanishes_is_left_if_it_is_no_minimum():
    solution = least_squares(lambda y: y.square() - 1, torch.zeros(3, 1, dtype=DOUBLE))
    torch.testing.assert_close(solution.y.abs(), torch.ones(3, 1, dtype=DOUBLE))
    assert (solution.iterations > 0).all()


def test_a_start_on_the_plateau_of_a_robust_loss_is_no_minimum():
    """ρ' of the Welsch loss is 0 in float64 at 30 radii, and so are gradient and Gauss–Newton matrix."""

    def distance(y, x):
        return y - x

    x, y0 = torch.tensor([[30.0], [5.0]], dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE)
    with pytest.raises(SolverError, match="beyond the radius") as failure:
        least_squares(distance, y0, x, loss="welsch")
    assert failure.value.indices == [(0,)]
    solution = least_squares(distance, y0, x, loss="welsch", on_failure="nan")
    assert solution.converged.tolist() == [False, True] and abs(solution.y[1].item() - 5) < 1e-6
    assert least_squares(distance, y0, x, loss="welsch", radius=30.0).converged.all()  # nearer, it is found
    nothing = least_squares(distance, y0, x, weight=torch.zeros(1, dtype=DOUBLE))  # any y is a minimum of 0
    assert nothing.converged.all()


def test_the_backward_pass_tests_the_full_hessian_at_an_inflection():
    """f = ½ (y³ + x)² has slope 0 at y = 0 for x = 1 but no minimum there."""
    x = tensor(1.0).requires_grad_()
    stuck = least_squares(lambda y, x: y.pow(3) + x, tensor(0.0), x, on_failure="return")
    with pytest.raises(SolverError, match="not positive definite"):
        torch.autograd.grad(stuck.y, x)


def test_failures_are_raised_marked_or_returned(y0, data):
    with pytest.raises(SolverError, match="no convergence in 2 iterations") as error:
        least_squares(decay, y0, data, max_iterations=2)
    assert error.value.indices == [(0,), (1,), (2,), (3,)]
    data = data.clone().requires_grad_()
    starts = torch.stack([y0, y0, least_squares(decay, y0, data[2]).y.detach(), y0])
    marked = least_squares(decay, starts, data, max_iterations=2, on_failure="nan")
    assert marked.y.isnan().all(-1).tolist() == [True, True, False, True]
    slope = torch.autograd.grad(marked.y.sum(), data)[0]
    assert slope.isnan().any(-1).tolist() == [True, True, False, True]
    assert not least_squares(decay, y0, data, max_iterations=2, on_failure="return").converged.any()
    with pytest.raises(SolverError, match="not finite"):
        least_squares(lambda y: y.log(), tensor(-1.0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weight": -1.0}, "weight must not be negative"),
        ({"weight": torch.ones(7, dtype=DOUBLE)}, "weight must be a number or end in 1, 20 or 20"),
        ({"block": 3}, "block must divide"),
        ({"radius": 0.0}, "radius must be positive"),
        ({"loss": "tukey"}, "loss must be one of"),
        ({"lower": 1.0, "upper": 0.0}, "lower must not be above upper"),
        ({"method": "newton"}, "method must be one of"),
        ({"form": "sparse"}, "sparsity must be a Sparsity"),
        ({"form": "sparse", "gradient": "unroll"}, "in sparse form"),
        ({"manifold": SE2()}, "y0 must have 4 entries"),
        ({"information": torch.ones(20, 3, 3, dtype=DOUBLE)}, "information must have the shape"),
        ({"information": -torch.ones(20, 1, 1, dtype=DOUBLE)}, "positive semidefinite"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
    ],
)
def test_bad_input_is_named(options, match, y0, data):
    with pytest.raises(ValueError, match=match):
        least_squares(decay, y0.cpu(), data.cpu(), **options)


def test_off_the_manifold_and_bounds_on_a_pose_are_named():
    with pytest.raises(ValueError, match="must lie on its manifold"):
        least_squares(lambda y: y, tensor(0.0, 0, 1, 1), manifold=SE2())
    with pytest.raises(ValueError, match="must be infinite for angles"):
        least_squares(lambda y: y, tensor(0.0, 0, 1, 0), manifold=SE2(), lower=torch.zeros(4, dtype=DOUBLE))


def test_rank_deficient_and_redundant_problems_converge(generator):
    A = torch.randn(30, 3, dtype=DOUBLE, generator=generator) @ torch.randn(3, 8, dtype=DOUBLE, generator=generator)
    b = torch.randn(30, dtype=DOUBLE, generator=generator)
    for method in METHODS:
        y = least_squares(lambda y: y @ A.mT - b, torch.zeros(8, dtype=DOUBLE), method=method).y
        torch.testing.assert_close(A.mT @ (A @ y - b), torch.zeros(8, dtype=DOUBLE), rtol=0, atol=1e-7)


@pytest.mark.parametrize("form", ["dense", "sparse", "cg"])
@pytest.mark.parametrize("method", ["levenberg_marquardt", "gauss_newton", "dogleg"])
def test_unknowns_in_units_of_a_billion_and_a_billionth_together(form, method):
    """Conjugate gradients once stopped at a start that was far off in the smaller unit, and called it converged."""

    def residual(y, x):
        a, b, c = y.unbind(-1)
        return torch.stack([1e9 * a - x, 1e-9 * b - 1, c - 1 + 1e9 * a, c * x], -1)

    x = torch.ones((), dtype=DOUBLE, requires_grad=True)
    options = (
        {"sparsity": Sparsity.detect(lambda y: residual(y, 1.0), tensor(0.3, 0.2, 0.1))} if form == "sparse" else {}
    )
    y0 = torch.zeros(3, dtype=DOUBLE)
    solution = least_squares(lambda y, x: residual(y, x[..., 0]), y0, x.reshape(1), form=form, method=method, **options)
    assert torch.allclose(solution.y * tensor(1e9, 1e-9, 1.0), tensor(1.0, 1.0, 0.0), atol=1e-8)
    (gradient,) = torch.autograd.grad((solution.y * tensor(1e9, 1e-9, 1.0)).sum(), x)
    assert gradient.item() == pytest.approx(1 / 3, rel=1e-6)  # 2/3 of the first, −1/3 of the last, by hand


def test_sparsity_colours_few_products_and_finds_the_whole_jacobian(generator):
    count = 40
    edges = torch.tensor([(i, (i + 1) % count) for i in range(count)] + [(i, (i + 7) % count) for i in range(count)])
    pattern = Sparsity.of_terms(edges, 3, 3, count)
    assert pattern.shape == (240, 120) and len(pattern.seeds(torch.zeros(1))) <= 24
    J = torch.zeros(pattern.shape, dtype=DOUBLE)
    J[pattern.rows, pattern.columns] = torch.randn(len(pattern.rows), dtype=DOUBLE, generator=generator)
    compressed = (pattern.seeds(J) @ J.mT).unsqueeze(1)
    torch.testing.assert_close(pattern.expand(compressed)[0], J[pattern.rows, pattern.columns])
    found = Sparsity.detect(lambda y: y @ J.mT, torch.zeros(120, dtype=DOUBLE))
    assert (found.matrix != pattern.matrix).nnz == 0
