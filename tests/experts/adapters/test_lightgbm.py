import numpy as np
import pytest
import torch

from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.lightgbm import LightGBMExpert
from lightning_fusion.experts.adapters.xgboost import XGBoostExpert

lightgbm = pytest.importorskip("lightgbm")
ROWS = np.random.default_rng(0).normal(size=(90, 12))
HOW = {"n_estimators": 2, "min_child_samples": 2, "verbose": -1, "n_jobs": 1}


@pytest.mark.parametrize("objective", ["multiclass", "multiclassova", "binary"])
def test_the_answers_are_those_of_the_model(tmp_path, objective):
    labels = ROWS[:, :3].argmax(1) if objective != "binary" else (ROWS[:, 0] > 0).astype(int)
    model = lightgbm.LGBMClassifier(objective=objective, **HOW).fit(ROWS, labels)
    model.booster_.save_model(tmp_path / "a.txt")
    classes = ["cat", "dog", "owl"][: labels.max() + 1]
    expected = model.predict_proba(ROWS)
    expert = LightGBMExpert(str(tmp_path / "a.txt"), classes)
    found = expert(torch.from_numpy(ROWS))
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-6)


def test_others_are_named(tmp_path):
    lightgbm.LGBMRegressor(**HOW).fit(ROWS, ROWS[:, 0]).booster_.save_model(tmp_path / "r.txt")
    with pytest.raises(InputError, match="has the objective regression; expected one of binary, multiclass"):
        LightGBMExpert(str(tmp_path / "r.txt"), ["a", "b"])
    with pytest.raises(InputError, match="is a model of LightGBM; give it to LightGBMExpert, as path"):
        XGBoostExpert(str(tmp_path / "r.txt"), ["a", "b"])
    (tmp_path / "b.txt").write_text("tree")
    with pytest.raises(InputError, match="LightGBM cannot read"):
        LightGBMExpert(str(tmp_path / "b.txt"), ["a", "b"])
