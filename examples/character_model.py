"""
A small language model in PyTorch
=================================

Its last layer and error are fastbp's: one import is changed.

It reads eight characters and guesses the next. The layers below are PyTorch's; the last one, which has an output for every
character, and its cross-entropy are one call, in which the logits of a batch never exist all at once: with a vocabulary of words
they would be most of a training's memory. The text, in sonnets.txt, is ten of William Shakespeare's
sonnets (1609): 1, 12, 18, 29, 30, 55, 60, 73, 116 and 130.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from fastbp.torch import (
    linear_cross_entropy,
)  # in place of: from torch.nn.functional import linear_cross_entropy

FOLDER = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook has none
CONTEXT, WIDTH, BATCH, EPOCHS = 8, 128, 64, 3


def main():
    torch.manual_seed(0)
    text = (FOLDER / "sonnets.txt").read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    numbers = torch.tensor([alphabet.index(character) for character in text])
    windows = numbers.unfold(0, CONTEXT + 1, 1)
    contexts, targets = windows[:, :CONTEXT], windows[:, CONTEXT]

    body = torch.nn.Sequential(
        torch.nn.Embedding(len(alphabet), 16),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * CONTEXT, WIDTH),
        torch.nn.GELU(),
    )
    head = torch.nn.Linear(WIDTH, len(alphabet))
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=5e-3)

    errors = []
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(contexts)).split(BATCH):
            optimizer.zero_grad()
            features = body(contexts[rows])
            loss = linear_cross_entropy(features, head.weight, targets[rows], linear_bias=head.bias)
            loss.backward()
            optimizer.step()
            errors.append(loss.item())
            total += errors[-1] * len(rows)
        print(f"epoch {epoch + 1}  nats per character {total / len(contexts):.3f}")
    assert total / len(contexts) < 2.2  # of 3 where only the frequencies of the characters are known

    line = "Shall I "
    with torch.no_grad():
        while len(line) < 70:
            last = torch.tensor([[alphabet.index(character) for character in line[-CONTEXT:]]])
            chances = head(body(last)).softmax(1)
            line += alphabet[torch.multinomial(chances, 1).item()]
    print(repr(line))

    shares = torch.bincount(targets) / len(targets)
    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(errors, color="0.8", label="a batch")
    axes.plot(torch.tensor(errors).unfold(0, 25, 1).mean(1), label="mean of 25")
    axes.axhline(-(shares * shares.log()).sum(), color="k", ls=":", label="from frequencies alone")
    axes.set(xlabel="step", ylabel="nats per character")
    axes.legend()
    plt.show()


if __name__ == "__main__":
    main()
