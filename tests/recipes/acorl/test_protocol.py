import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from helpers import tiny
from helpers.pages import samples_of
from helpers.processes import together
from helpers.recipe_runs import results, value
from matplotlib import image as pictures
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from lightning_fusion import Expert, ExpertOutputs, SpeakerDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.data.audio.synthetic import SyntheticLabeledAudioDataModule, SyntheticSpeakerDataModule
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.encoders import SmallConvNet, SmallSpeakerNet
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.acorl.classification import ClassificationChains
from lightning_fusion.recipes.acorl.protocol import _choose, acorl
from lightning_fusion.recipes.acorl.verification import SpeakerChains
from lightning_fusion.schedules import Constant
from lightning_fusion.store import ArrayStore
from lightning_fusion.verification.error_rates import bootstrap_eer

SEEDS = [3, 4]
UTTERANCES = 4  # of each synthetic voice: sample n is of speaker n // 4
VOICES = {"sample_rate_hz": 8000, "num_mels": 16, "crop_s": 0.3, "eval_crop_s": 0.5}


def run_on_digits(output: Path, **arguments):
    settings = {
        "data": DigitsDataModule(fuser_fraction=0.7, batch_size=64),
        "network": partial(SmallConvNet, width=2, in_channels=1),
        "features": "pool",
        "epochs": 2,
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
        "attribution_rows": 0,
        "trainer": {"accelerator": "cpu"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_fusion.recipes.acorl.classification._LATE_STEPS", 20)
        return acorl(output=str(output), **(settings | arguments))


def run_on_voices(output: Path, **arguments):
    settings = {
        "data": SyntheticSpeakerDataModule(**VOICES, batch_size=48, val_speakers=8, test_speakers=10),
        "network": partial(SmallSpeakerNet, num_mels=16, width=8, embedding_dim=8),
        "features": "embedding",
        "epochs": 2,
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
        "trainer": {"accelerator": "cpu"},
    }
    return acorl(output=str(output), **(settings | arguments))


RUNS = {"digits": run_on_digits, "voices": run_on_voices}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("acorl") / "run"
    larger = partial(SmallConvNet, width=3, in_channels=1)
    run_on_digits(folder, seeds=SEEDS, strengths=[0, 1.0], larger=larger, attribution_rows=4)
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("acorl") / "run"
    larger = partial(SmallSpeakerNet, num_mels=16, width=12, embedding_dim=8)
    run_on_voices(folder, seeds=SEEDS, strengths=[0.3, 1.0], larger=larger)
    return folder


def by_strength(rows: list[dict], fusion: str, metric: str, split: str, strength: float) -> list[float]:
    wanted = fusion, f"{metric} by strength", split, strength
    return [row["value"] for row in rows if (row["method"], row["metric"], row["split"], row.get("strength")) == wanted]


def chosen(folder: Path) -> float:
    return float(results(folder)["data"]["strength of the table"].split(",")[0])


def chain(strength: float) -> list[str]:
    return ["member_1", "member_2" if not strength else f"member_2_against_{strength:g}".replace(".", "_")]


def network(folder: Path, name: str) -> torch.nn.Module:
    """The network of a checkpoint of seed 3."""
    expert = Expert(checkpoint=str(folder / f"seed_3/members/{name}.ckpt"))
    assert isinstance(expert.network, torch.nn.Module)
    return expert.network


class Heard:
    """Scores of the trials of a seed, worked out in NumPy from the stored embeddings."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.data = SyntheticSpeakerDataModule(**VOICES, batch_size=48, val_speakers=8, test_speakers=10, seed=seed)
        self.pairs, self.same, self.found = {}, {}, {}
        for split in ("val", "test"):
            pairs, same = self.data.trials(split)
            self.pairs[split], self.same[split] = pairs.numpy(), same.numpy()
            self.found[split] = dict(ArrayStore(folder / f"seed_{seed}/embeddings/{split}", "embeddings of members"))

    def scores(self, split: str, name: str) -> np.ndarray:
        place = {number: row for row, number in enumerate(self.found[split]["index"].tolist())}
        one, other = (
            self.found[split][name][[place[number] for number in side]].astype(np.float64)
            for side in self.pairs[split].T
        )
        return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)

    def fused(self, split: str, names: list[str]) -> np.ndarray:
        return np.mean([self.scores(split, name) for name in names], 0)


def rates(scores: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """EER and minDCF by scikit-learn's ROC."""
    alarm, hit, _ = roc_curve(same, scores, drop_intermediate=False)
    miss = 1 - hit
    after = int(np.argmax(alarm >= miss))
    gap = miss[after - 1] - alarm[after - 1], miss[after] - alarm[after]
    share = gap[0] / (gap[0] - gap[1])
    cost = (0.01 * miss + 0.99 * alarm).min() / 0.01
    return alarm[after - 1] + share * (alarm[after] - alarm[after - 1]), cost


@pytest.mark.slow
class TestDigits:
    def test_figures_follow_from_the_stored_outputs(self, digits):
        rows, strength = results(digits)["rows"], chosen(digits)
        for seed in SEEDS:
            outputs = ExpertOutputs.open(digits / f"seed_{seed}/outputs")
            part = outputs["test"]
            members = {
                "plain, output fusion": chain(0),
                "ACoRL, output fusion": chain(strength),
                "first member": ["member_1"],
                "member 2, plain": ["member_2"],
                "member 2, ACoRL": chain(strength)[1:],
                "one larger model": ["larger"],
            }
            for method, names in members.items():
                mean = np.mean([part.probabilities[name] for name in names], 0)
                expected = (mean.argmax(1) == part.target).mean()
                assert value(rows, method, "accuracy", seed) == pytest.approx(expected), method
            one, other = (part.probabilities[name].argmax(1) == part.target for name in chain(0))
            assert value(rows, "plain, output fusion", "disagreement", seed) == pytest.approx((one != other).mean())
            assert 0 <= value(rows, "plain, output fusion", "attribution top-10 % overlap", seed) <= 1
        fused = {row["method"] for row in rows if row["metric"] == "accuracy"}
        assert {f"{arm}, {kind} fusion" for arm in ("plain", "ACoRL") for kind in ("late", "weighted output")} <= fused

    def test_samples_in_the_page_are_those_of_the_chain(self, digits):
        found, outputs = samples_of(digits), ExpertOutputs.open(digits / f"seed_{SEEDS[-1]}/outputs")
        assert found["experts"] == chain(chosen(digits)) and not found["has_weights"]
        places = [outputs.names.index(name) for name in found["experts"]]
        fused = outputs.scattered("test")[:, places].mean(1)
        row_of = {f"sample {number}": row for row, number in enumerate(outputs["test"].index.tolist())}
        for sample in found["samples"]:
            row = row_of[sample["name"]]
            assert sample["answer"] == outputs.classes[fused[row].argmax()]
            assert sample["confidence"] == pytest.approx(fused[row].max(), rel=1e-3)

    def test_pictures_and_report_are_there(self, digits):
        text = (digits / "report.md").read_text()
        for name in ("strengths.png", "attributions.png"):
            assert f"({name})" in text and pictures.imread(digits / name).std() > 0.05
        assert "| **ACoRL, output fusion** |" in text and "| late fusion |" in text

    def test_labels_of_recordings_are_classes(self, tmp_path):
        data = SyntheticLabeledAudioDataModule(**VOICES, batch_size=48)
        net = partial(SmallSpeakerNet, num_mels=16, width=8, embedding_dim=8)
        report = run_on_digits(tmp_path / "run", data=data, network=net, features="embedding", epochs=1)
        assert report.metric == "accuracy" and report.data["classes"] == 5


@pytest.mark.slow
class TestVoices:
    def test_figures_follow_from_the_stored_embeddings(self, voices):
        rows, strength = results(voices)["rows"], chosen(voices)
        for seed in SEEDS:
            heard = Heard(voices, seed)
            same = heard.same["test"]
            members = {
                "plain, score fusion": chain(0),
                "ACoRL, score fusion": chain(strength),
                "first member": ["member_1"],
                "member 2, plain": ["member_2"],
                "member 2, ACoRL": chain(strength)[1:],
                "one larger model": ["larger"],
            }
            for method, names in members.items():
                eer, cost = rates(heard.fused("test", names), same)
                found = value(rows, method, "eer", seed)
                assert found == pytest.approx(eer, abs=2e-3), method  # scores closer than float32 are in any order
                assert value(rows, method, "min_dcf", seed) == pytest.approx(cost, abs=1e-6), method
            for arm, names in (("plain", chain(0)), ("ACoRL", chain(strength))):
                val, test = (np.stack([heard.scores(split, name) for name in names], 1) for split in ("val", "test"))
                fit = LogisticRegression(C=1e4, class_weight="balanced", max_iter=1000).fit(val, heard.same["val"])
                eer, _ = rates(fit.decision_function(test), same)
                assert value(rows, f"{arm}, calibrated fusion", "eer", seed) == pytest.approx(eer, abs=2e-3)
                expected = np.corrcoef(test.T)[0, 1]
                found = value(rows, f"{arm}, score fusion", "correlation of scores", seed)
                assert found == pytest.approx(expected, abs=1e-5)

    def test_samples_in_the_page_are_trials(self, voices):
        found, heard = samples_of(voices), Heard(voices, SEEDS[-1])
        scores = {name: heard.scores("test", name) for name in found["experts"]}
        fused = heard.fused("test", found["experts"])
        sides = [heard.data.origins(torch.from_numpy(side)).columns() for side in heard.pairs["test"].T.copy()]
        names = [[f"{file}, start_s {at}" for file, at in zip(*side.values(), strict=True)] for side in sides]
        kinds = {f"{one} and {other}": row for row, (one, other) in enumerate(zip(*names, strict=True))}
        assert found["value"] == "score" and "test trials" in found["drawn"]
        lowest = {"same speaker": 1.0, "different speakers": 1.0}
        for sample in found["samples"]:
            row = kinds[sample["name"]]
            assert sample["target"] == ("same speaker" if heard.same["test"][row] else "different speakers")
            assert sample["confidence"] == pytest.approx(fused[row], abs=1e-3)
            for name, (_, score, _, _) in zip(scores, sample["experts"], strict=True):
                assert score == pytest.approx(scores[name][row], abs=1e-3)
            lowest[sample["answer"]] = min(lowest[sample["answer"]], sample["confidence"])
        assert lowest["same speaker"] > lowest["different speakers"]  # one threshold

    def test_intervals_are_over_the_speakers(self, voices):
        heard = Heard(voices, 3)
        (row,) = [
            r
            for r in results(voices)["rows"]
            if (r["method"], r["metric"], r["seed"], r["split"]) == ("first member", "eer", 3, "test")
        ]
        scores = torch.from_numpy(heard.scores("test", "member_1")).float()
        pairs, same = (torch.from_numpy(part["test"]) for part in (heard.pairs, heard.same))
        low, high = bootstrap_eer(scores, same, pairs // UTTERANCES, seed=3)
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-3) and low < row["value"] < high
        assert (
            f"| first member | {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] |"
            in (voices / "report.md").read_text()
        )

    def test_embeddings_are_those_of_the_members(self, voices):
        heard = Heard(voices, 3)
        inputs = [heard.data.on_after_batch_transfer(batch, 0).input for batch in heard.data.test_dataloader()]
        for name in ("member_2", "larger"):
            expert = Expert(checkpoint=str(voices / f"seed_3/members/{name}.ckpt"))
            expected = torch.cat([expert.forward_with_representations(input)[1] for input in inputs])
            np.testing.assert_allclose(heard.found["test"][name], expected, atol=1e-5)

    def test_the_report_says_what_the_figures_are(self, voices):
        text, content = (voices / "report.md").read_text(), results(voices)
        assert "lower is better: a negative gain is a lower EER" in text and "| eer | min_dcf |" in text
        assert "10 test speakers are too few for a conclusion" in text
        assert (
            "Training data: 42 speakers, 168 samples per epoch of SyntheticSpeakerDataModule. Test trials: 780 (60 of"
            in text
        )
        for name in ("strengths.png", "det.png"):
            assert f"({name})" in text and pictures.imread(voices / name).std() > 0.05
        (gain,) = [e for e in content["summary"] if (e["metric"], e["against"]) == ("eer", "one larger model")]
        own, other = (
            [value(content["rows"], m, "eer", s) for s in SEEDS] for m in ("ACoRL, score fusion", "one larger model")
        )
        assert gain["gain"] == pytest.approx(np.mean(np.subtract(own, other)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "voices"])
def test_the_strength_is_the_best_on_validation(kind, request):
    folder = request.getfixturevalue(kind)
    rows = results(folder)["rows"]
    metric, sign = ("accuracy", 1) if kind == "digits" else ("eer", -1)
    fusions = ["output fusion", "late fusion"] if kind == "digits" else ["score fusion", "calibrated fusion"]
    offered = [0.0, 1.0] if kind == "digits" else [0.3, 1.0]
    means = {strength: np.mean(by_strength(rows, fusions[0], metric, "val", strength)) for strength in offered}
    assert means[chosen(folder)] == sign * max(sign * mean for mean in means.values())
    for arm, strength in (("ACoRL", chosen(folder)), ("plain", 0.0)):
        for fusion in fusions:
            table = [value(rows, f"{arm}, {fusion}", metric, seed) for seed in SEEDS]
            assert by_strength(rows, fusion, metric, "test", strength) == table
    if kind == "voices":
        for seed, found in zip(SEEDS, by_strength(rows, fusions[0], metric, "val", 0.3), strict=True):
            heard = Heard(folder, seed)
            assert found == pytest.approx(rates(heard.fused("val", chain(0.3)), heard.same["val"])[0], abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "strengths", "expected"),
    [(ClassificationChains, [0.3, 1.0], 1.0), (SpeakerChains, [0.3, 1.0], 0.3), (SpeakerChains, [0, 0.3, 1.0], 0.0)],
)
def test_more_accuracy_is_better_and_less_eer(kind, strengths, expected):
    runs = []
    for shift in (0.0, 0.1):
        run = object.__new__(kind)
        run.validation = {0.0: 0.2 + shift, 0.3: 0.2 + shift, 1.0: 0.3 + shift}
        runs.append(run)
    assert _choose(runs, strengths, [0.3, 1.0]) == expected  # of equal ones the smaller


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_pairs_begin_with_equal_weights_and_see_the_same_data(kind, tmp_path):
    still = partial(torch.optim.SGD, lr=0.0)  # batch norm's statistics tell the order of data
    RUNS[kind](tmp_path / "run", seeds=[3], epochs=1, optimizer=still)
    plain, other = network(tmp_path / "run", "member_2"), network(tmp_path / "run", "member_2_against_1")
    assert tiny.same(plain, other)
    assert not tiny.same(plain, network(tmp_path / "run", "member_1"))


@pytest.mark.slow
def test_without_reversal_the_chain_is_the_plain_one_and_the_report_says_so(tmp_path):
    report = run_on_digits(tmp_path / "run", seeds=[3], epochs=1, schedule=lambda strength: Constant(0.0))
    assert tiny.same(network(tmp_path / "run", "member_2"), network(tmp_path / "run", "member_2_against_1"))
    assert any("the reversal did not make them dissimilar" in note for note in report.notes)
    assert any("One seed gives no confidence interval" in note for note in report.notes)


@pytest.mark.slow
def test_a_plain_chain_that_validation_picked_is_called_so(tmp_path):
    report = run_on_voices(
        tmp_path / "run", seeds=[3], epochs=1, strengths=[0, 1.0], schedule=lambda strength: Constant(0.0)
    )
    assert tiny.same(network(tmp_path / "run", "member_2"), network(tmp_path / "run", "member_2_against_1"))
    assert report.data["strength of the table"] == "0, selected on validation"  # of equal ones the smaller
    assert report.notes[-1].startswith(
        "Validation selected the strength 0: the rows of ACoRL are those of the plain chain"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_finished_run_trains_and_asks_nobody_and_an_interrupted_one_goes_on(kind, tmp_path):
    folder = tmp_path / "run"
    again = partial(RUNS[kind], folder, seeds=[3], epochs=1)
    rows = again().rows
    stores = folder / "seed_3" / ("outputs" if kind == "digits" else "embeddings")
    files = [*folder.glob("seed_3/members/*"), *(path for path in stores.rglob("*") if path.is_file())]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert again().rows == rows
    assert len(before) > 3 and before == {path: path.stat().st_mtime_ns for path in files}

    (folder / "seed_3/members/member_2_against_1.ckpt").unlink()
    (folder / "results.json").unlink()
    shutil.rmtree(stores)
    assert again().rows == rows == results(folder)["rows"]
    kept = folder / "seed_3/members/member_1.ckpt"
    assert kept.stat().st_mtime_ns == before[kept]

    if kind == "voices":  # embeddings of another member are not taken
        shutil.copy(kept, folder / "seed_3/members/member_2.ckpt")
        changed = again().rows
        assert value(changed, "member 2, plain", "eer", 3) == value(rows, "first member", "eer", 3)
        assert value(changed, "member 2, ACoRL", "eer", 3) == value(rows, "member 2, ACoRL", "eer", 3)


class TestWithoutCaptum:
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "captum", None)

    @pytest.mark.slow
    def test_attributions_are_left_out_with_a_warning(self, tmp_path):
        with pytest.warns(UserWarning, match=r"found no package captum, .* pip install 'lightning-fusion\[explain\]'"):
            report = run_on_digits(tmp_path / "run", epochs=1, attribution_rows=None)
        assert report.config["attribution_rows"] == 0
        assert not any(row["metric"].startswith("attribution") for row in report.rows)

    def test_those_that_are_wanted_are_rejected_before_anything_is_trained(self, tmp_path):
        with pytest.raises(InputError, match=r"found no package captum: pip install 'lightning-fusion\[explain\]'"):
            run_on_digits(tmp_path / "run", attribution_rows=4)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"mixup": 0.2},
            "mixup is 0.2: speakers are trained with an angular margin and judged by trials; remove mixup",
        ),
        (
            {"label_smoothing": 0.1, "attribution_rows": 8},
            "label_smoothing is 0.1: .*; remove label_smoothing and attribution_rows",
        ),
        ({"members": 1}, "members is 1, epochs 2, attribution_rows None; expected at least 2, 1 and 0"),
        ({"adversary_steps": -1}, "adversary_steps is -1; expected a number of at least 0"),
        ({"strengths": [0]}, r"strengths: found \[0\]; expected numbers >= 0, one above 0 at least"),
        ({"strengths": [1.0, -1.0]}, r"strengths: found \[1.0, -1.0\]"),
        ({"seeds": []}, r"seeds: found \[\]; expected at least one"),
    ],
)
def test_wrong_arguments_are_rejected_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_on_voices(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


class _Anonymous(SyntheticSpeakerDataModule):
    @property
    def speaker_of(self):
        raise AttributeError("speaker_of")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": partial(SmallConvNet, width=2)}, r"network: fails on the samples .*, of shape \(1, 8, 8\): G"),
        ({"larger": partial(SmallConvNet, width=2)}, r"larger \(null leaves it out\): fails on the samples of"),
        ({"larger": torch.nn.Identity}, r"features: larger \(null leaves it out\) has no layer 'pool'"),
    ],
)
def test_a_network_that_does_not_fit_is_rejected_before_any_is_trained(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run_on_digits(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_trials_without_speakers_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"_Anonymous names trials, but not who speaks in them: give it speaker_of"):
        run_on_voices(tmp_path / "run", data=_Anonymous(**VOICES))


def test_validation_without_a_trial_of_one_speaker_is_rejected(tmp_path):
    generator = np.random.default_rng(0)
    for speaker in range(12):
        (tmp_path / f"voices/s{speaker}").mkdir(parents=True)
        soundfile.write(tmp_path / f"voices/s{speaker}/0.wav", generator.normal(size=8000) / 9, 8000)
    data = SpeakerDataModule(root=str(tmp_path / "voices"), sample_rate_hz=8000, test_segments=2)
    with pytest.raises(InputError, match=r"no two recordings of the val split are of one speaker.*val_segments: 2"):
        run_on_voices(tmp_path / "run", data=data)


@pytest.mark.slow
def test_a_run_on_other_trials_is_not_taken_up(tmp_path):
    lists = tmp_path / "list.txt"
    lists.write_text("1 s0/0.wav s0/1.wav\n0 s0/0.wav s1/0.wav\n")
    generator = np.random.default_rng(0)
    for speaker in range(10):
        (tmp_path / f"voices/s{speaker}").mkdir(parents=True)
        for number in range(2):
            path = tmp_path / f"voices/s{speaker}/{number}.wav"
            soundfile.write(path, generator.normal(size=8000) / 9, 8000)
    settings = VOICES | {"root": str(tmp_path / "voices"), "test_trials": str(lists)}
    run_on_voices(tmp_path / "run", data=SpeakerDataModule(**settings, val_speakers=3), epochs=1)
    lists.write_text("0 s0/0.wav s0/1.wav\n1 s0/0.wav s1/0.wav\n")  # the same files
    with (
        pytest.warns(UserWarning, match="contradict"),
        pytest.raises(InputError, match=r"another run \(differs in trials\)"),
    ):
        run_on_voices(tmp_path / "run", data=SpeakerDataModule(**settings, val_speakers=3), epochs=1)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_speakers_on_two_devices_are_configuration(tmp_path):
    """Each process embeds its share of the recordings; the trials are scored once, over those of both."""
    voices = {**VOICES, "batch_size": 24, "val_speakers": 8, "test_speakers": 10}
    network = {"num_mels": 16, "width": 8, "embedding_dim": 8}
    config = {
        "data": {"class_path": path_of(SyntheticSpeakerDataModule), "init_args": voices},
        "network": {"class_path": path_of(SmallSpeakerNet), "init_args": network},
        "features": "embedding",
        "epochs": 1,
        "strengths": [0, 1.0],
        "seeds": [3],
        "trainer": {"accelerator": "cpu", "devices": 2, "enable_progress_bar": False},
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    said = together(tmp_path, main, ["recipe", "acorl", "-c", "two.yaml", "--output", "run"])
    assert [text.count("report: ") for text in said] == [1, 0]
    found = results(tmp_path / "run")
    assert found["config"]["trainer"]["processes"] == 2
    heard = Heard(tmp_path / "run", 3)
    one_trial = 1 / np.bincount(heard.same["test"]).min()  # float32 may exchange two whose scores are nearly equal
    for method, name in (("first member", "member_1"), ("member 2, plain", "member_2")):
        eer, cost = rates(heard.fused("test", [name]), heard.same["test"])
        assert value(found["rows"], method, "eer", 3) == pytest.approx(eer, abs=one_trial)
        assert value(found["rows"], method, "min_dcf", 3) == pytest.approx(cost, abs=1e-6)


def path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
