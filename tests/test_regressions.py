"""One test for each defect that was found from outside, by the behaviour that it broke."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from forks import exit_code, fork

import fastbp


def test_class_of_weight_zero_at_minus_infinity(backend):
    """0 · inf = 0: the class whose logit is -inf has no weight."""
    logits = np.array([[-np.inf, 0.0], [0.0, 1.0]])
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(logits, [0, 1], class_weight=[0, 1])
    assert weight_sum == 1.0 and loss == fastbp.softmax_cross_entropy(logits[1:], [1]).loss
    assert (grad[0] == 0.0).all()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"lse_square_scale": 0.1}], ids=str)
def test_all_class_weights_zero(backend, options):
    """Nothing to learn from: the gradient is exactly 0, in a row of NaN as well."""
    logits = np.array([[np.nan, 0.0, 0.0], [0.0, 1.0, 2.0]])
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(logits, [0, 1], class_weight=[0, 0, 0], **options)
    assert np.isnan(loss) and weight_sum == 0.0 and (grad == 0.0).all()


def test_tiny_sample_weights(backend):
    """w / Σw is formed as such, not through 1 / Σw, which overflows."""
    loss, grad, _ = fastbp.squared_error(np.ones(2), 0.0, sample_weight=[1e-320] * 2)
    assert loss == 0.5 and grad.tolist() == [0.5, 0.5]


def test_any_number_of_threads_may_be_asked_for(backend):
    """More than the system would start: the process lives, and memory does not grow with the number."""
    x = np.linspace(-1.0, 1.0, 200_000).reshape(2, -1)
    expected = fastbp.softmax_cross_entropy(x, [0, 1], n_threads=1)
    got = fastbp.softmax_cross_entropy(x, [0, 1], n_threads=2**40)
    assert got.loss == expected.loss and (got.grad == expected.grad).all()


def test_numbers_that_the_dtype_cannot_hold(backend):
    logits = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match=r"^softcap: got 1e[+]39, expected a number that float32 can hold"):
        fastbp.softmax_cross_entropy(logits, [0], softcap=1e39)
    w = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"^epsilon: got 1e-60, expected a number that float32 can hold"):
        fastbp.adam_update(w, w * 0, w.copy(), w.copy(), step=1, epsilon=1e-60)
    assert (w == 1.0).all()


def test_a_product_of_many_slices_is_one_product(backend):
    """Long products run in slices of rows, which threads cut along either side: a row is what it is alone."""
    if backend == "reference":
        pytest.skip("the twin's products are not cut")
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((300, 9000)), rng.standard_normal((9000, 2000))
    one = fastbp.linear(x, weight, n_threads=1)
    assert (fastbp.linear(x, weight, n_threads=2) == one).all()
    for start in range(0, 300, 75):
        assert (fastbp.linear(x[start : start + 75], weight, n_threads=1) == one[start : start + 75]).all()


@pytest.mark.parametrize(("sizes", "batch", "last"), [((1, 1000), 257, 200), ((4, 450, 2), 500, 400)])
def test_the_work_space_is_enough_for_a_smaller_batch(backend, sizes, batch, last):
    """Whose products may have deeper blocks, or be cut the other way: it was overrun."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((batch + last, sizes[0])), rng.integers(0, sizes[-1], batch + last)
    net = fastbp.MLP(sizes, activation="tanh", seed=0, n_threads=4, dtype="float64")
    for _ in range(5):
        net.fit(
            x, labels, epochs=1, batch_size=batch, shuffle=False, optimizer=fastbp.SGD(0.1), progress=False
        )
    other = fastbp.MLP(sizes, activation="tanh", seed=0, n_threads=1, dtype="float64")
    for _ in range(5):
        for part in (slice(0, batch), slice(batch, None)):
            other.step(x[part], labels[part], fastbp.SGD(0.1))
    assert net.parameters.tobytes() == other.parameters.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_a_thread_uses_the_model(backend):
    """The child has not the thread whose turn it was."""
    net = fastbp.MLP([2, 3], seed=0, n_threads=1)
    held, done = threading.Event(), threading.Event()

    class Held(fastbp.SGD):
        def hyper_parameters(self, *dtype):  # of which a network asks in its turn
            held.set()
            done.wait(60)
            return super().hyper_parameters(*dtype)

    thread = threading.Thread(target=net.step, args=(np.zeros((2, 2)), [0, 1], Held()))
    thread.start()
    assert held.wait(60)
    ended = exit_code(fork(lambda: net.predict(np.zeros((2, 2))).shape == (2,)))
    done.set()
    thread.join()
    assert ended == 0


def test_save_replaces_regular_files_only(backend, tmp_path):
    net = fastbp.MLP([2, 2], seed=0)
    with pytest.raises(ValueError, match=r"^path: got .* expected the name of a regular file"):
        net.save(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match=r"^path: got .* expected the name of a regular file"):
            net.save(tmp_path / "pipe")
    path = tmp_path / "net.npz"
    net.save(path)
    path.chmod(0o600)
    net.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError, match="missing"):
        net.save(tmp_path / "missing" / "net.npz")


def test_every_flipped_byte_is_an_error_or_harmless(backend, tmp_path):
    """Whatever zipfile, NumPy or json make of a damaged file, it is one ValueError, and no other network."""
    net, path = fastbp.MLP([2, 3], seed=0), tmp_path / "net.npz"
    net.save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            loaded = fastbp.MLP.load(path)
        except ValueError as error:
            assert str(error).startswith("path: ")
        else:
            assert (loaded.parameters == net.parameters).all()


def test_no_class_indices_are_of_any_dtype():
    """Without the warning that complex numbers lose a part."""
    net = fastbp.MLP([2, 3], seed=0)
    for dtype in ("f4", "c8", "O"):
        assert np.isnan(net.loss(np.zeros((0, 2)), np.zeros(0, dtype)))
