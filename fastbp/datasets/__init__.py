"""The data sets that come with fastbp: small enough to ship, real enough to learn from."""

from __future__ import annotations

from importlib import resources

import numpy as np

__all__ = ["load_digits"]

_LARGEST_PIXEL = 16  # each pixel counts the inked points of a 4x4 block


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Load the 1 797 images of handwritten digits, 8x8 pixels each.

    Returns
    -------
    X : float32 array of shape (1797, 64)
        One image a row, its pixels row by row, scaled to [0, 1].
    y : int64 array of shape (1797,)
        The digit, 0 to 9.

    Notes
    -----
    The arrays are fresh at each call: write into them freely. The order is that of the source, neither
    shuffled nor grouped by digit. Pixels are multiples of 1/16, so the scaling is exact.

    Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0; the part for testing.

    Examples
    --------
    >>> X, y = load_digits()
    >>> X.shape, y.shape
    ((1797, 64), (1797,))
    >>> print(X[0].reshape(8, 8)[1])  # a zero is open in the middle
    [0.     0.     0.8125 0.9375 0.625  0.9375 0.3125 0.    ]
    """
    with (resources.files(__name__) / "digits.npz").open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        images, labels = archive["images"], archive["labels"]
    return images.astype(np.float32) / np.float32(_LARGEST_PIXEL), labels.astype(np.int64)
