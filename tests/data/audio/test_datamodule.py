import json
import pickle

import numpy as np
import pytest
import soundfile
import torch
from helpers import TESTS
from helpers.recording_trees import RATE, draw_tree, folders, heard, names, ramp
from helpers.splits import SPLITS
from lightning import LightningModule, Trainer
from thirdparty.audio import BeepDataModule
from torch import nn

from lightning_fusion import SpeakerDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.data.audio.augmentation import SpeechAugmentation
from lightning_fusion.data.audio.features import LogMel
from lightning_fusion.data.audio.files import Recordings
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.audio.synthetic import SyntheticSpeakerDataModule
from lightning_fusion.errors import InputError


def synthetic(**arguments: object) -> SyntheticSpeakerDataModule:
    return SyntheticSpeakerDataModule(sample_rate_hz=RATE, **({"eval_crop_s": 2.0} | arguments))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return draw_tree(tmp_path_factory.mktemp("tree"), names(12))


class TestSplits:
    @pytest.mark.parametrize("seed", range(5))
    def test_nobody_is_heard_in_two(self, tree, seed):
        data = folders(tree, seed=seed)
        groups = [heard(data, split) for split in SPLITS]
        assert [len(group) for group in groups] == [8, 2, 2]
        assert set.union(*groups) == set(names(12))
        assert data.classes == sorted(groups[0])
        rows = torch.cat([data.rows(split).rows for split in SPLITS])
        assert sorted(rows.tolist()) == list(range(36))

    def test_targets_count_training_speakers_and_others_have_none(self, tree):
        data = folders(tree)
        train = data.rows("train")
        batch = train[torch.arange(len(train))]
        said = [data.layout.fields["speaker"][row] for row in batch.index.tolist()]
        assert [data.classes[target] for target in batch.target.tolist()] == said
        for split in ("val", "test"):
            rows = data.rows(split)
            assert rows[torch.arange(len(rows))].target.unique().tolist() == [-100]

    def test_by_number_and_by_name(self, tree):
        data = folders(tree, val_speakers=3, test_speakers=["id004", "id001"])
        assert len(heard(data, "val")) == 3
        assert heard(data, "test") == {"id001", "id004"}
        assert len(data.classes) == 7
        assert len(folders(tree, val_speakers=0.25, test_speakers=4.0).classes) == 5

    def test_names_may_be_numbers(self, tmp_path):
        data = folders(
            draw_tree(tmp_path, ["12", "84", "1688", "1998", "7"]), val_speakers=[12], test_speakers=["84", 7]
        )
        assert [heard(data, split) for split in SPLITS] == [{"1688", "1998"}, {"12"}, {"84", "7"}]

    def test_by_folders_of_their_own(self, tmp_path):
        root, val, test = (draw_tree(tmp_path / split, names(4, 10 * n)) for n, split in enumerate(SPLITS))
        data = folders(root, val_root=str(val), test_root=str(test))
        assert [heard(data, split) for split in SPLITS] == [set(names(4, start)) for start in (0, 10, 20)]
        assert data.rows("test").rows.tolist() == list(range(24, 36))

    @pytest.mark.slow
    def test_the_seed_draws_speakers(self, tree):
        drawn = {tuple(sorted(heard(folders(tree, seed=seed), "test"))) for seed in range(6)}
        assert len(drawn) > 2

    def test_speakers_that_stand_in_train_and_test_are_rejected(self, tmp_path):
        root, test = draw_tree(tmp_path / "train", names(8)), draw_tree(tmp_path / "test", names(8, 6))
        with pytest.raises(InputError, match=r"2 speaker\(s\) are in train and in test: id006, id007; splits are disj"):
            folders(root, test_root=str(test)).setup()
        with pytest.raises(InputError, match=r"are in val and in test: id002;"):
            folders(root, val_speakers=["id001", "id002"], test_speakers=["id002", "id003"]).setup()


