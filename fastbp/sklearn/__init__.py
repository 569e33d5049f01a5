"""scikit-learn's multilayer perceptrons, on fastbp's kernels: change one import.

::

    from fastbp.sklearn import MLPClassifier, MLPRegressor  # in place of sklearn.neural_network

Parameters, fitted attributes, methods and warnings are those of scikit-learn 1.9. The random numbers are, too: from the same
`random_state` come the same initial weights, the same split and the same batches, and in float64 the same loss curve.
docs/scikit-learn.md says what is new, and what differs. It needs the extra ``sklearn``.
"""

try:
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"fastbp.sklearn: got no {missing.name}, expected it to be installed: pip install 'fastbp[sklearn]'",
        name=missing.name,
    ) from missing

from fastbp.sklearn.classifier import MLPClassifier
from fastbp.sklearn.crossing import from_sklearn
from fastbp.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn"]
