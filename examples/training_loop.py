"""
A training loop by hand
=======================

A 64-32-10 network on handwritten digits, from the kernels alone::

    Forward    z1 = X W1 + b1,  a = tanh(z1),  z2 = a W2 + b2          linear, twice
    Error      E = softmax cross-entropy of z2, delta2 = dE/dz2        softmax_cross_entropy
    Backward   dW2 = aᵀ delta2,  db2 = Σ delta2                        linear_backward_weight
               delta1 = (delta2 W2ᵀ) ⊙ (1 - a²)                        linear_backward_input
               dW1 = Xᵀ delta1,  db1 = Σ delta1                        linear_backward_weight
    Update     w <- w - η dE/dw                                        sgd_update

Everything is written into buffers that are made once; delta2 lies where z2 lay.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastbp

BATCH, HIDDEN, EPOCHS, RATE = 50, 32, 15, 0.5


def main():
    X, labels = fastbp.datasets.load_digits()  # (1797, 64) in [0, 1], classes 0 … 9
    X_test, labels_test, X, labels = X[1500:], labels[1500:], X[:1500], labels[:1500]
    rng = np.random.default_rng(0)
    w1 = (rng.standard_normal((64, HIDDEN)) / 8).astype(X.dtype)  # 1/sqrt(64)
    w2 = (rng.standard_normal((HIDDEN, 10)) / HIDDEN**0.5).astype(X.dtype)
    b1, b2 = np.zeros(HIDDEN, X.dtype), np.zeros(10, X.dtype)

    dw1, dw2, db1, db2 = (np.empty_like(each) for each in (w1, w2, b1, b2))
    a, delta1 = np.empty((2, BATCH, HIDDEN), X.dtype)
    z2 = np.empty((BATCH, 10), X.dtype)

    for epoch in range(EPOCHS):
        total = 0.0
        for rows in rng.permutation(len(X)).reshape(-1, BATCH):
            x, t = X[rows], labels[rows]
            fastbp.linear(x, w1, b1, activation="tanh", out=a)
            fastbp.linear(a, w2, b2, out=z2)
            loss, delta2, _ = fastbp.softmax_cross_entropy(z2, t, label_smoothing=0.05, grad_out=z2)

            fastbp.linear_backward_weight(a, delta2, out=dw2, bias_out=db2)
            fastbp.linear_backward_input(delta2, w2, activation="tanh", a=a, out=delta1)
            fastbp.linear_backward_weight(x, delta1, out=dw1, bias_out=db1)

            for w, dw in ((w1, dw1), (b1, db1), (w2, dw2), (b2, db2)):
                fastbp.sgd_update(w.ravel(), dw.ravel(), learning_rate=RATE)  # ravel: a view
            total += loss
        print(f"epoch {epoch + 1:2d}  mean error {total / (len(X) // BATCH):.3f}")

    z = fastbp.linear(fastbp.linear(X_test, w1, b1, activation="tanh"), w2, b2)
    accuracy = (z.argmax(axis=1) == labels_test).mean()
    print(f"accuracy on digits it has not seen: {accuracy:.3f}")
    assert accuracy > 0.85

    figure, places = plt.subplots(4, 8, figsize=(8, 4.4), layout="constrained")
    figure.suptitle("What the hidden units look for: their weights, red for ink, blue for none")
    for place, weights in zip(places.flat, w1.T, strict=True):
        place.imshow(weights.reshape(8, 8), cmap="coolwarm", vmin=-1, vmax=1)
        place.set_axis_off()
    plt.show()


if __name__ == "__main__":
    main()
