"""The page that runs in a browser: its numbers are fastbp's, in headless Chromium, to the last digits."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tolerances

import fastbp

FOLDER = Path(__file__).parents[1] / "docs" / "_static" / "playground"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error", "sigmoid_squared_error")
ARRAYS = ("W1", "b1", "W2", "b2")
RATE = 0.5

pytestmark = pytest.mark.skipif(not (CHROMIUM and FOLDER.exists()), reason="no Chromium, or no docs")


def in_the_browser(tmp_path: Path, body: str, address: str = "") -> str:
    """What has become of a page when its scripts have run."""
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}', encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'chromium'}",
    ]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"{page.as_uri()}{address}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def script(name: str) -> str:
    return f'<script src="{(FOLDER / name).as_uri()}"></script>'


def random_state(rng: np.random.Generator, loss: str, scale: float) -> dict:
    """A network of the page; its targets do not sum to 1, and some are 0."""
    shapes = {"x": 3, "W1": (3, 2), "b1": 2, "W2": (2, 2), "b2": 2}
    arrays = {name: (scale * rng.standard_normal(shape)).tolist() for name, shape in shapes.items()}
    return {"loss": loss, "t": (rng.random(2) * rng.integers(0, 2, 2)).tolist(), **arrays}


def network(state: dict) -> fastbp.MLP:
    net = fastbp.MLP([3, 2, 2], loss=state["loss"], dtype="float64")
    for weights, biases, layer in zip(net.weights, net.biases, "12", strict=True):
        weights[:], biases[:] = state[f"W{layer}"], state[f"b{layer}"]
    return net


def assert_as_fastbp(state: dict, E: float, y: list, gradient: dict, following: dict) -> None:
    net, x, t = network(state), np.array([state["x"]]), np.array([state["t"]])
    loss, weights, biases = net.gradients(x, t)
    bound = {"rtol": tolerances.PLAYGROUND, "atol": tolerances.PLAYGROUND}
    np.testing.assert_allclose(E, loss, **bound)
    np.testing.assert_allclose(y, net.forward(x)[0], **bound)
    for name, expected in zip(ARRAYS, (weights[0], biases[0], weights[1], biases[1]), strict=True):
        np.testing.assert_allclose(gradient[name], expected, **bound)
    net.step(x, t, fastbp.SGD(RATE))
    for name, expected in zip(
        ARRAYS, (net.weights[0], net.biases[0], net.weights[1], net.biases[1]), strict=True
    ):
        np.testing.assert_allclose(following[name], expected, **bound)


def test_numbers(tmp_path):
    rng = np.random.default_rng(0)
    states = [random_state(rng, loss, scale) for loss in LOSSES for scale in (0.5, 2, 20) for _ in range(10)]
    program = f"""<pre></pre>{script("network.js")}<script>
        const {{ backward, finite_difference, forward, parameters, step }} = network;
        const states = {json.dumps(states)};
        const numbers = states.map((s) => ({{ ...forward(s), gradient: backward(s), next: step(s, {RATE}) }}));
        const pairs = (s) => parameters.map((p) => [p.get(backward(s)), finite_difference(s, p)]);
        document.querySelector("pre").textContent = JSON.stringify({{ numbers, differences: states.map(pairs) }});
    </script>"""
    written = html.unescape(re.search("<pre>(.*?)</pre>", in_the_browser(tmp_path, program))[1])
    answer = json.loads(written)
    for state, numbers in zip(states, answer["numbers"], strict=True):
        assert_as_fastbp(state, numbers["E"], numbers["y"], numbers["gradient"], numbers["next"])
    small = [
        pairs
        for state, pairs in zip(states, answer["differences"], strict=True)
        if np.abs(state["x"]).max() < 5
    ]
    assert len(small) > len(states) // 2
    gradient, difference = np.moveaxis(np.array(small), -1, 0)
    np.testing.assert_allclose(
        difference, gradient, rtol=tolerances.PLAYGROUND_DIFFERENCE, atol=tolerances.PLAYGROUND_DIFFERENCE
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_page(loss, tmp_path):
    """It takes a network from its address, and shows its numbers."""
    state = random_state(np.random.default_rng(1), loss, 1.0)
    parts = [f"{name}={','.join(map(repr, np.ravel(state[name]).tolist()))}" for name in ("x", "t", *ARRAYS)]
    body = f'<div id="playground"></div>{script("network.js")}{script("page.js")}'
    page = in_the_browser(tmp_path, body, f"#loss={loss}&rate={RATE}&{'&'.join(parts)}")
    numbers = json.loads(re.search('id="playground-numbers">(.*?)</script>', page)[1])
    assert numbers["state"] == state
    assert_as_fastbp(state, numbers["E"], numbers["y"], numbers["gradient"], numbers["next"])
    assert page.count("✗") == (
        3 if loss == "softmax_cross_entropy" else 0
    )  # y − t twice, y(1 − y) dE/dy where t is not 0
    assert page.count('type="number"') == 3 + 2 + 1 + 14


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60_000
