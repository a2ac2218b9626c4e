import itertools
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from helpers.data_files import spoken_words
from helpers.recording_trees import RATE, folders, heard, ramp
from helpers.splits import SPLITS

from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.audio.synthetic import SyntheticLabeledAudioDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError


def said(root: Path, pattern: str, **arguments: Any) -> LabeledAudioDataModule:
    few = {"sample_rate_hz": RATE, "crop_s": 0.25, "eval_crop_s": 0.5, "batch_size": 8, "num_mels": 20}
    return LabeledAudioDataModule(str(root), pattern, **(few | arguments))


class TestLabels:
    @pytest.fixture
    def digits(self, tmp_path):
        for digit, speaker, take in itertools.product(range(3), ["jo", "al", "mia", "bo", "eve"], range(2)):
            soundfile.write(tmp_path / f"{digit}_{speaker}_{take}.wav", ramp(digit, 4000), RATE, subtype="FLOAT")
        return {"root": tmp_path, "pattern": "{label}_{speaker}_{take}.wav"}

    def test_digits_of_unseen_speakers(self, digits):
        data = said(**digits)
        assert data.classes == ["0", "1", "2"]
        assert data.domains == ["al", "bo", "eve", "jo", "mia"]
        assert [len(heard(data, split)) for split in SPLITS] == [3, 1, 1]
        assert set(data.own_domains) == heard(data, "train")
        for split in SPLITS:
            rows = data.rows(split)
            batch = rows[torch.arange(len(rows))]
            assert torch.equal(batch.target, (batch.input[:, 0] * 100).round().long())
            who = [data.domains[domain] for domain in batch.domain.int().argmax(1).tolist()]
            assert who == [data.layout.fields["speaker"][row] for row in batch.index.tolist()]
            assert (batch.domain.sum(1) == 1).all()

    @pytest.mark.parametrize("split_by", ["speaker", "recording"])
    def test_unlabeled_recordings_are_left_out_or_kept_in_training_alone(self, digits, split_by):
        for speaker, take in itertools.product(["jo", "al", "mia", "bo", "eve", "who"], range(2)):
            path = digits["root"] / f"unlabeled_{speaker}_{take}.wav"
            soundfile.write(path, ramp(9, 4000), RATE, subtype="FLOAT")
        data = said(**digits, split_by=split_by, ignored_labels=["unlabeled"])
        kept = data.variant(unlabeled="keep")
        assert data.classes == kept.classes == ["0", "1", "2"]
        for split in SPLITS:
            own, all_rows = data.rows(split), kept.rows(split)
            labeled = all_rows.targets[all_rows.rows] >= 0
            assert torch.equal(all_rows.rows[labeled], own.rows)
            assert labeled.all() == (split != "train")
        spoken = {data.layout.fields["label"][row] for row in kept.rows("train").rows.tolist()}
        assert spoken == {"0", "1", "2", "unlabeled"} and "who" in heard(kept, "train") - heard(data, "train")
        if split_by == "speaker":
            assert not heard(kept, "train") & (heard(kept, "val") | heard(kept, "test"))
        else:
            rows = TargetDataModule(data, "jo", labeled_fraction=1.0).rows("train")
            assert (rows[torch.arange(len(rows))].target == -100).sum() == 2
        with pytest.raises(InputError, match="none of 42 recordings is labeled"):
            data.variant(ignored_labels=["0", "1", "2", "unlabeled"]).setup()

    def test_another_field_is_the_domain(self, digits):
        data = said(**digits, domain_field="take")
        assert data.domains == data.own_domains == ["0", "1"]
        assert folders(**digits).domains == ["all"]

    def test_a_label_that_only_held_out_speakers_say(self, digits):
        soundfile.write(digits["root"] / "9_jo_0.wav", ramp(9, 4000), RATE, subtype="FLOAT")
        data = said(**digits, test_speakers=["jo"])
        with pytest.raises(InputError, match="the training speakers have no label 9, which test speakers have"):
            data.rows("test")

    def test_the_twins_labels_are_its_vowels(self):
        data = SyntheticLabeledAudioDataModule(sample_rate_hz=RATE, eval_crop_s=2.0)
        assert data.classes == list("aeiou")
        with pytest.raises(InputError, match="the recordings have no room, only label, speaker; change domain_field"):
            data.variant(domain_field="room").domains  # noqa: B018
        assert len(data.domains) == 60
        assert len(data.own_domains) == 42


