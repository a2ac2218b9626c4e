import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.pages import samples_of
from helpers.recipe_runs import PARTS, value
from matplotlib import image as pictures

from lightning_fusion import ExpertOutputs, FrugalFoE
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.frugal.risk import ParametricRisk
from lightning_fusion.frugal.subset_fusers import MaskedMLPFuser
from lightning_fusion.metrics.selective import area_under_cost_curve, risk_coverage
from lightning_fusion.recipes.frugal.protocol import frugal
from lightning_fusion.recipes.frugal.rows import (
    AVERAGE,
    CONFIDENT,
    COVERAGES,
    IN_SCOPE,
    MAIN,
    MAJORITY,
    SCOPE_AUROC,
    SEEN,
    TRADE_OFFS,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:the fuser of all experts"),
    pytest.mark.filterwarnings("ignore:trade_off . cost is"),
    pytest.mark.filterwarnings("ignore:.*samples queried every expert"),
    pytest.mark.filterwarnings("ignore:.*samples are out-of-distribution"),
]
STUDY = "lightning_fusion.recipes.frugal.study"
ROWS = {"train": 160, "test": 110}
COSTS = {"a": 1.0, "b": 2.0, "c": 0.5}
CLASSES = ["cat", "dog", "owl"]
PAPER = "FrugalFoE (M = 10, at least two queries)"
VARIANTS = {
    PAPER,
    "FrugalFoE (masked MLP)",
    "FrugalFoE (parametric risk)",
    "FrugalFoE (exhaustive search)",
}
RULES = {
    "random subsets",
    "static subset (greedy)",
    "static subset (exhaustive)",
    "confidence cascade",
    "FrugalML-style",
}
ORACLE = "oracle (lowest-cost correct expert)"
POINTS = {"best single expert", "all experts, kNN", "all experts, logistic stacking", MAJORITY, ORACLE}


def store(folder: Path, seed: int = 0, rows: dict = ROWS, costs: dict | None = COSTS) -> str:
    """Three experts that each know one class better than others, as a store on disk."""
    generator = np.random.default_rng(seed)
    splits = {}
    for split, count in rows.items():
        target = generator.integers(3, size=count)
        said = {}
        for expert, name in enumerate(COSTS):
            knows = (target == expert) | (generator.random(count) < 0.5)
            logits = generator.normal(size=(count, 3)) + 2.5 * knows[:, None] * np.eye(3)[target]
            said[name] = tiny.softmax(logits)
        splits[split] = {"probabilities": said, "target": target}
    ExpertOutputs.from_arrays(splits, dict.fromkeys(COSTS, CLASSES), CLASSES, costs=costs).save(folder)
    return str(folder)


def run(output: Path, **arguments):
    return frugal(str(output), **({"variants": False, "trade_offs": [1.0, 0.1, 0.05]} | arguments))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, list[str], Any]:
    """A run on two stores, to be read: its folder, the stores, and the report."""
    folder = tmp_path_factory.mktemp("plain")
    stores = [store(folder / f"store_{seed}", seed) for seed in range(2)]
    return folder / "run", stores, run(folder / "run", stores=stores)


def of_seed(rows: list[dict], seed: int) -> list[dict]:
    return [row for row in rows if row["seed"] == seed]


@pytest.mark.slow
def test_the_report_tells_the_accuracy_of_the_samples_of_least_risk(plain):
    folder, stores, report = plain
    test = ExpertOutputs.open(stores[0])["test"]
    coverage = FrugalFoE.load(folder / "seed_0/policy").predict(test)
    wrong = coverage.predicted.numpy() != test.target
    curve = risk_coverage(coverage.risk.numpy(), wrong)
    told = {share: report.values(MAIN, f"accuracy at {share:.0%} coverage") for share in COVERAGES}
    assert told[1.0] == [pytest.approx(value) for value in report.values(MAIN)]
    for share, (covered, _) in told.items():
        assert covered == pytest.approx(1 - np.interp(share, curve.coverage, curve.error))
    assert f"50% coverage {np.mean(told[0.5]):.3f}" in (folder / "report.md").read_text()
    assert not any(MAJORITY in note for note in report.notes)


