"""Error functions for PyTorch on fastbp's kernels, with PyTorch's own arguments: change one import.

::

    from fastbp.torch import cross_entropy  # in place of torch.nn.functional.cross_entropy

`cross_entropy`, `binary_cross_entropy_with_logits` and `linear_cross_entropy` are autograd functions on CPU tensors; they read
the tensors where they lie and hand their gradients on without a copy. `to_module` makes an ``nn.Sequential`` that shares its
weights with a network, `from_module` a network of a module. docs/torch.md says what differs, what is refused and what it pays.
It needs the extra ``torch``.
"""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"fastbp.torch: got no {missing.name}, expected it to be installed: pip install 'fastbp[torch]'",
        name=missing.name,
    ) from missing

from fastbp.torch.functions import binary_cross_entropy_with_logits, cross_entropy, linear_cross_entropy
from fastbp.torch.modules import from_module, to_module

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "from_module",
    "linear_cross_entropy",
    "to_module",
]
