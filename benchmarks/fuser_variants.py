"""Fusers that read representations, compared without a test row: cross-validation over the fuser's rows.

    lightning-fusion recipe foe --config recipes/foe_reviews.yaml --output runs/foe_reviews
    python benchmarks/fuser_variants.py runs/foe_reviews

For each seed of a run the fuser's training and validation rows are cut into four folds; a fuser is trained on three
and answers the fourth, as the recipe trains it (AdamW 1e-3, weight decay 1e-4, cosine, 50 epochs).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion import ExpertOutputs
from lightning_fusion.foe.fusers import MLPFuser, RepresentationFuser

FOLDS, EPOCHS = 4, 50
VARIANTS: dict[str, tuple[Callable[[int, int], nn.Module], bool, float]] = {
    "paper's (outputs)": (MLPFuser, False, 0.0),
    "without dropout": (partial(RepresentationFuser, dropout=0.0), True, 0.0),
    "linear": (partial(RepresentationFuser, hidden=()), True, 0.0),
    "RepresentationFuser": (RepresentationFuser, True, 0.0),
    "RepresentationFuser, mean_weight 0.5": (RepresentationFuser, True, 0.5),
}
"""Network, whether it reads representations, and the average's share of the answer."""


def answers(build: Callable[[int, int], nn.Module], inputs: Tensor, target: Tensor, test: Tensor, seed: int) -> Tensor:
    """(T, C) probabilities of held-out inputs (T, D), by a fuser of inputs (N, D) and targets (N,)."""
    torch.manual_seed(seed)
    network, size = build(inputs.shape[1], int(target.max()) + 1), min(128, max(8, len(inputs) // 16))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(inputs) // size))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(size):
            loss = F.cross_entropy(network(inputs[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return network.eval()(test).softmax(1)


def compare(store: Path, seed: int) -> dict[str, float]:
    """Accuracy of each variant, and of the plain average, on the held-out rows of all folds."""
    outputs = ExpertOutputs.open(store)

    def both(part: Callable[[str], np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([part("train"), part("val")]))

    target = both(lambda split: np.asarray(outputs[split].target))
    average = both(outputs.scattered).mean(1)
    given = {reads: both(lambda split, r=reads: outputs.concatenated(split, r)) for reads in (False, True)}  # type: ignore[misc]
    fold = torch.from_numpy(np.random.default_rng(0).permutation(len(target)) % FOLDS)
    found: dict[str, float] = {"plain average": float((average.argmax(1) == target).float().mean())}
    kept: dict[tuple[Callable[[int, int], nn.Module], bool], Tensor] = {}
    for name, (build, reads, share) in VARIANTS.items():
        if (build, reads) not in kept:
            said = torch.zeros_like(average)
            for number in range(FOLDS):
                train, test = fold != number, fold == number
                part = answers(build, given[reads][train], target[train], given[reads][test], seed)
                said[test, : part.shape[1]] = part
            kept[build, reads] = said
        answer = torch.lerp(kept[build, reads], average, share)
        found[name] = float((answer.argmax(1) == target).float().mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of a run of the recipe foe with features.")
    folder = parser.parse_args().run
    stores = sorted(folder.glob("seed_*/outputs"))
    each = [compare(store, int(store.parent.name.removeprefix("seed_"))) for store in stores]
    for name in each[0] if each else ():
        values = [found[name] for found in each]
        print(f"{name:32} {np.mean(values):.3f}   " + "  ".join(f"{value:.3f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