@pytest.mark.slow
def test_a_policy_below_the_majority_class_is_reported(tmp_path):
    generator = np.random.default_rng(0)
    splits = {}
    for split, count in ROWS.items():
        target = (generator.random(count) < 0.1).astype(int)
        said = {name: tiny.softmax(generator.normal(size=(count, 2)) * 3) for name in "ab"}
        splits[split] = {"probabilities": said, "target": target}
    splits["train"]["target"][:] = np.arange(ROWS["train"]) % 2
    splits["train"]["target"][:3] = 0
    report = run(tmp_path / "run", stores=[store_of(splits, tmp_path / "other")])
    (note,) = [note for note in report.notes if MAJORITY in note]
    own, majority = report.values(MAIN)[0], report.values(MAJORITY)[0]
    assert own < majority and f"({own:.3f}) is below" in note and f"({majority:.3f})" in note


def store_of(splits: dict, folder: Path) -> str:
    ExpertOutputs.from_arrays(splits, {"a": ["x", "y"], "b": ["x", "y"]}).save(folder)
    return str(folder)


def run_on_digits(output: Path, **arguments):
    settings = {
        "data": DigitsDataModule(num_domains=2, classes_per_domain=6, fuser_fraction=0.2, batch_size=256),
        "network": partial(SmallConvNet, width=2, in_channels=1),
        "expert_epochs": 2,
        "optimizer": partial(torch.optim.AdamW, lr=0.02),
        "trainer": {"accelerator": "cpu"},
        "validation_rows": 80,
        "test_rows": 60,
    }
    return run(output, **(settings | arguments))


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Let the networks of the variants be small, and train them for a moment."""
    patch.setattr("lightning_fusion.frugal.subset_fusers._MIN_STEPS", 20)
    patch.setattr(f"{STUDY}.MaskedMLPFuser", partial(MaskedMLPFuser, hidden=(8,), epochs=2))
    patch.setattr(f"{STUDY}.ParametricRisk", partial(ParametricRisk, hidden=(8,), states=40))


@pytest.fixture
def stores(tmp_path) -> list[str]:
    return [store(tmp_path / "store_0")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two seeds from stores, with all variants; their networks are trained for a moment."""
    folder = tmp_path_factory.mktemp("frugal")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        frugal(str(folder / "run"), stores=[store(folder / f"store_{seed}", seed) for seed in (4, 5)], seeds=[4, 5])
    return folder


def strict(text: str) -> dict:
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def results(folder: Path) -> dict:
    return strict((folder / "results.json").read_text())


def curve(rows: list[dict], method: str, seed: int = 0) -> list[tuple[float, float]]:
    return [
        (row["cost"], row["value"])
        for row in rows
        if (row["method"], row["metric"], row["seed"]) == (method, "accuracy on the curve", seed)
    ]


