"""Animations of trajectories: they play from a file, without a network, and stand still for who has no scripts."""

import numpy as np
import pytest
import torch

from diffopt_lib.controllers import CartPole, Pendulum
from diffopt_lib.widgets import animate

ANGLES = torch.linspace(0.0, 3.0, 31, dtype=torch.float64)


def pendulum():
    x = Pendulum.state(ANGLES, torch.zeros_like(ANGLES))
    return animate(Pendulum().rod(x).detach(), dt=0.02, label="A pendulum falls.")


def cart_pole():
    x = CartPole.state(0.1 * ANGLES, 0 * ANGLES, ANGLES, 0 * ANGLES)
    system = CartPole()
    return animate(system.rod(x).detach(), polygons=system.body(x), dt=0.02, label="A pole falls off a cart.")


@pytest.mark.parametrize("make", [pendulum, cart_pole])
def test_it_plays_to_its_end_without_a_network_and_goes_to_any_moment(make, chromium, tmp_path):
    page_file = tmp_path / "animation.html"
    page_file.write_text(f"<!doctype html><meta charset=utf-8><body>{make()._repr_html_()}", encoding="utf-8")
    page = chromium.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    line = page.locator("svg [data-shape]").last
    first = line.get_attribute("points")
    page.locator("input").fill("15")
    middle = line.get_attribute("points")
    assert middle != first and page.locator("output").text_content() == "0.30 s"
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('input').value === '30'")
    page.wait_for_function("document.querySelector('button').textContent === 'Play'")
    assert line.get_attribute("points") not in (first, middle)
    assert page.get_by_role("img").get_attribute("aria-label").startswith("A po") or make is pendulum
    assert not errors and all(url.startswith("file:") for url in requests)
    page.close()


def test_lengths_on_the_screen_are_lengths_in_the_plane():
    """A rod of 1 m is as long in every frame, in pixels."""
    import re

    points = re.findall(r'"(\d[\d.]*),([\d.]+) ([\d.]+),([\d.]+)"', pendulum().html)
    lengths = [np.hypot(float(c) - float(a), float(d) - float(b)) for a, b, c, d in points][-31:]
    assert len(lengths) == 31 and np.ptp(lengths) < 0.2 and lengths[0] > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(lines=np.zeros((3, 2))), "lines must have shape"),
        (dict(lines=np.full((3, 2, 2), np.nan)), "lines must be finite"),
        (dict(polygons=np.zeros((4, 4, 2))), "polygons must have as many frames"),
        (dict(dt=0.0), "dt must be positive"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        animate(**(dict(lines=np.zeros((3, 2, 2)), dt=0.1, label="") | change))
