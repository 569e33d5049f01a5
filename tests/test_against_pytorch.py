"""What PyTorch has too: the same errors, activations, gradients and updates in float64, for every option that both have.

Where PyTorch answers otherwise, a test at the end of this file names the difference: in what a mean divides by, at extremes where
its formula makes NaN of 0 · inf, and where it loses the digits of a small error.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from tolerances import ACTIVATIONS, FROM_INPUT, NO_WORSE, UNDERFLOW, many_updates, sum_of

import fastbp

torch = pytest.importorskip("torch")
from hypothesis import given, settings  # noqa: E402 - which takes most of a second
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra.numpy import arrays  # noqa: E402

F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("backend")

INF, NAN = np.inf, np.nan
EPS, SMALLEST = np.finfo(np.float64).eps, np.finfo(np.float64).smallest_subnormal
examples = settings(deadline=None, derandomize=True, max_examples=150)


def pytorch(function, x, targets, **options):
    """Loss and gradient of the sum of what `function` returns."""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    given = {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}
    loss = function(leaf, torch.tensor(targets), **given)
    loss.sum().backward()
    return SimpleNamespace(loss=loss.detach().numpy(), grad=leaf.grad.numpy())


def assert_agree(ours, theirs, sizes, grad_sizes, reduction):
    """Within rounding: each of the two is off by a few eps of the sizes of its terms, where PyTorch forms 1 + small and y - 1."""
    few = 2 * NO_WORSE + sum_of(grad_sizes.shape[1]) + sum_of(len(sizes))
    underflow = UNDERFLOW * grad_sizes.size * SMALLEST
    size = sizes if reduction == "none" else sizes.sum()
    if reduction == "mean":
        size, grad_sizes = size / ours.weight_sum, grad_sizes / ours.weight_sum
    for got, want, terms in ((ours.loss, theirs.loss, size), (ours.grad, theirs.grad, grad_sizes)):
        with np.errstate(invalid="ignore"):
            error = np.where(got == want, 0, np.abs(got - want))
        assert np.all(error <= few * EPS * terms + underflow), (got, want)


# -- softmax -------------------------------------------------------------------------------------------------------------------

REDUCTIONS = st.sampled_from(["mean", "sum", "none"])


def softmax_sizes(z, u):
    """Per example Σ u_c (1 + lse - z_c); per logit Σ u: exp(z_c - m) (m - z_c) is below 1."""
    m = z.max(axis=1, keepdims=True)
    terms = u * (1 + np.log(z.shape[1]) + np.where(u > 0, m - z, 0))
    return terms.sum(axis=1), 2 * np.broadcast_to(u.sum(axis=1, keepdims=True), z.shape)


@st.composite
def softmax_calls(draw):
    n, c = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    largest = draw(st.sampled_from([1.0, 30.0, 1e4, 1e8]))
    z = draw(arrays(np.float64, (n, c), elements=st.floats(-largest, largest)))
    weights = arrays(np.float64, (c,), elements=st.floats(0.01, 10))
    options = {"label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])), "reduction": draw(REDUCTIONS)}
    options["class_weight"] = draw(st.none() | weights)
    if draw(st.booleans()):
        options["ignore_index"] = draw(st.sampled_from([-100, 0, 7]))
        labels = draw(arrays(np.int64, (n,), elements=st.integers(0, c - 1)))
        ignored = draw(arrays(np.bool_, (n,)))
        return z, np.where(ignored, options["ignore_index"], labels), options
    rows = draw(arrays(np.float64, (n, c), elements=st.floats(0, 1)))
    return z, rows, options


@examples
@given(softmax_calls())
def test_cross_entropy(call):
    """With rows of targets and class weights PyTorch's mean is over N: see below."""
    z, targets, options = call
    n, c = z.shape
    if targets.ndim == 2 and options["class_weight"] is not None and options["reduction"] == "mean":
        options["reduction"] = "sum"
    ours = fastbp.softmax_cross_entropy(z, targets, **options)
    w = options.pop("class_weight")
    theirs = pytorch(F.cross_entropy, z, targets, weight=w, **options)
    if ours.weight_sum == 0:  # all ignored
        assert np.array_equal(ours.loss, theirs.loss, equal_nan=True) and not (
            ours.grad.any() or theirs.grad.any()
        )
        return
    t, read = targets, np.ones(n, bool)
    if targets.ndim == 1:
        t, read = np.arange(c) == targets[:, None], targets != options["ignore_index"]
    epsilon = options["label_smoothing"]
    u = (1 if w is None else w) * ((1 - epsilon) * t + epsilon / c) * read[:, None]
    assert_agree(ours, theirs, *softmax_sizes(z, u), options["reduction"])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("row", "label"),
    [
        ([1e4, 0, -1e4], 1),
        ([1e8, 1e8 + 1, -1e8], 0),
        ([1e300, 0, 0], 0),
        ([-INF, 0, 1], 1),
        ([-INF, 0, 1], 0),
        ([NAN, 0, 1], 1),
        ([INF, 0, 1], 1),
        ([-INF, -INF, -INF], 1),
    ],
    ids=str,
)
def test_cross_entropy_at_extremes(row, label, reduction):
    """The same errors, infinite and NaN alike; an infinite error has the gradient y - t, a row without a softmax is NaN alone."""
    z, labels = np.array([row, [0.5, 0.0, -0.5]]), np.array([label, 2])
    ours = fastbp.softmax_cross_entropy(z, labels, reduction=reduction)
    theirs = pytorch(F.cross_entropy, z, labels, reduction=reduction)
    np.testing.assert_array_max_ulp(ours.loss, theirs.loss, NO_WORSE)
    assert np.array_equal(np.isnan(ours.grad), np.isnan(theirs.grad))
    np.testing.assert_array_less(np.abs(np.nan_to_num(ours.grad - theirs.grad)), NO_WORSE * EPS)


