import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from lightning_fusion import ExpertOutputs
from lightning_fusion.recipes.acorl.uncertainty import METRICS, uncertainty

CLASSES = ["a", "b", "c"]


def outputs(one, other, target):
    split = {"probabilities": {"first": one, "plain": other}, "target": target}
    return ExpertOutputs.from_arrays({"test": split}, dict.fromkeys(("first", "plain"), CLASSES))


def test_disagreement_and_entropy_detect_what_they_see():
    generator = np.random.default_rng(0)
    target = generator.integers(3, size=300)
    sure = 0.8 * np.eye(3)[target] + 0.2 / 3
    apart = 0.8 * np.eye(3)[(target + 1) % 3] + 0.2 / 3
    found = uncertainty(outputs(sure, sure, target), outputs(sure, apart, target), ["first", "plain"])
    assert tuple(found) == METRICS
    assert found["detection by disagreement"] == 1.0 and found["detection by entropy"] == 1.0
    assert found["calibration error"] == pytest.approx(1 - sure.max(), abs=1e-5)  # always right, confidence .867
    same = uncertainty(outputs(sure, apart, target), outputs(sure, apart, target), ["first", "plain"])
    assert same["detection by disagreement"] == pytest.approx(0.5)
    metric = MulticlassCalibrationError(3, n_bins=15)
    expected = metric(torch.from_numpy((sure + apart) / 2), torch.from_numpy(target))
    assert same["shifted calibration error"] == pytest.approx(float(expected), abs=1e-6)
