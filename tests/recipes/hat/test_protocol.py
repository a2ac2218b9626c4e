import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pages import samples_of
from helpers.recipe_runs import quick_teachers, results  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image as pictures
from scipy.stats import t

from lightning_fusion import Expert, ExpertRegistry
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SensorCNN, SensorGRU, SensorMLP, TextBag
from lightning_fusion.errors import InputError
from lightning_fusion.hat.arguments import PAPER
from lightning_fusion.hat.fitted.choice import MEMBERS
from lightning_fusion.recipes.hat import report as hat_report
from lightning_fusion.recipes.hat.ensembles import Ensemble
from lightning_fusion.recipes.hat.plan import PAPER_ROW, STUDENTS, UNIFORM
from lightning_fusion.recipes.hat.protocol import LOCAL, MAIN, hat
from lightning_fusion.recipes.hat.report import ENSEMBLE, TUNED
from lightning_fusion.recipes.hat.seed import draw_classes
from lightning_fusion.recipes.report import Report
from lightning_fusion.registry.quantization import dequantize, quantize

TARGETS = ["p0_phone", "p1_watch", "p2_phone"]
NETWORKS = {"cnn": partial(SensorCNN, width=4), "gru": partial(SensorGRU, hidden=4)}
VARIANTS = {
    "fixed alpha": {"alpha": "fixed"},
    "one source": {"num_sources": 1},
    "more labels": {"labeled_fraction": 0.3},
}
HARD = {
    "targets": ["p0_phone", "p2_phone", "p0_watch"],
    "source_classes": 2,
    "corrupted_sources": 4,
    "publish_students": True,
    "source_weights": "int8",
    "baselines": False,
}
SCALE = {"mean": [0.0] * 6, "std": [5.0] * 3 + [1.5] * 3}


def motion(**arguments) -> SyntheticSensorDataModule:
    return SyntheticSensorDataModule(
        sample_rate_hz=10.0, heterogeneity=0.3, session_fields=["session"], batch_size=64, **SCALE, **arguments
    )


@cache
def shared_motion() -> SyntheticSensorDataModule:
    return motion()