@pytest.mark.slow
class TestResults:
    def test_everybody_is_there_for_each_seed(self, finished):
        content = results(finished / "run")
        rows = content["rows"]
        assert set(content) == PARTS
        assert content["recipe"] == "frugal" and content["config"]["seeds"] == [4, 5]
        assert content["config"]["trade_offs"] is None
        for seed in (4, 5):
            for metric, expected in (
                ("accuracy", {MAIN} | VARIANTS | RULES | POINTS | {"all experts, masked MLP"}),
                ("cost", {MAIN} | VARIANTS | RULES | POINTS | {"all experts, masked MLP"}),
                ("area", {MAIN} | VARIANTS | RULES),
                ("area under the risk-coverage curve", {MAIN}),
                ("fraction of out-of-distribution samples", {MAIN}),
            ):
                found = [row["method"] for row in rows if (row["metric"], row["seed"]) == (metric, seed)]
                assert sorted(found) == sorted(expected), metric
            for method in (MAIN, *VARIANTS):
                settings = [
                    r["setting"] for r in rows if r["method"] == method and r["seed"] == seed and "setting" in r
                ]
                mean = sum(COSTS.values()) / len(COSTS)
                assert settings == sorted([*(value / mean for value in TRADE_OFFS), 0.02], reverse=True)
        assert all(np.isfinite(number) for row in rows for number in row.values() if isinstance(number, float))
        assert all(0 <= row["value"] <= 1 for row in rows if row["metric"] != "cost")
        assert all(0 <= row.get("cost", 0) <= 3.5 for row in rows)

    def test_the_curve_at_the_trade_off_is_the_table(self, finished):
        rows = results(finished / "run")["rows"]
        for seed in (4, 5):
            (row,) = [r for r in rows if r["method"] == MAIN and r.get("setting") == 0.02 and r["seed"] == seed]
            (table,) = [r for r in rows if (r["method"], r["metric"], r["seed"]) == (MAIN, "accuracy", seed)]
            assert (row["value"], row["cost"], row["num_queries"]) == (
                table["value"],
                table["cost"],
                table["num_queries"],
            )
            assert value(rows, MAIN, "cost", seed) == row["cost"]

    def test_the_table_follows_from_the_saved_policy(self, finished):
        rows = results(finished / "run")["rows"]
        for seed in (4, 5):
            outputs = ExpertOutputs.open(finished / f"store_{seed}")
            saved = FrugalFoE.load(finished / f"run/seed_{seed}/policy")
            assert (saved.names, saved.classes, saved.costs_) == (list(COSTS), CLASSES, list(COSTS.values()))
            answer = saved.predict(outputs["test"])
            wrong = answer.probabilities.argmax(1).numpy() != outputs["test"].target
            assert value(rows, MAIN, seed=seed) == pytest.approx(1 - wrong.mean())
            assert value(rows, MAIN, "cost", seed) == pytest.approx(float(answer.cost.mean()))
            area = risk_coverage(answer.risk.numpy(), wrong).area
            assert value(rows, MAIN, "area under the risk-coverage curve", seed) == pytest.approx(area)
            assert value(rows, MAIN, "fraction of out-of-distribution samples", seed) == pytest.approx(
                float(answer.ood.double().mean())
            )

    def test_samples_in_the_page_are_those_of_the_saved_policy(self, finished):
        found, outputs = samples_of(finished / "run"), ExpertOutputs.open(finished / "store_5")
        policy = FrugalFoE.load(finished / "run/seed_5/policy")
        answer = policy.predict(outputs["test"])
        assert found["experts"] == policy.names and len(found["samples"]) == ROWS["test"]
        for row, sample in enumerate(found["samples"]):  # all, in the order of the store
            assert [queried for *_, queried in sample["experts"]] == answer.queried[row].tolist()
            cost = float(answer.queried[row].numpy() @ np.array(policy.costs_))
            assert sample["numbers"]["cost"] == pytest.approx(cost)
            assert sample["answer"] == CLASSES[int(answer.probabilities[row].argmax())]
            weights = np.array([weight for _, _, weight, _ in sample["experts"]])
            assert weights.sum() == pytest.approx(1, abs=1e-3) and not weights[~answer.queried[row].numpy()].any()

    def test_rivals_are_read_off_their_curves_at_the_same_cost(self, finished):
        rows = results(finished / "run")["rows"]
        for seed in (4, 5):
            cost, majority = value(rows, MAIN, "cost", seed), value(rows, MAJORITY, seed=seed)
            for method in (*VARIANTS, *RULES):
                points = [point for point in curve(rows, method, seed) if point[0] > 0]
                places = sorted({0.0, *(c for c, _ in points)})
                means = [majority, *(np.mean([a for c, a in points if c == place]) for place in places[1:])]
                assert value(rows, method, seed=seed) == pytest.approx(np.interp(cost, places, means)), method
                assert value(rows, method, "cost", seed) == pytest.approx(min(cost, places[-1])), method

    def test_areas_are_those_under_the_curves(self, finished):
        rows = results(finished / "run")["rows"]
        for method in (MAIN, "confidence cascade", "static subset (exhaustive)"):
            points = [
                (0.0, value(rows, MAJORITY, seed=4)),
                *(point for point in curve(rows, method, 4) if point[0] > 0),
            ]
            found = value(rows, method, "area", 4)
            assert found == pytest.approx(area_under_cost_curve(*zip(*points, strict=True), total_cost=3.5))
            assert 0 < found < 1

    def test_single_points_are_those_worked_out_by_hand(self, finished):
        rows = results(finished / "run")["rows"]
        outputs = ExpertOutputs.open(finished / "store_4")
        train, test = (outputs.scattered(split).argmax(2) for split in ("train", "test"))
        goal, truth = outputs["train"].target, outputs["test"].target
        best = int((train == goal[:, None]).mean(0).argmax())
        assert value(rows, "best single expert", seed=4) == pytest.approx((test[:, best] == truth).mean())
        assert value(rows, "best single expert", "cost", 4) == list(COSTS.values())[best]
        assert value(rows, MAJORITY, seed=4) == pytest.approx((truth == np.bincount(goal).argmax()).mean())
        assert value(rows, MAJORITY, "cost", 4) == 0
        for method in ("all experts, kNN", "all experts, logistic stacking", "all experts, masked MLP"):
            assert value(rows, method, "cost", 4) == 3.5
        assert value(rows, ORACLE, seed=4) == pytest.approx((test == truth[:, None]).any(1).mean())
        assert value(rows, "all experts, kNN", seed=4) > value(rows, "best single expert", seed=4)

    def test_the_papers_code_asks_two_at_least(self, finished):
        rows = [row for row in results(finished / "run")["rows"] if row["metric"] == "accuracy on the curve"]
        asked = {m: [r["num_queries"] for r in rows if r["method"] == m] for m in (MAIN, PAPER)}
        assert min(asked[PAPER]) == 2 and min(asked[MAIN]) == 1

    def test_sensitivity_has_every_setting(self, finished):
        content = results(finished / "run")
        rows = [row for row in content["rows"] if row["metric"] == "accuracy by setting" and row["seed"] == 4]
        settings = [(row["neighbors"], row["trade_off"]) for row in rows]
        assert settings == [(m, price) for m in (10, 20, 50, 100) for price in (0.05, 0.02, 0.01)]
        outputs, saved = ExpertOutputs.open(finished / "store_4"), FrugalFoE.load(finished / "run/seed_4/policy")
        expected = saved.curve(outputs["test"], trade_offs=[0.05], neighbors=20)
        assert (rows[3]["value"], rows[3]["cost"]) == pytest.approx((expected.accuracy[0], expected.cost[0]))
        text = (finished / "run/report.md").read_text()
        assert "| M | 0.01 | 0.02 | 0.05 |" in text
        mean = np.mean([r["value"] for r in content["rows"] if (r.get("neighbors"), r.get("trade_off")) == (20, 0.05)])
        (line,) = [line for line in text.splitlines() if line.startswith("| 20 |")]
        assert line.split("|")[4].split(" at ")[0].strip() == f"{mean:.3f}"

    def test_the_summary_pairs_the_seeds(self, finished):
        content = results(finished / "run")
        against = "random subsets"
        for metric in ("accuracy", "cost", "area"):
            (gain,) = [e for e in content["summary"] if (e["metric"], e["against"]) == (metric, against)]
            own, other = ([value(content["rows"], m, metric, s) for s in (4, 5)] for m in (MAIN, against))
            assert gain["method"] == MAIN and gain["gain"] == pytest.approx(np.mean(np.subtract(own, other)))

    def test_pictures_and_report_are_there(self, finished):
        text = (finished / "run/report.md").read_text()
        for name in ("curve.png", "queries.png", "coverage.png"):
            assert f"({name})" in text
            picture = pictures.imread(finished / "run" / name)
            assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20
        assert f"| **{MAIN}** |" in text and "mean ± standard deviation of 2 seeds" in text
        assert "costs: a 1, b 2, c 0.5" in text and "rows: 160 in the calibration set, 110 test samples" in text


