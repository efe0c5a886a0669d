"""Train one small network from nine initialisations, and compare.

    python examples/compare_inits.py [PICTURE]

The data are scikit-learn's handwritten digits, which ship inside the package: 1797 images of 8 by 8
pixels. Prints the training loss and the validation accuracy after two epochs, and saves a picture
of the loss curves (default: compare_inits.png). Needs scikit-learn and matplotlib:
pip install scikit-learn matplotlib, or `make compare`, which fetches both.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastinit

EPOCHS, BATCH, WIDTH, DEPTH, RATE = 2, 16, 128, 4, 0.05
Initialiser = Callable[[Tensor], object]


def uniform_fan_in(weight: Tensor) -> None:
    bound = 1 / math.sqrt(weight.shape[1])
    fastinit.uniform_(weight, -bound, bound)


def normal_fan_in(weight: Tensor) -> None:
    fastinit.normal_(weight, std=1 / math.sqrt(weight.shape[1]))


INITIALISERS: dict[str, Initialiser] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "U[0, 1)": fastinit.uniform_,
    "U[-0.5, 0.5)": functools.partial(fastinit.uniform_, a=-0.5, b=0.5),
    "±1/√n": uniform_fan_in,
    "N(0, 1/√n)": normal_fan_in,
    "xavier": fastinit.xavier_uniform_,
    "kaiming": functools.partial(fastinit.kaiming_normal_, nonlinearity="relu"),
    "orthogonal": functools.partial(fastinit.orthogonal_, gain=math.sqrt(2)),
}


def network() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(64, WIDTH), nn.ReLU()]
    for _ in range(DEPTH - 2):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, and a fifth of all for validation."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order] - images.mean(), labels[order]
    held_out = len(labels) // 5
    return images[held_out:], labels[held_out:], images[:held_out], labels[:held_out]


def train(initialiser: Initialiser) -> tuple[list[float], float]:
    """The loss of every step, and the accuracy on what was held out."""
    images, labels, held_images, held_labels = data()
    # Weights by the initialiser, biases zero, each under a key of its own name.
    model = fastinit.initialize_(network(), {2: initialiser, "default": nn.init.zeros_}, key=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    losses = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        right = model(held_images).argmax(1) == held_labels
    return losses, right.float().mean().item()


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "compare_inits.png")
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    print(f"{'initialisation':<16}{'loss':>12}{'accuracy':>11}   after {EPOCHS} epochs")
    for name, initialiser in INITIALISERS.items():
        losses, accuracy = train(initialiser)
        last = losses[-20:]
        print(f"{name:<16}{sum(last) / len(last):>12.4g}{accuracy:>11.1%}", flush=True)
        axes.plot(losses, label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, 5), title="scikit-learn's digits")
    axes.legend()
    figure.savefig(path)
    print(f"loss curves: {path}")


if __name__ == "__main__":
    main()
