"""Systems to control: their equations of motion against scipy and published code, energy, parameters with gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from diffopt_lib.controllers import CartPole, LinearDynamics, MLPDynamics, Pendulum

DOUBLE = torch.float64


def numbers(*values):
    return torch.tensor(values, dtype=DOUBLE)


def rollout(system, x, u, steps):
    for _ in range(steps):
        x = system(x, u)
    return x


def pendulum_by_scipy(angle, velocity, torque, g, m, l, d, b, time):  # noqa: E741
    def flow(_, y):
        return [y[1], 1.5 * g / l * math.sin(y[0] + b) + 3 * torque / (m * l * l) - d * y[1]]

    return solve_ivp(flow, (0, time), [angle, velocity], rtol=1e-11, atol=1e-11).y[:, -1]


def cart_pole_by_scipy(state, force, g, cart, pole, length, time):
    def flow(_, y):
        _, speed, angle, velocity = y
        total = cart + pole
        a = (force + pole * length * velocity**2 * math.sin(angle)) / total
        angular = (g * math.sin(angle) - math.cos(angle) * a) / (length * (4 / 3 - pole * math.cos(angle) ** 2 / total))
        return [speed, a - pole * length * angular * math.cos(angle) / total, velocity, angular]

    return solve_ivp(flow, (0, time), state, rtol=1e-11, atol=1e-11).y[:, -1]


ORDERS = [("semi_implicit", 1), ("euler", 1), ("midpoint", 2), ("rk4", 4)]


@pytest.mark.parametrize(("integrator", "order"), ORDERS)
def test_a_pendulum_converges_to_the_exact_motion_with_the_order_of_its_integrator(integrator, order):
    exact = pendulum_by_scipy(1.0, 0.5, 0.7, 9.8, 1.3, 0.8, 0.3, 0.1, 0.8)
    expected = np.array([math.cos(exact[0]), math.sin(exact[0]), exact[1]])
    errors = []
    for steps in (20, 40):
        system = Pendulum(9.8, 1.3, 0.8, 0.3, 0.1, dt=0.8 / steps, integrator=integrator)
        x = rollout(system, Pendulum.state(*numbers(1.0, 0.5)), numbers(0.7), steps)
        errors.append(np.abs(x.detach().numpy() - expected).max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25 + 0.1 * order)


@pytest.mark.parametrize(("integrator", "order"), ORDERS)
def test_a_cart_pole_converges_to_the_exact_motion_with_the_order_of_its_integrator(integrator, order):
    exact = cart_pole_by_scipy([0.2, -0.3, 0.6, 0.4], 2.0, 9.8, 1.0, 0.3, 0.5, 0.8)
    expected = np.array([exact[0], exact[1], math.cos(exact[2]), math.sin(exact[2]), exact[3]])
    errors = []
    for steps in (20, 40):
        system = CartPole(9.8, 1.0, 0.3, 0.5, dt=0.8 / steps, integrator=integrator)
        x = rollout(system, CartPole.state(*numbers(0.2, -0.3, 0.6, 0.4)), numbers(2.0), steps)
        errors.append(np.abs(x.detach().numpy() - expected).max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25 + 0.1 * order)


def test_the_pendulums_default_step_is_the_published_one():
    angle, velocity, torque = 2.0, -0.7, 1.5
    new_velocity = velocity + 0.05 * (3 * 10 / 2 * math.sin(angle) + 3 * torque)
    new_angle = angle + 0.05 * new_velocity
    x = Pendulum()(Pendulum.state(*numbers(angle, velocity)), numbers(torque))
    torch.testing.assert_close(x.detach(), numbers(math.cos(new_angle), math.sin(new_angle), new_velocity))


def test_the_cart_poles_default_step_is_the_published_one():
    position, speed, angle, velocity, force = 0.3, 0.2, 0.5, -0.4, 3.0
    a = (force + 0.1 * 0.5 * velocity**2 * math.sin(angle)) / 1.1
    angular = (9.8 * math.sin(angle) - math.cos(angle) * a) / (0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1))
    acceleration = a - 0.1 * 0.5 * angular * math.cos(angle) / 1.1
    turned = angle + 0.05 * velocity
    expected = (position + 0.05 * speed, speed + 0.05 * acceleration, math.cos(turned), math.sin(turned))
    x = CartPole()(CartPole.state(*numbers(position, speed, angle, velocity)), numbers(force))
    torch.testing.assert_close(x.detach(), numbers(*expected, velocity + 0.05 * angular))


@pytest.mark.parametrize(
    ("system", "x"),
    [(Pendulum, Pendulum.state(*numbers(1.0, 0.3))), (CartPole, CartPole.state(*numbers(0.1, 0.2, 2.0, -0.3)))],
)
def test_gradients_reach_state_control_and_every_physical_parameter(system, x, dtype):
    names = [name for name, _ in system().named_parameters()]
    values = numbers(*(0.5 + 0.3 * i for i in range(len(names)))).unbind()

    def step(x, u, *values):
        return system(**dict(zip(names, values, strict=True)), integrator="rk4")(x, u)

    inputs = [t.clone().requires_grad_() for t in (x, numbers(0.7), *values)]
    assert torch.autograd.gradcheck(step, inputs)
    assert system()(x.to(dtype), torch.ones(1, dtype=dtype)).dtype == dtype


def test_parameters_with_a_batch_are_a_family_of_systems():
    x = Pendulum.state(*torch.rand(2, 4, dtype=DOUBLE))
    mass = numbers(0.5, 1.0, 2.0, 4.0)
    family = Pendulum(mass=mass)(x, torch.ones(4, 1, dtype=DOUBLE))
    for i in range(4):
        torch.testing.assert_close(family[i], Pendulum(mass=mass[i])(x[i], numbers(1.0)))


def test_numbers_are_parameters_to_learn_and_tensors_are_not():
    system = Pendulum(gravity=9.8, mass=numbers(1.0).squeeze(), length=torch.nn.Parameter(numbers(0.5).squeeze()))
    assert {name for name, _ in system.named_parameters()} == {"gravity", "length"}
    assert {name for name, _ in system.named_buffers()} == {"mass", "damping", "bias"}


def test_rods_have_their_length():
    pendulum, pole = Pendulum(length=0.7), CartPole(length=0.4)
    rod = pendulum.rod(Pendulum.state(*numbers(0.6, 0.0)))
    torch.testing.assert_close((rod[1] - rod[0]).detach(), 0.7 * numbers(math.sin(0.6), math.cos(0.6)))
    rod = pole.rod(CartPole.state(*numbers(0.3, 0.0, 0.6, 0.0)))
    torch.testing.assert_close(rod[0].detach(), numbers(0.3, 0.0))
    assert (rod[1] - rod[0]).norm().item() == pytest.approx(0.8)


def test_linear_and_learned_dynamics(generator):
    A, B, f = (torch.randn(*s, dtype=DOUBLE, generator=generator) for s in ((5, 3, 3), (3, 2), (3,)))
    x, u = (torch.randn(5, k, dtype=DOUBLE, generator=generator) for k in (3, 2))
    expected = torch.einsum("bij,bj->bi", A, x) + u @ B.mT + f
    torch.testing.assert_close(LinearDynamics(A, B, f)(x, u), expected)
    network = MLPDynamics(3, 2, (8,), dtype=DOUBLE)
    assert network(x, u).shape == x.shape and len(list(network.parameters())) == 4


def test_bad_options_and_shapes_are_named():
    with pytest.raises(ValueError, match="integrator"):
        Pendulum(integrator="leapfrog")
    with pytest.raises(ValueError, match="A must"):
        LinearDynamics(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="B must"):
        LinearDynamics(torch.zeros(2, 2), torch.zeros(3, 1))
    for system in (Pendulum(), CartPole()):
        with pytest.raises(ValueError, match="u must have shape"):
            system(torch.zeros(4, system.n), torch.zeros(4, 2))  # two controls would pass for a batch
        with pytest.raises(ValueError, match="x must have shape"):
            system(torch.zeros(4, 2), torch.zeros(4, 1))
