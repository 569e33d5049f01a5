"""What the estimators have in common: scikit-learn's arguments, translated; what is fitted is a `fastbp.MLP`."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbp import activations
from fastbp.lbfgs import LBFGS
from fastbp.model import MLP
from fastbp.optimizers import Optimizer
from fastbp.outputs import LOSSES
from fastbp.sklearn import callbacks, crossing, solvers, training
from fastbp.sklearn.examples import logits, rows_of

_ACTIVATIONS = {"logistic": "sigmoid"}  # scikit-learn's names of ours, where they differ


def keep(est: BaseEstimator, arguments: dict[str, Any]) -> None:
    """All arguments of a constructor, as they were given."""
    vars(est).update((name, value) for name, value in arguments.items() if name not in ("self", "__class__"))


def is_lbfgs(solver: Any) -> bool:
    """Whether it takes all the examples at once: by name or as an optimizer."""
    return isinstance(solver, LBFGS) or bool(solver == "lbfgs")


def fits_by_batches(est: Any) -> bool:
    """Whether there is a `partial_fit`."""
    if is_lbfgs(est.solver):
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {est.solver} is not stochastic."
        )
    return True


class Perceptron(callbacks.CallbackSupportMixin, BaseEstimator):
    """What both have in common."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"logistic", *activations.ACTIVATIONS}), list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"}), Optimizer, LBFGS],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [str, callable, None],
        "time_limit": [Interval(Real, 0, None, closed="left"), None],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "precision": [StrOptions({"highest", "high", "medium"}), None],
    }

    # The network ------------------------------------------------------------------------------------------

    @property
    def network_(self) -> MLP:
        """The fitted :class:`fastbp.MLP`; `coefs_` and `intercepts_` are its live arrays."""
        check_is_fitted(self)
        net: MLP | None = vars(self).get("_network")
        arrays = (*self.coefs_, *self.intercepts_)
        if net is not None:
            parts = (*net.weights, *net.biases)
            if len(parts) == len(arrays) and all(map(_is, arrays, parts)):
                return net
        return self._adopt(net)

    def _adopt(self, net: MLP | None) -> MLP:
        """The network of arrays that somebody put into `coefs_` and `intercepts_`, or that were unpickled."""
        sizes = [self.coefs_[0].shape[0], *(w.shape[1] for w in self.coefs_)]
        dtype = np.dtype(np.result_type(np.float32, *self.coefs_))
        if self._options is None:  # of a model that comes from scikit-learn
            self._options = self._options_now()
        if net is None or list(net.layer_sizes) != sizes or net.dtype != dtype:
            net = self._new_network(sizes, dtype)
        for array, given in zip((*net.weights, *net.biases), (*self.coefs_, *self.intercepts_), strict=True):
            array[...] = given
        return self._show(net)

    def _new_network(self, sizes: list[int], dtype: np.dtype) -> MLP:
        """A network for these parameters, which have no values yet."""
        assert self._options is not None
        net = MLP(sizes, dtype=dtype, init="zeros", **self._options)
        if is_classifier(self) and not net.label_smoothing:
            net._engine.largest_error = -math.log(np.finfo(dtype).eps)  # scikit-learn clips probabilities
        return net

    _optimizer: solvers.Steps
    _options: dict[str, Any] | None = None
    """Those of the fitted network: a parameter that is set later counts from the next fit on."""

    def _options_now(self) -> dict[str, Any]:
        """Those arguments of a network that are not what it takes by default."""
        listed = not isinstance(self.activation, str)
        ours = [_ACTIVATIONS.get(name, name) for name in (self.activation if listed else [self.activation])]
        options: dict[str, Any] = {
            "loss": self._error(),
            "activation": ours if listed else ours[0],
            "precision": self.precision,
            "n_threads": self.n_threads,
        }
        if np.any(self.dropout):
            options |= {"dropout": self.dropout, "seed": self._seed}
        if is_classifier(self) and self.label_smoothing:
            options["label_smoothing"] = self.label_smoothing
        return options

    def _renew(self) -> None:
        """Go on with the same parameters, where others of the options are set by now."""
        check_is_fitted(self)
        if np.any(self.dropout) and not hasattr(self, "_seed"):
            self._seed = int(self._random_state.randint(2**31))
        options = self._options_now()
        if options == self._options:
            return
        self._options = options
        self._adopt(None)
        if hasattr(self, "_optimizer"):  # of which a copy takes its state along to the new network
            self._optimizer = copy.deepcopy(self._optimizer)

    def _is_softmax(self) -> bool:
        """Whether it is a classifier of several classes, or of probabilities."""
        return bool(self.out_activation_ == "softmax")

    def _show(self, net: MLP) -> MLP:
        """This is the network now."""
        self._network = net
        self.coefs_, self.intercepts_ = list(net.weights), list(net.biases)
        return net

    def _draw(self, net: MLP) -> None:
        """Initial parameters from scikit-learn's random numbers: Glorot's, in float64."""
        last = net.activations[-1] if net.activations else self.activation
        for weight, bias, activation in zip(net.weights, net.biases, (*net.activations, last), strict=True):
            bound = np.sqrt((2.0 if activation in ("sigmoid", "logistic") else 6.0) / sum(weight.shape))
            weight[...] = self._random_state.uniform(-bound, bound, weight.shape)
            bias[...] = self._random_state.uniform(-bound, bound, bias.shape)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_network"}  # coefs_ says it all

    # Fitting ----------------------------------------------------------------------------------------------

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool = False, held: tuple[Any, ...] = ()
    ) -> Any:
        before = vars(self).copy()
        try:
            objective, order, validation = self._prepare(X, y, sample_weight, incremental, held)
        except Exception:  # leave a model that can predict as it was
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        net = objective.net
        heard = nullcontext(callbacks.untold) if incremental else callbacks.around(self, X, y, sample_weight)
        with heard as told:
            if is_lbfgs(self.solver):
                wide = self._new_network(list(net.layer_sizes), np.dtype(np.float64))
                wide._engine.largest_error = net._engine.largest_error
                training.lbfgs(self, objective, wide, told)
            else:
                training.stochastic(self, objective, order, validation, incremental, told)
        if not np.isfinite(net.parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need "
                "to be preprocessed."
            )
        return self

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool, held: tuple[Any, ...]
    ) -> tuple[solvers.Objective, np.ndarray | None, training.Validation | None]:
        """All that comes before the first step: checks, a network if there is none to go on with, the rows to train on."""
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if is_lbfgs(self.solver):
            for name, off in {"dropout": 0.0, "clip_norm": None, "time_limit": None}.items():
                value = getattr(self, name)
                if np.any(value):
                    raise ValueError(
                        f"{name}: got {value!r} with the solver L-BFGS, expected {off}: it has no batches"
                    )
        if self.scoring is not None:
            check_scoring(self, self.scoring)
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if np.any(np.array(hidden) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        if first and not incremental:
            self.__dict__.pop("classes_", None)  # of a fit that has failed, or of one that is forgotten
        X, targets = self._examples(X, y, incremental, first)
        if first:
            self.n_outputs_ = self._n_outputs(targets)
        self._learn_weights(targets, incremental)
        weights = self._weights(sample_weight, X, targets)
        validation = self._held(*held) if held else None
        self._random_state = check_random_state(self.random_state)
        if first:
            self._begin([X.shape[1], *hidden, self.n_outputs_], X.dtype)
        else:
            self._renew()
        net = self.network_
        if not is_lbfgs(self.solver) and not (incremental and hasattr(self, "_optimizer")):
            self._optimizer = self._steps()
        if validation is not None:
            targets_of_held = self._cast(validation.targets, net.dtype)
            validation = validation._replace(x=rows_of(validation.x, net.dtype), targets=targets_of_held)
        x, t = rows_of(X, net.dtype), self._cast(targets, net.dtype)
        objective = solvers.Objective(net, x, t, weights, self.alpha, self._share(), self.clip_norm or 0.0)
        order = None
        if self.early_stopping and validation is None and not is_lbfgs(self.solver):
            order, validation = training.split(self, objective)
        return objective, order, validation

    def _begin(self, sizes: list[int], dtype: np.dtype) -> None:
        """The attributes of a network that has learned nothing yet."""
        for name in ("_optimizer", "_latest"):
            self.__dict__.pop(name, None)
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        if np.any(self.dropout):  # otherwise the random numbers are scikit-learn's, one by one
            self._seed = int(self._random_state.randint(2**31))
        self._options = self._options_now()
        self._show(self._new_network(sizes, dtype))
        self._draw(self._network)
        self._best_parameters = self._network.parameters.copy()
        if is_lbfgs(self.solver):
            return
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None
        self.best_loss_ = None if self.early_stopping else np.inf

    def _steps(self) -> solvers.Steps:
        if self.solver == "sgd":
            return solvers.sgd(float(self.learning_rate_init), self.momentum, self.nesterovs_momentum)
        if self.solver == "adam":
            return solvers.adam(float(self.learning_rate_init), self.beta_1, self.beta_2, self.epsilon)
        optimizer = copy.deepcopy(self.solver)
        optimizer.reset()
        return solvers.Steps(optimizer)

    def _learn_weights(self, targets: np.ndarray, incremental: bool) -> None:
        """What classes weigh is for a classifier to say."""

    def _weights(self, sample_weight: Any, X: Any, targets: np.ndarray) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weights = np.ascontiguousarray(_check_sample_weight(sample_weight, X), np.float64)
        if (weights < 0).any():
            raise ValueError(f"sample_weight: got {weights.min()}, expected numbers >= 0")
        return weights

    def _given(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, ...]:
        """The validation set that the user brings, or nothing."""
        if X is None:
            for name, value in (("y_val", y), ("sample_weight_val", sample_weight)):
                if value is not None:
                    raise ValueError(f"{name}: got {type(value).__name__} without X_val, expected both")
            return ()
        if y is None:
            raise ValueError("y_val: got None with X_val, expected both")
        if is_lbfgs(self.solver):
            raise ValueError(
                f"X_val: got {type(X).__name__} with the solver L-BFGS, expected None: it looks at no other examples"
            )
        return X, y, sample_weight

    def _held(self, X: Any, y: Any, sample_weight: Any) -> training.Validation:
        try:
            X, targets = self._examples(X, y, True, False, held=True)
            return training.Validation(X, targets, self._weights(sample_weight, X, targets))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"X_val, y_val, sample_weight_val: {error}") from error

    def _see_as_before(self, targets: np.ndarray) -> None:
        """See that there is a target for each output that there is already."""
        n = self._n_outputs(targets)
        if n != self.n_outputs_:
            raise ValueError(f"y: got {n} columns, expected {self.n_outputs_}, as many as before")

    @staticmethod
    def _cast(targets: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Class indices as they are, rows in the dtype of the network."""
        return targets if targets.ndim == 1 else np.ascontiguousarray(targets, dtype)

    def _share(self) -> float:
        """scikit-learn's squared error is reported as a mean over outputs, though its gradient is that of their sum."""
        return 1.0 / self.n_outputs_ if self.loss == "squared_error" else 1.0

    def _loss(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """The mean error of logits."""
        net = self._network
        error = LOSSES[net.loss_name].error
        return float(error(z, targets, sample_weight=weights, **net._error_options()).loss) * self._share()

    # Predicting -------------------------------------------------------------------------------------------

    def _logits(self, X: Any) -> np.ndarray:
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        if not self._is_plain(X):
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return logits(self.network_, X)

    def _is_plain(self, X: Any) -> bool:
        """Whether one look shows that nothing is to be said about `X`."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in _FLOATS
            and X.shape[1] == self.n_features_in_
            and len(X) > 0
            and "feature_names_in_" not in vars(self)
            and bool(np.isfinite(X).all())
        )

    def plot_loss_curve(self, ax: Any = None) -> Any:
        """Draw `loss_curve_`, and that of the validation set where there is one; needs Matplotlib (extra ``plot``).

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        check_is_fitted(self, "loss_curve_")
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        epochs = range(1, len(self.loss_curve_) + 1)
        ax.plot(epochs, self.loss_curve_, label="loss")
        held = self.validation_loss_curve_
        if held:
            ax.plot(epochs[-len(held) :], held, label="validation loss")
        ax.set(xlabel="epoch", ylabel="loss")
        ax.legend()
        return ax

    def to_sklearn(self) -> Any:
        """The same model as an estimator of scikit-learn: equal predictions, no dependence on fastbp.

        Raises
        ------
        ValueError
            If scikit-learn has no such model, as of other activations or losses.
        """
        return crossing.to_sklearn(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _is(a: Any, b: Any) -> bool:
    return a is b
