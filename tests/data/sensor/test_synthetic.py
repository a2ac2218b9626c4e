from functools import partial

import numpy as np
import pytest
import torch
from helpers.splits import SPLITS, everything
from lightning import Trainer

from lightning_fusion import ExpertModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.encoders import SensorCNN
from lightning_fusion.errors import InputError


class TestSynthetic:
    def test_arguments(self):
        with pytest.raises(InputError, match="heterogeneity is -1; expected 0 or more"):
            SyntheticSensorDataModule(heterogeneity=-1)

    @pytest.mark.slow
    def test_an_expert_knows_its_own_domain_and_is_poor_on_others(self):
        scale = {"mean": [0.0] * 6, "std": [5.0, 5, 5, 1.5, 1.5, 1.5]}
        data = SyntheticSensorDataModule(domain="p0_phone", **scale, batch_size=16)
        module = ExpertModule(partial(SensorCNN, width=8), classes=data.classes, features="pool")
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=12, accelerator="cpu", enable_model_summary=False, limit_val_batches=0, **quiet)
        trainer.fit(module.train(), datamodule=data)
        module.eval()
        right = []
        for name in data.domains:
            batch = everything(data.variant(domain=name), "test")
            right.append(float((module(data.preprocess(batch.input)).argmax(1) == batch.target).float().mean()))
        assert right[0] > 0.85 and np.mean(right[1:]) < 0.75

    def test_domains_and_groups(self):
        data = SyntheticSensorDataModule(batch_size=16)
        assert data.domains == [f"p{person}_{device}" for person in range(4) for device in ("phone", "watch")]
        assert data.groups["p2_watch"] == "p2" and len(data.classes) == 4
        assert [len(data.variant(domain="p0_phone").rows(split)) for split in SPLITS] == [124, 31, 31]

    @pytest.mark.slow
    def test_heterogeneity_is_a_dial(self):
        gaps = []
        for strength in (0.0, 0.5, 1.0):
            data = SyntheticSensorDataModule(heterogeneity=strength, batch_size=16)
            facts = torch.stack([data.variant(domain=name).statistics() for name in data.domains])
            gaps.append(float((facts - facts.mean(0)).norm() / facts.norm()))
        assert gaps[0] < 0.1 < gaps[1] < gaps[2]