@pytest.mark.slow
class TestArguments:
    def test_costs_by_expert_replace_those_of_the_store(self, plain, tmp_path):
        dear = {"c": 1.0, "b": 1.0, "a": 4.0}  # in any order
        rows = run(tmp_path / "run", stores=plain[1][:1], costs=dear).rows
        assert FrugalFoE.load(tmp_path / "run/seed_0/policy").costs_ == [4.0, 1.0, 1.0]
        assert value(rows, "all experts, kNN", "cost") == 6.0
        other = of_seed(plain[2].rows, 0)
        assert value(other, "all experts, kNN", "cost") == 3.5
        assert curve(rows, MAIN) != curve(other, MAIN)

    def test_unknown_costs_are_rejected(self, stores, tmp_path):
        with pytest.raises(InputError, match="costs: found none for c and one for z, which is no expert"):
            run(tmp_path / "run", stores=stores, costs={"a": 1.0, "b": 1.0, "z": 1.0})
        with pytest.raises(InputError, match="costs: found none for domain_1; the experts are domain_0, domain_1"):
            run_on_digits(tmp_path / "run", costs={"domain_0": 1.0})
        assert not (tmp_path / "run").exists()

    def test_a_budget_is_kept_on_the_policys_rows(self, stores, tmp_path):
        rows = run(tmp_path / "run", stores=stores, budget=2.0).rows
        saved = FrugalFoE.load(tmp_path / "run/seed_0/policy")
        assert saved.budget == 2.0 and saved.trade_off_ != saved.trade_off
        answer = saved.predict(ExpertOutputs.open(stores[0])["test"])
        assert value(rows, MAIN, "cost") == pytest.approx(float(answer.cost.mean()))
        assert value(rows, MAIN, "cost") == pytest.approx(2.0, abs=0.35)
        assert {r["setting"] for r in rows if r["method"] == MAIN and "setting" in r} >= {1.0, 0.1, 0.05}

    def test_fewer_rows_are_drawn_by_the_seed(self, stores, tmp_path):
        report = run(tmp_path / "run", stores=stores, seeds=[3], validation_rows=90, test_rows=40)
        outputs = ExpertOutputs.open(stores[0])
        chosen = {
            split: np.sort(np.random.default_rng(3).choice(ROWS[split], count, replace=False))
            for split, count in (("train", 90), ("test", 40))
        }
        saved = FrugalFoE.load(tmp_path / "run/seed_3/policy")
        assert saved.targets.tolist() == outputs["train"].target[chosen["train"]].tolist()
        known = {
            name: torch.from_numpy(outputs.scattered("test")[chosen["test"], k]) for k, name in enumerate(outputs.names)
        }
        right = saved.predict(known).probabilities.argmax(1).numpy() == outputs["test"].target[chosen["test"]]
        assert value(report.rows, MAIN, seed=3) == pytest.approx(right.mean())
        assert report.data["rows"] == "90 in the calibration set, 40 test samples"

    def test_seeds_of_stores_are_numbered_from_nought_and_more_rows_than_there_are_is_all(self, plain, tmp_path):
        folder, stores, report = plain
        assert {row["seed"] for row in report.rows} == {0, 1}
        assert (folder / "seed_1/policy/manifest.json").is_file()
        single = run(tmp_path / "single", stores=stores[1:], seeds=[1], validation_rows=10**6, test_rows=10**6)
        assert single.rows == of_seed(report.rows, 1)


