"""fastbp's error functions as functions of JAX, with their derivatives: under ``jit``, ``grad``, ``value_and_grad`` and ``vmap``.

On the CPU, in float32 and float64 (docs/jax.md). It needs the extra ``jax``.
"""

try:
    import jax  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"fastbp.jax: got no {missing.name}, expected it to be installed: pip install 'fastbp[jax]'",
        name=missing.name,
    ) from missing

from fastbp.jax.functions import linear_softmax_cross_entropy, softmax_cross_entropy

__all__ = ["linear_softmax_cross_entropy", "softmax_cross_entropy"]
