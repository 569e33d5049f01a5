"""
Handwritten digits, and when to stop
====================================

A network on 1 500 images of 8×8 pixels, watched on a validation set: training stops when the validation loss has not become
better for ten epochs, and the best weights are put back. ``History.plot`` draws both losses and the accuracy.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbp

X, y = fastbp.datasets.load_digits()  # (1797, 64) in [0, 1], digits 0 … 9
order = np.random.default_rng(0).permutation(len(X))
train, validation, test = np.split(order, [1200, 1500])

# %%
# Dropout and an average of the weights against overfitting, a rate that falls along a cosine.

EPOCHS, BATCH = 100, 32
steps = EPOCHS * -(-len(train) // BATCH)
net = fastbp.MLP([64, 64, 10], activation="relu", dropout=0.2, seed=0)
history = net.fit(
    X[train],
    y[train],
    epochs=EPOCHS,
    batch_size=BATCH,
    optimizer=fastbp.Adam(fastbp.schedules.cosine(3e-3, steps), average=0.99),
    validation_data=(X[validation], y[validation]),
    callbacks=[fastbp.callbacks.EarlyStopping(patience=10)],
    progress=False,
)
history.plot().set_title(history.stopped or "all epochs were made")

# %%
# What is left for the test is what neither the weights nor the moment to stop were chosen by.

scores = net.evaluate(X[test], y[test])
print(f"accuracy on unseen digits: {scores['accuracy']:.3f}")
assert scores["accuracy"] > 0.95

# %%
# The digits that it is least sure of, and what it takes them for.

probabilities = net.predict_proba(X[test])
doubtful = np.argsort(probabilities.max(axis=1))[:8]
figure, places = plt.subplots(1, 8, figsize=(10, 1.9), layout="constrained")
for axes, row in zip(places, doubtful, strict=True):
    axes.imshow(X[test[row]].reshape(8, 8), cmap="gray_r")
    axes.set_axis_off()
    axes.set_title(
        f"{probabilities[row].argmax()} ({probabilities[row].max():.0%})\nis {y[test[row]]}", fontsize=9
    )
plt.show()
