# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""The NumPy twin: every backend function in plain NumPy; the oracle of the tests, the fallback at run time.

Design decisions, each with its reason:

A. Naive on purpose. Whole-array expressions that read like the formulas of docs/derivation.md, temporaries
   wherever they help the reader, no blocking, no threads (`n_threads` is accepted and not used).
B. The same names and positional arguments as the compiled package, so that `_backend` can swap the two. The
   types stand in `_kernel_api` and are not said twice. All input arrives checked: rows of one float dtype (N, C),
   int64 labels (N,), float64 weights or None, outputs allocated.
C. Arithmetic is done in the dtype that comes in: on float32 the twin is "plain NumPy", on float64 the oracle.
   Never less than float64 are the weights of the examples, their sum and the sum of the examples' errors, by
   which everything else is scaled. np.longdouble works too and is an oracle for float64, but for the normal
   distribution in gelu: that is float64's, and on the left it magnifies the rounding of its argument x by x².
D. A result is computed in full before anything is written. So an output may share memory with an input.
E. Rows that must not be read (ignored label, sample weight 0) are left out by indexing, not multiplied by 0:
   a NaN in them has nothing to spread from.
F. Nothing cancels. Exponentials are taken of numbers <= 0 only; 1 + small goes through log1p; 1 - y is never
   formed from a y close to 1; the largest logit of a row is handled apart (see `softmax_cross_entropy`).
G. 0 * inf is 0 in a term of an error whose weight is 0 (the limit of t ln y for t -> 0), and NaN elsewhere.
H. No function warns: extreme input has defined answers, and they are written down where they arise.
I. The network restates nothing: it calls the functions above it, one after the other, layer by layer.

Shapes: N rows (examples), R of them read, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from fastbp._errors import gone_astray

_Function = TypeVar("_Function", bound=Callable[..., Any])

LEAKY_SLOPE = 0.01
_LARGEST = float(np.finfo(np.float64).max)


def _quiet(function: _Function) -> _Function:
    """Run `function` without floating-point warnings (decision H)."""

    @functools.wraps(function)
    def quiet(*args):
        with np.errstate(all="ignore"):
            return function(*args)

    return cast(_Function, quiet)


# ---------------------------------------------------------------------------------------- parts of the errors


def _rows_read(x, targets, sample_weight, ignored=False):
    """Leave out what must not be read: x (R, C), targets (R, ...), sample weights s (R,), "is read" (N,)."""
    s = np.ones(len(x)) if sample_weight is None else sample_weight
    read = (s != 0.0) & np.logical_not(ignored)
    return x[read], targets[read], s[read], read


def _wide(x):
    """`x` in float64, or in its own dtype if that is wider (decision C)."""
    return x.astype(np.promote_types(x.dtype, np.float64))


def _reduce(errors, deltas, s, weights, read, mean, losses, grad, unit=1.0):
    """Weight errors (R,) and deltas (R, C) by s (R,), write `losses` (N,) and `grad` (N, C), sum or average.

    `weights` (R,) is what each example counts in the mean: s, times the class weight of its target if any. All but
    s and the sum of the weights that is returned are in units, multiplied by `unit`; those of a mean cancel.
    """
    errors = s * _wide(errors)
    total, weight_sum = float(errors.sum()), float(weights.sum())
    if losses is not None:
        losses[...] = 0.0
        losses[read] = errors / unit
    grad[...] = 0.0
    if mean and weight_sum == 0.0:  # nothing to average, nothing to learn from
        return math.nan, weight_sum
    divisor = weight_sum if mean else unit
    grad[read] = (s.astype(_wide(deltas).dtype) / divisor).astype(deltas.dtype)[:, None] * deltas
    return total / divisor, weight_sum / unit


def _unit_of(class_weight):
    """Return a power of 2 that brings the largest finite weight to [1/2, 1): class weights in such units neither
    overflow in the dtype nor all vanish, however they are scaled."""
    finite = np.abs(class_weight[np.isfinite(class_weight)])
    exponent = np.frexp(finite.max(initial=0.0))[1]
    return math.ldexp(1.0, -int(np.clip(exponent, -1022, 1022)))


def _weighted(weight, value):
    """The product, with 0 where the weight is 0 even if the value is infinite (decision G)."""
    return np.where(weight == 0.0, 0.0, weight * value)


