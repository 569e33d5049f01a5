# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""Optimizer updates in place."""

from __future__ import annotations

import numpy as np

from fastbp._reference.parts import quiet


def _subnormal(x):
    """Where |x| is below the smallest normal number, 0 included: a state that becomes 0, lest it stay there for ever."""
    return np.abs(x) < np.finfo(x.dtype).tiny


@quiet
def sgd_update(parameters, gradient, velocity, learning_rate, momentum, nesterov, weight_decay, n_threads):
    """v <- μ v + g, w <- w - η v (nesterov: w - η (g + μ v)); g includes the decay, and v = g without μ."""
    g = gradient + weight_decay * parameters if weight_decay else gradient
    if velocity is not None:
        velocity[...] = momentum * velocity + g
        velocity[_subnormal(velocity)] = 0.0
        g = g + momentum * velocity if nesterov else velocity
    parameters -= learning_rate * g


@quiet
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