# -- outputs that do not interact ----------------------------------------------------------------------------------------------


@st.composite
def elementwise_calls(draw):
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    largest = draw(st.sampled_from([1.0, 30.0, 1e4, 1e8]))
    x = draw(arrays(np.float64, shape, elements=st.floats(-largest, largest)))
    t = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0]) | st.floats(0, 1)))
    p = draw(st.none() | arrays(np.float64, shape[1:], elements=st.floats(0.01, 10)))
    return x, t, p, draw(REDUCTIONS)


def per_example(theirs, reduction, outputs):
    """PyTorch averages over outputs as well, and with "none" returns them one by one."""
    if reduction == "none":
        return SimpleNamespace(loss=theirs.loss.sum(axis=1), grad=theirs.grad)
    factor = outputs if reduction == "mean" else 1
    return SimpleNamespace(loss=factor * theirs.loss, grad=factor * theirs.grad)


@examples
@given(elementwise_calls(), st.sampled_from([0.0, 0.1, 1.0]))
def test_binary_cross_entropy(call, smoothing):
    """PyTorch has no label smoothing here: its targets are smoothed by hand."""
    z, t, p, reduction = call
    ours = fastbp.sigmoid_cross_entropy(z, t, pos_weight=p, label_smoothing=smoothing, reduction=reduction)
    smooth = (1 - smoothing) * t + smoothing / 2
    theirs = pytorch(F.binary_cross_entropy_with_logits, z, smooth, pos_weight=p, reduction=reduction)
    both = (1 if p is None else p) + 1.0
    sizes, grad_sizes = both * (1 + np.abs(z)), np.broadcast_to(2 * both, z.shape)
    assert_agree(ours, per_example(theirs, reduction, z.shape[1]), sizes.sum(axis=1), grad_sizes, reduction)


@examples
@given(elementwise_calls())
def test_mean_squared_error(call):
    """PyTorch has no ½."""
    y, t, _, reduction = call
    ours = fastbp.squared_error(y, t, reduction=reduction)
    theirs = per_example(pytorch(F.mse_loss, y, t, reduction=reduction), reduction, y.shape[1])
    halved = SimpleNamespace(loss=theirs.loss / 2, grad=theirs.grad / 2)
    miss = np.abs(y - t)
    assert_agree(ours, halved, (miss**2).sum(axis=1), miss, reduction)


@examples
@given(elementwise_calls(), st.sampled_from([0.5, 1.0, 30.0]))
def test_huber(call, delta):
    y, t, _, reduction = call
    ours = fastbp.huber(y, t, delta=delta, reduction=reduction)
    theirs = pytorch(F.huber_loss, y, t, delta=delta, reduction=reduction)
    miss = np.abs(y - t)
    within = np.minimum(miss, delta)
    assert_agree(
        ours, per_example(theirs, reduction, y.shape[1]), (within * miss).sum(axis=1), within, reduction
    )


@examples
@given(elementwise_calls(), st.sampled_from([0.5, 0.1, 0.99]))
def test_quantile(call, tau):
    """PyTorch has it for τ = ½ only, as the absolute error; by hand for the others. It, too, takes 0 at the target."""
    y, t, _, reduction = call
    ours = fastbp.quantile(y, t, tau=tau, reduction=reduction)

    def pinball(y, t, reduction):
        r = y - t
        errors = (
            (1 - tau) * F.relu(r) + tau * F.relu(-r) if tau != 0.5 else F.l1_loss(y, t, reduction="none") / 2
        )
        return errors if reduction == "none" else getattr(errors, reduction)()

    theirs = per_example(pytorch(pinball, y, t, reduction=reduction), reduction, y.shape[1])
    assert_agree(ours, theirs, np.abs(y - t).sum(axis=1), np.ones_like(y), reduction)


