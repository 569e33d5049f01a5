"""
Rare classes: ``class_weight`` and ``pos_weight``
=================================================

One example in fifty is of the class that matters. A network that minimises the mean error may well say "no" to all; a weight for
the rare class moves the boundary, and says what a miss costs.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbp

rng = np.random.default_rng(0)


def draw(n):
    """Points of the plane, one in fifty of them from a cluster beside the others."""
    rare = (rng.random(n) < 0.02).astype(np.int64)
    return rng.standard_normal((n, 2)) + 1.6 * rare[:, None], rare


X, y = draw(20_000)
X_test, y_test = draw(20_000)


def trained(class_weight):
    net = fastbp.MLP([2, 16, 2], activation="tanh", seed=0)
    net.fit(
        X, y, epochs=10, batch_size=64, optimizer=fastbp.Adam(0.01), class_weight=class_weight, progress=False
    )
    return net


# %%
# With ``class_weight="balanced"`` both classes count alike, however many examples they have. Any other ratio is a dictionary.

figure, places = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
grid = np.stack(np.meshgrid(np.linspace(-4, 6, 200), np.linspace(-4, 6, 200)), axis=-1)
found = {}
for axes, weights in zip(places, (None, {0: 1, 1: 8}, "balanced"), strict=True):
    net = trained(weights)
    said = net.predict(X_test)
    recall, precision = said[y_test == 1].mean(), y_test[said == 1].mean()
    found[str(weights)] = recall
    axes.contourf(
        grid[..., 0],
        grid[..., 1],
        net.predict_proba(grid.reshape(-1, 2))[:, 1].reshape(200, 200),
        levels=10,
        cmap="Blues",
    )
    axes.scatter(*X_test[y_test == 0][:1500].T, s=2, color="gray")
    axes.scatter(*X_test[y_test == 1].T, s=4, color="crimson")
    axes.set_title(f"{weights}\n{recall:.0%} found, {precision:.0%} of those named right", fontsize=10)

print({name: f"{share:.0%} found" for name, share in found.items()})
assert found["None"] < found["balanced"]

plt.show()

# %%
# The kernels have the same: ``class_weight`` of ``softmax_cross_entropy`` is a number for each class, and ``pos_weight`` of
# ``sigmoid_cross_entropy`` multiplies the "yes" terms of an output, with the error's own gradient.

logits = np.zeros((4, 1))
targets = np.array([[0.0], [0.0], [0.0], [1.0]])
_, gradient, _ = fastbp.sigmoid_cross_entropy(logits, targets, pos_weight=np.array([3.0]), reduction="sum")
print(gradient.ravel(), "sum", gradient.sum())  # three "no" weigh as much as one "yes"
