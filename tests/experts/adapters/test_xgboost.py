import numpy as np
import pytest
import torch

from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.xgboost import XGBoostExpert

xgboost = pytest.importorskip("xgboost")
ROWS = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
LABELS = ROWS[:, :3].argmax(1)
CLASSES = ["cat", "dog", "owl"]


@pytest.mark.parametrize("name", ["a.json", "a.ubj"])
def test_the_answers_are_those_of_the_model(tmp_path, name):
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(ROWS, LABELS)
    model.save_model(tmp_path / name)
    expert = XGBoostExpert(str(tmp_path / name), CLASSES)
    samples = torch.from_numpy(ROWS).reshape(-1, 3, 4)
    np.testing.assert_allclose(expert(samples), model.predict_proba(ROWS), atol=1e-6)
    assert expert.unknown_state() is None and expert.classes == CLASSES


def test_others_are_named(tmp_path):
    rows = xgboost.DMatrix(ROWS, LABELS)
    xgboost.train({"objective": "reg:squarederror", "nthread": 1}, rows, 1).save_model(tmp_path / "r.json")
    with pytest.raises(InputError, match="has the objective reg:squarederror; expected one of binary:logistic"):
        XGBoostExpert(str(tmp_path / "r.json"), CLASSES)
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match="XGBoost cannot read"):
        XGBoostExpert(str(tmp_path / "b.json"), CLASSES)
