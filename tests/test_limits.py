"""What the library cannot do: targets of other tasks end in one line that names the limit, wherever they are given."""

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.data_files import spoken_words, word_table
from helpers.text_tables import delimited, table
from torch import nn
from torch.utils.data import DataLoader

from lightning_fusion import ACoRLModule, ExpertModule, FoEFuserModule, FrugalFoE, HaTJointModule, collect
from lightning_fusion.data.audio.manifest import ManifestAudioDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.errors import InputError

ROWS = 8
TARGETS = {
    "multi-label": torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]] * 2),
    "multi-label as floats": torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]] * 2),
    "soft labels": torch.full((ROWS, 3), 1 / 3),
    "regression": torch.linspace(0.05, 0.95, ROWS),
    "segmentation": torch.zeros(ROWS, 5, 5, dtype=torch.long),
    "detection": [{"boxes": torch.rand(2, 4), "labels": torch.ones(2, dtype=torch.long)}] * ROWS,
}
LIMITS = {name: name.removesuffix(" as floats") for name in TARGETS}


def loader(kind: str, listed: bool = False) -> DataLoader:
    """Batches of four; ``listed`` keeps targets of a batch in a list, as loaders for detection do."""
    pairs = list(zip(torch.rand(ROWS, 4), TARGETS[kind], strict=True))

    def as_lists(batch):
        input, target = zip(*batch, strict=True)
        return torch.stack(input), list(target)

    return DataLoader(pairs, batch_size=4, collate_fn=as_lists if listed else None)


def modules() -> dict[str, nn.Module]:
    sources = tiny.experts(features="body")
    return {
        "expert": ExpertModule(tiny.Net, classes=tiny.CLASSES),
        "FoE": FoEFuserModule(tiny.pool()),
        "ACoRL": ACoRLModule(tiny.Net, experts=sources, features="body", classes=tiny.CLASSES),
        "HaT": HaTJointModule(tiny.Net, sources, "body", classes=tiny.CLASSES),
    }


def refused(function, *args, **kwargs) -> str:
    """The one line that a call ends with."""
    with pytest.raises(InputError) as found:
        function(*args, **kwargs)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_of_other_tasks(kind):
    answers = {name: torch.full((ROWS, 3), 1 / 3) for name in ("a", "b")}
    said = {name: refused(tiny.trainer().fit, module, loader(kind)) for name, module in modules().items()}
    said["FoE, test"] = refused(tiny.trainer().test, FoEFuserModule(tiny.pool()), loader(kind), verbose=False)
    said["collect"] = refused(collect, tiny.pool(), {"train": (torch.rand(ROWS, 4), TARGETS[kind])})
    said["FrugalFoE"] = refused(FrugalFoE().fit, answers, TARGETS[kind])
    assert {name: line for name, line in said.items() if f"{LIMITS[kind]}" not in line} == {}
    assert {name: line for name, line in said.items() if "not supported" not in line} == {}


def test_boxes_in_lists():
    line = refused(tiny.trainer().fit, modules()["expert"], loader("detection", listed=True))
    assert "bounding boxes (detection)" in line and len(line) < 800


def test_a_loader_of_ones_own_is_no_pair():
    assert "found DataLoader; expected (inputs, targets" in refused(
        collect, tiny.pool(), {"train": loader("regression")}
    )


def test_columns_of_continuous_values(tmp_path):
    """Labels in files are names; many fractions are values, in a table of texts, recordings or features."""
    values = [f"{value:.3f}" for value in np.linspace(0.01, 2.7, 60)]
    texts = table(tmp_path / "texts.csv", [(f"word {n}", value, "ab"[n % 2]) for n, value in enumerate(values)])
    spoken_words(tmp_path / "words", speakers=3, count=10)
    word_table(tmp_path / "words.csv", tmp_path / "words")
    header, *lines = (tmp_path / "words.csv").read_text().splitlines()
    fields = [line.split(",") for line in lines]
    rows = [f"{path},{value},{speaker}" for (path, _, speaker), value in zip(fields, values, strict=True)]
    (tmp_path / "words.csv").write_text("\n".join([header, *rows]))
    features = [f"{n},{n % 7},{value},{'pq'[n % 2]}" for n, value in enumerate(values)]
    (tmp_path / "features.csv").write_text("\n".join(["one,two,label,person", *features]))
    modules = {
        "texts": delimited(texts),
        "recordings": ManifestAudioDataModule(root=str(tmp_path / "words.csv"), sample_rate_hz=8000),
        "features": FeatureTableDataModule(root=str(tmp_path / "features.csv"), domain_fields=["person"]),
    }
    for name, data in modules.items():
        assert "continuous targets (regression) are not supported" in refused(data.setup), name


def test_several_labels_in_a_text_are_one_name(tmp_path):
    """No separator is guessed: 'good;cheap' is a class, which the report of classes shows."""
    rows = [(f"word {n}", ("good", "good;cheap")[n % 2], "ab"[n // 20]) for n in range(40)]
    data = delimited(table(tmp_path / "texts.csv", rows))
    data.setup()
    assert data.classes == ["good", "good;cheap"]