def run(output: Path, **arguments):
    settings = {
        "data": motion(),
        "networks": NETWORKS,
        "features": "pool",
        "targets": TARGETS,
        "num_sources": 2,
        "source_epochs": 4,
        "epochs": 2,
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
        "trainer": {"accelerator": "cpu"},
    }
    return hat(output=str(output), **(settings | arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hat") / "run"
    run(path, guarded=True, variants=VARIANTS)
    return path


@pytest.fixture(scope="module")
def hard(tmp_path_factory) -> Path:
    """Sources that know two of the classes each, most of them wrongly, and students of two people among them."""
    path = tmp_path_factory.mktemp("hat") / "hard"
    run(path, **HARD)
    return path


def value(rows: list[dict], method: str, domain: str | None, metric: str = "accuracy") -> float:
    wanted = method, metric, domain, "test"
    (row,) = [r for r in rows if (r["method"], r["metric"], r.get("domain"), r["split"]) == wanted]
    return row["value"]


def timeless(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["metric"] != "seconds per sample"]


def probabilities(folder: Path, name: str, rows) -> np.ndarray:
    """What a source says about some rows, worked out from its checkpoint."""
    expert = Expert(checkpoint=str(folder / f"seed_0/sources/{name}.ckpt"))
    batch = motion().on_after_batch_transfer(rows[torch.arange(len(rows))], 0)
    return expert(batch.input).numpy()


@pytest.mark.slow
def test_rows_without_training_are_averages_of_the_sources(folder):
    rows, data = results(folder)["rows"], motion()
    data.setup("fit")
    for name in TARGETS:
        target = TargetDataModule(data, name, labeled_fraction=0.1, min_per_class=1)
        target.setup("fit")
        test = target.rows("test")
        truth = test[torch.arange(len(test))].target.numpy()
        others = [other for other in data.domains if data.groups[other] != data.groups[name]]
        assert len(others) == 6 and not {name[:2]} & {other[:2] for other in others}  # nobody of the same person
        said = np.stack([probabilities(folder, other, test) for other in others])
        single = (said.argmax(2) == truth).mean(1)
        assert value(rows, "mean of single sources", name) == pytest.approx(single.mean())
        assert value(rows, "average of all sources", name) == pytest.approx((said.mean(0).argmax(1) == truth).mean())
        chosen = json.loads((folder / f"seed_0/targets/{name}.json").read_text())["rows"]
        sources = next(row["sources"] for row in chosen if row["method"] == "selection" and "sources" in row)
        places = [others.index(source) for source in sources]
        fused = said[places].mean(0).argmax(1)
        assert value(rows, "average of 2, selected", name) == pytest.approx((fused == truth).mean())
        some = (said[places].argmax(2) == truth).any(0).mean()
        assert value(rows, "oracle selection among the 2", name) == pytest.approx(some) and some >= single[places].max()


@pytest.mark.slow
def test_the_student_is_an_ordinary_expert_with_the_accuracy_of_the_table(folder):
    rows, data = results(folder)["rows"], motion()
    data.setup("fit")
    for name in TARGETS:
        expert = Expert(checkpoint=str(folder / f"seed_0/students/{name}.ckpt"))
        test = TargetDataModule(data, name, min_per_class=1).rows("test")
        batch = data.on_after_batch_transfer(test[torch.arange(len(test))], 0)
        right = (expert(batch.input).argmax(1) == batch.target).float().mean()
        assert value(rows, MAIN, name) == pytest.approx(float(right), abs=1e-6)


@pytest.mark.slow
def test_samples_in_the_page_are_those_of_the_last_target(folder):
    found, data, name = samples_of(folder), motion(), TARGETS[-1]
    data.setup("fit")
    test = TargetDataModule(data, name, min_per_class=1).rows("test")
    batch = data.on_after_batch_transfer(test[torch.arange(len(test))], 0)
    order = batch.index.argsort()
    student = Expert(checkpoint=str(folder / f"seed_0/students/{name}.ckpt"))(batch.input)[order]
    assert found["title"] == f"{MAIN}, target {name}, seed 0" and len(found["samples"]) == len(test)
    said = [probabilities(folder, source, test)[order] for source in found["experts"]]
    for row, sample in enumerate(found["samples"]):
        assert sample["target"] == data.classes[batch.target[order][row]]
        assert sample["confidence"] == pytest.approx(float(student[row].max()), rel=1e-3)
        for source, (answer, probability, weight, _) in zip(said, sample["experts"], strict=True):
            assert answer == data.classes[source[row].argmax()]
            assert probability == pytest.approx(source[row].max(), rel=1e-3) and weight is None


@pytest.mark.slow
def test_means_and_intervals_are_over_targets_and_people(folder):
    content, text = results(folder), (folder / "report.md").read_text()
    rows = content["rows"]
    ours, theirs = (np.array([value(rows, method, name) for name in TARGETS]) for method in (MAIN, LOCAL))
    assert value(rows, MAIN, None) == pytest.approx(ours.mean())
    gain = ours - theirs  # three targets of three people
    half = t.ppf(0.975, 2) * gain.std(ddof=1) / np.sqrt(3)
    low, high = 100 * (gain.mean() - half), 100 * (gain.mean() + half)
    signs = f"{(gain > 0).sum()} / {(gain == 0).sum()} / {(gain < 0).sum()}"
    assert f"| {LOCAL} | {100 * gain.mean():+.1f} [{low:+.1f}, {high:+.1f}] | {signs} |" in text


@pytest.mark.slow
def test_every_row_that_was_promised_is_there(folder):
    found = {row["method"] for row in results(folder)["rows"]}
    assert {
        MAIN,
        ENSEMBLE,
        LOCAL,
        TUNED,
        *STUDENTS,
        *(f"teacher {name}, kept" for name in MEMBERS["all"]),
        "FoE on selected sources",
        "local model, all labels",
        "constant answer",
    } <= found
    assert {f"average of 2, by {how}" for how in ("random", "statistics", "accuracy", "centroid")} <= found
    assert {"fixed alpha", "one source", "more labels", "more labels, local", f"{MAIN}, guarded"} <= found


@pytest.mark.slow
def test_the_guarded_row_is_the_better_one_by_the_folds(folder):
    rows = results(folder)["rows"]
    for name in TARGETS:
        (row,) = [r for r in rows if r["metric"] == "choice" and r.get("domain") == name]
        tested = {"student": MAIN, "local": LOCAL, "ensemble": ENSEMBLE}
        kept = value(rows, tested[row["choice"]], name)
        assert value(rows, f"{MAIN}, guarded", name) == kept
        assert row["value"] == (kept >= max(value(rows, method, name) for method in tested.values()) - 0.01)
        folds = {answer: value(rows, "guard", name, f"folds, {answer}") for answer in tested}
        assert row["choice"] == "student" or folds[row["choice"]] > folds["student"]
    assert "The guard selected, of 3 targets:" in (folder / "report.md").read_text()


@pytest.mark.slow
def test_accuracies_of_the_sources_stand_by_class(folder):
    data = motion()
    data.setup("fit")
    for name in TARGETS:
        rows = [r for r in results(folder)["rows"] if r["metric"] == "accuracy of a class" and r["domain"] == name]
        assert [row["label"] for row in rows] == motion().classes
        test = TargetDataModule(data, name, min_per_class=1).rows("test")
        truth = test[torch.arange(len(test))].target.numpy()
        constant = value(results(folder)["rows"], "constant answer", name)
        assert constant == max((truth == number).mean() for number in np.unique(truth))
        for place, source in enumerate(rows[0]["among"]):
            answer = probabilities(folder, source, test).argmax(1)
            for number, row in enumerate(rows):
                wanted = (answer[truth == number] == number).mean()
                assert row["accuracies"][place] == pytest.approx(wanted)


@pytest.mark.slow
def test_what_is_kept_costs_more_and_answers_from_its_file(folder):
    rows, data, name = results(folder)["rows"], motion(), TARGETS[0]
    data.setup("fit")
    size = {method: value(rows, method, name, "model bytes") for method in (MAIN, ENSEMBLE)}
    assert size[ENSEMBLE] > 2 * size[MAIN] > 0 and value(rows, ENSEMBLE, name, "seconds per sample") > 0
    stored = json.loads((folder / f"seed_0/targets/{name}.json").read_text())
    experts = {s: Expert(checkpoint=str(folder / f"seed_0/sources/{s}.ckpt")) for s in stored["sources"]}
    path = folder / f"seed_0/ensembles/{name}.pt"
    kept = Ensemble.load(experts, data.classes, path)
    test = TargetDataModule(data, name, min_per_class=1).rows("test")
    batch = data.on_after_batch_transfer(test[torch.arange(len(test))], 0)
    right = (kept.answer(batch.input)["probabilities"].argmax(1) == batch.target).double().mean()
    assert value(rows, ENSEMBLE, name) == pytest.approx(float(right), abs=1e-6)
    with pytest.raises(InputError, match=r"is damaged \(it is of the sources"):
        Ensemble.load(dict(reversed(experts.items())), data.classes, path)


@pytest.mark.slow
def test_the_ledger_counts_what_is_published(folder):
    rows, registry = results(folder)["rows"], ExpertRegistry(str(folder / "seed_0/registry"))
    assert sorted(registry.names) == sorted(motion().domains)
    for name in TARGETS:
        everything, read = (value(rows, method, name, "bytes") for method in ("all models", "selection"))
        parts = [r["value"] for r in rows if r["method"].startswith("selection, ") and r.get("domain") == name]
        assert 0 < read < everything and sum(parts) == read


@pytest.mark.slow
def test_pictures_are_drawn_and_an_interrupted_run_goes_on(folder, capsys):
    text, before = (folder / "report.md").read_text(), results(folder)["rows"]
    for picture in ("targets.png", "ledger.png", "sources.png"):
        assert f"]({picture})" in text and pictures.imread(folder / picture).std() > 0.05
    (folder / "seed_0/targets/p1_watch.json").unlink()
    run(folder, guarded=True, variants=VARIANTS)
    said = capsys.readouterr().out
    assert said.count("not retrained") == 8 + 2 and timeless(results(folder)["rows"]) == timeless(before)  # bit for bit


@pytest.mark.slow
def test_sources_know_some_classes_only_and_the_report_says_which_none_knows(hard):
    rows, data, registry = results(hard)["rows"], motion(), ExpertRegistry(str(hard / "seed_0/registry"))
    cards = registry.cards()
    trained = [card for name, card in cards.items() if not name.endswith("_student")]
    assert len(data.classes) > 2 and all(len(card.classes) == 2 and min(card.counts) > 0 for card in trained)
    assert {label for name in data.domains for label in cards[name].classes} == set(data.classes)
    assert len({tuple(card.classes) for card in trained}) > 2  # drawn, by name
    assert all(card.agreement is not None for card in registry.cards().values())  # published with int8
    text, lacking = (hard / "report.md").read_text(), []
    for name in HARD["targets"]:
        (entry,) = [r for r in rows if r["metric"] == "coverage" and r.get("domain") == name]
        sources = next(r["sources"] for r in rows if "sources" in r and r.get("domain") == name)
        known = {label for source in sources for label in cards[source].classes}
        assert entry["uncovered"] == [label for label in data.classes if label not in known]
        mean = np.mean([len(cards[source].classes) for source in sources])
        assert entry["value"] == pytest.approx(mean / len(data.classes))
        lacking += entry["uncovered"]
        own = Expert(checkpoint=str(hard / f"seed_0/own/{name}.ckpt"))
        assert own.classes == data.classes  # what is the ceiling knows all
    assert lacking and all(f"{label} ({lacking.count(label)})" in text for label in lacking)


@pytest.mark.slow
def test_corrupted_sources_are_others_models_on_wrong_labels_and_their_number_is_reported(hard):
    rows, data, counts = results(hard)["rows"], motion(), {True: 0, False: 0}
    data.setup("fit")
    for name in HARD["targets"]:
        (entry,) = [r for r in rows if "sources" in r and r.get("domain") == name]
        for source in entry["sources"]:
            counts[source.endswith("_permuted")] += 1
        assert not any(source.startswith(name[:2]) for source in entry["sources"])
    names = sorted(path.stem for path in (hard / "seed_0/sources").glob("*_permuted.ckpt"))
    assert 4 <= len(names) <= 6 and counts[True] + counts[False] == 3 * 2
    text = (hard / "report.md").read_text()
    for kind, wrong, there in (("label-corrupted", True, 12), ("other", False, 6 + 2)):
        share = f"{counts[wrong]} of {there} ({counts[wrong] / there:.0%})"
        assert f"| {kind} sources | {share} |" in text
    registry = ExpertRegistry(str(hard / "seed_0/registry"))
    for name in names:  # the same rows, each class with the number of samples of the other
        sound, wrong = (registry.card(one) for one in (name.removesuffix("_permuted"), name))
        assert wrong.classes == sound.classes and wrong.counts == sound.counts[::-1]
        assert wrong.statistics == sound.statistics and wrong.fingerprint != sound.fingerprint


@pytest.mark.slow
def test_what_the_teacher_believes_stands_beside_what_is_true(folder):
    rows, text = results(folder)["rows"], (folder / "report.md").read_text()
    for method in (MAIN, PAPER_ROW, "one source"):
        believed = [value(rows, method, name, "teacher accuracy") for name in TARGETS]
        true = np.mean([value(rows, method, name, "teacher test accuracy") for name in TARGETS])
        assert value(rows, method, None, "teacher test accuracy") == pytest.approx(true)
        mixers = [row["value"] for row in rows if row["method"] == f"{method} (teacher kept)" and "domain" not in row]
        assert mixers == ([pytest.approx(true)] if method == PAPER_ROW else [])
        assert value(rows, method, None, "teacher accuracy") == pytest.approx(np.mean(believed))
        assert f"| {method} | {np.mean(believed):.3f} | {true:.3f} | {believed.count(1.0)} of 3 |" in text
        for name, share in zip(TARGETS, believed, strict=True):  # a count over the labeled rows
            right = share * value(rows, "labeled samples", name, "rows")
            assert right == pytest.approx(round(right), abs=1e-3)


@pytest.mark.slow
def test_a_student_serves_later_targets_of_other_people_and_an_interrupted_round_goes_on(hard, capsys):
    before, registry = results(hard)["rows"], ExpertRegistry(str(hard / "seed_0/registry"))
    may = {"p0_phone": [], "p2_phone": ["p0_phone"], "p0_watch": ["p2_phone"]}  # who came before, without oneself
    for name, students in may.items():
        expert = Expert(checkpoint=str(hard / f"seed_0/students/{name}.ckpt"))
        card = registry.card(f"{name}_student")
        served, own = registry.load(card.name).network.state_dict(), quantize(expert.network.state_dict())
        assert all(torch.equal(served[key], weight) for key, weight in dequantize(own).items())
        assert card.classes == motion().classes
        assert sum(card.counts) == value(before, "labeled samples", name, "rows")  # centroids of those alone
        there = sum(value(before, kind, name, "sources") for kind in ("other sources", "label-corrupted sources"))
        assert there == 6 + len(students)
        (entry,) = [r for r in before if "sources" in r and r.get("domain") == name]
        used = {source.removesuffix("_student") for source in entry["sources"] if source.endswith("_student")}
        assert used <= set(students)
    for name in ("p2_phone", "p0_watch"):  # students of both stay published
        (hard / f"seed_0/targets/{name}.json").unlink()
    run(hard, **HARD)
    assert timeless(results(hard)["rows"]) == timeless(before)
    assert "p0_phone: found checkpoint, not retrained" in capsys.readouterr().out


@pytest.mark.slow
def test_texts_have_every_row_too(tmp_path):
    """Tokens cannot be mixed: other students than the main one, here the paper's, learn without mixup."""
    networks = {"bag": partial(TextBag, vocab_size=2048, width=4)}
    quick = {"targets": ["domain_1"], "source_epochs": 1, "epochs": 1, "guarded": True, "student": PAPER}
    report = run(tmp_path / "run", data=SyntheticTextDataModule(batch_size=64), networks=networks, **quick)
    assert {MAIN, PAPER_ROW, UNIFORM, TUNED, ENSEMBLE, f"{MAIN}, guarded"} <= set(report.methods())
    own, same = (report.values(method, "teacher accuracy") for method in (MAIN, PAPER_ROW))
    assert own == same and report.values(MAIN) == report.values(PAPER_ROW)


@pytest.mark.slow
def test_a_student_that_is_the_best_of_the_sources_is_chosen_by_the_next_target(tmp_path):
    """The sources are hardly trained; a student with most of its labels is the best there is."""
    quick = {"source_epochs": 1, "epochs": 12, "networks": {"cnn": partial(SensorCNN, width=8)}, "baselines": False}
    few = {"labeled_fraction": 0.9, "num_sources": 1, "keep_fraction": 1.0}
    data = motion().variant(heterogeneity=0.0)
    report = run(tmp_path / "run", data=data, targets=["p0_phone", "p1_phone"], publish_students=True, **quick, **few)
    chosen = {row["domain"]: row["sources"] for row in report.rows if "sources" in row and "domain" in row}
    assert chosen["p1_phone"] == ["p0_phone_student"] and not chosen["p0_phone"][0].endswith("_student")
    assert value(report.rows, MAIN, "p1_phone") > value(report.rows, "mean of single sources", "p1_phone")
    student = Expert(checkpoint=str(tmp_path / "run/seed_0/students/p0_phone.ckpt"))
    assert student.domains == ["p0_phone"]  # its card: whose data it was trained on


@given(
    present=st.lists(st.sets(st.sampled_from("abcde"), min_size=2), min_size=1, max_size=6),
    count=st.integers(2, 6),
    seed=st.integers(0, 3),
)
def test_drawn_classes_are_a_source_s_own(present, count, seed):
    own = {f"s{number}": sorted(labels) for number, labels in enumerate(present)}
    kept = draw_classes(own, count, seed)
    assert kept == draw_classes(own, count, seed)
    for name, labels in own.items():
        assert len(kept[name]) == min(count, len(labels)) and set(kept[name]) <= set(labels)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_classes_that_every_source_has_are_drawn_equally_often(count):
    draws = [draw_classes({f"s{number}": list("abcde") for number in range(7)}, count, seed) for seed in range(5)]
    for kept in draws:
        uses = [sum(label in labels for labels in kept.values()) for label in "abcde"]
        assert max(uses) - min(uses) <= 1
    assert len({str(kept) for kept in draws}) == (1 if count == 5 else 5)


@pytest.mark.parametrize(
    ("name", "setting"), [("a_permuted", {"corrupted_sources": 1}), ("a_student", {"publish_students": True})]
)
def test_a_domain_that_is_called_as_a_source_of_the_run_is_rejected(name, setting, tmp_path):
    data = TensorDataModule({}, ["cat", "dog"], ["a", name, "b"])
    with pytest.raises(InputError, match=f"would have the name of the domain {name}; rename it"):
        run(tmp_path / "run", data=data, targets=["b"], **setting)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ["p9_phone"]}, r"targets: found p9_phone; the data's domains are p0_phone, p0_watch"),
        ({"networks": {}}, "networks: name at least one architecture"),
        ({"source_classes": 1}, "source_classes is 1; a source needs two classes"),
        ({"corrupted_sources": 6}, "corrupted_sources is 6; expected 0 to 5, fewer than the sources of other groups"),
        ({"epochs": 0}, "epochs, source_epochs and num_targets must be at least 1"),
        ({"variants": {MAIN: {}}}, "variants: HaT is a row of the table already"),
        ({"variants": {"odd": {"temprature": 2}}}, r"variants: odd sets temprature; .* temperature"),
        ({"student": {"experts": {}, "num_sources": 2}}, r"student: sets experts, num_sources; known are .*teacher"),
        ({"features": "pol"}, "has no layer 'pol'"),
        ({"student": {"mixup": "abc"}}, "student: mixup is 'abc'; expected float, null"),
        ({"student": {"scheduler": "x"}}, "student: scheduler is 'x'; expected a class_path with init_args, null"),
        ({"student": {"metric": "x"}}, "student: metric is 'x'; expected Metric, null"),
        ({"student": {"teacher": "best"}}, "student: teacher is 'best'; expected auto, all, uniform"),
        ({"student": {"alpha_0": -1}}, "student: alpha_0 is -1"),
        ({"variants": {"odd": {"dim": 2.5}}}, "variants: odd: dim is 2.5; expected int"),
        ({"variants": {"odd": {"temperature": 0.3}}}, "variants: odd: teacher: all is fitted .* temperature"),
        ({"variants": {"odd": {"num_sources": 0}}}, "variants: odd: num_sources is 0"),
        ({"variants": {"odd": {"rank_by": "luck"}}}, "variants: odd: rank_by is 'luck'; expected product"),
        ({"variants": {"odd": {"labeled_fraction": 2.0}}}, "variants: odd: labeled_fraction is 2.0"),
        ({"keep_fraction": 0}, "keep_fraction is 0"),
        ({"labeled_fraction": 0.01, "min_per_class": 0}, "labeled_fraction of 0.01 leaves no labeled sample"),
    ],
)
def test_rejected(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", **({"data": shared_motion(), "baselines": False} | arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"HaT": 0.8, "local model, few labels": 0.7, "average of 5, selected": 0.8}, []),
        (
            {"HaT": 0.6, "local model, few labels": 0.7},
            ["HaT (0.600) is below the local model (0.700): the sources reduce the accuracy."],
        ),
        (
            {"HaT": 0.25, "local model, few labels": 0.2, "average of 4, selected": 0.32, "average of 4, oracle": 0.5},
            ["The average of 4, selected (0.320), is better than HaT's small model (0.250): use it"],
        ),
        (
            {"HaT": 0.76, "local model, few labels": 0.7, "HaT, teacher uniform": 0.85, "HaT from scratch": 0.8},
            ["The student of the row HaT, teacher uniform (0.850) has the size of HaT's (0.760) and is better"],
        ),
        (
            {"HaT": 0.96, "local model, few labels": 0.95, "constant answer": 0.94, "local model, all labels": 0.93},
            [
                "A constant answer, the most frequent class of each target, has 0.940",
                "The local model, all labels (0.930), is below the one with few (0.950): it and the sources",
            ],
        ),
    ],
)
def test_a_simpler_and_better_method_is_reported(figures, told):
    report = Report("hat", {})
    for method, value in figures.items():
        report.add(method, "accuracy", value, 0)
    notes = hat_report.verdicts(report, STUDENTS)
    assert len(notes) == len(told) and all(note.startswith(start) for note, start in zip(notes, told, strict=True))


