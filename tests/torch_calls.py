"""What the tests of fastbp.torch share: numbers, calls with their gradients, and how near two answers are."""

from __future__ import annotations

import pytest
from tolerances import NO_WORSE, sum_of

torch = pytest.importorskip("torch")
F = torch.nn.functional

EPS = torch.finfo(torch.float64).eps
REDUCTIONS = ["mean", "sum", "none"]
generator = torch.Generator()


def rand(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def randn(*shape, dtype=torch.float64):
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def classes(n, *shape):
    return torch.randint(n, shape, generator=generator)


def probabilities(shape, axis):
    return randn(*shape).softmax(axis)


def solve(function, leaves, *arguments, **options):
    """The error, and the gradients of the leaves for a random gradient from above."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    loss = function(*leaves, *arguments, **options)
    upstream = torch.rand(loss.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    loss.backward(upstream.to(loss.dtype))
    return loss.detach(), *(leaf.grad for leaf in leaves)


def assert_agree(got, want, sizes):
    """Each within rounding of terms of this size: both are off by a few eps of them, and by what a sum of n adds."""
    for mine, theirs, size in zip(got, want, sizes, strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        error = torch.where(mine.isnan() & theirs.isnan(), 0, (mine - theirs).abs())
        few = 2 * NO_WORSE + 2 * sum_of(1000)
        assert (error <= few * torch.finfo(mine.dtype).eps * size).all(), (mine, theirs)


def plain_linear(x, v, target, *, linear_bias=None, **options):
    """PyTorch's own, which older versions lack."""
    return F.cross_entropy(F.linear(x, v, linear_bias), target, **options)


Z, T = torch.zeros(3, 4), torch.tensor([0, 1, 2])
P, X, V = torch.full((3, 4), 0.25), torch.zeros(3, 5), torch.zeros(4, 5)
