"""Scores, predictions and weights that contradict what is declared about an expert."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lightning_fusion import Expert
from lightning_fusion.errors import InputError

CLASSES = ["a", "b", "c"]
Y = np.random.default_rng(0).integers(3, size=90)
X = 2 * np.eye(3)[Y] + np.random.default_rng(1).normal(size=(90, 3))
PROBABILITIES = torch.tensor(np.random.default_rng(2).dirichlet([1, 1, 1], 90)).float()


def expert_of(outputs, **options) -> Expert:
    return Expert(lambda x: outputs[: len(x)], classes=CLASSES, version="1", **options)


class TestOutputsDeclaredAsLogits:
    @pytest.mark.parametrize(
        ("outputs", "match"),
        [
            (100 * PROBABILITIES, "all 90 outputs of the expert of a, b, c are >= 0 and sum to 100, like percentages"),
            (torch.tensor([[3, 2, 0], [0, 5, 0]]), "sum to 5, like percentages or votes"),
            (torch.tensor(X).sigmoid(), "lie between 0 and 1, like those of a sigmoid"),
        ],
        ids=["percentages", "votes", "sigmoid"],
    )
    def test_other_scores_are_reported_once(self, outputs, match, recwarn):
        expert = expert_of(outputs)
        for _ in range(2):
            expert(torch.zeros(len(outputs), 1))
        (found,) = [str(each.message) for each in recwarn]
        assert match in found and "set output to 'probabilities'" in found

    @pytest.mark.parametrize(
        "outputs", [torch.tensor(X), 9 * torch.eye(3), torch.ones(20, 3), torch.zeros(20, 3), torch.tensor(X).relu()]
    )
    def test_logits_are_silent(self, outputs):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expert_of(outputs)(torch.zeros(len(outputs), 1))

    def test_logits_of_a_network_that_was_trained_here_are_silent(self, tmp_path):
        network = nn.Linear(3, 3)
        torch.save({"state_dict": network.state_dict(), "expert": {"classes": CLASSES}}, tmp_path / "trained.ckpt")
        torch.save(network.state_dict(), tmp_path / "other.pt")
        rows = torch.tensor(X).float().sigmoid() @ network.weight.detach().inverse().T
        for name, count in (("trained.ckpt", 0), ("other.pt", 1)):
            expert = Expert(network, checkpoint=str(tmp_path / name), classes=CLASSES)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                expert(rows - network.bias.detach() @ network.weight.detach().inverse().T)
            assert len(caught) == count


class TestPredictionsOfAnEstimator:
    def test_a_threshold_of_its_own_is_reported(self):
        model = FixedThresholdClassifier(LogisticRegression(), threshold=0.9).fit(X, np.array(["no", "yes"])[Y % 2])
        probable = model.predict_proba(X).argmax(1)
        other = int((np.array(["no", "yes"])[probable] != model.predict(X)).sum())
        with pytest.warns(
            UserWarning, match=f"FixedThresholdClassifier gives another class .* on {other} of 90 samples:"
        ):
            Expert(model)(torch.tensor(X))

    def test_ties_are_counted(self):
        model = SGDClassifier(loss="modified_huber", random_state=0).fit(
            X[:, :1], Y
        )  # its probabilities are often equal
        with pytest.warns(UserWarning, match=r"on \d+ of 90 samples \(\d+ with several most probable classes"):
            Expert(model, classes=CLASSES)(torch.tensor(X[:, :1]))

    @pytest.mark.parametrize("classes", [CLASSES, ["0", "1", "2"], ["2", "0", "1"]])
    def test_equal_ones_are_silent(self, classes):
        scaled = make_pipeline(StandardScaler(copy=False), LogisticRegression()).fit(X.copy(), Y)  # works in place
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Expert(scaled, classes=classes)(torch.tensor(X))


class TestWeights:
    def write(self, tmp_path, content) -> str:
        torch.save(content, tmp_path / "w.pt")
        return str(tmp_path / "w.pt")

    def test_moving_averages_are_named(self, tmp_path):
        state = nn.Linear(3, 3).state_dict()
        average = {key: value + 1 for key, value in state.items()}
        path = self.write(tmp_path, {"epoch": 3, "model": state, "model_ema": average})
        with pytest.warns(
            UserWarning, match="weights of the same names in model, model_ema; those of model are loaded"
        ):
            expert = Expert(nn.Linear(3, 3), checkpoint=path, classes=CLASSES)
        assert torch.equal(expert.network.weight, state["weight"])

    def test_several_networks_are_named(self, tmp_path):
        parts = {
            f"{name}.{key}": value
            for name in ("student", "teacher")
            for key, value in nn.Linear(3, 3).state_dict().items()
        }
        with pytest.warns(
            UserWarning, match=r"weights of 2 such networks \(student., teacher.\); those of student. are"
        ):
            Expert(nn.Linear(3, 3), checkpoint=self.write(tmp_path, {"state_dict": parts}), classes=CLASSES)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float8_e4m3fn])
    def test_quantized_ones_raise(self, tmp_path, dtype):
        state = {key: (100 * value).to(dtype) for key, value in nn.Linear(3, 3).state_dict().items()}
        with pytest.raises(
            InputError, match=f"has {str(dtype)[6:]} for weight, the network float32: quantized weights"
        ):
            Expert(nn.Linear(3, 3), checkpoint=self.write(tmp_path, state), classes=CLASSES)

    @pytest.mark.parametrize(
        "wrap", [lambda state: state, lambda state: {"state_dict": state, "current_model_state": state}]
    )
    def test_one_network_in_another_precision_is_silent(self, tmp_path, wrap):
        state = nn.BatchNorm1d(3).half().state_dict()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Expert(nn.BatchNorm1d(3), checkpoint=self.write(tmp_path, wrap(state)), classes=CLASSES)