def _softmax_parts(z):
    """Split each row of z (R, C) at its largest entry, of which one is singled out even among equals.

    Returns m = max z (R, 1), e = exp(z - m) (R, C), top = "is the largest" (R, C), rest = sum of the other e
    (R, 1). A row with NaN or +inf, or of nothing but -inf, has no softmax: its m, e and rest become NaN.
    """
    m = z.max(axis=1, keepdims=True, initial=-np.inf)
    m = np.where(np.isfinite(m), m, np.nan)
    x = z - m
    e = np.exp(x)
    if z.dtype == np.float64:  # what rounding took from x comes back (Knuth's two-sum); -inf lost nothing
        with np.errstate(invalid="ignore"):
            lost = (z - (x - (x - z))) - (m + (x - z))
        e *= 1 + np.where(np.isfinite(lost), lost, 0)
    top = np.zeros(z.shape, dtype=bool)
    if z.size:
        np.put_along_axis(top, z.argmax(axis=1, keepdims=True), True, axis=1)
    rest = np.where(top, 0.0, e).sum(axis=1, keepdims=True)
    return m, e, top, np.where(np.isnan(m), np.nan, rest)


def _sigmoid_parts(z):
    """Return e = exp(-|z|), which cannot overflow, and e / (1 + e), the smaller one of y and 1 - y."""
    e = np.exp(-np.abs(z))
    return e, e / (1.0 + e)


def new_array(shape, dtype):
    """Return an array of any content."""
    return np.empty(shape, dtype)


# -------------------------------------------------------------------------------------------- error functions


def first_bad_label(labels, n_classes, ignore_index):
    """Return the first row whose label is neither in [0, n_classes) nor ignore_index, or -1."""
    bad = np.flatnonzero(((labels < 0) | (labels >= n_classes)) & (labels != ignore_index))
    return int(bad[0]) if bad.size else -1


@_quiet
def softmax_cross_entropy(
    logits, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale,
    softcap, mean, losses, grad, n_threads,
):  # fmt: skip
    """E = Σ_c u_c (lse - z_c) + scale lse² with u_c = class_weight_c ((1 - smoothing) t_c + smoothing / C).

    With m = max z and rest = Σ exp(z_c - m) over all but the largest, lse - z_c = log1p(rest) + (m - z_c), a
    sum of two terms >= 0. The gradient is y_c (Σu + 2 scale lse) - u_c, y_c = exp(z_c - m) / (1 + rest). At
    the largest logit y_c may be close to 1 and u_c close to Σu: both terms go over the common denominator,
    (Σu - u_c + 2 scale lse - u_c rest) / (1 + rest), and Σu - u_c is added up from the other classes.
    """
    n_classes = logits.shape[1]
    if labels is None:
        raw, t, s, read = _rows_read(logits, targets, sample_weight)
    else:
        raw, index, s, read = _rows_read(logits, labels, sample_weight, labels == ignore_index)
        if ((index < 0) | (index >= n_classes)).any():  # `index` is a copy, which stays as it is
            raise gone_astray(n_classes)
        t = np.zeros_like(raw)
        t[np.arange(len(t)), index] = 1.0

    u = (1.0 - label_smoothing) * t + label_smoothing / max(n_classes, 1)  # (R, C)
    weights, unit = s, 1.0
    if class_weight is not None:
        unit = _unit_of(class_weight)
        class_weight, lse_square_scale = class_weight * unit, lse_square_scale * unit
        u = class_weight.astype(u.dtype) * u
        t_sum = _wide(t).sum(axis=1)
        weights = s * np.where(t_sum == 0.0, unit, (class_weight * t).sum(axis=1) / t_sum)

    z = softcap * np.tanh(raw / softcap) if softcap else raw
    m, e, top, rest = _softmax_parts(z)
    u_top = np.where(top, u, 0.0).sum(axis=1, keepdims=True)
    u_others = np.where(top, 0.0, u).sum(axis=1, keepdims=True)
    u_sum = u_top + u_others
    log_sum = np.log1p(rest)  # lse - m

    errors = (u_sum * log_sum)[:, 0] + _weighted(u, m - z).sum(axis=1)
    pull = 0.0  # of the term scale lse² on lse
    if lse_square_scale:
        errors = errors + lse_square_scale * ((m + log_sum) ** 2)[:, 0]
        pull = 2.0 * lse_square_scale * (m + log_sum)

    at_top = (u_others + pull - u_top * rest) / (1.0 + rest)
    elsewhere = e / (1.0 + rest) * (u_sum + pull) - u
    deltas = np.where(top, at_top, elsewhere)
    if softcap:  # the slope is 1 - tanh²(x) = 4 q / (1 + q)², where x = z / softcap and q = exp(-2 |x|)
        q = np.exp(-2.0 * np.abs(raw / softcap))
        deltas = deltas * (4.0 * q / (1.0 + q) ** 2)
    return _reduce(errors, deltas, s, weights, read, mean, losses, grad, unit)


