import json

import numpy as np
import pytest
from helpers import tiny
from matplotlib import image as pictures
from reference import rules
from rich.console import Console

from lightning_fusion import ExpertOutputs, diagnose
from lightning_fusion.errors import InputError
from lightning_fusion.experts.diagnosis import _larger


def answers(right: np.ndarray, target: np.ndarray, classes: int, confidence: float = 0.8) -> np.ndarray:
    """(N, C) outputs of an expert that is right on the chosen rows and names the next class on the others."""
    said = np.where(right, target, (target + 1) % classes)
    spread = np.full((len(target), classes), (1 - confidence) / (classes - 1))
    spread[np.arange(len(target)), said] = confidence
    return spread


def store(accuracy: dict[str, dict[str, float]], rows: int = 600, same: bool = False, **more: object) -> ExpertOutputs:
    """Experts of given accuracies per split; they err on the same rows or independently."""
    generator = np.random.default_rng(0)
    splits = {}
    for split, values in accuracy.items():
        target = generator.integers(4, size=rows)
        shared = generator.random(rows)
        splits[split] = {
            "probabilities": {
                name: answers((shared if same else generator.random(rows)) < value, target, 4)
                for name, value in values.items()
            },
            "target": target,
        }
    names = list(next(iter(accuracy.values())))
    return ExpertOutputs.from_arrays(splits, {name: list("pqrs") for name in names}, **more)


class TestFigures:
    def test_accuracies_are_those_of_loops(self):
        outputs = tiny.outputs()
        result = diagnose(outputs, "train")
        spread, target = outputs.scattered("train"), outputs["train"].target
        for k, expert in enumerate(result.experts):
            right = [spread[row, k].argmax() == target[row] for row in range(24)]
            own = [right[row] for row in range(24) if outputs["train"].domain[row, k]]
            assert expert.accuracy == pytest.approx(np.mean(right))
            assert expert.own_accuracy == pytest.approx(np.mean(own))
            for number, domain in enumerate(tiny.DOMAINS):
                inside = [right[row] for row in range(24) if outputs["train"].domain[row, number]]
                assert result.domain_accuracy[domain][expert.name] == pytest.approx(np.mean(inside))
        assert (result.split, result.rows) == ("train", 24)
        some = [any(spread[row, k].argmax() == target[row] for k in range(2)) for row in range(24)]
        assert result.accuracies["oracle selection"] == pytest.approx(np.mean(some))
        assert result.accuracies["best single expert"] == max(expert.accuracy for expert in result.experts)

    def test_calibration_error_is_that_of_a_loop_over_bins(self):
        outputs = tiny.outputs(rows={"train": 200, "val": 1, "test": 50})
        for k, expert in enumerate(diagnose(outputs, "train").experts):
            target = outputs["train"].target
            known = np.isin(target, [outputs.classes.index(label) for label in tiny.EXPERT_CLASSES[expert.name]])
            expected = rules.calibration_error(outputs.scattered("train")[known, k], target[known])
            assert expert.calibration_error == pytest.approx(expected, abs=1e-5)

    def test_diversity_is_that_of_the_contingency_tables(self):
        outputs = store({"train": {"a": 0.5, "b": 0.7, "c": 0.8}})
        expected = rules.diversity(outputs.scattered("train").argmax(2), outputs["train"].target)
        for name, values in diagnose(outputs).diversity.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-5)

    def test_without_domains_own_accuracy_is_unknown(self):
        (expert,) = diagnose(store({"train": {"a": 0.5}})).experts
        assert np.isnan(expert.own_accuracy)
        assert np.isnan(expert.unseen_accuracy)
        assert not expert.leaks

    def test_an_empty_or_missing_split_is_rejected(self):
        empty = store({"train": {"a": 0.5}}, rows=0)
        with pytest.raises(InputError, match="split train of the store has no rows"):
            diagnose(empty)
        with pytest.raises(InputError, match="no split 'val'; it has train"):
            diagnose(empty, "val")

    def test_an_unseen_split_without_rows_tells_nothing(self):
        outputs = store({"train": {"a": 0.9, "b": 0.9}, "test": {"a": 0.5, "b": 0.5}})
        part = outputs.splits["test"]
        part.probabilities = {name: values[:0] for name, values in part.probabilities.items()}
        part.target, part.domain, part.index = part.target[:0], part.domain[:0], part.index[:0]
        assert not any(expert.leaks for expert in diagnose(outputs).experts)


