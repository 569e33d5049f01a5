"""The rows of scikit-learn's perceptrons in the table of Fashion-MNIST, reproduced: `python -m bench.fashion`.

As there: standardised images, default settings, the accuracy on the test images, the mean over fits to the training images in
several orders. Source: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747, table 3; its program is part of Debian's package
dataset-fashion-mnist, which also has the images. MNIST is looked for where mnist.py looks for it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

from fastbp.sklearn import MLPClassifier

from .mnist import FOLDER, read_idx

FASHION = Path("/usr/share/datasets/fashion-mnist")
PUBLISHED = {  # (activation, hidden units): accuracy on Fashion-MNIST, on MNIST
    ("relu", 100): (0.871, 0.972),
    ("relu", 10): (0.848, 0.933),
    ("tanh", 100): (0.868, 0.962),
}


def main() -> None:
    """Fit and print a row for each setting."""
    parser = argparse.ArgumentParser(prog="python -m bench.fashion", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--repeats", type=int, default=5, help="fits of each setting, as many orders of the images"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    options = parser.parse_args()
    folders = {
        "Fashion-MNIST": FASHION,
        "MNIST": Path(os.environ.get("FASTBP_MNIST", FOLDER)),
    }
    print("| data | activation, hidden units | published | here | epochs | seconds a fit |")
    print("|---|---|---|---|---|---|")
    for column, (name, folder) in enumerate(folders.items()):
        if not folder.exists():
            print(f"| {name} is left out: no {folder} |")
            continue
        data = read(folder, np.dtype(options.dtype))
        for (activation, units), published in PUBLISHED.items():
            print(row(name, data, activation, units, published[column], options.repeats), flush=True)


def read(folder: Path, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """Training images and classes, test images and classes."""
    images = [read_idx(folder / f"{part}-images-idx3-ubyte") for part in ("train", "t10k")]
    labels = [read_idx(folder / f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")]
    x, x_test = (each.reshape(len(each), -1).astype(dtype) for each in images)
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), labels[0], scaler.transform(x_test), labels[1]


def row(
    name: str, data: tuple[np.ndarray, ...], activation: str, units: int, published: float, repeats: int
) -> str:
    """A line of the table."""
    x, y, x_test, y_test = data
    scores, epochs, start = [], [], time.perf_counter()
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(len(x))
        model = MLPClassifier((units,), activation, random_state=seed).fit(x[order], y[order])
        scores.append(model.score(x_test, y_test))
        epochs.append(model.n_iter_)
    seconds = (time.perf_counter() - start) / repeats
    here = f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"
    return (
        f"| {name} | {activation}, {units} | {published} | {here} | {np.mean(epochs):.0f} | {seconds:.1f} |"
    )


if __name__ == "__main__":
    main()