def softmax_cross_entropy_at_once(
    logits, labels, class_weight, sample_weight, label_smoothing, lse_square_scale, softcap, grad, n_threads
):  # fmt: skip
    """Return None: there is no shorter way than `softmax_cross_entropy` with all the checks before it."""
    return None


@_quiet
def sigmoid_cross_entropy(
    logits, targets, pos_weight, sample_weight, label_smoothing, mean, losses, grad, n_threads
):  # fmt: skip
    """E = -Σ_k [p_k t ln y + (1 - t) ln(1 - y)] with y = sigmoid(z), t smoothed towards 1/2, p = pos_weight.

    With e = exp(-|z|), -ln of the likelier one of y and 1 - y is log1p(e), of the other log1p(e) + |z|. "Yes"
    and "no" are weighted by mirrored formulas, not one by 1 - the other, and z = 0 is on neither side:
    (x, t) and (-x, 1 - t) agree bit by bit.
    """
    z, t, s, read = _rows_read(logits, targets, sample_weight)
    yes = (1.0 - label_smoothing) * t + 0.5 * label_smoothing
    no = (1.0 - label_smoothing) * (1.0 - t) + 0.5 * label_smoothing
    if pos_weight is not None:
        yes = pos_weight.astype(yes.dtype) * yes
    both = yes + no
    e, smaller = _sigmoid_parts(z)
    unlikely = np.where(z > 0.0, no, yes)  # the weight of the less likely answer
    errors = both * np.log1p(e) + _weighted(unlikely, np.abs(z))
    miss = unlikely - both * smaller
    deltas = np.where(z == 0.0, 0.5 * (no - yes), np.where(z > 0.0, miss, -miss))  # y - t where p = 1
    return _reduce(errors.sum(axis=1), deltas, s, s, read, mean, losses, grad)


@_quiet
def squared_error(outputs, targets, sample_weight, mean, losses, grad, n_threads):
    """E = ½ Σ_k (y - t)², dE/dy = y - t."""
    y, t, s, read = _rows_read(outputs, targets, sample_weight)
    errors = 0.5 * (y - t) ** 2
    return _reduce(errors.sum(axis=1), y - t, s, s, read, mean, losses, grad)


@_quiet
def sigmoid_squared_error(logits, targets, sample_weight, mean, losses, grad, n_threads):
    """E = ½ Σ_k (y - t)² with y = sigmoid(z), dE/dz = (y - t) y (1 - y).

    For z > 0, y - t is formed as (1 - t) - (1 - y), which keeps its digits where y and t are both close to 1.
    """
    z, t, s, read = _rows_read(logits, targets, sample_weight)
    e, smaller = _sigmoid_parts(z)
    difference = np.where(z > 0.0, (1.0 - t) - smaller, smaller - t)  # y - t
    errors = 0.5 * difference**2
    deltas = difference * (smaller / (1.0 + e))  # y (1 - y) is the smaller one times 1 / (1 + e)
    return _reduce(errors.sum(axis=1), deltas, s, s, read, mean, losses, grad)


@_quiet
def poisson_deviance(logits, targets, sample_weight, mean, losses, grad, n_threads):
    """E = Σ_k [μ - t - t (z - ln t)] with μ = exp(z), half the deviance; dE/dz = μ - t. NaN for t < 0."""
    z, t, s, read = _rows_read(logits, targets, sample_weight)
    mu = np.exp(z)
    r = z - np.log(t)
    errors = np.where(t == 0.0, mu, np.where(np.abs(r) < 1.0, t * (np.expm1(r) - r), mu - t - t * r))
    deltas = np.where(t < 0.0, np.nan, mu - t)
    return _reduce(errors.sum(axis=1), deltas, s, s, read, mean, losses, grad)


# ------------------------------------------------------------------------------------------------ activations


_normal_cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5)), otypes=[np.float64])


def _sigmoid(x):
    e, smaller = _sigmoid_parts(x)
    return np.where(x > 0.0, 1.0 / (1.0 + e), smaller)


@_quiet
def sigmoid(x, out, n_threads):
    """1 / (1 + exp(-x))."""
    out[...] = _sigmoid(x)


@_quiet
def tanh(x, out, n_threads):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    out[...] = np.tanh(x)


@_quiet
def relu(x, out, n_threads):
    """max(x, 0); NaN stays NaN."""
    out[...] = np.maximum(x, 0.0)


