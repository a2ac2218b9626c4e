import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers.data_files import motion_files
from helpers.splits import SPLITS, everything
from torch import nn

from lightning_fusion import SensorDataModule
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.statistics import window_statistics
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError

CHANNELS = ["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro"]


def write(path, labels, channels=("x",), value=None, rate=10.0):
    """A recording whose channels count samples, or have one value; labels are letters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join([*channels, "label"])]
    for number, label in enumerate(labels):
        lines.append(",".join([*[str(number if value is None else value + 0.1 * (number % 2))] * len(channels), label]))
    path.write_text("\n".join(lines) + "\n")


def files(root, **arguments):
    few = {"pattern": "{person}/{take}.csv", "channels": ["x"], "domain_fields": ["person"], "sample_rate_hz": 10}
    few |= {"window_s": 1.0, "batch_size": 8}
    return SensorDataModule(**(few | {"root": str(root)} | arguments))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five people with ten takes of 40 samples; odd people know one activity less."""
    root = tmp_path_factory.mktemp("tree")
    for person in range(5):
        for take in range(10):
            write(root / f"p{person}" / f"{take}.csv", "a" * 15 + ("b" if person % 2 else "c") * 10 + "b" * 15)
    return root


@pytest.fixture(scope="module")
def spsw(tmp_path_factory):
    root = tmp_path_factory.mktemp("spsw")
    motion_files(root, people=1)
    return {
        "root": str(root),
        "pattern": "{subject}/{subject}_{execution}_{device}.csv",
        "channels": CHANNELS,
        "domain_fields": ["subject", "device"],
        "group_field": "subject",
        "session_fields": ["execution"],
        "timestamp": "timestamp",
        "timestamp_unit": "ms",
    }


def takes(data, split):
    """Names of the recordings of a split."""
    return {data._source.names[number] for number in data._cut.recording[data.rows(split).rows]}


class TestSplits:
    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_no_recording_is_in_two_and_each_domain_has_its_shares(self, tree, seed):
        data = files(tree, seed=seed)
        found = [takes(data, split) for split in SPLITS]
        assert sum(map(len, found)) == len(set.union(*found)) == 50
        for person in range(5):
            assert [sum(name.startswith(f"p{person}/") for name in part) for part in found] == [7, 1, 2]
        assert found != [takes(files(tree, seed=seed + 10), split) for split in SPLITS]

    @pytest.mark.slow
    def test_a_domain_has_the_splits_it_has_among_all(self, tree):
        data, own = files(tree), files(tree, domain="p3")
        for split in SPLITS:
            assert takes(own, split) == {name for name in takes(data, split) if name.startswith("p3/")}

    @pytest.mark.slow
    def test_sessions_stay_together(self, spsw):
        data = SensorDataModule(**spsw)
        assert data.groups == {"s07_sp": "s07", "s07_sw": "s07"}
        for split in SPLITS:
            names = takes(data, split)
            assert names and {name.replace("_sp", "_sw") for name in names} == {n for n in names if "_sw" in n}
        apart = SensorDataModule(**(spsw | {"session_fields": None}))
        names = takes(apart, "test")
        assert {name[8:10] for name in names if "_sp" in name} != {name[8:10] for name in names if "_sw" in name}

    def test_classes_of_whole_recordings_are_drawn_evenly(self, tmp_path):
        for number in range(30):
            write(tmp_path / "p" / f"{'ab'[number < 10]}{number}.csv", "ab"[number < 10] * 20)
        data = files(tmp_path)
        assert torch.bincount(everything(data, "test").target).tolist() == [12, 6]
        assert torch.bincount(everything(data, "val").target).tolist() == [6, 3]

    def test_a_field_may_name_the_split(self, tmp_path):
        for split in ("train", "test"):
            for number in range(10):
                write(tmp_path / split / f"{number}.csv", "a" * 20 + "b" * 20)
        data = files(tmp_path, pattern="{part}/{take}.csv", domain_fields=None, split_field="part")
        assert takes(data, "test") == {f"test/{number}.csv" for number in range(10)}
        assert len(takes(data, "val")) == 1 and data.domains == ["all"]
        with pytest.raises(InputError, match=r"in another split than the rest of its session"):
            data.variant(session_fields=["take"]).setup()
        (tmp_path / "train").rename(tmp_path / "first")
        with pytest.raises(
            InputError, match=r"split_field part: first/0\.csv is of split 'first'; expected one of train"
        ):
            data.variant(root=str(tmp_path)).setup()

    def test_too_few_recordings_for_three_splits(self, tmp_path):
        for person, count in {"p": 1, "q": 2, "r": 5}.items():
            for take in range(count):
                write(tmp_path / person / f"{take}.csv", "a" * 20 + "b" * 20)
        data = files(tmp_path)
        with pytest.warns(UserWarning, match=r"2 of 3 domain\(s\) have too few recordings for three splits.*: p, q"):
            data.setup()
        assert len(data.variant(domain="q").rows("test")) and len(data.variant(domain="p").rows("train"))
        with pytest.raises(InputError, match="the val split of domain q has no sample; it needs more recordings"):
            data.variant(domain="q").rows("val")


