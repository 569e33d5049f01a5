"""What differs from scikit-learn by intent, why, and which of its own tests see it: docs/scikit-learn.md has the table."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    what: str
    why: str
    tests: tuple[str, ...] = ()
    """Of scikit-learn's `neural_network/tests/test_mlp.py`, those that fail for this reason."""


DIFFERENCES = (
    Difference(
        "There are no private methods such as `_backprop` and `_loss_grad_lbfgs`, and no subclass of scikit-learn's classes",
        "the engine does their work; `to_sklearn()` gives an estimator of scikit-learn's",
        ("test_gradient",),
    ),
    Difference(
        "A batch whose weights are all 0 is skipped",
        "scikit-learn divides by the sum of the weights, and stops with a `ZeroDivisionError`",
    ),
    Difference(
        'Sample weights below 0, and counts below 0 with `loss="poisson"`, are refused',
        "scikit-learn's objective then has no minimum, or no value",
    ),
    Difference(
        "Targets of another kind or another number than in the fit before are refused by `partial_fit` and `warm_start`",
        "the outputs of a network stay what they are; scikit-learn ends with an error of its matrices, or with other outputs",
    ),
    Difference(
        "`set_params(activation=...)` counts from the next fit on",
        "a fitted model predicts alike until then, as it would if pickled",
    ),
    Difference(
        "Losses come from logits, not from probabilities, and are clipped as scikit-learn clips them",
        "1 − p loses digits where p is near 1: losses of logistic outputs that are wrong and all but certain, as of inputs in "
        "thousands, differ in the sixth digit or so; gradients and updates do not",
    ),
    Difference(
        "`predict_log_proba` is finite where a probability is rounded to 0",
        "it comes from logits, too; scikit-learn's is −inf, with a warning",
    ),
    Difference(
        "`early_stopping` with `warm_start` keeps the best weights of all fits",
        "scikit-learn trains on in the very arrays in which it keeps the best ones",
    ),
    Difference(
        "With float32 examples lbfgs searches in float64, and the model is float32",
        "in float32 the line search stops early, for the rounding of the loss",
    ),
    Difference(
        "A model computes in its own dtype whatever that of the examples",
        "a float32 model is for speed; scikit-learn converts its weights at each call with float64 examples",
    ),
    Difference(
        "A fit that overflows is over: the losses of all further epochs are NaN",
        "nothing finite can come of it; the error at the end, or the best weights with `early_stopping`, are scikit-learn's",
    ),
)

OWN_TESTS = {test: each.what for each in DIFFERENCES for test in each.tests}


def table() -> str:
    """The differences as a table in Markdown."""
    rows = [f"| {each.what} | {each.why} |" for each in DIFFERENCES]
    return "\n".join(["| here | why |", "|---|---|", *rows])
