# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""Optimizer updates in place: a rule is what becomes of its state and which step it takes.

A rule gets the gradient (after clipping and a coupled decay), its rates, the number of the step from 1, and its state, a list of
vectors in its order, None those that there are not. It changes these, and returns the step d: the parameters go to w - η d.
"""

from __future__ import annotations

import numpy as np

from fastbp._reference.parts import quiet


def _at_rest(x, where=True):
    """Set to 0, where `where`, what is below the smallest normal number, lest it stay there for ever."""
    x[where & (np.abs(x) < np.finfo(x.dtype).tiny)] = 0.0


def sgd(g, rates, step, state):
    """v <- μ v + g; d = v (nesterov: g + μ v), g without a velocity."""
    (momentum, nesterov), (v, *_) = rates, state
    if v is None:
        return g
    v[...] = momentum * v + g
    _at_rest(v)
    return g + momentum * v if nesterov else v


def rmsprop(g, rates, step, state):
    """v <- α v + (1-α) g²; d = g / (sqrt(v) + ε), centred sqrt(v - m²) of the mean m; with momentum b <- μ b + d is the step."""
    (alpha, epsilon, momentum), (v, m, b, *_) = rates, state
    v[...] = alpha * v + (1.0 - alpha) * g * g
    _at_rest(v, np.abs(g) < np.finfo(v.dtype).tiny)
    spread = v
    if m is not None:
        m[...] = alpha * m + (1.0 - alpha) * g
        _at_rest(m)
        spread = np.maximum(v - m * m, 0.0)
    d = g / (np.sqrt(spread) + epsilon)
    if b is not None:
        b[...] = momentum * b + d
        _at_rest(b)
    return d if b is None else b


def adagrad(g, rates, step, state):
    """v <- v + g²; d = g / (sqrt(v) + ε)."""
    (epsilon,), (v, *_) = rates, state
    v[...] = v + g * g
    _at_rest(v, np.abs(g) < np.finfo(v.dtype).tiny)
    return g / (np.sqrt(v) + epsilon)


def adam(g, rates, step, state):
    """d = m̂ / (sqrt(v̂) + ε), from running means of g and g², each over its total weight 1 - β^step; AMSGrad: the largest v."""
    (beta_1, beta_2, epsilon), (m, v, *more) = rates, state
    largest = more[0] if more else None
    m[...] = beta_1 * m + (1.0 - beta_1) * g
    v[...] = beta_2 * v + (1.0 - beta_2) * g * g
    rests = np.abs(m) < np.finfo(m.dtype).tiny
    _at_rest(m)
    _at_rest(v, rests)
    if largest is not None:
        largest[...] = np.maximum(largest, v)
        _at_rest(largest, rests)
        v = largest
    root = np.sqrt(v) / np.sqrt(v.dtype.type(1.0 - beta_2**step))
    return m / (root + epsilon) / (1.0 - beta_1**step)


def lion(g, rates, step, state):
    """d is the sign of β₁ m + (1-β₁) g; m <- β₂ m + (1-β₂) g."""
    (beta_1, beta_2), (m, *_) = rates, state
    d = np.sign(beta_1 * m + (1.0 - beta_1) * g)
    m[...] = beta_2 * m + (1.0 - beta_2) * g
    _at_rest(m)
    return d


RULES = {rule.__name__: rule for rule in (sgd, rmsprop, adagrad, adam, lion)}


def orthogonalised(x, n_steps, epsilon):
    """X / max(|X|, ε), and so many times X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X."""
    a, b, c = 3.4445, -4.7750, 2.0315
    with np.errstate(over="ignore"):
        length = np.sqrt((x.astype(np.promote_types(x.dtype, np.float64)) ** 2).sum())
    x = (x / np.maximum(length, epsilon)).astype(x.dtype)
    for _ in range(n_steps):
        gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
        gram = b * gram + c * gram @ gram
        x = a * x + (gram @ x if x.shape[0] <= x.shape[1] else x @ gram)
    return x


def muon(g, rates, optimizer, m):
    """m <- μ m + (1-μ) g; d is m (nesterov: μ m + (1-μ) g), orthogonalised, times a factor that follows from its shape."""
    momentum, nesterov, epsilon, _ = rates
    m[...] = momentum * m + (1.0 - momentum) * g
    d = momentum * m + (1.0 - momentum) * g if nesterov else m.copy()
    _at_rest(m)
    inputs, outputs = g.shape
    factor = max(1.0, outputs / inputs) ** 0.5
    if optimizer.adjust_lr_fn == "match_rms_adamw":
        factor = 0.2 * max(inputs, outputs) ** 0.5
    return factor * orthogonalised(d, optimizer.ns_steps, epsilon)


@quiet
def update_segment(optimizer, rates, step, w, g, state, decays, scale=1.0, clip=0.0, matrix=()):
    """Update some of the parameters: those of one array, of this shape where it is a hidden matrix."""
    rate, *own, decay = map(float, rates)
    of_matrices, own = own[: optimizer.of_matrices], own[optimizer.of_matrices :]
    decay = decay if decays else 0.0
    g = scale * g if scale != 1.0 else g
    if clip:
        g = np.clip(g, -clip, clip)
    if decay and not optimizer.decoupled:
        g = g + decay * w
    states = [state.get(name) for name in optimizer.vectors]
    if of_matrices and matrix:
        d = muon(g.reshape(matrix), of_matrices, optimizer, states[0].reshape(matrix)).reshape(-1)
    else:
        d = RULES[optimizer.rule](g, own, step, states)
        rate *= of_matrices[3] if of_matrices else 1.0
    if decay and optimizer.decoupled:
        w *= 1.0 - rate * decay
    w -= rate * d
    if optimizer.average is not None:
        kept = optimizer.average if step > 1 else 0.0
        state["average"][...] = kept * state["average"] + (1.0 - kept) * w


def update(optimizer, rates, state, step, parameters, gradient, n_threads):
    """Make update number `step`, from 1, of all parameters, and of the state."""
    update_segment(optimizer, rates, step, parameters, gradient, state, True)


def optimizer_update(optimizer, parameters, gradient, n_threads):
    """Update parameters, state and `steps` together."""
    rates, state = optimizer.hyper_parameters(parameters.dtype), optimizer.state(parameters)
    w, new = parameters.copy(), {name: vector.copy() for name, vector in state.items()}
    update(optimizer, rates, new, optimizer.steps + 1, w, gradient, n_threads)
    keep(optimizer, parameters, state, w, new)


def keep(optimizer, parameters, state, w, new):
    """Write an update that was made on copies, and count it. The writing is one statement without a call or a loop in it, between
    which a signal handler could run, and leave a part of an update."""
    steps, nowhere = optimizer.steps + 1, np.empty_like(parameters)
    first, second, third, fourth = (*state.values(), nowhere, nowhere, nowhere, nowhere)[:4]
    a, b, c, d = (*new.values(), nowhere, nowhere, nowhere, nowhere)[:4]
    parameters[...], first[...], second[...], third[...], fourth[...], optimizer.steps = w, a, b, c, d, steps