class TestLeaks:
    def test_a_planted_leak_is_found(self):
        result = diagnose(store({"train": {"honest": 0.7, "leaky": 0.99}, "test": {"honest": 0.7, "leaky": 0.75}}))
        assert {expert.name: expert.leaks for expert in result.experts} == {"honest": False, "leaky": True}
        assert result.findings[0].startswith(
            "LEAK: leaky are significantly more accurate on the fuser training set than on test"
        )
        assert result.experts[1].leak_p < 1e-6

    @pytest.mark.parametrize("rows", [50, 600, 3000])
    def test_no_false_alarm_without_one(self, rows):
        accuracy = {f"expert_{number}": 0.5 + 0.02 * number for number in range(20)}
        result = diagnose(store({"train": accuracy, "test": accuracy}, rows=rows))
        assert not any(expert.leaks for expert in result.experts)
        assert not any("LEAK" in finding for finding in result.findings)

    def test_a_leak_into_own_domains_is_not_hidden_by_the_others(self):
        generator = np.random.default_rng(0)
        splits = {}
        for split, own in (("train", 1.0), ("test", 0.7)):
            target, domain = generator.integers(4, size=1000), np.arange(1000) % 10 == 0
            right = np.where(domain, generator.random(1000) < own, generator.random(1000) < 0.25)
            splits[split] = {
                "probabilities": {"a": answers(right, target, 4)},
                "target": target,
                "domain": domain[:, None],
            }
        outputs = ExpertOutputs.from_arrays(splits, {"a": list("pqrs")}, domains=["x"], expert_domains={"a": ["x"]})
        (expert,) = diagnose(outputs).experts
        assert expert.leaks
        assert expert.own_accuracy == 1
        assert expert.unseen_accuracy == pytest.approx(0.7, abs=0.12)

    def test_an_expert_that_is_worse_on_the_fusers_rows_does_not_leak(self):
        result = diagnose(store({"train": {"a": 0.5}, "test": {"a": 0.9}}))
        assert not result.experts[0].leaks
        assert result.experts[0].leak_p > 0.999

    @pytest.mark.parametrize("unseen", [None, "train"])
    def test_without_unseen_rows_there_is_no_check(self, unseen):
        result = diagnose(store({"train": {"a": 0.99}, "test": {"a": 0.5}}), unseen=unseen)
        assert np.isnan(result.experts[0].unseen_accuracy)
        assert not result.experts[0].leaks

    def test_a_split_that_is_named_must_be_there(self):
        with pytest.raises(InputError, match="unseen: the store has no split 'tset'"):
            diagnose(store({"train": {"a": 0.9}, "test": {"a": 0.9}}), unseen="tset")

    @pytest.mark.slow
    def test_a_handful_of_unseen_rows_raises_no_alarm(self):
        generator = np.random.default_rng(0)
        draws = generator.binomial([[500], [8]], 0.99, size=(2, 4000))
        alarms = [_larger(int(a), 500, int(b), 8) < 0.001 for a, b in draws.T]
        assert np.mean(alarms) <= 0.001


class TestConclusions:
    def test_experts_that_err_alike_are_not_worth_fusing(self):
        result = diagnose(store({"train": {"a": 0.7, "b": 0.7}}, same=True))
        assert not result.worthwhile
        assert (
            "not complementary: at least one expert is correct on 6" in result.findings[0]
            or "correct on 7" in result.findings[0]
        )

    def test_experts_that_err_apart_are(self):
        result = diagnose(store({"train": {"a": 0.7, "b": 0.7}}))
        assert result.worthwhile
        gain = 100 * (result.accuracies["oracle selection"] - result.accuracies["best single expert"])
        assert f"selecting an expert per sample can gain up to {gain:.1f} points" in result.findings[0]

    def test_poor_calibration_is_named(self):
        good = diagnose(store({"train": {"a": 0.8, "b": 0.8}}))
        poor = diagnose(store({"train": {"a": 0.8, "b": 0.4}}))
        assert not any("calibrated" in finding for finding in good.findings)
        assert any(
            finding.startswith("Poorly calibrated (expected calibration error above 0.15): b.")
            for finding in poor.findings
        )


class TestFiles:
    @pytest.mark.slow
    def test_json_has_no_nan_and_the_picture_shows_something(self, tmp_path):
        result = diagnose(store({"train": {"a": 1.0, "b": 0.5}, "test": {"a": 1.0, "b": 0.5}}))
        assert np.isnan(result.diversity["error_correlation"][0][1])  # a is always right
        result.save(tmp_path / "new")

        def refuse(name):
            raise AssertionError(name)

        read = json.loads((tmp_path / "new" / "diagnosis.json").read_text(), parse_constant=refuse)
        assert read["diversity"]["error_correlation"][0][1] is None
        assert read["experts"][0]["accuracy"] == 1
        picture = pictures.imread(tmp_path / "new" / "diagnosis.png")
        assert min(picture.shape[:2]) > 100
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["diagnosis.json", "diagnosis.png"]

    @pytest.mark.parametrize("count", [1, 20])
    def test_the_figure_shows_every_expert(self, count):
        accuracy = {f"expert_{number}": 0.5 for number in range(count)}
        left, right = diagnose(store({"train": accuracy}, rows=50)).figure().axes[:2]
        assert len(right.get_xticklabels()) == count
        assert left.images[0].get_array().shape[1] == count and right.images[0].get_array().shape == (count, count)

    def test_the_tables_name_every_expert_and_rule(self, tmp_path):
        with open(tmp_path / "text", "w") as file:
            console = Console(record=True, width=120, file=file)
            result = diagnose(store({"train": {"a": 0.99, "b": 0.5}, "test": {"a": 0.6, "b": 0.5}}))
            result.print(console)
        text = console.export_text()
        for name in ("a", "b", "yes", "no", *result.accuracies, "LEAK: a"):
            assert name in text
