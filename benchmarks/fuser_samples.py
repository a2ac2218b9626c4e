"""How many samples and how much time a fuser needs: the paper's, on random parts of its training set.

    lightning-fusion recipe foe --config recipes/foe_digits.yaml --output runs/foe_digits
    python benchmarks/fuser_samples.py runs/foe_digits

For each seed of a run and each number of samples a fuser is trained as the recipe trains it, and tested on the test
split. Seconds are those of the process, with one thread.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from fuser_variants import answers

from lightning_fusion import ExpertOutputs
from lightning_fusion.foe.fusers import MLPFuser

SIZES = (25, 50, 100, 200, 400, 800)


def measure(store: Path, seed: int) -> dict[str, tuple[float, float]]:
    """Test accuracy and seconds by the number of training samples; those of the rules that need none come first."""
    outputs = ExpertOutputs.open(store)
    inputs = {split: torch.from_numpy(np.array(outputs.concatenated(split, False))) for split in ("train", "test")}
    target = {split: torch.from_numpy(np.array(outputs[split].target)) for split in ("train", "test")}
    votes = torch.from_numpy(outputs.scattered("test"))
    single = (votes.argmax(2) == target["test"][:, None]).float().mean(0)
    found = {
        "softmax average": (float((votes.mean(1).argmax(1) == target["test"]).float().mean()), 0.0),
        "best single expert": (float(single.max()), 0.0),
    }
    order = torch.randperm(len(target["train"]), generator=torch.Generator().manual_seed(seed))
    for size in [*(size for size in SIZES if size < len(order)), len(order)]:
        rows, start = order[:size], time.process_time()
        answer = answers(MLPFuser, inputs["train"][rows], target["train"][rows], inputs["test"], seed)
        accuracy = float((answer.argmax(1) == target["test"]).float().mean())
        found[f"{size} samples"] = accuracy, time.process_time() - start
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of a run of the recipe foe.")
    folder = parser.parse_args().run
    stores = sorted(folder.glob("seed_*/outputs"))
    torch.set_num_threads(1)
    each = [measure(store, int(store.parent.name.removeprefix("seed_"))) for store in stores]
    for name in each[0] if each else ():
        accuracy, seconds = np.array([found[name] for found in each]).T
        spread = np.std(accuracy, ddof=1) if len(each) > 1 else np.nan
        print(f"{name:24} {accuracy.mean():.3f} ± {spread:.3f}   {seconds.mean():5.1f} s", flush=True)


if __name__ == "__main__":
    main()