@_quiet
def leaky_relu(x, out, n_threads):
    """x where x > 0, x / 100 elsewhere."""
    out[...] = np.where(x > 0.0, x, LEAKY_SLOPE * x)


@_quiet
def gelu(x, out, n_threads):
    """x Φ(x), Φ the distribution function of the standard normal; 0 at -inf."""
    out[...] = np.maximum(x.astype(np.float64), -_LARGEST) * _normal_cdf(x)


@_quiet
def silu(x, out, n_threads):
    """x sigmoid(x); 0 at -inf."""
    out[...] = np.maximum(x, np.finfo(x.dtype).min) * _sigmoid(x)


@_quiet
def softplus(x, out, n_threads):
    """ln(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    out[...] = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


@_quiet
def softmax(x, out, n_threads):
    """y = exp(x - m) / (1 + rest), row by row; a row without a softmax becomes NaN."""
    _, e, _, rest = _softmax_parts(x)
    out[...] = e / (1.0 + rest)


@_quiet
def log_softmax(x, out, n_threads):
    """ln y = (x - m) - log1p(rest), row by row: a sum of two terms <= 0."""
    m, _, _, rest = _softmax_parts(x)
    out[...] = (x - m) - np.log1p(rest)


@_quiet
def logsumexp(x, out, n_threads):
    """m + log1p(rest) of each row, out (N,); of nothing but -inf it is -inf, and with a +inf +inf."""
    _, _, _, rest = _softmax_parts(x)
    m = x.max(axis=1, initial=-np.inf)
    out[...] = np.where(np.isfinite(m), m + np.log1p(rest[:, 0]), m)


def _gelu_slope(z):
    """Φ(z) + z φ(z), φ the density of the standard normal."""
    finite = np.clip(z.astype(np.float64), -_LARGEST, _LARGEST)  # so that inf * 0 becomes 0
    density = np.exp(-0.5 * finite * finite) / math.sqrt(2.0 * math.pi)
    return (_normal_cdf(finite) + finite * density).astype(z.dtype)


def _silu_slope(z):
    """y + z y (1 - y), where 1 - sigmoid(z) = sigmoid(-z)."""
    z = np.clip(z, np.finfo(z.dtype).min, np.finfo(z.dtype).max)
    return _sigmoid(z) + z * _sigmoid(z) * _sigmoid(-z)


_ACTIVATIONS = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "silu": silu,
    "softplus": softplus,
}
_INPUT_NEEDED = ("gelu", "silu")  # their slope is no function of the output
_SLOPES: dict[str, Callable[[Any], Any]] = {  # f'(z) from a = f(z), or from a = z for those above
    "identity": np.ones_like,
    "sigmoid": lambda a: a * (1.0 - a),
    "tanh": lambda a: 1.0 - a * a,
    "relu": lambda a: np.heaviside(a, 0.0),  # NaN at NaN
    "leaky_relu": lambda a: np.maximum(np.heaviside(a, 0.0), LEAKY_SLOPE),
    "softplus": lambda a: -np.expm1(-a),  # sigmoid(z) = 1 - exp(-softplus(z))
    "gelu": _gelu_slope,
    "silu": _silu_slope,
}


@_quiet
def activation_backward(name, grad, a, out, n_threads):
    """The product grad ⊙ f', f' from `a` by the table above."""
    out[...] = grad * _SLOPES[name](a)


@_quiet
def softmax_backward(grad, y, out, n_threads):
    """grad = dE/dy times the full Jacobian dy_c/dz_j = y_c ([c = j] - y_j): y ⊙ (grad - Σ grad y)."""
    out[...] = y * (grad - (grad * y).sum(axis=1, keepdims=True))


# ----------------------------------------------------------------------------------------------------- layers


@_quiet
def linear(x, weight, bias, activation, out, n_threads):
    """f(x (N, I) @ weight (I, O) + bias (O,)), out (N, O)."""
    z = x @ weight if bias is None else x @ weight + bias
    if activation != "identity":
        _ACTIVATIONS[activation](z, z, n_threads)
    out[...] = z


@_quiet
def linear_backward_input(delta, weight, activation, a, out, n_threads):
    """The recursion (delta (N, O) @ weightᵀ (O, I)) ⊙ f'(a (N, I)), out (N, I)."""
    back = delta @ weight.T
    out[...] = back if activation == "identity" else back * _SLOPES[activation](a)


@_quiet
def linear_backward_weight(a_prev, delta, out, bias_out, n_threads):
    """The sum of the outer products, out (I, O) = a_prevᵀ @ delta; bias_out (O,) = Σ_n delta."""
    out[...], bias_out[...] = a_prev.T @ delta, delta.sum(axis=0)