class TestFacts:
    def test_a_batch(self, tree):
        data = files(tree)
        batch = next(iter(data.val_dataloader()))
        assert batch.input.shape == (8, 1, 10) and batch.input.dtype == torch.float32
        assert batch.target.dtype == torch.int64 and batch.domain.shape == (8, 5) and batch.domain.sum() == 8
        assert (batch.input.diff() == 1).all()  # samples of one recording, in their order
        assert isinstance(data, FusionDataModule)

    def test_one_domain_has_its_own_classes_and_the_same_numbers(self, tree):
        data = files(tree)
        assert data.classes == ["a", "b", "c"] and data.domains == data.own_domains == [f"p{n}" for n in range(5)]
        odd, even = data.variant(domain="p1"), data.variant(domain=["p0", "p1"])
        assert (odd.classes, odd.own_domains, odd.domains) == (["a", "b"], ["p1"], data.domains)
        assert even.classes == ["a", "b", "c"] and even.own_domains == ["p0", "p1"]
        whole = everything(data, "train")
        mine = whole.domain[:, 1]
        own = everything(odd, "train")
        assert torch.equal(own.index, whole.index[mine]) and torch.equal(own.input, whole.input[mine])
        assert [odd.classes[t] for t in own.target] == [data.classes[t] for t in whole.target[mine]]
        assert odd._source is data._source  # nothing is read twice
        assert data.groups == {name: name for name in data.domains}

    @pytest.mark.slow
    def test_labels_may_be_given_and_left_out(self, tree):
        data = files(tree, labels=["c", "b", "a"])
        assert data.classes == ["c", "b", "a"] and data.variant(domain="p1").classes == ["b", "a"]
        without = files(tree, ignored_labels=["c"])
        assert without.classes == ["a", "b"] and len(without._cut.starts) < len(data._cut.starts)
        with pytest.raises(
            InputError, match=r"p0/0.csv, at 1.50 s, has the label 'c'; expected one of a, b: add it to labels"
        ):
            files(tree, labels=["a", "b"]).setup()

    def test_samples_with_an_empty_label_have_none(self, tmp_path):
        lines = ["x,label", *(f"{step},{'a' if step < 20 else 'b' if step < 40 else ''}" for step in range(60))]
        for take in range(6):
            (tmp_path / "p").mkdir(exist_ok=True)
            (tmp_path / "p" / f"{take}.csv").write_text("\n".join(lines))
        assert files(tmp_path).classes == ["a", "b"]

    def test_the_label_may_be_a_field(self, tmp_path):
        for label in "ab":
            for take in range(6):
                write(tmp_path / "p" / f"{label}_{take}.csv", "xyz" * 10)
        data = files(tmp_path, pattern="{person}/{activity}_{take}.csv", label="activity")
        assert data.classes == ["a", "b"] and len(data._cut.starts) == 60

    @pytest.mark.slow
    def test_normalized_with_the_training_windows_or_given_values(self, spsw):
        data = SensorDataModule(**spsw, domain="s07_sp", normalization_scope="own")
        inputs = data.preprocess(everything(data, "train").input)
        torch.testing.assert_close(inputs.mean((0, 2)), torch.zeros(6), atol=1e-3, rtol=0)
        torch.testing.assert_close(inputs.std((0, 2)), torch.ones(6), atol=1e-3, rtol=0)
        shared = SensorDataModule(**spsw)
        inputs = shared.preprocess(everything(shared, "train").input)
        torch.testing.assert_close(inputs.mean((0, 2)), torch.zeros(6), atol=1e-3, rtol=0)
        of_domains = [shared.variant(domain=name) for name in shared.domains]
        assert all(one.preprocessing == shared.preprocessing != data.preprocessing for one in of_domains)
        other = of_domains[0].variant(seed=5)
        assert other.preprocessing == SensorDataModule(**spsw, seed=5).preprocessing != shared.preprocessing
        told = data.variant(mean=[1.0] * 6, std=[2.0] * 6)
        batch = everything(told, "test")
        assert torch.equal(told.preprocess(batch.input), (batch.input - 1) / 2)
        assert told.preprocessing == {
            "channels": CHANNELS, "mean": [1.0] * 6, "std": [2.0] * 6, "sample_rate_hz": 50.0, "samples": 100
        }  # fmt: skip

    def test_a_channel_that_never_moves(self, tmp_path):
        for take in range(5):
            write(tmp_path / "p" / f"{take}.csv", "a" * 20 + "b" * 20)
            path = tmp_path / "p" / f"{take}.csv"
            lines = [line.replace(",", ",9.81,") for line in path.read_text().splitlines()]
            path.write_text("\n".join(["x,y,label", *lines[1:]]))
        data = files(tmp_path, channels=["x", "y"])
        assert data.preprocess(everything(data, "train").input)[:, 1].abs().max() < 1e-5

    def test_statistics(self, spsw):
        data = SensorDataModule(**spsw, domain="s07_sp")
        facts = window_statistics(everything(data, "train").input).flatten(1).double()
        expected = torch.cat([facts.mean(0), facts.std(0, correction=0)]).float()
        assert data.statistics().shape == (132,)
        torch.testing.assert_close(data.statistics(), expected)
        assert not torch.equal(data.statistics(), data.variant(domain="s07_sw").statistics())
        assert torch.equal(data.statistics(), data.variant(mean=[9.0] * 6).statistics())  # as recorded

    @pytest.mark.slow
    def test_fingerprints(self, tree, tmp_path):
        data = files(tree)
        prints = [data.fingerprint(split) for split in SPLITS]
        assert prints == [files(tree, cache=str(tmp_path)).fingerprint(split) for split in SPLITS]
        changes = [{"domain": "p1"}, {"seed": 1}, {"window_s": 2.0}, {"mean": [3.0]}, {"labels": ["c", "b", "a"]}]
        others = [data.variant(**change).fingerprint("train") for change in changes]
        assert len({*prints, *others}) == 3 + len(changes)

    def test_augmentation_only_in_training(self):
        class Louder(nn.Module):
            def forward(self, series):
                return series * 2

        data = SyntheticSensorDataModule(augmentation=Louder(), mean=[0.0] * 6, std=[1.0] * 6)
        batch = next(iter(data.val_dataloader()))
        assert torch.equal(data.preprocess(batch.input, augment=True), batch.input * 2)
        assert torch.equal(data.on_after_batch_transfer(batch, 0).input, batch.input)

    def test_a_data_module_without_statistics_says_so(self):
        with pytest.raises(NotImplementedError, match="FusionDataModule has no statistics; implement"):
            FusionDataModule().statistics()

    def test_it_can_be_sent_to_another_process(self, tree, tmp_path):
        data = files(tree, cache=str(tmp_path / "cache"))
        data.setup()
        again = pickle.loads(pickle.dumps(data))
        assert torch.equal(everything(again, "test").input, everything(data, "test").input)