@pytest.mark.slow
class TestGoingOn:
    def test_a_finished_run_gives_the_same_figures_again(self, plain):
        folder, stores, report = plain
        before = results(folder)["rows"]
        assert run(folder, stores=stores).rows == report.rows == before

    def test_an_interrupted_run_is_taken_up(self, plain, tmp_path):
        folder, stores, report = plain
        rows = report.rows
        shutil.copytree(folder, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/seed_1")
        for name in ("results.json", "report.md", "curve.png", "seed_0/policy/manifest.json"):
            (tmp_path / "run" / name).unlink()
        assert run(tmp_path / "run", stores=stores).rows == rows == results(tmp_path / "run")["rows"]
        FrugalFoE.load(tmp_path / "run/seed_0/policy")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"trade_off": 0.03}, "trade_off"),
            ({"costs": {"a": 1.0, "b": 1.0, "c": 1.0}}, "costs"),
            ({"test_rows": 50}, "test_rows"),
            ({"variants": True}, "variants"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_another_configuration_is_rejected_and_named(self, plain, changes, named):
        folder, stores, _ = plain
        before = (folder / "results.json").read_text()
        with pytest.raises(InputError, match=rf"contains another run \(differs in {named}\).*--overwrite=true"):
            run(folder, stores=stores, **changes)
        assert (folder / "results.json").read_text() == before

    def test_overwrite_begins_anew(self, plain, tmp_path):
        stores = plain[1]
        shutil.copytree(plain[0], tmp_path / "run")
        (tmp_path / "run/seed_0/policy/manifest.json").write_text("old")
        report = run(tmp_path / "run", stores=stores, trade_off=0.1, overwrite=True)
        assert FrugalFoE.load(tmp_path / "run/seed_0/policy").trade_off == 0.1
        assert results(tmp_path / "run")["rows"] == report.rows


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "data, stores and predictions: found none; give one: data and network to train experts"),
            (
                {"data": DigitsDataModule()},
                "network: found none; expected a network for the experts of data, or stores",
            ),
            ({"data": DigitsDataModule(), "stores": ["x"]}, "data, stores and predictions: found data, stores"),
            ({"stores": ["x"], "seeds": [0, 1]}, "stores: found 1 for 2 seeds; expected one for each"),
            (
                {"stores": ["x"], "costs": "flops"},
                "costs: flops is measured on experts and data, which stores do not contain",
            ),
            ({"stores": ["x"], "costs": "latency"}, "costs: latency is measured on experts and data"),
            ({"stores": ["x"], "validation_rows": 1}, "validation_rows is 1; expected at least 2"),
            ({"stores": ["x"], "test_rows": 0}, "test_rows is 0; expected at least 2"),
            ({"stores": ["x"], "trade_off": -0.1}, "trade_off is -0.1; expected a number >= 0"),
            ({"stores": ["x"], "neighbors": 0}, "neighbors is 0; expected at least 1"),
            ({"stores": ["x"], "budget": 0.0}, "budget is 0.0; expected a number > 0"),
            ({"stores": ["x"]}, "expert outputs: found no manifest.json in x"),
            ({"stores": ["x", "x"], "seeds": [1, 1]}, r"seeds: found \[1, 1\]; expected at least one, each once"),
        ],
        ids=lambda value: value[:25] if isinstance(value, str) else "",
    )
    def test_before_anything_is_written(self, tmp_path, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=message):
            run(tmp_path / "run", **arguments)
        assert not (tmp_path / "run").exists()

    def test_one_domain(self, tmp_path):
        with pytest.raises(InputError, match=r"found the domain .* only; fusion needs two at least"):
            run_on_digits(tmp_path / "run", data=DigitsDataModule(fuser_fraction=0.2))
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
class TestData:
    def test_experts_are_trained_and_their_store_gives_the_same_figures(self, tmp_path):
        report = run_on_digits(tmp_path / "run")
        folder = tmp_path / "run/seed_0"
        assert {"experts", "outputs", "policy", "pool.yaml", "diagnosis.json", "diagnosis.png"} <= {
            path.name for path in folder.iterdir()
        }
        outputs = ExpertOutputs.open(folder / "outputs")
        assert FrugalFoE.load(folder / "policy").experts == outputs.experts
        assert report.data["experts"] == 2 and report.data["rows"] == "80 in the calibration set, 60 test samples"
        again = run(tmp_path / "stored", stores=[str(folder / "outputs")], validation_rows=80, test_rows=60)
        assert again.rows == report.rows
        assert results(tmp_path / "run")["config"]["network"]["class_path"].endswith("SmallConvNet")
        trained = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}
        shutil.rmtree(folder / "policy")
        assert run_on_digits(tmp_path / "run").rows == report.rows
        assert trained == {path: path.stat().st_mtime_ns for path in trained} and len(trained) == 2

    def test_flops_are_measured_and_all_variants_run(self, tmp_path, monkeypatch):
        hasten(monkeypatch)
        report = run_on_digits(tmp_path / "run", costs="flops", variants=True)
        costs = FrugalFoE.load(tmp_path / "run/seed_0/policy").costs_
        assert costs == pytest.approx([1.0, 1.0])  # networks of one form; costs are relative to their mean
        assert {row["method"] for row in report.rows} >= VARIANTS
        assert strict(json.dumps(report.rows)) == results(tmp_path / "run")["rows"]