class TestCrops:
    def place(self, batch):
        """The first sample of each crop, counted in its file."""
        return ((batch.input[:, 0].double() - 0.01 * batch.index) / 1e-7).round()

    def epoch(self, data, epoch):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        order = torch.cat([batch.index for batch in batches])
        return torch.cat([batch.input for batch in batches])[order.argsort()], order

    @pytest.mark.parametrize("limit", [1.0, 1e-9])
    def test_a_crop_is_a_slice_of_its_recording(self, tree, limit):
        data = folders(tree, memory_limit_gb=limit)
        for batch in data.train_dataloader():
            assert batch.input.shape[1] == 2000
            assert batch.input.dtype == torch.float32
            starts = self.place(batch)
            assert starts.min() >= 0 and starts.max() <= 6000
            for row, number, start in zip(batch.input, batch.index.tolist(), starts.long().tolist(), strict=True):
                np.testing.assert_allclose(row, ramp(number, 8000)[start : start + 2000], atol=6e-8)

    @pytest.mark.slow
    def test_epochs_differ_and_are_reproducible_whatever_the_workers_and_memory(self, tree):
        first, again, other = (self.epoch(folders(tree), epoch) for epoch in (0, 0, 1))
        assert torch.equal(first[0], again[0])
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])
        apart = self.epoch(folders(tree, num_workers=2, memory_limit_gb=1e-9), 0)
        assert torch.equal(first[0], apart[0])
        assert not torch.equal(first[0], self.epoch(folders(tree, seed=1, val_speakers=2), 0)[0][: len(first[0])])

    def test_two_processes_hear_what_one_hears(self, tree):
        data = folders(tree)
        one = list(data.train_dataloader())
        halves = []
        for rank in range(2):
            loader = data.variant(batch_size=4).train_dataloader()
            loader.sampler.num_replicas, loader.sampler.rank = 2, rank
            halves.append(list(loader))
        for whole, first, second in zip(one, *halves, strict=True):
            assert torch.equal(torch.stack([first.index, second.index], 1).reshape(-1), whole.index)
            assert torch.equal(torch.stack([first.input, second.input], 1).reshape(whole.input.shape), whole.input)

    def test_crops_come_from_everywhere(self, tree):
        data = folders(tree, crop_s=0.1)
        starts = torch.cat([self.epoch(data, epoch)[0][:, 0] for epoch in range(20)])
        places = (starts.double() % 0.01) / 1e-7 / 7200
        assert places.min() < 0.03 and places.max() > 0.97
        assert places.mean() == pytest.approx(0.5, abs=0.05)

    def test_held_out_samples_are_the_middle(self, tree):
        data = folders(tree)
        batch = next(iter(data.test_dataloader()))
        assert (self.place(batch) - 2000).abs().max() <= 1
        assert batch.input.shape[1] == 4000

    def test_parts_do_not_overlap(self, tree):
        data = folders(tree, test_segments=3, eval_crop_s=0.3)
        rows = data.rows("test")
        batch = rows[torch.arange(len(rows))]
        assert len(rows) == 18
        part, number = batch.index // 36, batch.index % 36
        starts = (batch.input[:, 0].double() - 0.01 * number) / 1e-7
        assert ((starts - (part * 2666 + 133)).abs() <= 2).all()
        assert set(number.tolist()) == set(folders(tree).rows("test").rows.tolist())

    def test_several_crops_of_each_recording(self, tree):
        data = folders(tree, train_crops=2)
        assert len(data.rows("train")) == 2 * len(folders(tree).rows("train"))
        crops, order = self.epoch(data, 0)
        assert len(order.unique()) == len(order)
        assert not torch.equal(crops[: len(crops) // 2], crops[len(crops) // 2 :])

    def test_what_is_short_is_repeated_and_said_once_with_a_count(self, tree):
        data = folders(tree, crop_s=2.5)
        with pytest.warns(UserWarning, match="36 of 36 recordings are silent"):
            data.setup()
        with pytest.warns(UserWarning, match=r"24 of 24 train recordings are shorter than crop_s \(2.5 s\)") as caught:
            batch = data.rows("train")[torch.arange(4)]
            data.variant(batch_size=4).rows("train")
        assert len(caught) == 1
        assert torch.equal(batch.input[:, :8000], batch.input[:, 8000:16_000])
        assert torch.equal(batch.input[:, :4000], batch.input[:, 16_000:])

    def test_an_hour_is_not_decoded_for_a_crop(self, tmp_path, monkeypatch):
        draw_tree(tmp_path, names(6), count=1, seconds=60, suffix="flac")
        data = folders(tmp_path, memory_limit_gb=1e-9, val_segments=2, test_segments=2)
        rows = data.rows("train")
        counted = []
        read = soundfile.SoundFile.read
        monkeypatch.setattr(
            soundfile.SoundFile,
            "read",
            lambda self, frames=-1, **how: counted.append(frames) or read(self, frames, **how),
        )
        rows[torch.arange(2)]
        assert counted == [2000, 2000]


class TestStableNumbers:
    def test_a_file_has_one_number_in_every_split_and_variant(self, tree):
        def numbers(data):
            found = {}
            for split in SPLITS:
                rows = data.rows(split)
                batch = rows[torch.arange(len(rows))]
                found |= {round(float(row[0]), 2): index for row, index in zip(batch.input, batch.index, strict=True)}
            return found

        data = folders(tree)
        expected = {round(0.01 * number, 2): number for number in range(36)}
        for other in (data, data.variant(seed=3), data.variant(num_workers=1, val_speakers=4)):
            assert numbers(other) == expected

    def test_a_number_tells_who_speaks(self, tree):
        data = folders(tree, val_segments=2)
        for split, parts in (("train", 1), ("val", 2), ("test", 1)):
            index = data.rows(split).rows
            files = index % 36  # three of each speaker, in the order of their names
            assert data.speaker_of(index).tolist() == (files // 3).tolist()
            assert len(index) == parts * len(files.unique())
        pairs, same = data.trials("test")
        said = data.speaker_of(pairs)
        assert torch.equal(said[:, 0] == said[:, 1], same)

    def test_variants_share_what_is_in_memory(self, tree):
        data = folders(tree)
        data.setup()
        assert data.variant(seed=5, crop_s=0.5).recordings is data.recordings
        assert data.variant(sample_rate_hz=16_000).recordings is not data.recordings

    def test_fingerprints(self, tree, tmp_path):
        data = folders(tree)
        assert data.fingerprint("test") == folders(tree).fingerprint("test")
        others = [
            data.fingerprint("val"),
            data.variant(eval_crop_s=0.4).fingerprint("test"),
            data.variant(num_mels=30).fingerprint("test"),
            data.variant(seed=1).fingerprint("test"),
            data.variant(memory_limit_gb=1e-9).fingerprint("test"),
            folders(draw_tree(tmp_path, names(12), seconds=1.1)).fingerprint("test"),
        ]
        assert len({data.fingerprint("test"), *others}) == 7


class Loss(LightningModule):
    """Keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = {split: [] for split in SPLITS}
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.weight * batch.input.float().mean()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, **arguments):
    module = Loss()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1, enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0, **quiet, **arguments
    )
    trainer.fit(module, data)
    return module.seen


class Negate(nn.Module):
    def forward(self, waveforms):
        return -waveforms


class TestOnTheDevice:
    @pytest.mark.slow
    def test_log_mel_of_the_loaders_waveforms(self):
        data = synthetic(batch_size=32, num_mels=20)
        for split in ("train", "val"):
            seen, loader = fit(data)[split], getattr(data, f"{split}_dataloader")()
            for found, raw in zip(seen, loader, strict=True):
                torch.testing.assert_close(found.input, LogMel(RATE, 20)(raw.input))
                assert torch.equal(found.index, raw.index)

    def test_augmentation_in_training_only(self):
        data = synthetic(batch_size=32, frontend="waveform", augmentation=Negate())
        seen = fit(data)
        for split, sign in (("train", -1), ("val", 1)):
            loader = getattr(data, f"{split}_dataloader")()
            for found, raw in zip(seen[split], loader, strict=True):
                assert torch.equal(found.input, sign * raw.input)

    def test_half_precision_gives_half_precision(self):
        seen = fit(synthetic(batch_size=32, num_mels=20), precision="bf16-true", limit_train_batches=1)
        assert seen["train"][0].input.dtype == torch.bfloat16
        assert (
            fit(synthetic(num_mels=20), precision="bf16-mixed", limit_train_batches=1)["train"][0].input.dtype
            == torch.float32
        )

    def test_preprocessing_is_plain_and_says_how(self):
        data = synthetic(num_mels=20)
        facts = json.loads(json.dumps(data.preprocessing))
        features = LogMel(
            *(facts[key] for key in ("sample_rate_hz", "num_mels", "window_s", "hop_s", "low_hz", "floor"))
        )
        waveforms = torch.randn(2, 4000)
        assert torch.equal(features(waveforms), data.preprocess(waveforms))
        assert synthetic(frontend="waveform").preprocessing == {
            "frontend": "waveform",
            "sample_rate_hz": RATE,
            "short": "repeat",
        }

    @pytest.mark.slow
    def test_a_network_learns_who_speaks(self):
        data = synthetic(batch_size=28, num_mels=40, crop_s=1.0)
        network = nn.Sequential(
            *(nn.Conv1d(40, 64, 5, stride=2), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Conv1d(64, 64, 3), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        )
        head = nn.Linear(64, len(data.classes))
        optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], 3e-3)
        loader = data.train_dataloader()
        for epoch in range(12):
            loader.sampler.set_epoch(epoch)
            losses = []
            for batch in loader:
                loss = nn.functional.cross_entropy(head(network(data.preprocess(batch.input))), batch.target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        assert np.mean(losses) < 0.85 * np.log(len(data.classes))


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"root": "x", "frontend": "mfcc"}, "frontend is 'mfcc'; expected log_mel, waveform"),
            ({"root": "x", "batch_size": 0}, "batch_size is 0; expected at least 1"),
            ({"root": "x", "val_segments": 0}, "val_segments is 0"),
            ({"root": "x", "max_trials": 1}, "max_trials is 1"),
            ({"root": "x", "sample_rate_hz": 16}, "sample_rate_hz is 16; expected 4000 to 192000"),
            ({"root": "x", "crop_s": 0}, "crop_s is 0; expected 0.1 to 3600 seconds"),
            ({"root": "x", "crop_s": float("nan")}, "crop_s is nan; expected 0.1 to 3600 seconds"),
            ({"root": "x", "eval_crop_s": float("inf")}, "eval_crop_s is inf"),
            ({"root": "x", "seed": -1}, "seed is -1; expected at least 0"),
            ({"root": "x", "num_workers": -1}, "num_workers is -1; expected at least 0"),
            ({"root": "x", "memory_limit_gb": float("nan")}, "memory_limit_gb is nan; expected at least 0"),
            (
                {"root": "x", "val_speakers": 0},
                "val_speakers is 0; expected a fraction below 1, a whole number, or names",
            ),
            ({"root": "x", "val_speakers": 2.5}, "val_speakers is 2.5"),
            ({"root": "x", "test_speakers": []}, "test_speakers names no speaker"),
            ({"root": "x", "test_speakers": ["a", "b", "a"]}, "test_speakers names a twice"),
            ({"root": "x", "test_root": "y", "test_speakers": 3}, "test_root has speakers of its own; remove test_sp"),
            ({"root": "x", "pattern": "*.wav"}, r"pattern \*.wav has no \{speaker\}"),
            ({"root": "x", "domain_field": "room"}, r"has no \{room\}"),
            (
                {"root": "x", "val_trials": "x", "val_segments": 2},
                "val_trials names whole recordings; set val_segments: 1",
            ),
            (
                {"root": "x", "augmentation": SpeechAugmentation(8000)},
                "the augmentation expects 8000 Hz, the data has sample_rate_hz 16000",
            ),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            SpeakerDataModule(**arguments)

    def test_a_pattern_without_the_label(self):
        with pytest.raises(InputError, match=r"pattern \{speaker\}/\*\* has no \{label\}: set pattern"):
            LabeledAudioDataModule("x", "{speaker}/**")

    @pytest.mark.parametrize(
        ("kind", "argument"),
        [(SpeakerDataModule, "split_by"), (LabeledAudioDataModule, "val_trials"), (SyntheticSpeakerDataModule, "root")],
    )
    def test_a_task_has_no_argument_of_another(self, kind, argument):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
            kind(**{"root": "x", "pattern": "{speaker}_{label}", argument: "x"})

    def test_split_folders_are_no_speakers(self, tmp_path):
        draw_tree(tmp_path / "train", names(3))
        draw_tree(tmp_path / "test", names(3, 3))
        with pytest.raises(
            InputError, match=r"name splits, not speakers \(test, train\); set root to the one to train"
        ):
            folders(tmp_path).setup()

    def test_parts_of_a_corpus_are_no_speakers(self, tmp_path):
        for number, part in enumerate(("train-clean-100", "train-other-500", "dev-clean", "dev-other", "test-clean")):
            draw_tree(tmp_path / part, names(2, 2 * number))
        with pytest.raises(InputError, match=r"name splits, not speakers \(dev-clean, dev-other, test-clean"):
            folders(tmp_path).setup()

    def test_one_person_under_two_names(self, tmp_path):
        draw_tree(tmp_path / "here", names(7))
        (tmp_path / "there").mkdir()
        (tmp_path / "there/anna").symlink_to(tmp_path / "here/id001")
        (tmp_path / "there/ben").symlink_to(tmp_path / "here/id002")
        with pytest.raises(
            InputError, match=r"6 audio file\(s\) are found twice, .*there/anna/v0/000.wav is .*here/id001"
        ):
            folders(tmp_path / "here", test_root=str(tmp_path / "there")).setup()

    def test_a_root_within_a_root(self, tmp_path):
        draw_tree(tmp_path, names(7))
        draw_tree(tmp_path / "held_out", names(3, 7))
        with pytest.raises(InputError, match=r"9 audio file\(s\) are found twice, .* nested roots: [^ ]*000.wav, "):
            folders(tmp_path, test_root=str(tmp_path / "held_out")).setup()

    def test_one_name_in_two_cases_in_two_roots(self, tmp_path):
        draw_tree(tmp_path / "here", names(7))
        draw_tree(tmp_path / "there", ["ID001", "ID009"])
        with (
            pytest.warns(UserWarning, match="the speakers 'ID001' and 'id001' are nearly equal"),
            pytest.raises(InputError, match=r"1 speaker\(s\) are in train and in test: ID001; splits are disjoint"),
        ):
            folders(tmp_path / "here", test_root=str(tmp_path / "there")).setup()

    def test_one_folder_is_one_speaker(self, tmp_path):
        draw_tree(tmp_path / "wav", names(5))
        with pytest.raises(
            InputError, match=r"are of one speaker, wav \(as wav/id000/v0/000.wav\); set root to the parent"
        ):
            folders(tmp_path).setup()

    def test_no_folder_of_speakers(self, tmp_path):
        (tmp_path / "id001").mkdir()
        with pytest.raises(InputError, match="root: there is no audio file"):
            folders(tmp_path).setup()
        with pytest.raises(InputError, match="root: found no folder"):
            folders(tmp_path / "none").setup()

    def test_too_few_speakers(self, tmp_path):
        draw_tree(tmp_path, names(4))
        with pytest.raises(
            InputError, match=r"val_speakers asks for 2 of 2 speakers, and at least 2 are needed for train"
        ):
            folders(tmp_path).setup()

    def test_names_that_leave_one_to_train_on(self, tree):
        data = folders(tree, val_speakers=names(2), test_speakers=names(9, 2))
        with pytest.raises(InputError, match=r"1 of the 12 speakers of .* are left to train on, expected at least 2"):
            data.setup()

    def test_unknown_speakers(self, tree):
        with pytest.raises(InputError, match=r"test_speakers names who, without recordings in .*, which has id000, "):
            folders(tree, test_speakers=["who", "id001"]).setup()

    def test_names_that_differ_in_case(self, tmp_path):
        draw_tree(tmp_path, [*names(7), "ID001"])
        with pytest.warns(UserWarning, match="the speakers 'ID001' and 'id001' are nearly equal and count as 2"):
            folders(tmp_path).setup()

    def test_an_unknown_split(self, tree):
        with pytest.raises(InputError, match="there is no split 'dev'; expected train, val, test"):
            folders(tree).rows("dev")

    def test_files_are_looked_at_before_training(self, tree, tmp_path):
        root = draw_tree(tmp_path, names(6))
        (root / "id002/v0/000.wav").write_bytes(b"")
        for limit in (1.0, 1e-9):
            with pytest.raises(InputError, match=r"1 audio file\(s\) cannot be read: .*id002/v0/000.wav"):
                folders(root, memory_limit_gb=limit).setup()


def test_it_can_be_sent_to_other_processes(tree):
    data = folders(tree, memory_limit_gb=1e-9)
    data.setup()
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again.rows("test")[torch.arange(2)].input, data.rows("test")[torch.arange(2)].input)
    assert isinstance(again.recordings, Recordings)


class TestForeignSource:
    def test_it_is_split_cropped_and_compared_as_the_librarys_own(self):
        data = BeepDataModule(
            speakers=8, val_speakers=2, test_speakers=2, sample_rate_hz=RATE, crop_s=0.2, eval_crop_s=0.4
        )
        assert len(data.classes) == 4 and data.hparams["speakers"] == 8 and data.hparams["val_speakers"] == 2
        assert len(data.trials("test").same) == 15 and data.trials("test").same.sum() == 6
        assert next(iter(data.train_dataloader())).input.shape == (12, 1600)
        assert data.variant(seed=1).recordings is data.recordings
        assert len(data.variant(speakers=9).classes) == 5

    @pytest.mark.slow
    def test_it_trains_an_expert_through_its_class_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cli = main(["fit", "-c", str(TESTS / "conf/audio_thirdparty.yaml"), "--data.init_args.val_speakers=3"])
        assert isinstance(cli.datamodule, BeepDataModule) and len(cli.model.classes) == 7
        assert "val_eer" in cli.trainer.callback_metrics