class TestSplitByRecording:
    """Three speakers who say two words ten times each."""

    def words(self, folder: Path, **arguments) -> LabeledAudioDataModule:
        if not folder.exists():
            spoken_words(folder, speakers=3, count=10)
        how = {"pattern": "{label}_{speaker}_{take}.wav", "split_by": "recording"}
        return said(folder, **(how | arguments))

    def test_every_speaker_says_every_word_in_every_split_by_other_recordings(self, tmp_path):
        data = self.words(tmp_path / "words", val_speakers=0.2, test_speakers=0.3)
        rows = {split: data.rows(split) for split in SPLITS}
        assert sorted(torch.cat([part.rows for part in rows.values()]).tolist()) == list(range(60))
        for split, count in (("train", 5), ("val", 2), ("test", 3)):
            part = rows[split]
            pairs = torch.stack([part.domains[part.rows].int().argmax(1), part.targets[part.rows]], 1).tolist()
            assert all(pairs.count(pair) == count for pair in pairs) and len(pairs) == 6 * count
        assert data.domains == ["s0", "s1", "s2"] and data.classes == ["0", "1"]

    @pytest.mark.slow
    def test_a_domain_has_its_own_recordings_and_the_splits_of_all(self, tmp_path):
        whole, one = (self.words(tmp_path / "words", **how) for how in ({}, {"domain": "s1"}))
        assert one.own_domains == ["s1"] and one.domains == whole.domains
        for split in SPLITS:
            part = whole.rows(split)
            own = part.rows[part.domains[part.rows, 1]]
            assert one.rows(split).rows.tolist() == own.tolist() and len(own)
        assert self.words(tmp_path / "words", domain=["s0", "s2"]).own_domains == ["s0", "s2"]
        assert whole.variant(domain="s1").fingerprint("train") == one.fingerprint("train") != whole.fingerprint("train")
        with pytest.raises(InputError, match="domain is 's9'; expected one or several of the 3 domains s0, s1, s2"):
            self.words(tmp_path / "words", domain="s9").rows("train")

    @pytest.mark.slow
    def test_statistics_are_moments_of_the_spectrum(self, tmp_path):
        one, other = (self.words(tmp_path / "words", domain=name) for name in ("s0", "s1"))
        found = one.statistics()
        assert found.shape == (4 * 20,) and found.isfinite().all() and not torch.allclose(found, other.statistics())
        rows = one.rows("train")
        mel = torch.stack([one._log_mel(torch.device("cpu")).raw(rows.inputs[row[None]])[0] for row in rows.rows])
        facts = torch.cat([mel.mean(2), mel.std(2, unbiased=False)], 1)
        torch.testing.assert_close(
            found, torch.cat([facts.mean(0), facts.std(0, unbiased=False)]), atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"test_root": "x"}, "split_by: recording draws fractions of the recordings of root: remove test_root"),
            ({"val_speakers": 2}, "give a fraction below 1 as val_speakers"),
            ({"test_speakers": ["s1"]}, "give a fraction below 1 as test_speakers"),
            ({"val_speakers": 0.5, "test_speakers": 0.5}, "add up to 1; expected below 1"),
            ({"split_by": "take"}, "split_by is 'take'; expected speaker, recording"),
        ],
    )
    def test_rejected(self, arguments, message, tmp_path):
        with pytest.raises(InputError, match=message):
            self.words(tmp_path / "words", **arguments).rows("train")


def test_fsdd(real_data):
    root = real_data("fsdd") / "recordings"
    data = LabeledAudioDataModule(
        root=str(root), pattern="{label}_{speaker}_{utterance}.wav", sample_rate_hz=8000, crop_s=0.6
    )
    assert data.classes == list("0123456789")
    assert len(data.domains) == 6
    with pytest.warns(UserWarning, match="are shorter than"):
        assert [len(data.rows(split)) for split in SPLITS] == [2000, 500, 500]
    assert len(set.union(*(heard(data, split) for split in SPLITS))) == 6
