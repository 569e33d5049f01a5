# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""The engine of a network: the functions of the other modules, layer by layer."""

from __future__ import annotations

import math
import threading
import time

import numpy as np

from fastbp._reference.activations import ACTIVATIONS, activate
from fastbp._reference.errors import MEAN_ERRORS, PARAMETERS
from fastbp._reference.layers import linear, linear_backward_input, linear_backward_weight
from fastbp._reference.random import dropout_factors, step_key
from fastbp._reference.updates import keep, update_segment


class Network:
    """Layers over one flat vector [W1 (I, O) row by row, b1, W2, b2, ...]; the error acts on the last z."""

    REPORT_SECONDS = 0.1

    def __init__(
        self, layer_sizes, activations, loss, parameters, n_threads, dropout=(), seed=0, label_smoothing=0.0, parameter=0.0,
        precision=None,
    ):  # fmt: skip
        self.layer_sizes, self.activations, self.loss = tuple(layer_sizes), tuple(activations), loss
        self.dropout, self.seed, self.label_smoothing = tuple(dropout), seed, label_smoothing
        self.parameter = parameter or PARAMETERS.get(loss, 0.0)  # of the error
        self.parameters, self.n_threads = parameters, n_threads  # shared with the caller, not copied
        self.largest_error = math.inf  # that an example counts in the means that are told
        self._first_row = 0  # rows of the step, on other ranks, that dropout counts before those of the batch
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

    def gradient(self, x, targets, weights, gradient):
        """Return the mean error over the rows of x and the sum of their weights; write the gradient."""
        with self._turn():
            return self._gradient(x, targets, weights, gradient)

    def _gradient(self, x, targets, weights, gradient, step=None):
        """Without a `step`, its number from 1, there is no dropout."""
        z, inputs, slopes_from, factors = self._forward(x, step)
        delta = np.empty_like(z)
        loss, weight_sum = self._loss(z, targets, weights, delta)
        layers, gradients = self._views(self.parameters), self._views(gradient)
        for layer in reversed(range(len(layers))):
            linear_backward_weight(inputs[layer], delta, *gradients[layer], self.n_threads)
            if layer > 0:
                activation, back = self.activations[layer - 1], np.empty_like(inputs[layer])
                a = None if activation == "identity" else slopes_from[layer]
                linear_backward_input(delta, layers[layer][0], activation, a, back, self.n_threads)
                delta = back * factors[layer]
        return loss, weight_sum

    def train(
        self, x, targets, weights, order, batch_size, optimizer, report, clip_norm=0.0, clip_value=0.0, batches=None, ranks=None
    ):  # fmt: skip
        """Make an update for each batch of `order`; return mean error, sum of the weights, batches done, "" or what failed.

        Without an `order` (None) the rows are taken as they stand. A batch whose weights sum to 0 makes no update.
        Of each batch its mean error, and Σ W² over the weights of all layers before its update, go to a row of `batches`.
        With `ranks` errors, weights and gradients are summed over them.
        """
        with self._turn():
            order = np.arange(len(x)) if order is None else order
            clips = clip_norm, clip_value
            return self._train(
                x, targets, weights, order, batch_size, optimizer, report, clips, batches, ranks
            )

    def _train(self, x, targets, weights, order, batch_size, optimizer, report, clips, batches, ranks):
        batch_size, steps = max(batch_size, 1), 0 if ranks is None else ranks.steps
        starts = range(0, max(len(order), steps * batch_size), batch_size)
        gradient, rates = np.empty_like(self.parameters), optimizer.hyper_parameters(self.parameters.dtype)
        state, table = optimizer.state(self.parameters), optimizer.scheduled_rates(len(starts), x.dtype)
        total, weight, done, failure, first = 0.0, 0.0, 0, "", optimizer.steps
        next_report = time.monotonic() + self.REPORT_SECONDS
        for start in starts:
            rows = order[start : start + batch_size]
            some = None if weights is None else weights[rows]
            batch, stopped = (x[rows], targets[rows], some, gradient, optimizer.steps + 1), False
            if ranks is None:
                loss, weight_sum = self._gradient(*batch)
            else:
                self._first_row = 0 if ranks.first_rows is None else int(ranks.first_rows[done])
                loss, weight_sum, stopped, undone = self._sum(ranks, *batch)
                if undone:
                    break
            if batches is not None:
                batches[done] = loss, sum(float(np.vdot(w, w)) for w, _ in self._views(self.parameters))
            if weight_sum != 0.0:
                now = rates if table is None else table[optimizer.steps - first]
                failure = self._update(loss, gradient, optimizer, now, state, *clips)
                if failure:
                    break
                total, weight = total + loss * weight_sum, weight + weight_sum
            done += 1
            if stopped:
                break
            if report is not None and time.monotonic() >= next_report:
                if report(done, total / weight if weight else math.nan):
                    break
                next_report = time.monotonic() + self.REPORT_SECONDS
        return (total / weight if weight else math.nan), weight, done, failure

    def _sum(self, ranks, x, targets, weights, gradient, step):
        """Return the mean error over the rows of all ranks, the sum of their weights, whether to stop after this step, and
        whether not even to make it; write the gradient of the mean."""
        loss, weight_sum, ranks.gradient[:] = 0.0, 0.0, 0.0
        if len(x):
            loss, weight_sum = self._gradient(x, targets, weights, ranks.gradient, step)
            loss = loss * weight_sum if weight_sum else 0.0
            ranks.gradient *= weight_sum
        ranks.begin(loss, weight_sum, len(x) > 0)
        for layer in reversed(range(len(self.layer_sizes) - 1)):
            if ranks.sends[layer]:
                ranks.send(layer)
        loss, weight_sum, *others = ranks.finish()
        if weight_sum:
            np.divide(ranks.gradient, weight_sum, out=gradient)
        return (loss / weight_sum if weight_sum else math.nan), weight_sum, *others

    def step(self, x, targets, optimizer):
        """Return None: there is no shorter way than `train` with all the checks before it."""
        return None

    def _update(self, loss, gradient, optimizer, rates, state, clip_norm, clip_value):
        """Update copies; keep them if all is finite, otherwise change nothing and say what was not."""
        if not math.isfinite(loss):
            return "loss"
        w, new = self.parameters.copy(), {name: vector.copy() for name, vector in state.items()}
        with np.errstate(over="ignore"):
            norm = math.sqrt(
                float((gradient.astype(np.promote_types(gradient.dtype, np.float64)) ** 2).sum())
            )
        if clip_norm and not math.isfinite(norm):
            return "gradient"
        scale = clip_norm / norm if 0.0 < clip_norm < norm else 1.0
        arrays = zip(*(self._segments(vector) for vector in (w, gradient, *new.values())), strict=True)
        for number, (part, g, *states) in enumerate(arrays):
            decays = number % 2 == 0 or optimizer.decay_biases
            some = dict(zip(new, states, strict=True))
            weights = number % 2 == 0 and number // 2 < len(self.layer_sizes) - 2
            matrix = self.layer_sizes[number // 2 : number // 2 + 2] if weights else ()
            update_segment(
                optimizer, rates, optimizer.steps + 1, part, g, some, decays, scale, clip_value, matrix
            )
        if not all(np.isfinite(array).all() for array in (gradient, w, *new.values())):
            return "gradient"
        keep(optimizer, self.parameters, state, w, new)
        return ""

    def _segments(self, flat):
        """Return the arrays of all layers, W and b in turn, as flat views."""
        return [array.reshape(-1) for pair in self._views(flat) for array in pair]

    def _views(self, flat):
        """Return the pair W (I, O), b (O,) of every layer, as views of a flat vector."""
        views, start = [], 0
        for n_in, n_out in zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True):
            middle, end = start + n_in * n_out, start + (n_in + 1) * n_out
            views.append((flat[start:middle].reshape(n_in, n_out), flat[middle:end]))
            start = end
        return views

    def _forward(self, x, step=None):
        """Return the last z; of every layer its input, what the slope of that is computed from, and its dropout's factors."""
        inputs, slopes_from, factors = [x], [x], [1.0]
        *hidden, last = self._views(self.parameters)
        for layer, (weight, bias) in enumerate(hidden):
            z = np.empty((len(x), weight.shape[1]), x.dtype)
            linear(inputs[-1], weight, bias, "identity", z, self.n_threads)
            activation, a = self.activations[layer], np.empty_like(z)
            activate(activation, z, a, self.n_threads)
            slopes_from.append(z if ACTIVATIONS[activation].slope_of_input else a)
            factors.append(self._dropout(layer, z, step))
            inputs.append(a * factors[-1])
        z = np.empty((len(x), last[0].shape[1]), x.dtype)
        linear(inputs[-1], *last, "identity", z, self.n_threads)
        return z, inputs, slopes_from, factors

    def _dropout(self, layer, z, step):
        """Return what the outputs of a hidden layer are multiplied by, in a step: 0 or 1 / (1 - rate)."""
        rate = self.dropout[layer] if self.dropout else 0.0
        if not rate or step is None:
            return z.dtype.type(1.0)
        return dropout_factors(rate, step_key(self.seed, step), layer, z.shape, self._first_row).astype(
            z.dtype
        )

    def _loss(self, z, targets, weights, delta):
        """Return the mean error of the outputs z (N, C) and the sum of the weights; write its delta (N, C).

        An example's error, or that of each logistic output, counts as `largest_error` at most, which its delta knows nothing of.
        """
        errors = np.zeros(len(z))
        error = MEAN_ERRORS[self.loss]
        numbers = self.label_smoothing, self.parameter
        mean, total = error(z, targets, weights, *numbers, errors, delta, self.n_threads)
        if math.isfinite(self.largest_error) and total:
            w = np.ones(len(z)) if weights is None else weights
            mean = float((w * self._limited(z, targets, w, errors)).sum() / total)
        return mean, total

    def _limited(self, z, targets, weights, weighted):
        """Return the errors of the examples, before they are weighted, as far as they count."""
        if self.loss == "sigmoid_cross_entropy":
            return np.minimum(np.logaddexp(0.0, z) - targets * z, self.largest_error).sum(axis=1)
        read = weights != 0.0
        return np.minimum(np.divide(weighted, weights, out=np.zeros(len(z)), where=read), self.largest_error)
