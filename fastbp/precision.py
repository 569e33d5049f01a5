"""What float32 matrix products are formed of, by name: the words of PyTorch and JAX."""

from __future__ import annotations

import os

from fastbp import _backend, _checks

_name = "highest"


def set_precision(name: str) -> None:
    """Choose the precision of float32 matrix products, for every later call that is not given one of its own.

    Parameters
    ----------
    name : {"highest", "high", "medium"}
        * "highest": multiply-adds of float32.
        * "high": each number is two pieces of bfloat16, ``x = x₁ + x₂ + r`` with ``|x₂| <= 2⁻⁸ |x|`` and
          ``|r| <= 2⁻¹⁷ |x|``, and each product the sum a₁b₁ + a₁b₂ + a₂b₁, added in float32. A term lacks at most ``2⁻¹⁵ |a b|``.
        * "medium": each number is rounded to one bfloat16, and products of those are added in float32. A term errs by at most
          ``2⁻⁷ |a b|``.

    Raises
    ------
    TypeError, ValueError
        Anything but one of these names.

    Notes
    -----
    The environment variable ``FASTBP_PRECISION`` sets the name with which a process begins, "highest" where there is none.
    ``precision=`` of :class:`MLP` and of :func:`linear_softmax_cross_entropy` goes before it. float64 is not touched.

    A precision is what is enough, not what must be: where nothing here is faster than float32, and in products too small to
    gain, "high" and "medium" are float32 as well; :func:`show_config` tells. Within one precision results have the same bits
    from run to run and for any number of threads.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.set_precision("medium")
    >>> fastbp.get_precision()
    'medium'
    >>> fastbp.set_precision("highest")
    """
    global _name
    _name = _checks.choice("name", name, _checks.PRECISIONS)
    _backend.kernels.use_precision(_name)


def get_precision() -> str:
    """The precision of float32 matrix products in use, as :func:`set_precision` or ``FASTBP_PRECISION`` chose it."""
    return _name


def _begin() -> None:
    """With the name that the environment says."""
    try:
        set_precision(os.environ.get("FASTBP_PRECISION") or "highest")
    except ValueError as unknown:
        raise ImportError(f"FASTBP_PRECISION: {str(unknown).removeprefix('name: ')}") from None


_begin()
