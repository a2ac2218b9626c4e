import csv
import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.pages import samples_of
from helpers.recipe_runs import results
from matplotlib import image as pictures

from lightning_fusion import Expert, ExpertOutputs, FoEFuserModule, TextDataModule
from lightning_fusion.baselines import BASELINES
from lightning_fusion.cli.main import main
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.encoders import SensorCNN, SmallConvNet, TextBag
from lightning_fusion.errors import InputError
from lightning_fusion.foe.fusers import MLPFuser, RepresentationFuser
from lightning_fusion.metrics import balanced_accuracy
from lightning_fusion.recipes.foe.overlap import CEILING, RULES
from lightning_fusion.recipes.foe.protocol import (
    FUSED,
    FUSERS,
    MAIN,
    ONE_EXPERT,
    ONE_TARGET,
    WITH_REPRESENTATIONS,
    _OneExpert,
    foe,
)
from lightning_fusion.recipes.report import Report
from lightning_fusion.recipes.runner import claim_folder
from lightning_fusion.store import ArrayStore

NETWORK = partial(SmallConvNet, width=2, in_channels=1)
CHECKPOINTS = ["centralized.ckpt", "domain_0.ckpt", "domain_1.ckpt"]


def run(output: Path, **arguments):
    data = DigitsDataModule(num_domains=2, classes_per_domain=6, fuser_fraction=0.2, batch_size=256)
    settings = {
        "expert_epochs": 1,
        "fuser_epochs": 1,
        "fuser": partial(MLPFuser, hidden=(8,)),
        "optimizer": partial(torch.optim.AdamW, lr=0.02),
        "trainer": {"accelerator": "cpu"},
    }
    return foe(**({"data": data, "network": NETWORK, "output": str(output)} | settings | arguments))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run of two seeds, not in order."""
    folder = tmp_path_factory.mktemp("recipe") / "run"
    run(folder, seeds=[1, 0])
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def predictions(folder, seed=0):
    return ArrayStore(folder / f"seed_{seed}" / "fused", FUSED)["prediction"]


def times(folder: Path) -> dict[str, int]:
    trained = (path for path in sorted(folder.rglob("*.ckpt")) if path.parent.name != "fusers")
    return {str(path): path.stat().st_mtime_ns for path in trained}


@pytest.mark.slow
class TestResults:
    def test_json_has_the_contracts_keys(self, finished):
        content = results(finished)
        assert {"recipe", "config", "data", "versions", "seconds", "rows", "summary"} <= set(content)
        assert content["recipe"] == "foe"
        for row in content["rows"]:
            assert {"method", "metric", "split", "seed", "value"} <= set(row)
            assert set(row) - {"method", "metric", "split", "seed", "value"} <= {
                "num_queries",
                "cost",
                "domain",
                "bytes",
            }
            assert np.isfinite(row["value"])
        for entry in content["summary"]:
            assert set(entry) == {"method", "metric", "mean", "std", "gain", "gain_low", "gain_high", "against"}
        assert content["config"]["seeds"] == [1, 0]
        assert content["config"]["network"]["class_path"].endswith("SmallConvNet")
        assert content["data"]["experts"] == 2

    def test_every_method_has_a_figure_of_each_seed(self, finished):
        content = results(finished)
        methods: dict[str, dict[str, list[int]]] = {"test": {}, "val": {}}
        for row in content["rows"]:
            if row["metric"] == "accuracy" and "domain" not in row:
                methods[row["split"]].setdefault(row["method"], []).append(row["seed"])
        expected = {*FUSERS, *BASELINES, "mean of single experts", "oracle expert (domain known)"}
        expected |= {"oracle selection (any expert correct)", "centralized model (shares data)"}
        assert set(methods["test"]) == expected
        assert set(methods["val"]) == {*FUSERS, *BASELINES, "centralized model (shares data)"}  # can answer new samples
        assert all(sorted(seeds) == [0, 1] for of_split in methods.values() for seeds in of_split.values())

    def test_samples_in_the_page_are_those_of_the_store(self, finished):
        found, outputs = samples_of(finished), ExpertOutputs.open(finished / "seed_0/outputs")
        assert found["title"] == f"{MAIN}, seed 0" and found["experts"] == outputs.names
        place = {f"sample {number}": row for row, number in enumerate(outputs["test"].index.tolist())}
        known, fused, truth = outputs.scattered("test"), predictions(finished), outputs["test"].target
        wrong = int((fused != truth).sum())
        assert len(found["samples"]) == 200 and found["drawn"].startswith(f"200 of {len(truth)} test samples")
        shown = max(min(100, wrong), 200 - len(truth) + wrong)
        assert sum(not sample["correct"] for sample in found["samples"]) == shown
        for sample in found["samples"]:
            row = place[sample["name"]]
            assert (sample["target"], sample["answer"]) == (outputs.classes[truth[row]], outputs.classes[fused[row]])
            for number, (answer, probability, _, queried) in enumerate(sample["experts"]):
                assert answer == outputs.classes[known[row, number].argmax()] and queried
                assert probability == pytest.approx(known[row, number].max(), rel=1e-3)
            assert sum(weight for _, _, weight, _ in sample["experts"]) == pytest.approx(1, abs=1e-3)

    def test_figures_follow_from_the_stored_outputs(self, finished):
        rows = results(finished)["rows"]
        for seed in (0, 1):
            outputs = ExpertOutputs.open(finished / f"seed_{seed}" / "outputs")
            found, held = (
                {
                    (row["method"], row["metric"]): row["value"]
                    for row in rows
                    if row["seed"] == seed and "domain" not in row and row["split"] == split
                }
                for split in ("test", "val")
            )
            test, truth = outputs.scattered("test"), outputs["test"].target
            right = test.argmax(2) == truth[:, None]
            assert found["oracle selection (any expert correct)", "accuracy"] == pytest.approx(right.any(1).mean())
            assert found["mean of single experts", "accuracy"] == pytest.approx(right.mean(0).mean())
            best = (outputs.scattered("train").argmax(2) == outputs["train"].target[:, None]).mean(0).argmax()
            assert found["best single expert", "accuracy"] == pytest.approx(right[:, best].mean())
            fused = predictions(finished, seed)
            assert found[MAIN, "accuracy"] == pytest.approx((fused == truth).mean())
            val, wanted = outputs.scattered("val"), outputs["val"].target
            assert held["softmax average", "accuracy"] == pytest.approx((val.mean(1).argmax(1) == wanted).mean())
            assert held["best single expert", "accuracy"] == pytest.approx((val[:, best].argmax(1) == wanted).mean())
            for column, domain in enumerate(outputs.domains):
                inside = outputs["test"].domain[:, column]
                (row,) = [
                    row
                    for row in rows
                    if (row["method"], row["seed"], row.get("domain"), row["metric"])
                    == (MAIN, seed, domain, "accuracy")
                ]
                assert row["value"] == pytest.approx((fused == truth)[inside].mean())

    def test_what_shuffling_an_expert_costs_is_taken_from_the_same_seed(self, finished):
        rows = results(finished)["rows"]
        for seed in (0, 1):
            folder = finished / f"seed_{seed}"
            outputs = ExpertOutputs.open(folder / "outputs")
            module = FoEFuserModule(**outputs.fuser_arguments(), network=partial(MLPFuser, hidden=(8,)), seed=seed)
            state = torch.load(folder / "fusers" / "label.ckpt", weights_only=True)["state_dict"]
            module.load_state_dict(state)
            given, target = outputs.concatenated("test"), outputs["test"].target
            order = np.random.default_rng(seed).permutation(len(given))
            mixed = given.copy()
            mixed[:, :6] = mixed[order, :6]
            answers = [module.fuse(torch.from_numpy(values)).argmax(1).numpy() == target for values in (given, mixed)]
            (found,) = [row["value"] for row in rows if row["method"] == "domain_0" and row["seed"] == seed]
            assert found == pytest.approx(answers[0].mean() - answers[1].mean())

    def test_the_summary_pairs_the_seeds(self, finished):
        content = results(finished)
        values = {
            (row["method"], row["seed"]): row["value"]
            for row in content["rows"]
            if row["metric"] == "accuracy" and "domain" not in row and row["split"] == "test"
        }
        gains = [entry for entry in content["summary"] if entry["against"] == "softmax average"]
        differences = [values[MAIN, seed] - values["softmax average", seed] for seed in (0, 1)]
        assert gains[0]["method"] == MAIN
        assert gains[0]["gain"] == pytest.approx(np.mean(differences))
        assert gains[0]["gain_low"] <= gains[0]["gain"] <= gains[0]["gain_high"]

    def test_the_experts_can_be_used_again(self, finished):
        spec = yaml.safe_load((finished / "seed_0" / "pool.yaml").read_text())["experts"]
        assert list(spec) == ["domain_0", "domain_1"]
        path = spec["domain_1"]["init_args"]["checkpoint"]
        assert not Path(path).is_absolute()  # the folder may be moved
        expert = Expert(checkpoint=str(finished / "seed_0" / path))
        outputs = ExpertOutputs.open(finished / "seed_0" / "outputs")
        assert expert.classes == outputs.expert_classes["domain_1"]
        assert expert.fingerprint == outputs.experts["domain_1"]["fingerprint"]
        assert expert.domains == ["domain_1"]
        assert expert.preprocessing["mean"] == [0.5]

    def test_pictures_and_report_are_there(self, finished):
        text = (finished / "report.md").read_text()
        for name in ("domains.png", "confusion.png", "importance.png"):
            assert f"({name})" in text
            picture = pictures.imread(finished / name)
            assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20
        assert "mean ± standard deviation of 2 seeds" in text
        assert f"| **{MAIN}** |" in text
        assert (finished / "seed_1" / "diagnosis.png").is_file()
        json.loads((finished / "seed_1" / "diagnosis.json").read_text())


@pytest.mark.slow
class TestGoingOn:
    def test_a_killed_run_makes_what_is_missing_and_gets_the_same_results(self, copied):
        before, rows = times(copied), results(copied)["rows"]
        shutil.rmtree(copied / "seed_0")  # the second of the seeds never began
        shutil.rmtree(copied / "seed_1" / "outputs")
        shutil.rmtree(copied / "seed_1" / "fusers")
        shutil.rmtree(copied / "seed_1" / "fused")
        for name in ("results.json", "report.md", "seed_1/experts/domain_1.ckpt"):
            (copied / name).unlink()
        (copied / "seed_1" / "centralized.part").write_bytes(b"half")
        run(copied, seeds=[1, 0])
        after = times(copied)
        kept = {path for path in before if before[path] == after[path]}
        assert {Path(path).name for path in kept} == {"centralized.ckpt", "domain_0.ckpt"}
        assert results(copied)["rows"] == rows

    def test_what_is_trained_is_taken_as_it_is_except_a_fuser_that_read_other_experts(self, copied):
        before, rows, paths = times(copied), results(copied)["rows"], sorted(copied.rglob("fusers/*.ckpt"))
        assert [Path(path).name for path in before] == CHECKPOINTS * 2
        (changed, *kept), first = paths, {path: path.stat().st_mtime_ns for path in paths}
        content = torch.load(changed, weights_only=True)
        for value in content["state_dict"].values():
            value.zero_()
        content["experts"]["domain_0"]["fingerprint"] = "another"
        torch.save(content, changed)
        for name in ("run.json", "results.json", "report.md"):
            (copied / f"{name}.123.part").write_text("{half")  # drafts of a killed run
        (copied / "results.json").unlink()
        run(copied, seeds=[1, 0])
        assert times(copied) == before
        assert len(paths) == 6 and all(path.stat().st_mtime_ns == first[path] for path in kept)
        assert torch.load(changed, weights_only=True)["experts"]["domain_0"]["fingerprint"] != "another"
        assert results(copied)["rows"] == rows

    def test_a_draft_of_a_claim_is_no_hindrance_and_half_a_claim_is_one(self, copied, tmp_path):
        (tmp_path / "begun").mkdir()
        (tmp_path / "begun/run.json.77.part").write_text("{half")
        claim_folder(tmp_path / "begun", "foe", {})
        (copied / "run.json").write_text("{half")
        with pytest.raises(InputError, match="--overwrite=true"):
            claim_folder(copied, "foe", {})
        assert claim_folder(copied, "foe", {}, overwrite=True) == (copied, False)
        assert {file.name for file in copied.iterdir()} == {"run.json", ".lock"}

    def test_another_configuration_is_rejected_and_named(self, copied):
        before = results(copied)
        with pytest.raises(
            InputError, match=r"contains another run \(differs in expert_epochs, mixup\).*--overwrite=true"
        ):
            run(copied, seeds=[1, 0], expert_epochs=2, mixup=0.1)
        assert results(copied) == before

    def test_a_seed_that_is_added_is_trained_alone_and_the_run_is_that_of_both(self, finished, copied):
        """Beside the reports of one seed and of several, which recipes/test_runner.py compares."""
        shutil.rmtree(copied / "seed_0")
        before = times(copied)
        both = run(copied, seeds=[1, 0])
        assert both.rows == results(finished)["rows"] == results(copied)["rows"]
        after = times(copied)
        assert {path: after[path] for path in before} == before and len(after) == 2 * len(before)
        assert "mean ± standard deviation of 2 seeds" in (copied / "report.md").read_text()

    def test_overwrite_begins_anew(self, copied):
        before = times(copied)
        run(copied, seeds=[1], centralized=False, overwrite=True)
        after = times(copied)
        assert [Path(path).name for path in after] == CHECKPOINTS[1:]
        assert all(before[path] != when for path, when in after.items())
        assert not any("centralized" in row["method"] for row in results(copied)["rows"])
        assert "one seed" in (copied / "report.md").read_text()


class TestRefused:
    def test_foreign_files(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match="contains files that no recipe wrote"):
            run(tmp_path, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("seeds", [[], [1, 1]])
    def test_seeds(self, tmp_path, seeds):
        with pytest.raises(InputError, match=r"seeds: found .* expected at least one, each once"):
            run(tmp_path / "run", seeds=seeds)
        assert not (tmp_path / "run").exists()

    def test_one_domain(self, tmp_path):
        with pytest.raises(InputError, match=r"found the domain .* only; fusion needs two at least"):
            run(tmp_path / "run", data=DigitsDataModule(fuser_fraction=0.2))
        assert not (tmp_path / "run").exists()


def test_a_domain_of_one_class_stops_a_run_before_anybody_is_trained(tmp_path):
    with open(tmp_path / "texts.csv", "w") as file:
        file.write("text,label,domain\n")
        file.writelines(f"a text {n},{('bad', 'good')[n % 2]},first\n" for n in range(40))
        file.writelines(f"another text {n},good,second\n" for n in range(40))
    data = TextDataModule(
        root=str(tmp_path / "texts.csv"), domain_fields=["domain"], vocab_size=300, fuser_fraction=0.25
    )
    with pytest.raises(InputError, match="domain second has good as its only class"):
        run(tmp_path / "run", data=data, network=partial(TextBag, vocab_size=300))
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.slow
class TestOverlap:
    def test_experts_of_overlapping_domains_are_trained_asked_and_fused_for_each_share(self, tmp_path):
        report = run(tmp_path / "run", overlaps=[1.0, 0.0], centralized=False)
        rows = [row for row in report.rows if row["metric"] == "accuracy by overlap"]
        assert {row["method"] for row in rows} == {MAIN, *RULES, CEILING}
        assert sorted({row["overlap"] for row in rows}) == [0.0, 1.0] and len(rows) == 2 * (2 + len(RULES))
        first, last = (tmp_path / f"run/seed_0/overlap_{share}" for share in (0, 1))
        of_all = [torch.load(last / f"experts/domain_{n}.ckpt", weights_only=True)["expert"] for n in range(2)]
        of_one = [torch.load(first / f"experts/domain_{n}.ckpt", weights_only=True)["expert"] for n in range(2)]
        assert [len(card["classes"]) for card in (*of_one, *of_all)] == [6, 6, 10, 10]
        assert of_one[1]["domains"] == ["domain_1"] and of_all[1]["domains"] == ["domain_0", "domain_1"]
        text = (tmp_path / "run/report.md").read_text()
        assert "| overlap |" in text and "](overlap.png)" in text and (tmp_path / "run/overlap.png").is_file()
        stamps = times(tmp_path / "run")
        assert run(tmp_path / "run", overlaps=[1.0, 0.0], centralized=False).rows == report.rows  # resumed
        assert times(tmp_path / "run") == stamps and len(stamps) == 6

    def test_invalid_fractions_are_rejected(self, tmp_path):
        with pytest.raises(InputError, match=r"overlaps: found \[1.5\]"):
            run(tmp_path / "run", overlaps=[0.5, 1.5])


@pytest.mark.slow
def test_data_without_roles_are_fused_on_their_validation_split(tmp_path):
    data = SyntheticSensorDataModule(val_fraction=0.3, batch_size=64)
    report = run(tmp_path / "run", data=data, network=partial(SensorCNN, width=2), centralized=False)
    outputs = ExpertOutputs.open(tmp_path / "run/seed_0/outputs")
    assert outputs.names == data.domains and report.config["data"]["class_path"].endswith(".SyntheticSensorDataModule")
    assert sum(len(outputs[split]) for split in ("train", "val")) == len(data.rows("val"))
    assert len(outputs["test"]) == len(data.rows("test"))


@pytest.mark.slow
def test_the_outputs_of_one_expert_are_fused_alone(tmp_path):
    report = run(tmp_path / "run", single_expert=True, centralized=False, fuser_epochs=3)
    for method in ONE_EXPERT:
        tried = {
            row["metric"]: row["value"] for row in report.rows if row["method"] == method and row["split"] == "val"
        }
        assert set(tried) == {"accuracy, outputs of domain_0", "accuracy, outputs of domain_1"}
        best = max(tried, key=lambda name: tried[name]).removeprefix("accuracy, outputs of ")
        assert any(f"{method}: uses the outputs of {best}, the best" in note for note in report.notes)
        assert len(report.values(method)) == 1


@pytest.fixture(scope="module")
def reading_features(tmp_path_factory) -> tuple[Path, Report]:
    """A run whose fuser reads features, and its report."""
    folder = tmp_path_factory.mktemp("features") / "run"
    return folder, run(folder, features="pool", fuser=None, centralized=False)


@pytest.mark.slow
def test_with_features_the_fuser_that_reads_them_is_the_main_row(reading_features):
    folder, report = reading_features
    content = results(folder)
    gains = {entry["against"] for entry in content["summary"] if entry["gain"] is not None}
    assert MAIN in gains and WITH_REPRESENTATIONS not in gains  # they are its own
    assert len(report.values(MAIN)) == len(report.values(WITH_REPRESENTATIONS)) == 1
    outputs = ExpertOutputs.open(folder / "seed_0/outputs")
    dims = dict.fromkeys(outputs.names, 8)  # SmallConvNet of width 2
    assert {name: values.shape[1] for name, values in outputs["test"].representations.items()} == dims
    module = FoEFuserModule(
        **outputs.fuser_arguments(), representation_dims=dims, mean_weight=0.5
    )  # half the plain average
    path = folder / "seed_0/fusers/label_with_representations.ckpt"
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert FoEFuserModule.load_from_checkpoint(path, network=RepresentationFuser).mean_weight == 0.5
    given, target = outputs.concatenated("test", representations=True), outputs["test"].target
    with torch.no_grad():
        answer = module.eval().fuse(torch.from_numpy(given)).argmax(1).numpy()
    assert np.array_equal(answer, predictions(folder))
    assert report.values(WITH_REPRESENTATIONS) == [pytest.approx((answer == target).mean())]
    mixed, own = given.copy(), [*range(6), *range(12, 20)]  # domain_0's probabilities and features
    mixed[:, own] = mixed[np.random.default_rng(0).permutation(len(given))][:, own]
    with torch.no_grad():
        lost = (answer == target).mean() - (module.fuse(torch.from_numpy(mixed)).argmax(1).numpy() == target).mean()
    (found,) = [row["value"] for row in report.rows if row["method"] == "domain_0"]
    assert found == pytest.approx(lost)


@pytest.mark.slow
class TestUnbalanced:
    """Nine of ten texts are good."""

    @pytest.fixture
    def texts(self, tmp_path) -> TextDataModule:
        with open(tmp_path / "texts.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label", "domain"])
            for number in range(600):
                label = "bad" if number % 10 == 0 else "good"
                table.writerow(
                    [f"a {label} thing number {number}", label, ("shop", "film")[number % 2 ^ number % 3 % 2]]
                )
        return TextDataModule(
            root=str(tmp_path / "texts.csv"),
            domain_fields=["domain"],
            vocab_size=300,
            fuser_fraction=0.25,
            cache=str(tmp_path / "cache"),
        )

    def test_by_accuracy_the_report_says_what_guessing_gives(self, texts, tmp_path):
        """The names of the classes look like formulas, and are drawn as they are."""
        path = Path(texts.hparams.root)
        path.write_text(path.read_text().replace(",good,", ",$5_to_$10 {,").replace(",bad,", ",$a_b^{$,"))
        report = run(tmp_path / "run", data=texts, network=partial(TextBag, vocab_size=300), centralized=False)
        outputs = ExpertOutputs.open(tmp_path / "run/seed_0/outputs")
        share = np.mean(np.asarray(outputs["test"].target) == outputs.classes.index("$5_to_$10 {"))
        (note,) = [note for note in report.notes if "balanced_accuracy" in note]
        assert share > 0.8 and note.startswith(
            f"{share:.0%} of the test samples are of class $5_to_$10 {{: accuracy favors this class"
        )
        assert report.metric == "accuracy"
        assert all((tmp_path / f"run/{name}.png").is_file() for name in ("domains", "confusion", "importance"))
        assert "$5_to_$10" in (tmp_path / "run/report.md").read_text()

    def test_by_balanced_accuracy_the_table_counts_classes_alike(self, texts, tmp_path):
        report = run(
            tmp_path / "run",
            data=texts,
            network=partial(TextBag, vocab_size=300),
            metric="balanced_accuracy",
            overlaps=[0.5],
        )
        assert not any("accuracy favors" in note for note in report.notes)
        outputs, fused = ExpertOutputs.open(tmp_path / "run/seed_0/outputs"), predictions(tmp_path / "run")
        truth = np.asarray(outputs["test"].target)
        content = results(tmp_path / "run")
        assert {entry["metric"] for entry in content["summary"]} == {"balanced accuracy"}
        (main,) = [entry for entry in content["summary"] if entry["method"] == MAIN and entry["against"] is None]
        assert main["mean"] == pytest.approx(balanced_accuracy(fused == truth, truth))
        assert report.values(MAIN, "accuracy") == [pytest.approx((fused == truth).mean())]
        assert report.methods("accuracy") == report.methods("balanced accuracy")
        assert ONE_TARGET in report.methods() and not set(report.methods()) & (set(FUSERS) - {MAIN})
        for column, domain in enumerate(outputs.domains):
            inside = outputs["test"].domain[:, column]
            (found,) = [
                row["value"]
                for row in report.rows
                if (row["method"], row["metric"], row.get("domain")) == (MAIN, "balanced accuracy", domain)
            ]
            assert found == pytest.approx(balanced_accuracy((fused == truth)[inside], truth[inside]))
        assert {row["metric"] for row in report.rows if "overlap" in row} == {"balanced accuracy by overlap"}
        text = (tmp_path / "run/report.md").read_text()
        assert "Test balanced accuracy of one seed" in text and "| method | balanced accuracy |" in text


@pytest.mark.slow
def test_the_fuser_that_reads_features_may_stand_alone(tmp_path):
    run(tmp_path / "run", features="pool", fuser=None, centralized=False, mean_weight=0.0)
    path = tmp_path / "run/seed_0/fusers/label_with_representations.ckpt"
    module = FoEFuserModule.load_from_checkpoint(path, network=RepresentationFuser).eval()
    given = ExpertOutputs.open(tmp_path / "run/seed_0/outputs").concatenated("test", representations=True)
    with torch.no_grad():
        answer = module.network(torch.from_numpy(given)).argmax(1).numpy()
    assert np.array_equal(answer, predictions(tmp_path / "run"))
    with pytest.raises(InputError, match=r"mean_weight is 1\.0"):
        run(tmp_path / "other", mean_weight=1.0)


@pytest.mark.slow
def test_the_benchmark_of_fusers_reads_a_run_and_no_test_row(reading_features, monkeypatch):
    path = Path(__file__).parents[3] / "benchmarks/fuser_variants.py"
    spec = importlib.util.spec_from_file_location("fuser_variants", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "EPOCHS", 2)
    store = reading_features[0] / "seed_0/outputs"
    found = benchmark.compare(store, 0)
    assert list(found) == ["plain average", *benchmark.VARIANTS] and all(0 < value <= 1 for value in found.values())
    outputs = ExpertOutputs.open(store)
    spread, target = (np.concatenate([part("train"), part("val")]) for part in
                      (outputs.scattered, lambda split: outputs[split].target))  # fmt: skip
    assert found["plain average"] == pytest.approx((spread.mean(1).argmax(1) == target).mean())


def test_a_fuser_of_one_expert_is_blind_to_the_others():
    fuser = _OneExpert(5, 3, first=1, count=2, network=partial(MLPFuser, hidden=(8,))).eval()
    given = torch.rand(4, 5)
    others, own = given.clone(), given.clone()
    others[:, [0, 3, 4]] += 1
    own[:, 2] += 1
    assert torch.equal(fuser(given), fuser(others)) and not torch.equal(fuser(given), fuser(own))


@pytest.mark.slow
class TestBaselinesOfOthers:
    def test_by_class_path_from_the_command_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = {
            "data": {
                "class_path": "lightning_fusion.data.image.digits.DigitsDataModule",
                "init_args": {"num_domains": 2, "classes_per_domain": 6, "fuser_fraction": 0.2, "batch_size": 256},
            },
            "network": {
                "class_path": "lightning_fusion.encoders.SmallConvNet",
                "init_args": {"width": 2, "in_channels": 1},
            },
            "expert_epochs": 1,
            "fuser_epochs": 1,
            "centralized": False,
            "trainer": {"accelerator": "cpu"},
            "baselines": {"the second": {"class_path": "thirdparty.baseline.OneExpert", "init_args": {"number": 1}}},
            "output": "run",
        }
        Path("recipe.yaml").write_text(yaml.safe_dump(config))
        main(["recipe", "foe", "--config", "recipe.yaml"])
        found = results(Path("run"))
        outputs = ExpertOutputs.open("run/seed_0/outputs")
        for split in ("val", "test"):
            wanted = "the second", "accuracy", split, None
            (value,) = (
                row["value"]
                for row in found["rows"]
                if (row["method"], row["metric"], row["split"], row.get("domain")) == wanted
            )
            assert value == pytest.approx((outputs.scattered(split)[:, 1].argmax(1) == outputs[split].target).mean())
        described = found["config"]["baselines"]["the second"]
        assert described == {"class_path": "thirdparty.baseline.OneExpert", "init_args": {"number": 1}}

    def test_names_of_this_library_are_taken(self, tmp_path):
        with pytest.raises(InputError, match="baselines: found the names KNORA-E, which are reserved"):
            run(tmp_path / "run", baselines={"KNORA-E": BASELINES["KNORA-E"]})
