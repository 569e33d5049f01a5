"""
Does 0.9 mean nine in ten? Calibration and label smoothing
==========================================================

A network that trains until it knows every example by heart says 0.99 and is right eight times in ten. Smoothed targets,
(1 − ε) t + ε/C, keep the logits finite. A reliability diagram compares what is said with what comes true.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbp

rng = np.random.default_rng(0)
CLASSES, FEATURES = 5, 20
centres = rng.standard_normal((CLASSES, FEATURES))


def draw(n):
    """Clusters that overlap: nobody can name each of them."""
    y = rng.integers(0, CLASSES, n)
    return (centres[y] + 2.4 * rng.standard_normal((n, FEATURES))).astype(np.float32), y


X, y = draw(1500)
X_test, y_test = draw(20_000)


def trained(smoothing):
    net = fastbp.MLP([FEATURES, 64, CLASSES], activation="relu", label_smoothing=smoothing, seed=0)
    net.fit(X, y, epochs=40, batch_size=32, optimizer=fastbp.Adam(3e-3), progress=False)
    return net


# %%
# The tests are put into bins by the probability of the class that is named; each point is a bin: the mean of what was said, and
# the share of it that was right. The expected calibration error is the mean distance from the diagonal.


def reliability(net):
    probabilities = net.predict_proba(X_test)
    said, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y_test
    places = np.minimum((said * 15).astype(int), 14)
    counts = np.bincount(places, minlength=15)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(places, said, 15) / counts
        accuracy = np.bincount(places, right, 15) / counts
    error = np.nansum(counts * np.abs(confidence - accuracy)) / counts.sum()
    return confidence, accuracy, error, right.mean()


figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
axes.plot([0, 1], [0, 1], ":", color="gray", label="what is said comes true")
errors = {}
for smoothing in (0.0, 0.1, 0.25):
    confidence, accuracy, errors[smoothing], share = reliability(trained(smoothing))
    axes.plot(
        confidence, accuracy, "o-", label=f"ε = {smoothing}: {share:.1%} right, error {errors[smoothing]:.3f}"
    )
axes.set(xlabel="said", ylabel="came true", xlim=(0.15, 1), ylim=(0.15, 1))
axes.legend()

print({smoothing: round(error, 3) for smoothing, error in errors.items()})
assert errors[0.25] < errors[0.0]
plt.show()
