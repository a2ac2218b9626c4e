"""The table of logged names in docs/architecture.md is what a run of each module logs."""

import re
from pathlib import Path

import pytest
from helpers import modules, tiny

PAGE = Path(__file__).parents[1] / "docs/architecture.md"


def table() -> dict[str, set[str]]:
    """For each module the names that the page lists."""
    found = {}
    for line in PAGE.read_text().split("## Logged metrics")[1].splitlines():
        if line.startswith("| `"):
            module, train, both, val, test = ([*re.findall(r"`(\w+)`", cell)] for cell in line.strip("|").split("|"))
            names = {f"train_{name}" for name in train}
            names |= {f"{split}_{name}" for split in ("val", "test") for name in both}
            found[module[0]] = names | {f"val_{name}" for name in val} | {f"test_{name}" for name in test}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", table())
def test_a_run_logs_what_the_table_says(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    trainer = tiny.trainer(fast_dev_run=True)
    trainer.fit(module, datamodule=data)
    logged = set(trainer.callback_metrics)
    trainer.test(module, datamodule=data, verbose=False)
    logged |= set(trainer.callback_metrics)
    experts = [name for name in ("a", "b") if any(f"_expert_{name}_" in found for found in logged)]
    own = {re.sub(rf"_expert_({'|'.join(experts)})_", "_expert_NAME_", name) if experts else name for name in logged}
    own = {re.sub("multiclass_f1_score", "METRIC", name) for name in own}
    assert own == table()[name]


def test_every_module_is_in_the_table():
    root = Path(__file__).parents[1] / "lightning_fusion"
    classes = [re.findall(r"^class (\w+)\(([^)]*)\):", path.read_text(), re.M) for path in sorted(root.rglob("*.py"))]
    kinds = {"LightningModule"}
    for _ in range(3):
        kinds |= {name for found in classes for name, bases in found if kinds & set(re.findall(r"\w+", bases))}
    predicting = {"QueryingModule", "PoolModule", "LateFusionModule", "BaselineModule", "ChainTrialsModule", "Ensemble"}
    trained = {name for name in kinds if name[0] != "_"} - {"LightningModule"} - predicting
    assert trained == set(table())