@pytest.mark.slow
def test_a_domain_of_one_class_is_neither_source_nor_target_and_the_report_says_so(tmp_path, capsys):
    table = tmp_path / "table.csv"
    generator = np.random.default_rng(0)
    lines = ["person,x,y,label"]
    for number in range(200):
        person, label = number % 5, (number // 5) % 2 if number % 5 != 3 else 1
        x, y = generator.normal(label, 0.5, 2)
        lines.append(f"p{person},{x:.3f},{y:.3f},{('still', 'moving')[label]}")
    table.write_text("\n".join(lines))
    network = {"mlp": partial(SensorMLP, in_features=2, hidden=[8])}
    data = FeatureTableDataModule(str(table), domain_fields=["person"], label="label", batch_size=9)
    arguments = {"data": data, "networks": network, "features": "features", "baselines": False, "epochs": 2}
    report = run(tmp_path / "run", **arguments, targets=["p0", "p4"])
    (note,) = [note for note in report.notes if note.startswith("Domain p3 was skipped as source and target")]
    assert "moving as its only class" in note and note in (tmp_path / "run/report.md").read_text().replace("\n", " ")
    assert "p3 is skipped" in capsys.readouterr().out
    assert report.data["domains"] == 4 and not (tmp_path / "run/seed_0/sources/p3.ckpt").exists()
    with pytest.raises(InputError, match="targets: found p3; domain p3 has moving as its only class"):
        run(tmp_path / "other", **arguments, targets=["p3"])
