"""`MLPRegressor`: what its targets are, and what its outputs mean."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from fastbp.sklearn import callbacks
from fastbp.sklearn.perceptron import Perceptron, fits_by_batches, keep


class MLPRegressor(RegressorMixin, Perceptron):
    """scikit-learn's regressor of the same name, on fastbp's kernels, with more options.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "huber", "quantile"}, default "squared_error"
        Half of the squared error, half of the Poisson deviance with exp(z) for an output; and Huber's error and the quantile
        error, :func:`fastbp.huber` and :func:`fastbp.quantile`.
    hidden_layer_sizes, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, \
    verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
    n_iter_no_change, max_fun
        As in scikit-learn's :class:`~sklearn.neural_network.MLPRegressor`, with the same defaults.
    activation : str, or one for each hidden layer, default "relu"
        Also those of :class:`fastbp.MLP`, besides scikit-learn's identity, logistic, tanh and relu.
    solver : {"lbfgs", "sgd", "adam"}, an optimizer of :mod:`fastbp.optimizers` or :class:`fastbp.LBFGS`, default "adam"
        An optimizer brings its own rates, schedules and average, or memory and tolerance; `alpha` is added to its weight decay.
    delta : float > 0, default 1
        Where Huber's error turns linear.
    tau : float in (0, 1), default 0.5
        Which quantile the quantile error is of: with the default the outputs are medians.
    dropout : float in [0, 1), or one for each hidden layer, default 0
        How many outputs of the hidden layers are set to 0 at random while the network trains.
    clip_norm : float > 0, optional
        A gradient whose norm is larger is scaled down to it.
    scoring : str or callable, optional
        By which `early_stopping` judges, in place of R²; as in :func:`sklearn.metrics.check_scoring`.
    time_limit : float, optional
        Seconds after which a fit by batches ends; it keeps what it has learned.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as :func:`fastbp.show_config` tells.
    precision : {"highest", "high", "medium"}, optional
        Of float32 matrix products; by default the one that :func:`fastbp.get_precision` tells.

    Attributes
    ----------
    coefs_, intercepts_, loss_, loss_curve_, best_loss_, validation_scores_, best_validation_score_, n_iter_, t_, n_layers_, \
    n_outputs_, out_activation_, n_features_in_, feature_names_in_
        Those of scikit-learn's. The arrays are live: the model computes with what is written into them.
    validation_loss_curve_ : list of float
        The error of the validation set after each epoch, where there is one.
    network_ : fastbp.MLP
        The fitted network, for everything that there is for one: files, ONNX, gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.sklearn import MLPRegressor
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(activation="tanh", solver="lbfgs", random_state=0).fit(x, np.sin(3 * x[:, 0]))
    >>> model.predict([[0.5]]).round(1)
    array([1.])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "huber", "quantile"})],
        "delta": [Interval(Real, 0, None, closed="neither")],
        "tau": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        delta: float = 1.0,
        tau: float = 0.5,
        dropout: Any = 0.0,
        clip_norm: float | None = None,
        scoring: Any = None,
        time_limit: float | None = None,
        n_threads: int | None = None,
        precision: str | None = None,
    ) -> None:
        keep(self, locals())

    @callbacks.with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array, table or sparse matrix, shape (N, I)
        y : numbers, shape (N,) or (N, O)
        sample_weight : numbers >= 0, shape (N,), optional
            A batch whose weights are all 0 is skipped.
        X_val, y_val, sample_weight_val : optional
            A validation set, in place of one that `early_stopping` would split off.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, held=self._given(X_val, y_val, sample_weight_val))

    @available_if(fits_by_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch more, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _examples(
        self, X: Any, y: Any, incremental: bool, first: bool, held: bool = False
    ) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=first,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = y.reshape(-1, 1) if y.ndim == 1 else y
        if self.loss == "poisson" and (targets < 0).any():
            raise ValueError(f"y: got {targets.min()} with loss='poisson', expected numbers >= 0")
        if not first:
            self._see_as_before(targets)
        if not held:
            self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return X, targets

    def _error(self) -> str:
        return "poisson_deviance" if self.loss == "poisson" else self.loss

    def _options_now(self) -> dict[str, Any]:
        of_errors = {"huber": {"delta": self.delta}, "quantile": {"tau": self.tau}}
        return super()._options_now() | of_errors.get(self.loss, {})

    def _n_outputs(self, targets: np.ndarray) -> int:
        return int(targets.shape[1])

    def _truth(self, targets: np.ndarray) -> np.ndarray:
        return targets.ravel() if targets.shape[1] == 1 else targets

    def _score_of(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """R² of outputs."""
        y = self._network._outputs(z)
        return float(r2_score(targets, y, sample_weight=weights)) if np.isfinite(y).all() else np.nan

    def predict(self, X: Any) -> np.ndarray:
        """The outputs, (N,), or (N, O) where there are several."""
        z = self._logits(X)
        y = self._network._outputs(z)
        return y.ravel() if y.shape[1] == 1 else y
