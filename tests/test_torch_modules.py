"""Networks as modules of PyTorch, and modules as networks."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from tolerances import ACTIVATIONS, AS_GOOD_AS_EQUAL, NO_WORSE
from torch_calls import EPS, classes, generator, randn

import fastbp

torch = pytest.importorskip("torch")


from torch.nn.utils import prune  # noqa: E402

import fastbp.torch as ours  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    generator.manual_seed(0)


def network(activation="relu", **options):
    return fastbp.MLP([4, 6, 5, 3], **{"activation": activation, "seed": 0, "dtype": "float64"} | options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_there_and_back(activation):
    net = network(activation)
    for bias in net.biases:
        bias[:] = np.random.default_rng(0).standard_normal(bias.shape)
    x = 30 * randn(50, 4)  # far into the tails
    module = ours.to_module(net)
    size = float(np.abs(net.logits(x.numpy())).max()) + 1
    assert np.allclose(module(x).detach(), net.logits(x.numpy()), rtol=0, atol=100 * NO_WORSE * EPS * size)
    back = ours.from_module(module)
    assert np.array_equal(back.parameters, net.parameters) and back.activations == net.activations
    assert np.array_equal(back.forward(x.numpy()), net.forward(x.numpy()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_weights_are_shared(dtype):
    net = network(dtype=dtype)
    module = ours.to_module(net)
    for linear, weight, bias in zip(
        [each for each in module if isinstance(each, torch.nn.Linear)], net.weights, net.biases, strict=True
    ):
        assert (
            linear.weight.data_ptr() == weight.__array_interface__["data"][0] and linear.weight.requires_grad
        )
        assert linear.bias.data_ptr() == bias.__array_interface__["data"][0]
        assert tuple(linear.weight.shape) == (linear.out_features, linear.in_features) == weight.shape[::-1]
    x, before = randn(8, 4, dtype=getattr(torch, dtype)), net.parameters.copy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss = ours.cross_entropy(module(x), classes(3, 8))
    loss.backward()
    optimizer.step()
    assert (net.parameters != before).mean() > 0.5
    assert np.allclose(
        net.logits(x.numpy()), module(x).detach(), rtol=1e3 * torch.finfo(x.dtype).eps, atol=AS_GOOD_AS_EQUAL
    )


def test_what_no_layer_says_goes_along():
    net = network(
        ["gelu", "identity"], dropout=[0.0, 0.25], loss="sigmoid_cross_entropy", label_smoothing=0.1
    )
    module = ours.to_module(net)
    assert [type(each).__name__ for each in module] == [
        "Linear",
        "GELU",
        "Linear",
        "Identity",
        "Dropout",
        "Linear",
    ]
    back = ours.from_module(copy.deepcopy(module))
    for name in ("layer_sizes", "activations", "dropout", "loss_name", "label_smoothing", "dtype"):
        assert getattr(back, name) == getattr(net, name)
    assert ours.from_module(module, loss="squared_error", label_smoothing=0.0).loss_name == "squared_error"


def test_modules_of_others():
    nn = torch.nn
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU()), nn.Linear(6, 5), nn.Linear(5, 3))
    net = ours.from_module(module)
    assert net.activations == ("leaky_relu", "identity") and net.dtype == np.float32
    x = randn(9, 4, dtype=torch.float32)
    assert np.allclose(net.logits(x.numpy()), module(x).detach(), atol=AS_GOOD_AS_EQUAL)
    assert ours.from_module(nn.Linear(4, 3)).layer_sizes == (4, 3)


def test_a_layer_in_two_places():
    nn = torch.nn
    relu, linear = nn.ReLU(), nn.Linear(5, 5)
    module = nn.Sequential(nn.Linear(4, 5), relu, linear, relu, linear, relu, nn.Linear(5, 3))
    net, x = ours.from_module(module), randn(9, 4, dtype=torch.float32)
    assert net.activations == ("relu",) * 3
    assert np.allclose(net.logits(x.numpy()), module(x).detach(), atol=AS_GOOD_AS_EQUAL)


def double(module, inputs, outputs):
    return 2 * outputs


def weight_norm(linear):
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return torch.nn.utils.weight_norm(linear)


def refused_modules():
    nn = torch.nn
    first, last = nn.Linear(4, 6), nn.Linear(6, 3)
    pruned = prune.random_unstructured(nn.Linear(6, 3), "weight", 0.5)
    hooked = nn.Sequential(first, nn.ReLU(), last)
    hooked.register_forward_hook(double)
    return {
        "module[0]: got Conv2d": nn.Sequential(nn.Conv2d(1, 1, 1), last),
        "module[0]: got ReLU()": nn.Sequential(nn.ReLU(), last),
        "expected bias=True": nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), last),
        "module[1]: got LeakyReLU(negative_slope=0.2), expected negative_slope=0.01": nn.Sequential(
            first, nn.LeakyReLU(0.2), last
        ),
        "expected approximate='none'": nn.Sequential(first, nn.GELU(approximate="tanh"), last),
        "expected alpha=1.0": nn.Sequential(first, nn.ELU(0.5), last),
        "expected beta=1.0": nn.Sequential(first, nn.Softplus(2.0), last),
        "module[2]: got Tanh()": nn.Sequential(first, nn.ReLU(), nn.Tanh(), last),
        "module[1]: got Dropout": nn.Sequential(first, nn.Dropout(), nn.ReLU(), last),
        "expected a Linear as the last layer": nn.Sequential(first, nn.Sigmoid()),
        "module: got no layers": nn.Sequential(),
        "expected in_features=6": nn.Sequential(first, nn.ReLU(), nn.Linear(5, 3)),
        "got torch.float16 on cpu": nn.Sequential(nn.Linear(4, 6, dtype=torch.float16), nn.ReLU(), last),
        "expected torch.float32 like the first layer": nn.Sequential(
            first, nn.Linear(6, 3, dtype=torch.float64)
        ),
        "module[0]: got Linear with WeightNorm": nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.ReLU(), last),
        "module[2]: got Linear with RandomUnstructured": nn.Sequential(first, nn.ReLU(), pruned),
        "module: got Sequential with double": hooked,
        "module[1][0]: got BatchNorm1d": nn.Sequential(first, nn.Sequential(nn.BatchNorm1d(6)), last),
    }


@pytest.mark.parametrize("text", refused_modules())
def test_modules_that_no_network_can_be(text):
    with pytest.raises(ValueError) as error:
        ours.from_module(refused_modules()[text])
    assert text in str(error.value)


def test_what_is_no_network_and_no_module():
    with pytest.raises(TypeError, match=r"net: got int, expected fastbp\.MLP"):
        ours.to_module(3)
    with pytest.raises(TypeError, match=r"module: got int, expected a torch\.nn\.Module"):
        ours.from_module(3)