def test_extremes_of_logistic_outputs():
    """In both tails, with the right answer and the wrong one."""
    z = np.array([[800.0, -800, 1e4, -1e4, 1e300, INF, -INF]]).T
    t = (z < 0).astype(float)  # the wrong one everywhere
    ours = fastbp.sigmoid_cross_entropy(z, t, reduction="none")
    theirs = pytorch(F.binary_cross_entropy_with_logits, z, t, reduction="none")
    assert np.array_equal(ours.loss[:6], theirs.loss[:6, 0]) and np.array_equal(ours.grad, theirs.grad)


# -- activations ---------------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, threshold=1000),  # from 20 on it is x otherwise
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    """PyTorch forms 1 + erf and exp - 1: its errors are relative to 1, or to x."""
    x = np.random.default_rng(0).uniform(-30, 30, 2000)
    theirs = pytorch(lambda x, _: FUNCTIONS[name](x), x, 0.0)
    y = getattr(fastbp, name)(x)
    slope = fastbp.activation_backward(name, np.ones_like(x), x if name in FROM_INPUT else y)
    for ours, expected in ((y, theirs.loss), (slope, theirs.grad)):
        assert (np.abs(ours - expected) <= 2 * NO_WORSE * EPS * (1 + np.abs(x))).all()


# -- optimizers ----------------------------------------------------------------------------------------------------------------

ADAMS = (
    {},
    {"amsgrad": True},
    {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1},
    {"weight_decay": 0.0},
    {"weight_decay": 0.5},
)
UPDATES = {
    fastbp.SGD: (
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.5},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.5},
    ),
    fastbp.RMSprop: (
        {},
        {"centered": True},
        {"momentum": 0.9},
        {"alpha": 0.5, "epsilon": 0.1, "weight_decay": 0.5},
        {"momentum": 0.9, "centered": True, "weight_decay": 0.5},
    ),
    fastbp.Adagrad: ({}, {"weight_decay": 0.5}, {"epsilon": 0.1}),
    fastbp.Adam: ADAMS,
    fastbp.AdamW: ADAMS,
}
THEIR_NAMES = {"learning_rate": "lr", "epsilon": "eps"}


def by_pytorch(optimizer, w):
    """A function that updates w (P,) by a gradient, with the options of this optimizer of ours."""
    options = {name: getattr(optimizer, name) for name in (*optimizer.rates, *optimizer.options)}
    options = {THEIR_NAMES.get(name, name): value for name, value in options.items()}
    if "beta_1" in options:
        options["betas"] = options.pop("beta_1"), options.pop("beta_2")
    parameters = torch.tensor(w, requires_grad=True)
    theirs = getattr(torch.optim, type(optimizer).__name__)([parameters], **options)

    def update(g):
        parameters.grad = torch.tensor(g)
        theirs.step()
        return parameters.detach().numpy()

    return update


def by_hand(lion, w):
    """The same of Lion, which PyTorch has not."""
    w, m = w.copy(), np.zeros_like(w)

    def update(g):
        w[:] -= lion.learning_rate * lion.weight_decay * w
        w[:] -= lion.learning_rate * np.sign(lion.beta_1 * m + (1 - lion.beta_1) * g)
        m[:] = lion.beta_2 * m + (1 - lion.beta_2) * g
        return w

    return update


@pytest.mark.parametrize(
    "make",
    [
        *(partial(kind, **options) for kind, ways in UPDATES.items() for options in ways),
        *(
            partial(fastbp.Lion, **options)
            for options in ({}, {"beta_1": 0.5, "beta_2": 0.7, "weight_decay": 0.5})
        ),
    ],
    ids=lambda make: f"{make.func.__name__}-{make.keywords}",
)
def test_updates(make):
    """Step by step, by gradients of many sizes."""
    rng, optimizer = np.random.default_rng(0), make()
    w = rng.standard_normal(31)
    theirs = (by_hand if isinstance(optimizer, fastbp.Lion) else by_pytorch)(optimizer, w)
    for step in range(1, 26):
        g = rng.standard_normal(31) * 10.0 ** rng.integers(-3, 1, 31)
        optimizer.update(w, g)
        assert (np.abs(w - theirs(g)) <= many_updates(step) * EPS * np.maximum(1, np.abs(w))).all()