@pytest.mark.slow
class TestUnseenDomains:
    @pytest.fixture
    def of_domains(self, tmp_path) -> str:
        """As the store above, with two domains whose labels differ: one has no owl."""
        generator = np.random.default_rng(0)
        splits = {}
        for split, count in ROWS.items():
            domain = np.arange(count) % 2
            target = np.where(domain == 0, generator.integers(3, size=count), generator.integers(2, size=count))
            logits = generator.normal(size=(3, count, 3)) + 2 * np.eye(3)[target]
            said = {name: tiny.softmax(part) for name, part in zip(COSTS, logits, strict=True)}
            splits[split] = {"probabilities": said, "target": target, "domain": np.eye(2, dtype=bool)[domain]}
        made = ExpertOutputs.from_arrays(
            splits, dict.fromkeys(COSTS, CLASSES), CLASSES, costs=COSTS, domains=["home", "away"]
        )
        made.save(tmp_path / "store_of_domains")
        return str(tmp_path / "store_of_domains")

    def test_the_policy_learns_from_other_domains_and_is_tested_on_these(self, of_domains, plain, tmp_path):
        report = run(tmp_path / "run", stores=[of_domains], unseen_domains=["home"])
        assert report.data["rows"] == f"{ROWS['train'] // 2} in the calibration set, {ROWS['test'] // 2} test samples"
        outputs = ExpertOutputs.open(of_domains)
        home = np.asarray(outputs["train"].domain)[:, 0]
        saved = FrugalFoE.load(tmp_path / "run/seed_0/policy")
        known = {name: part[~home] for name, part in zip(outputs.names, outputs.scattered("train").swapaxes(0, 1))}  # noqa: B905
        again = FrugalFoE(COSTS).fit(known, np.asarray(outputs["train"].target)[~home])
        asked = {name: part[:20] for name, part in zip(outputs.names, outputs.scattered("test").swapaxes(0, 1))}  # noqa: B905
        assert torch.equal(saved.predict(asked).probabilities, again.predict(asked).probabilities)
        seen = [row for row in report.rows if row["method"] == SEEN and row["metric"] == "accuracy"]
        assert len(seen) == 1 and 0 <= seen[0]["value"] <= 1
        assert not [row for row in plain[2].rows if row["method"] == SEEN]

    def test_domains_that_leave_nothing_to_learn_from_are_rejected(self, of_domains, tmp_path):
        with pytest.raises(InputError, match="unseen_domains: found nowhere; the domains are"):
            run(tmp_path / "run", stores=[of_domains], unseen_domains=["nowhere"])
        with pytest.raises(InputError, match="unseen_domains: found 0 train samples not of"):
            run(tmp_path / "run2", stores=[of_domains], unseen_domains=["home", "away"])