class TestCache:
    def test_the_next_run_reads_no_file(self, spsw, tmp_path, monkeypatch):
        data = SensorDataModule(**spsw, cache=str(tmp_path / "cache"))
        data.prepare_data()
        first = everything(data, "test")
        monkeypatch.setattr("lightning_fusion.data.sensor.files.read_recording", lambda *_: pytest.fail("read again"))
        again = SensorDataModule(**spsw, cache=str(tmp_path / "cache"))
        assert torch.equal(everything(again, "test").input, first.input)

    def test_files_or_options_that_change_are_read_again(self, tmp_path):
        for take in range(5):
            write(tmp_path / "r/p" / f"{take}.csv", "a" * 20 + "b" * 20)
        cache = tmp_path / "cache"
        files(tmp_path / "r", cache=str(cache)).setup()
        files(tmp_path / "r", cache=str(cache), window_s=0.5, seed=3).setup()
        assert len(list(cache.iterdir())) == 1  # windows and splits are no matter of it
        files(tmp_path / "r", cache=str(cache), sample_rate_hz=20, recorded_rate_hz=10).setup()
        assert len(list(cache.iterdir())) == 2
        write(tmp_path / "r/p/0.csv", "a" * 20 + "b" * 30)
        data = files(tmp_path / "r", cache=str(cache))
        data.setup()
        assert len(list(cache.iterdir())) == 3 and data._source.series.lengths[0] == 50


