# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""The engine of a network: the functions of the other modules, layer by layer."""

from __future__ import annotations

import math
import threading
import time

import numpy as np

from fastbp._reference.activations import ACTIVATIONS, activate
from fastbp._reference.errors import (
    poisson_deviance,
    sigmoid_cross_entropy,
    sigmoid_squared_error,
    softmax_cross_entropy,
    squared_error,
)
from fastbp._reference.layers import linear, linear_backward_input, linear_backward_weight
from fastbp._reference.updates import _keep, _updated


class Network:
    """Layers over one flat vector [W1 (I, O) row by row, b1, W2, b2, ...]; the error acts on the last z."""

    REPORT_SECONDS = 0.1

    def __init__(self, layer_sizes, activation, loss, parameters, n_threads):
        self.layer_sizes, self.activation, self.loss = tuple(layer_sizes), activation, loss
        self.parameters, self.n_threads = parameters, n_threads  # shared with the caller, not copied
        self._lock = threading.RLock()

    def _turn(self):
        """Return the lock under which a call runs: threads take turns, and a call within a call is refused.

        It goes straight into a `with`, which no signal handler can interrupt before the lock will be released.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(
                "network: got a call during another one, from a callback or a signal handler; expected it to be over"
            )
        return self._lock

    def snapshot(self):
        """Return a copy of the parameters as they are between two updates."""
        with self._lock:
            return self.parameters.copy()

    def logits(self, x, out):
        """Write the linear outputs of the last layer at x (N, I) to out (N, C)."""
        with self._turn():
            out[...] = self._forward(x)[0]

    def gradient(self, x, targets, gradient):
        """Return the mean error over the rows of x; write its gradient, laid out like the parameters."""
        with self._turn():
            return self._gradient(x, targets, gradient)

    def _gradient(self, x, targets, gradient):
        z, inputs, slopes_from = self._forward(x)
        delta = np.empty_like(z)
        loss = self._loss(z, targets, delta)
        weights, gradients = self._views(self.parameters), self._views(gradient)
        for layer in reversed(range(len(weights))):
            linear_backward_weight(inputs[layer], delta, *gradients[layer], self.n_threads)
            if layer > 0:
                back = np.empty_like(inputs[layer])
                a = None if self.activation == "identity" else slopes_from[layer]
                linear_backward_input(delta, weights[layer][0], self.activation, a, back, self.n_threads)
                delta = back
        return loss

    def train(self, x, targets, order, batch_size, optimizer, report):
        """Make one update per batch of `order`; return mean error, batches done, "" or what failed.

        Without an `order` (None) the rows are taken as they stand.
        """
        with self._turn():
            return self._train(x, targets, order, batch_size, optimizer, report)

    def _train(self, x, targets, order, batch_size, optimizer, report):
        gradient, rates = np.empty_like(self.parameters), optimizer.hyper_parameters(self.parameters.dtype)
        state = optimizer.state(self.parameters)
        total, seen, done, failure = 0.0, 0, 0, ""
        next_report = time.monotonic() + self.REPORT_SECONDS
        order = np.arange(len(x)) if order is None else order
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            loss = self._gradient(x[rows], targets[rows], gradient)
            failure = self._update(loss, gradient, optimizer, rates, state)
            if failure:
                break
            total, seen, done = total + loss * len(rows), seen + len(rows), done + 1
            if report is not None and time.monotonic() >= next_report:
                report(done, total / seen)
                next_report = time.monotonic() + self.REPORT_SECONDS
        return (total / seen if seen else math.nan), done, failure

    def step(self, x, targets, optimizer):
        """Return None: there is no shorter way than `train` with all the checks before it."""
        return None

    def _update(self, loss, gradient, optimizer, rates, state):
        """Update copies; keep them if all is finite, otherwise change nothing and say what was not."""
        if not math.isfinite(loss):
            return "loss"
        new = _updated(optimizer, rates, self.parameters, state, gradient, self.n_threads)
        if not all(np.isfinite(array).all() for array in (gradient, *new)):
            return "gradient"
        _keep(optimizer, self.parameters, state, new)
        return ""

    def _views(self, flat):
        """Return the pair W (I, O), b (O,) of every layer, as views of a flat vector."""
        views, start = [], 0
        for n_in, n_out in zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True):
            middle, end = start + n_in * n_out, start + (n_in + 1) * n_out
            views.append((flat[start:middle].reshape(n_in, n_out), flat[middle:end]))
            start = end
        return views

    def _forward(self, x):
        """Return the last z, the input of every layer, and what the slope of each input is computed from."""
        inputs, slopes_from = [x], [x]
        *hidden, last = self._views(self.parameters)
        for weight, bias in hidden:
            z = np.empty((len(x), weight.shape[1]), x.dtype)
            linear(inputs[-1], weight, bias, "identity", z, self.n_threads)
            a = np.empty_like(z)
            activate(self.activation, z, a, self.n_threads)
            inputs.append(a)
            slopes_from.append(z if ACTIVATIONS[self.activation].slope_of_input else a)
        z = np.empty((len(x), last[0].shape[1]), x.dtype)
        linear(inputs[-1], *last, "identity", z, self.n_threads)
        return z, inputs, slopes_from

    def _loss(self, z, targets, delta):
        """Return the mean error of the outputs z (N, C); write its delta (N, C)."""
        if self.loss == "softmax_cross_entropy":
            kinds = (targets, None) if targets.ndim == 1 else (None, targets)
            options = (None, None, -100, 0.0, 0.0, 0.0)
            return softmax_cross_entropy(z, *kinds, *options, True, None, delta, self.n_threads)[0]
        if self.loss == "sigmoid_cross_entropy":
            return sigmoid_cross_entropy(z, targets, None, None, 0.0, True, None, delta, self.n_threads)[0]
        error = {f.__name__: f for f in (squared_error, sigmoid_squared_error, poisson_deviance)}[self.loss]
        return error(z, targets, None, True, None, delta, self.n_threads)[0]