def linear_softmax_cross_entropy(
    inputs, weight, bias, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing,
    lse_square_scale, softcap, mean, max_memory, losses, grad_inputs, grad_weight, grad_bias, n_threads,
):  # fmt: skip
    """The functions of the last layer one after the other, over all logits (N, C) at once: max_memory is not used."""
    z = np.empty((len(inputs), weight.shape[1]), inputs.dtype)
    linear(inputs, weight, bias, "identity", z, n_threads)
    delta = np.empty_like(z)
    loss, weight_sum = softmax_cross_entropy(
        z, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale,
        softcap, mean, losses, delta, n_threads,
    )  # fmt: skip
    x, d, _, read = _rows_read(
        inputs, delta, sample_weight, False if labels is None else labels == ignore_index
    )
    if mean and weight_sum == 0.0:  # nothing to learn from, and 0 times what is read might be NaN
        x, d, read = x[:0], d[:0], np.zeros_like(read)
    back = np.empty_like(x)
    linear_backward_input(d, weight, "identity", None, back, n_threads)
    grad_inputs[...] = 0.0
    grad_inputs[read] = back
    bias_sums = np.empty(weight.shape[1], x.dtype) if grad_bias is None else grad_bias
    linear_backward_weight(x, d, grad_weight, bias_sums, n_threads)
    return loss, weight_sum


# ------------------------------------------------------------------------------------------------- optimizers


def _subnormal(x):
    """Where |x| is below the smallest normal number, 0 included: a state that becomes 0, lest it stay there for ever."""
    return np.abs(x) < np.finfo(x.dtype).tiny


@_quiet
def sgd_update(parameters, gradient, velocity, learning_rate, momentum, nesterov, weight_decay, n_threads):
    """v <- μ v + g, w <- w - η v (nesterov: w - η (g + μ v)); g includes the decay, and v = g without μ."""
    g = gradient + weight_decay * parameters if weight_decay else gradient
    if velocity is not None:
        velocity[...] = momentum * velocity + g
        velocity[_subnormal(velocity)] = 0.0
        g = g + momentum * velocity if nesterov else velocity
    parameters -= learning_rate * g


@_quiet
def adam_update(
    parameters, gradient, first_moment, second_moment, step, learning_rate, beta_1, beta_2, epsilon,
    weight_decay, n_threads,
):  # fmt: skip
    """w <- w - η m̂ / (sqrt(v̂) + ε), from running means of g and g², each over its total weight 1 - β^step."""
    g = gradient + weight_decay * parameters if weight_decay else gradient
    first_moment[...] = beta_1 * first_moment + (1.0 - beta_1) * g
    second_moment[...] = beta_2 * second_moment + (1.0 - beta_2) * g * g
    rests = _subnormal(first_moment)
    first_moment[rests] = 0.0
    second_moment[rests & _subnormal(second_moment)] = 0.0
    m_hat = first_moment / (1.0 - beta_1**step)
    v_hat = second_moment / (1.0 - beta_2**step)
    parameters -= learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)


def optimizer_update(optimizer, parameters, gradient, n_threads):
    """Update parameters, state and `steps` together."""
    rates, state = optimizer.hyper_parameters(parameters.dtype), optimizer.state(parameters)
    _keep(optimizer, parameters, state, _updated(optimizer, rates, parameters, state, gradient, n_threads))


def _updated(optimizer, rates, parameters, state, gradient, n_threads):
    """Return what an update makes of the parameters and of the state."""
    w, *vectors = (array.copy() for array in (parameters, *state))
    if optimizer.name == "adam":
        adam_update(w, gradient, *vectors, optimizer.steps + 1, *rates, n_threads)
    else:
        sgd_update(w, gradient, vectors[0] if vectors else None, *rates, n_threads)
    return w, *vectors


def _keep(optimizer, parameters, state, new):
    """Write what `_updated` returned, and count it. The writing is one statement without a call or a loop in it, between
    which a signal handler could run, and leave a part of an update."""
    steps, nowhere = optimizer.steps + 1, np.empty_like(parameters)
    first, second = (*state, nowhere, nowhere)[:2]
    w, m, v = (*new, nowhere, nowhere)[:3]
    parameters[...], first[...], second[...], optimizer.steps = w, m, v, steps


# ---------------------------------------------------------------------------------------------------- network


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
            a = z.copy()
            if self.activation != "identity":
                _ACTIVATIONS[self.activation](z, a, self.n_threads)
            inputs.append(a)
            slopes_from.append(z if self.activation in _INPUT_NEEDED else a)
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