class TestUnlabeled:
    @pytest.fixture
    def partly(self, tmp_path):
        """Ten takes of which the middle is unlabeled, and three without a label, one of them without the column."""
        for take in range(10):
            write(tmp_path / "p" / f"{take}.csv", [*"a" * 20, *[""] * 20, *"b" * 20])
        for take in ("x", "y", "z"):
            write(tmp_path / "p" / f"{take}.csv", [""] * 40)
        (tmp_path / "p/z.csv").write_text("\n".join(["x", *map(str, range(40))]))
        return files(tmp_path)

    def test_windows_are_left_out_or_kept_in_training_alone(self, partly):
        partly.setup()
        kept = partly.variant(unlabeled="keep")
        assert (everything(partly, "train").target >= 0).all()
        for split in SPLITS:
            inputs = {data: everything(data, split) for data in (partly, kept)}
            labeled = inputs[kept].target >= 0
            assert torch.equal(inputs[kept].input[labeled], inputs[partly].input)  # the splits are the same
            assert labeled.all() == (split != "train")
        target = everything(kept, "train").target
        assert set(target.tolist()) == {-100, 0, 1}
        assert {f"p/{name}.csv" for name in "xyz"} < takes(kept, "train")
        assert kept.preprocessing == partly.preprocessing and kept._source is partly._source
        with pytest.raises(InputError, match="unlabeled is 'use'; expected keep, drop"):
            partly.variant(unlabeled="use")

    @pytest.mark.slow
    def test_a_target_keeps_them_unless_told_otherwise(self, partly):
        data = TargetDataModule(partly, "p", labeled_fraction=0.5)
        many, few = len(data.rows("train")), len(data.labeled())
        assert many == len(partly.variant(unlabeled="keep").rows("train"))
        assert few == len(TargetDataModule(partly.variant(unlabeled="drop"), "p", labeled_fraction=0.5).labeled())
        assert len(data.variant(unlabeled=False).rows("train")) == few
        dropped = TargetDataModule(partly.variant(unlabeled="drop"), "p", labeled_fraction=0.5)
        assert len(dropped.rows("train")) == len(partly.rows("train"))

    def test_ready_windows_and_rows_of_a_table(self, tmp_path):
        lines = [f"{n},{n % 7},{'ab'[n % 2] if n % 5 else '?'}" for n in range(50)]
        (tmp_path / "t.csv").write_text("\n".join(["x,y,l", *lines]))
        data = FeatureTableDataModule(str(tmp_path / "t.csv"), label="l", unlabeled="keep")
        target = everything(data, "train").target
        assert (target == -100).sum() == 10 and data.classes == ["a", "b"]
        assert sum(len(data.variant(unlabeled=None).rows(split)) for split in SPLITS) == 40
        (tmp_path / "t.csv").write_text("\n".join(["x,y,l", *(f"{n},{n % 7}," for n in range(50))]))
        with pytest.raises(InputError, match="none of 50 samples is labeled; change label or ignored_labels"):
            data.variant(root=str(tmp_path / "t.csv")).setup()