# -- where PyTorch answers otherwise -------------------------------------------------------------------------------------------


def test_mean_over_rows_of_targets_with_class_weights():
    """PyTorch divides by N whatever the class weights, we by the weights of the examples: Σ_n Σ_c w_c t_c / Σ_c t_c."""
    rng = np.random.default_rng(0)
    z, t, w = rng.standard_normal((5, 3)), rng.dirichlet(np.ones(3), 5), np.array([0.5, 3.0, 1.0])
    theirs = pytorch(F.cross_entropy, z, t, weight=w)
    ours = fastbp.softmax_cross_entropy(z, t, class_weight=w)
    total = fastbp.softmax_cross_entropy(z, t, class_weight=w, reduction="sum")
    assert abs(ours.loss / theirs.loss - 1) > 0.1
    sizes = [terms / 5 for terms in softmax_sizes(z, w * t)]
    per_row = SimpleNamespace(loss=total.loss / 5, grad=total.grad / 5, weight_sum=5.0)
    assert_agree(per_row, theirs, sizes[0], sizes[1], "sum")


def test_ignored_rows_are_not_read():
    """In PyTorch the NaN of an ignored row is in its gradient."""
    z, labels = np.array([[NAN, 0, 0], [0, 0, 0]]), np.array([-100, 1])
    assert np.isnan(pytorch(F.cross_entropy, z, labels).grad[0]).all()
    assert not fastbp.softmax_cross_entropy(z, labels).grad[0].any()


def test_class_weights_that_are_all_zero():
    """NaN for the mean in both; the gradient is NaN in PyTorch, 0 here."""
    z, labels, w = np.zeros((2, 3)), np.array([0, 1]), np.zeros(3)
    theirs, ours = (
        pytorch(F.cross_entropy, z, labels, weight=w),
        fastbp.softmax_cross_entropy(z, labels, class_weight=w),
    )
    assert np.isnan(theirs.loss) and np.isnan(ours.loss)
    assert np.isnan(theirs.grad).all() and not ours.grad.any()


@pytest.mark.parametrize(
    ("targets", "w"), [([[0, 0.5, 0.5]], None), ([0], [0.0, 1, 1])], ids=["target 0", "class weight 0"]
)
def test_zero_times_an_infinite_error(targets, w):
    """A logit -inf whose target, or whose class weight, is 0: PyTorch's sum is NaN, 0 · log 0 = 0 here."""
    z, targets, w = np.array([[-INF, 0, 1]]), np.array(targets), None if w is None else np.array(w)
    theirs = pytorch(F.cross_entropy, z, targets, weight=w, reduction="sum")
    ours = fastbp.softmax_cross_entropy(z, targets, class_weight=w, reduction="sum")
    assert np.isnan(theirs.loss) and np.isfinite(ours.loss)
    assert np.allclose(ours.grad, theirs.grad, rtol=0, atol=NO_WORSE * EPS)


def test_infinite_logits_of_the_right_sign():
    """PyTorch's (1 - t) z and max(-z, 0) make NaN of 0 · inf and inf - inf; the error is 0, on the other side inf."""
    z, t = np.array([INF, -INF, -INF]), np.array([1.0, 0.0, 1.0])
    theirs = pytorch(F.binary_cross_entropy_with_logits, z, t, reduction="none")
    ours = fastbp.sigmoid_cross_entropy(z, t, reduction="none")
    assert np.isnan(theirs.loss).all() and ours.loss.tolist() == [0, 0, INF]
    assert ours.grad.tolist() == theirs.grad.tolist() == [0, 0, -1]


def test_small_errors_keep_their_digits():
    """Two classes 40 apart, or one output at 40: the error e⁻⁴⁰ and its gradient round to 0 in PyTorch, which forms 1 + e⁻⁴⁰."""
    small = np.exp(-40.0)
    theirs = pytorch(F.cross_entropy, [[40.0, 0.0]], [0])
    ours = fastbp.softmax_cross_entropy([[40.0, 0.0]], [0])
    assert theirs.loss == theirs.grad[0, 0] == 0
    np.testing.assert_array_max_ulp(np.array([ours.loss, -ours.grad[0, 0]]), np.full(2, small), NO_WORSE)
    theirs = pytorch(F.binary_cross_entropy_with_logits, [40.0], [1.0])
    ours = fastbp.sigmoid_cross_entropy([40.0], 1)
    assert theirs.grad == 0
    np.testing.assert_array_max_ulp(np.array([ours.loss, -ours.grad[0]]), np.full(2, small), NO_WORSE)
