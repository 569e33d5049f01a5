"""
A band instead of a line: regression by quantiles
=================================================

The squared error learns the mean. The quantile error costs τ for each unit that an output lies below its target and 1 − τ for
each above, and so learns the value that a share τ of the targets lies below: two networks give a band that holds nine tenths of
them.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbp

rng = np.random.default_rng(0)


def draw(n):
    """A wave whose noise grows from left to right."""
    x = rng.uniform(0, 10, (n, 1))
    return x / 10, np.sin(x) + (0.1 + 0.12 * x) * rng.standard_normal((n, 1))


X, T = draw(4000)
X_test, T_test = draw(4000)

# %%
# A network for each share. ``tau`` is the quantile error's own argument.

EPOCHS, BATCH = 60, 64
STEPS = EPOCHS * -(-len(X) // BATCH)


def quantile(share):
    net = fastbp.MLP([1, 32, 32, 1], activation="tanh", loss="quantile", tau=share, dtype="float64", seed=0)
    optimizer = fastbp.Adam(fastbp.schedules.cosine(0.01, STEPS))
    net.fit(X, T, epochs=EPOCHS, batch_size=BATCH, optimizer=optimizer, progress=False)
    return net


low, middle, high = (quantile(share) for share in (0.05, 0.5, 0.95))

# %%
# How much of what was not trained on lies within the band?

inside = (low.predict(X_test) <= T_test) & (T_test <= high.predict(X_test))
print(f"{inside.mean():.1%} of the tests lie within the band of 90 %")
assert 0.86 < inside.mean() < 0.94

line = np.linspace(0, 1, 200)[:, None]
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.scatter(10 * X_test[::4], T_test[::4], s=3, color="gray")
axes.fill_between(
    10 * line[:, 0], low.predict(line)[:, 0], high.predict(line)[:, 0], alpha=0.3, label="5 % to 95 %"
)
axes.plot(10 * line, middle.predict(line), label="median")
axes.legend()
plt.show()