class TestMissingChannels:
    @pytest.fixture
    def people(self, tmp_path):
        """p and q have two channels, r the first one only, and one take of q no value of the second."""
        for person in "pqr":
            for take in range(6):
                channels = ["x"] if person == "r" else ["x", "y"]
                write(tmp_path / person / f"{take}.csv", "a" * 20 + "b" * 20, channels, value=take + ord(person))
        first, *rows = (tmp_path / "q/0.csv").read_text().splitlines()
        rows = ["{},,{}".format(*row.split(",")[::2]) for row in rows]
        (tmp_path / "q/0.csv").write_text("\n".join([first, *rows]))
        return tmp_path

    @pytest.mark.parametrize("change", [{}, {"piece_s": 2.0}, {"cache": "cache"}])
    def test_stop_those_who_select_them(self, people, change, tmp_path):
        if "cache" in change:
            change = {"cache": str(tmp_path / "cache")}
        for _ in range(2):  # the second time from the cache
            data = files(people, channels=["x", "y"], **change)
            with pytest.warns(
                UserWarning,
                match=r"7 recordings lack channels and are left out, such as q/0\.csv: 1 of 6 "
                r"of q \(y\), 6 of 6 of r \(y\); to use them, leave these channels out of channels",
            ):
                data.setup()
            assert data.domains == ["p", "q"] and data.variant(domain="q").classes == ["a", "b"]
            batch = everything(data, "train")
            assert batch.input.isfinite().all() and torch.isfinite(data._scale[0]).all()
            assert "q/0.csv" not in set.union(*(takes(data, split) for split in SPLITS))
            with pytest.raises(InputError, match=r"domain r has no recording with all channels: r/0\.csv lacks y; "):
                data.variant(domain="r").setup()
        assert files(people).domains == ["p", "q", "r"]  # who uses the first channel alone uses all

    def test_other_body_positions_of_the_file_are_used(self, people):
        data = files(people, channels={"arm": ["x"], "leg": ["y"]}, domain_fields=["person", "position"])
        assert data.domains == ["p_arm", "p_leg", "q_arm", "q_leg", "r_arm"]
        assert len(data.variant(domain="r_arm").rows("train"))

    def test_arrays_that_the_first_file_lacks(self, tmp_path):
        for take in range(8):
            arrays = {"acc": np.arange(80.0).reshape(40, 2) + take, "label": np.array(["a", "b"]).repeat(20)}
            np.savez(
                tmp_path / f"{take}.npz", **(arrays if take else {"gyro": arrays["acc"], "label": arrays["label"]})
            )
        data = files(tmp_path, pattern="{take}.npz", domain_fields=None, channels=["acc"])
        data.setup()
        assert data.preprocessing["channels"] == ["acc_0", "acc_1"] and len(data._source.names) == 7


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"channels": []}, "channels is empty; expected the columns or arrays to read"),
            ({"channels": ["x", "y", "x"]}, "channels names x more than once"),
            ({"delimiter": ", "}, "delimiter is ', '; expected one character"),
            ({"normalization_scope": "mine"}, "normalization_scope is 'mine'; expected all, own"),
            ({"sample_rate_hz": 0}, "sample_rate_hz is 0; expected a number above 0"),
            ({"window_s": 0.1}, "windows of 1 samples every 0 at sample_rate_hz 10; expected at least 2 samples"),
            ({"step_s": 0.01}, "windows of 10 samples every 0"),
            ({"min_agreement": 1.5}, "min_agreement is 1.5; expected a fraction"),
            ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave no training samples"),
            ({"limits": {"y": [0, 1]}}, r"limits of y is \[0, 1\]; expected a name among channels"),
            ({"labels": ["a", "a"]}, "expected two or more different names"),
            ({"labels": ["a", "b"], "ignored_labels": ["b"]}, "none of them in ignored_labels"),
            ({"timestamp_unit": "min"}, "timestamp_unit is 'min'; expected s, ms, us, ns"),
            ({"pattern": "{person"}, "a field is a name in braces"),
            ({"channels": {"leg": ["x"], "arm": ["x", "y"]}}, r"different numbers of channels \(leg 1, arm 2\)"),
            ({"piece_s": 0.5}, "piece_s 0.5 is shorter than a window"),
            ({"piece_s": 2.0, "session_fields": ["take"]}, "piece_s splits them into pieces; remove one"),
        ],
    )
    def test_arguments(self, tree, change, message):
        with pytest.raises(InputError, match=message):
            files(tree, **change)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"domain": "p9"}, "domain is 'p9'; expected one or several of the 5 domains p0, p1, p2, p3, p4"),
            ({"domain": []}, r"domain is \[\]"),
            ({"domain_fields": ["device"]}, "domain_fields names device; the fields are person, take"),
            ({"group_field": "take"}, "the domain p0 has several of its values"),
            ({"channels": ["y"]}, "0.csv has no y; its columns are x, label"),
            ({"pattern": "{person}_{take}.csv"}, "none of the 50 recordings .* matches the pattern"),
            ({"mean": [1.0, 2.0]}, "mean has 2 values for 1 channels x"),
            ({"std": [float("nan")]}, r"std is \[nan\]; expected numbers above 0"),
            ({"mean": [float("inf")]}, r"mean is \[inf\]; expected finite numbers"),
            ({"std": [0.0]}, r"std is \[0.0\]; expected numbers above 0"),
            ({"domain": "p1", "ignored_labels": ["b"]}, "domain p1 has a as its only class; a classifier needs two"),
            ({"window_s": 60.0}, "none of 0 windows of 600 samples has a label"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_files_that_do_not_fit_them(self, tree, change, message):
        with pytest.raises(InputError, match=message):
            files(tree, **change).preprocess(torch.zeros(1, 1, 10))

    def test_a_split_that_does_not_exist(self, tree):
        with pytest.raises(InputError, match="no split 'dev'"):
            files(tree).rows("dev")

    def test_recordings_that_are_too_short_are_said_once(self, tmp_path, recwarn):
        for take in range(8):
            write(tmp_path / "p" / f"{take}.csv", ("a" * 20 + "b" * 20) if take else "ab")
        data = files(tmp_path)
        for part in (data, data.variant(seed=1), data.variant(step_s=0.2)):
            part.setup()
        said = [str(warning.message) for warning in recwarn if "shorter than a window" in str(warning.message)]
        assert said == [
            "1 of 8 recordings are shorter than a window (10 samples) and are left out: p/0.csv; lower window_s to use "
            "them"
        ]

    def test_domains_of_one_class_are_said(self, tmp_path):
        for person, labels in {"p": "a" * 20 + "b" * 20, "q": "a" * 40}.items():
            for take in range(5):
                write(tmp_path / person / f"{take}.csv", labels)
        with pytest.warns(UserWarning, match="1 of 2 domains have one class only, so that no expert can be trained"):
            files(tmp_path).setup()

    def test_recordings_and_domains_in_another_unit_are_said(self, tmp_path):
        for person in "pqrs":
            for take in range(5):
                value = 1000.0 if person == "s" else (1.0 if (person, take) == ("q", 3) else 9.81)
                write(tmp_path / person / f"{take}.csv", "a" * 20 + "b" * 20, value=value)
        with pytest.warns(UserWarning) as said:
            files(tmp_path).setup()
        found = (str(warning.message) for warning in said if "4 times" in str(warning.message))
        recordings, domains = sorted(found, reverse=True)
        assert recordings.startswith("1 recording(s) have values more than 4 times") and "q/3.csv" in recordings
        assert domains.startswith("1 domain(s) have values more than 4 times") and ": s." in domains

    @pytest.mark.parametrize(("value", "count"), [(9.81, 0), (981.0, 1)])
    def test_recordings_without_labels_may_be_of_any_label(self, value, count, tmp_path):
        for take in range(16):  # rest is a tenth of the gesture
            unlabeled, rest = take >= 8, take % 2
            scale = value if take == 15 else 0.981 if rest else 9.81
            write(tmp_path / "p" / f"{take}.csv", " " * 40 if unlabeled else "ab"[rest] * 40, value=scale)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            files(tmp_path).setup()
        found = [str(warning.message) for warning in said if "4 times" in str(warning.message)]
        assert len(found) == count and all("p/15.csv" in text for text in found)


class TestRealData:
    @pytest.mark.filterwarnings("ignore:2 of 448 recordings", "ignore:446 of 446 recordings")
    def test_spsw(self, real_data, spsw, tmp_path):
        root = real_data("spsw_har")
        options = {"root": str(root), "window_s": 1.0, "recorded_rate_hz": 104, "cache": str(tmp_path)}
        data = SensorDataModule(**(spsw | options))
        data.setup()
        assert data.classes == ["SEATED", "SITTING_DOWN", "STANDING_UP", "TURNING", "WALKING"]
        assert len(data.domains) == 46 and len(set(data.groups.values())) == 23
        assert sum(len(data.rows(split)) for split in SPLITS) == 9433
        unlabeled, equal = data.messages.texts
        assert unlabeled.startswith(f"2 of 448 recordings under {root} do not")
        assert equal.startswith("446 of 446 recordings have samples of equal timestamps")  # the clocks of phones
        gravity = everything(data, "train").input[:, :3].mean(2).norm(dim=1)
        assert 9 < gravity.median() < 10.5
        one = data.variant(domain="s07_sw")
        assert len(one.classes) == 5 and one.statistics().isfinite().all()

    def test_wisdm(self, real_data):
        path = real_data("wisdm") / "wisdm_transformed_with_user.csv"
        data = FeatureTableDataModule(str(path), label=45, columns="numbered", domain_fields=[1], leave_out=[0])
        assert len(data.classes) == 6 and len(data.domains) == 36
        assert sum(len(data.rows(split)) for split in SPLITS) == 5418
        assert data._source.series.samples.isnan().sum() == 615
        assert data.preprocess(everything(data, "test").input).isfinite().all()


class TestFormats:
    """People whose files differ: other names of channels and labels, another rate, another delimiter."""

    @pytest.fixture
    def two(self, tmp_path):
        """One signal as two people record it: bob with half the rate, in columns and labels of his own."""
        signal = np.sin(np.arange(400) / 9)
        for take in range(10):
            for person, step, head, names in (("ann", 1, "x,y,label", "ab"), ("bob", 2, "gy;gx;activity", "21")):
                delimiter = ";" if person == "bob" else ","
                rows = [
                    delimiter.join([*[f"{value:.4f}", f"{2 * value:.4f}"][:: -1 if person == "bob" else 1], label])
                    for value, label in zip(signal[::step], np.repeat([*names], 200)[::step], strict=True)
                ]
                (tmp_path / person).mkdir(exist_ok=True)
                (tmp_path / person / f"{take}.csv").write_text("\n".join([head, *rows]))
        return tmp_path

    BOB = {"channels": ["gx", "gy"], "label": "activity", "delimiter": ";", "recorded_rate_hz": 5}

    def test_are_read_as_those_of_the_others(self, two):
        bob = self.BOB | {"labels": {1: "b", 2: "a"}}
        data = files(two, channels=["x", "y"], recorded_rate_hz=10, formats={"bob": bob}, cache=str(two / "cache"))
        assert data.classes == ["a", "b"] and data.domains == ["ann", "bob"]
        ann, his = (everything(data.variant(domain=name), "test") for name in ("ann", "bob"))
        assert torch.equal(ann.target[:70], his.target[:70])  # of the first take, which ends a sample earlier
        assert (ann.input[:70] - his.input[:70]).abs().max() < 0.02  # interpolated to twice his rate
        ended = files(
            two, channels=["x", "y"], recorded_rate_hz=10, formats={"bob": self.BOB}, cache=str(two / "cache")
        )
        assert ended.classes == ["1", "2", "a", "b"]  # another format is another entry of the cache

    @pytest.mark.parametrize(
        ("formats", "message"),
        [
            ({"eve": {}}, "formats: found 'eve'; expected a domain, or a group, of the files: ann, bob"),
            ({"bob": BOB | {"channels": ["gx"]}}, r"formats: bob names 1 channels \(gx\); the others have 2 \(x, y\)"),
            ({"bob": {"rate": 5}}, "formats: bob sets rate; expected channels, columns"),
            (None, r"10 of 10 of bob \(x, y\); .* or name their own columns in formats"),
        ],
    )
    def test_what_does_not_match_is_one_line(self, two, formats, message):
        with pytest.warns(UserWarning, match=message) if formats is None else pytest.raises(InputError, match=message):
            files(two, channels=["x", "y"], recorded_rate_hz=10, formats=formats).setup()
