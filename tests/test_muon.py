"""Muon in a network, on both backends: the steps of hidden matrices against exact values, recorded ones, and PyTorch's."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from conftest import ORACLE, every_pair, generator, shared_by
from interrupts import Interrupt, needs_signals, raising
from test_training_options import SIZES, arrays, assert_same, batch, gradient_of, network_of, train
from tolerances import RECORDED_DIGITS, many_updates, orthogonalised

import fastbp
from fastbp import AdamW, Muon, _backend

SHAPES = {"tall": (21, 6), "wide": (6, 21), "square": (17, 17), "row": (1, 9), "column": (9, 1)}


def step_of(kernels, matrix, gradient, optimizer, n_threads=1):
    """What is taken from a hidden matrix whose gradient is this one: that of its outputs, one for each of the examples."""
    inputs, outputs = matrix
    sizes = (inputs, outputs, outputs)
    w = np.zeros((inputs + 1) * outputs + (outputs + 1) * outputs, gradient.dtype)
    w[(inputs + 1) * outputs : -outputs] = np.eye(outputs).ravel()
    net = network_of(kernels, w, sizes, ("identity",), "squared_error", n_threads)
    x = np.eye(inputs, dtype=gradient.dtype)
    _, _, got = gradient_of(net, x, -inputs * gradient)
    np.testing.assert_array_equal(got[: inputs * outputs].reshape(matrix), gradient)
    assert train(net, x, -inputs * gradient, optimizer, inputs)[2:] == (1, "")
    return -w[: inputs * outputs].reshape(matrix)


def gradient_like(shape, dtype):
    """Of singular values between 1 and 1/50 or so of the largest; exact, however it is multiplied by the number of its rows."""
    rng = generator("gradient", shape)
    low = rng.standard_normal((shape[0], 1)) @ rng.standard_normal((1, shape[1]))
    g = low + 0.1 * rng.standard_normal(shape)
    return (np.round(g * 2**10) / 2**10).astype(dtype)


@every_pair(
    "dtype",
    "engine",
    shape=[*SHAPES],
    ns_steps=[1, 2, 5],
    nesterov=[False, True],
    fits=["original", "match_rms_adamw"],
)
def test_the_step_of_a_matrix(dtype, shape, ns_steps, nesterov, fits, engine):
    """Against the formula in the next wider dtype: it is the first step, so the momentum is a multiple of the gradient."""
    inputs, outputs = SHAPES[shape]
    g = gradient_like(SHAPES[shape], dtype)
    optimizer = Muon(1.0, ns_steps=ns_steps, nesterov=nesterov, adjust_lr_fn=fits, weight_decay=0.0)
    got = step_of(engine, SHAPES[shape], g, optimizer)
    x = g.astype(ORACLE[dtype])
    x /= np.sqrt((x * x).sum())
    for _ in range(ns_steps):
        x = 3.4445 * x - 4.7750 * (x @ x.T @ x) + 2.0315 * (x @ x.T @ x @ x.T @ x)
    factor = max(1, outputs / inputs) ** 0.5 if fits == "original" else 0.2 * max(inputs, outputs) ** 0.5
    off = orthogonalised(inputs, outputs, ns_steps) * np.finfo(dtype).eps
    assert (np.abs(got - factor * x) <= factor * off).all(), (
        np.abs(got / factor - x).max() / np.finfo(dtype).eps
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=[*SHAPES])
def test_it_is_nearly_orthogonal(shape, dtype, engine):
    """All singular values within the bounds of the source, those of the gradient far apart."""
    g = gradient_like(shape, dtype)
    step = step_of(engine, shape, g, Muon(1.0, weight_decay=0.0)) / max(1, shape[1] / shape[0]) ** 0.5
    singular, before = (np.linalg.svd(each, compute_uv=False) for each in (step, g))
    assert (singular > 0.6).all() and (singular < 1.21).all()
    assert min(shape) == 1 or before.max() > 10 * before.min()


def test_without_a_hidden_matrix_it_is_adamw(dtype, engine):
    """A network of one layer; and a vector, of whose matrices nothing is known."""
    start, x, t = batch(dtype, sizes=(6, 4))
    results = []
    for optimizer in (Muon(0.1, adam_ratio=0.5, weight_decay=0.2), AdamW(0.05, weight_decay=0.2)):
        net = network_of(engine, start.copy(), (6, 4), ())
        assert train(net, x, t, optimizer)[2:] == (4, "")
        vector, other = start.copy(), copy.copy(optimizer)
        other.reset()
        other.update(vector, start[::-1].copy(), n_threads=1)
        results.append([*arrays(net, optimizer), vector])
    assert_same(*results)


def test_biases_and_the_last_layer_go_by_adamw(dtype, engine):
    """To the bit; their state lies beside the momentum of the matrices, which have no second moment."""
    start, x, t = batch(dtype)
    nets = [network_of(engine, start.copy()) for _ in range(2)]
    muon, adamw = Muon(0.1, adam_ratio=0.5, weight_decay=0.2), AdamW(0.05, weight_decay=0.2)
    for net, optimizer in zip(nets, (muon, adamw), strict=True):
        assert train(net, x, t, optimizer, 40)[2:] == (1, "")
    ends = np.cumsum([n for i, o in itertools.pairwise(SIZES) for n in (i * o, o)])
    segments = [
        np.split(np.stack(arrays(net, optimizer)), ends[:-1], axis=1)
        for net, optimizer in zip(nets, (muon, adamw), strict=True)
    ]
    for number, (ours, theirs) in enumerate(zip(*segments, strict=True)):
        hidden = number in (0, 2)
        assert (ours.tobytes() == theirs.tobytes()) != hidden
        assert ours[2].any() != hidden


def test_a_gradient_of_zeros_makes_no_step(dtype, engine):
    """Nor what is too small to have a direction: below the least norm steps shrink with it."""
    tiny = Muon(1.0, epsilon=1.0, momentum=0.0, weight_decay=0.0, ns_steps=1)
    g = gradient_like((6, 21), dtype)
    assert not step_of(engine, (6, 21), 0 * g, Muon(1.0)).any()
    off = 100 * np.finfo(dtype).eps * np.abs(g).max() / 2**30
    factor = 3.4445 * (21 / 6) ** 0.5
    assert np.abs(step_of(engine, (6, 21), g / 2**30, tiny) - factor * g / 2**30).max() < off


def test_the_same_bits_on_any_number_of_threads(dtype, isa):
    sizes = (60, 300, 200, 4)
    start, x, t = batch(dtype, 100, sizes)
    results = []
    for n_threads in (1, 2, 3):
        net, optimizer = network_of(_backend.kernels, start.copy(), sizes, n_threads=n_threads), Muon()
        with shared_by(n_threads):
            train(net, x, t, optimizer, 50, clip_norm=0.5)
        results.append(arrays(net, optimizer))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_a_step_is_a_batch_of_training(dtype, isa):
    """Also after a change of what the optimizer does with matrices, and after other batches and optimizers."""
    start, x, t = batch(dtype)
    nets = [network_of(_backend.kernels, start.copy()) for _ in range(2)]
    optimizers = [Muon(), Muon()]
    for ns_steps in (5, 3, 2):
        for optimizer in optimizers:
            optimizer.ns_steps = ns_steps
        assert nets[0].step(x[:10], t[:10], optimizers[0]) is not None
        assert nets[0].step(x, t, AdamW(0.0, weight_decay=0.0)) is not None
        train(nets[1], x, t, optimizers[1], order=np.arange(10))
    assert_same(arrays(nets[0], optimizers[0]), arrays(nets[1], optimizers[1]))


@needs_signals
def test_an_interrupt_comes_before_the_first_write_or_after_the_last(isa):
    """However long it takes to orthogonalise, of one large matrix or many."""
    sizes = (300, 400, 400, 4)
    start, x, t = batch(np.float32, 8, sizes)
    net, optimizer = network_of(_backend.kernels, start.copy(), sizes), Muon()
    train(net, x, t, optimizer)
    before = [array.copy() for array in arrays(net, optimizer)]

    def work():
        for array, value in zip(arrays(net, optimizer), before, strict=True):
            array[:] = value
        optimizer.steps = 1
        train(net, x, t, optimizer)

    work()
    after = [array.copy() for array in arrays(net, optimizer)]
    with raising(Interrupt) as send:
        for delay in (0.001, 0.002, 0.005):
            with pytest.raises(Interrupt):
                send(delay)
                while True:
                    work()
            for array, *ends in zip(arrays(net, optimizer), before, after, strict=True):
                assert array.tobytes() in [end.tobytes() for end in ends]


# -- against recorded values, and PyTorch ----------------------------------------------------------------------------------------

OPTIONS = (
    {},
    {
        "nesterov": False,
        "ns_steps": 4,
        "adjust_lr_fn": "match_rms_adamw",
        "adam_ratio": 1.0,
        "learning_rate": 0.01,
    },
    {"momentum": 0.5, "weight_decay": 0.5, "epsilon": 0.1, "beta_1": 0.5, "beta_2": 0.9, "adam_epsilon": 0.1},
)
RECORDED = (
    [
        [-0.02575872378191, 0.89307876318051, 0.47403210394754],
        [-0.61930308610229, -0.84285056336002, 0.85135368516208],
        [0.88666000413817, 0.61984489399804, 0.74529102238847],
        [0.81681767891352, 0.95343120688137, -0.93414690157549],
        [-0.7194466664314, -0.65105500247922, -0.8051937725167],
        [0.65748735674624, -0.77353021230599, 0.45460512630599],
    ],
    [
        [-0.00893709072986, 0.8793870713691, 0.52566759877126],
        [-0.54098448406465, -0.94629644783035, 0.83375825418318],
        [0.77083754877438, 0.50629561847963, 0.84085276896812],
        [0.71167794190498, 1.06831060062817, -0.82554848690841],
        [-0.61041169143437, -0.54210952137828, -0.91219337328265],
        [0.54933806001752, -0.66584486158909, 0.34838876622293],
    ],
    [
        [-0.01500450588857, 0.80362881022227, 0.42048959166877],
        [-0.56727334019698, -0.75092530054762, 0.77359467831684],
        [0.8885222243459, 0.62071868647861, 0.73652351345141],
        [0.82355807658331, 0.94815315679428, -0.94128256865087],
        [-0.72868086147784, -0.65694476855228, -0.80086044474845],
        [0.66297323169569, -0.77707559621737, 0.45771939742633],
    ],
)


def trained(options, theirs=None):
    """A network after twelve steps, each of which `theirs` has followed."""
    net, optimizer = fastbp.MLP((6, 9, 5, 4), activation="tanh", dtype="float64", seed=0), Muon(**options)
    net.parameters[:] = np.sin(np.arange(net.parameters.size) ** 1.5)
    x, t = np.sin(np.arange(120.0)).reshape(20, 6) * 2, np.arange(20) % 4
    follow = theirs(net, optimizer) if theirs else lambda gradients: None
    for _ in range(12):
        gradients = net.gradients(x, t)
        net.step(x, t, optimizer)
        follow(gradients)
    return net


def off_after(steps, options):
    """How far apart two networks may be."""
    rate, n_steps = options.get("learning_rate", 0.02), options.get("ns_steps", 5)
    return (many_updates(steps) + steps * rate * 2 * orthogonalised(9, 9, n_steps)) * np.finfo(float).eps


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_like_pytorch(options, backend, monkeypatch):
    """Step by step in float64, to which its cast to bfloat16 is changed."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)

    def theirs(net, optimizer):
        rates = {"lr": optimizer.learning_rate, "weight_decay": optimizer.weight_decay}
        weights = [torch.tensor(w.T.copy()) for w in net.weights]
        biases = [torch.tensor(b.copy()) for b in net.biases]
        of_matrices = {
            name: getattr(optimizer, name) for name in ("momentum", "nesterov", "ns_steps", "adjust_lr_fn")
        }
        of_the_rest = {"betas": (optimizer.beta_1, optimizer.beta_2), "eps": optimizer.adam_epsilon}
        of_the_rest["lr"] = optimizer.adam_ratio * optimizer.learning_rate
        steps = (
            torch.optim.Muon(weights[:-1], eps=optimizer.epsilon, **rates, **of_matrices),
            torch.optim.AdamW(weights[-1:], **rates | of_the_rest),
            torch.optim.AdamW(biases, **of_the_rest, weight_decay=0.0),
        )

        def follow(gradients):
            for w, g in zip(weights, gradients.weights, strict=True):
                w.grad = torch.tensor(g.T.copy())
            for b, g in zip(biases, gradients.biases, strict=True):
                b.grad = torch.tensor(g.copy())
            for each in steps:
                each.step()
            ours = [*(w.T for w in net.weights), *net.biases]
            for got, want in zip(ours, (*weights, *biases), strict=True):
                assert np.abs(got - want.numpy()).max() <= off_after(optimizer.steps, options)

        return follow

    trained(options, theirs)


@pytest.mark.parametrize(("options", "want"), [*zip(OPTIONS, RECORDED, strict=True)], ids=repr)
def test_recorded(options, want, backend):
    """Three parameters of each array after those steps: of the networks that followed PyTorch's."""
    net = trained(options)
    got = np.array([array.ravel()[[0, array.size // 2, -1]] for array in (*net.weights, *net.biases)])
    assert np.abs(got - np.array(want)).max() <= off_after(12, options) + RECORDED_DIGITS
