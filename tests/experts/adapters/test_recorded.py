from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import models
from helpers.models import CLASSES
from lightning import Trainer
from torch import nn

from lightning_fusion import Expert, ExpertPool, FoEFuserModule, ImageDataModule, collect
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.image.files import ORIGINAL
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.recorded import RecordedExpert

NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


def quiet(**more) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1, **more
    )


@pytest.fixture
def data(tmp_path) -> ImageDataModule:
    return ImageDataModule(str(models.photos(tmp_path / "images")), image_size=ORIGINAL, batch_size=4)


@pytest.fixture
def live() -> Expert:
    torch.manual_seed(0)
    return Expert(NETWORK, classes=CLASSES, preprocess=ImagePreprocessing(4))


def write(path: Path, data: ImageDataModule, store, parts: int, splits=("train", "val", "test")) -> str:
    """What a user has recorded: the last parts of the name of each file, and the probabilities."""
    frames = []
    for split in splits:
        part = store[split]
        files = data.origins(torch.from_numpy(np.array(part.index))).columns()["file"]
        names = ["/".join(file.split("/")[-parts:]) for file in files]
        frames.append(pd.DataFrame({"file": names, **dict(zip(CLASSES, part.probabilities["live"].T, strict=True))}))
    pd.concat(frames).sample(frac=1, random_state=0).to_csv(path, index=False)
    return str(path)


@pytest.mark.slow
def test_recorded_predictions_equal_the_live_expert(tmp_path, data, live):
    store = collect(ExpertPool({"live": live}), data, trainer=quiet())
    expert = RecordedExpert(write(tmp_path / "p.csv", data, store, parts=3), CLASSES)
    pool = ExpertPool({"live": live, "recorded": expert}, CLASSES)
    both = collect(pool, data, trainer=quiet())
    for split in ("train", "val", "test"):
        np.testing.assert_allclose(both[split].probabilities["recorded"], both[split].probabilities["live"], atol=1e-6)
    fuser = FoEFuserModule(pool)
    trainer = quiet(callbacks=[PredictionWriter(str(tmp_path / "fused.csv"))])
    trainer.fit(fuser, datamodule=data)
    trainer.predict(fuser, datamodule=data)
    again = RecordedExpert(str(tmp_path / "fused.csv"))  # the fused predictions are an expert of the next pool
    assert again.classes == CLASSES
    collect(ExpertPool({"fused": again}), data, splits=["test"], trainer=quiet())


def test_samples_without_a_row_are_missing(tmp_path, data, live):
    store = collect(ExpertPool({"live": live}), data, splits=["test"], trainer=quiet())
    path = write(tmp_path / "p.csv", data, store, 3, ["test"])
    frame = pd.read_csv(path)
    frame.iloc[2:].to_csv(path, index=False)
    pool = ExpertPool({"recorded": RecordedExpert(path)})
    with pytest.raises(InputError, match="expert recorded returned NaN or None for row"):
        collect(pool, data, splits=["test"], trainer=quiet())
    with pytest.warns(UserWarning, match=r"p.csv has no prediction for \d samples: .*test/"):
        found = collect(
            ExpertPool({"r": RecordedExpert(path)}), data, splits=["test"], on_failure="skip", trainer=quiet()
        )
    assert found["test"].missing.sum() == 2


def test_wrong_files_and_data_are_named(tmp_path, data, live):
    store = collect(ExpertPool({"live": live}), data, splits=["train", "test"], trainer=quiet())
    short = RecordedExpert(write(tmp_path / "p.csv", data, store, 1, ["train", "test"]), CLASSES)
    with pytest.raises(InputError, match=r"has \d rows for .*; expected one: write more of the folders"):
        collect(ExpertPool({"recorded": short}), data, splits=["test"], trainer=quiet())
    with pytest.raises(InputError, match="has predictions by the file of each sample, and the data give none"):
        collect(ExpertPool({"recorded": short}), {"test": (torch.zeros(4, 2), torch.arange(4) % 3)}, trainer=quiet())
    with pytest.raises(InputError, match="has no column bird, only file, cat, dog, owl"):
        RecordedExpert(str(tmp_path / "p.csv"), ["cat", "bird"])
    (tmp_path / "q.csv").write_text("name,cat\na,0.1\n")
    with pytest.raises(InputError, match="has the columns name, cat; expected file"):
        RecordedExpert(str(tmp_path / "q.csv"))
    (tmp_path / "q.csv").write_text("file,cat\na,high\n")
    with pytest.raises(InputError, match="row 2: cat is 'high'; expected a number"):
        RecordedExpert(str(tmp_path / "q.csv"))