@pytest.mark.slow
class TestAbstention:
    """Some test samples have a class that no expert has."""

    @pytest.fixture(scope="class")
    def finished(self, tmp_path_factory) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("abstention")
        generator = np.random.default_rng(0)
        splits = {}
        for split, count in ROWS.items():
            target = generator.integers(3, size=count)
            logits = generator.normal(size=(3, count, 3)) + 4 * np.eye(3)[target]
            if split == "test":
                target[:40], logits[:, :40] = 3, generator.normal(size=(3, 40, 3))
            said = {name: tiny.softmax(part) for name, part in zip(COSTS, logits, strict=True)}
            splits[split] = {"probabilities": said, "target": target}
        known = dict.fromkeys(COSTS, CLASSES)
        ExpertOutputs.from_arrays(splits, known, [*CLASSES, "outside"], costs=COSTS).save(folder / "store")
        return folder, run(folder / "run", stores=[str(folder / "store")])

    def test_the_figures_are_those_of_the_probabilities(self, finished):
        folder, report = finished
        outputs = ExpertOutputs.open(folder / "store")
        mean, truth = outputs.scattered("test").mean(1), np.asarray(outputs["test"].target)
        outside = truth == 3
        largest, right = mean.max(1), mean.argmax(1) == truth
        pairs = largest[outside][:, None], largest[~outside][None]
        auroc = (pairs[0] < pairs[1]).mean() + (pairs[0] == pairs[1]).mean() / 2
        assert report.values(AVERAGE, SCOPE_AUROC) == [pytest.approx(auroc)]
        assert report.values(AVERAGE, IN_SCOPE) == [pytest.approx(right[~outside].mean())]
        order = np.argsort(-largest, kind="stable")
        errors = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
        assert report.values(AVERAGE, "area under the risk-coverage curve") == [pytest.approx(errors.mean())]

    def test_policy_and_rivals_stand_side_by_side(self, finished):
        folder, report = finished
        outputs = ExpertOutputs.open(folder / "store")
        known = dict(zip(outputs.names, outputs.scattered("test").swapaxes(0, 1), strict=True))
        risk = FrugalFoE.load(folder / "run/seed_0/policy").predict(known).risk.numpy()
        outside = np.asarray(outputs["test"].target) == 3
        above = risk[outside][:, None] - risk[~outside]
        assert report.values(MAIN, SCOPE_AUROC) == [pytest.approx((above > 0).mean() + (above == 0).mean() / 2)]
        assert all(0.6 < report.values(method, SCOPE_AUROC)[0] < 1 for method in (CONFIDENT, AVERAGE))  # chance is 0.5
        text = (folder / "run/report.md").read_text()
        assert "40 of 110 test samples are out of scope" in text and "](abstention.png)" in text

    def test_nothing_is_said_where_all_classes_are_known(self, plain):
        folder, _, report = plain
        assert not report.values(MAIN, SCOPE_AUROC) and not (folder / "abstention.png").exists()

    def test_all_static_subsets_can_be_left_out(self, plain, tmp_path):
        report = run(tmp_path / "run", stores=plain[1][:1], exhaustive=False)
        assert "static subset (exhaustive)" not in report.methods()
