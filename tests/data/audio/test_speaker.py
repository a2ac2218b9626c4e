import itertools

import pytest
import torch
from helpers.recording_trees import draw_tree, folders, heard, names
from helpers.splits import SPLITS

from lightning_fusion import SpeakerDataModule
from lightning_fusion.errors import InputError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return draw_tree(tmp_path_factory.mktemp("tree"), names(12))


class TestTrials:
    def write(self, path, lines):
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def test_all_pairs_of_the_split(self, tree):
        data = folders(tree)
        trials = data.trials("test")
        rows = data.rows("test").rows.tolist()
        assert {tuple(sorted(pair)) for pair in trials.pairs.tolist()} == set(itertools.combinations(sorted(rows), 2))
        assert torch.equal(trials.same, (trials.pairs // 3)[:, 0] == (trials.pairs // 3)[:, 1])
        assert data.trials("train") is None
        assert torch.equal(trials.pairs, folders(tree).trials("test").pairs)
        assert len(folders(tree, max_trials=4).trials("val").same) == 4

    def test_all_seeds_may_have_one_test_split(self, tree):
        fixed, other = (folders(tree, test_seed=3, seed=seed, max_trials=4) for seed in (0, 1))
        assert heard(fixed, "test") == heard(other, "test")
        assert torch.equal(fixed.trials("test").pairs, other.trials("test").pairs)
        assert heard(fixed, "val") != heard(other, "val")
        own = folders(tree, seed=3, max_trials=4)
        assert heard(own, "test") == heard(fixed, "test")
        assert torch.equal(own.trials("test").pairs, fixed.trials("test").pairs)

    def test_a_list_gives_speakers_files_and_pairs(self, tree, tmp_path):
        lines = ["1 id003/v0/000.wav id003/v1/002.wav", "0 id003/v0/000.wav id007/v0/001.wav"]
        data = folders(tree, test_trials=self.write(tmp_path / "list.txt", lines))
        assert heard(data, "test") == {"id003", "id007"}
        assert data.rows("test").rows.tolist() == [9, 11, 22]  # only the files that are named
        trials = data.trials("test")
        assert trials.pairs.tolist() == [[9, 11], [9, 22]]
        assert trials.same.tolist() == [True, False]
        assert not heard(data, "train") & {"id003", "id007"}
        assert len(data.classes) == 8

    def test_a_list_of_a_folder_of_its_own_is_relative_to_that(self, tmp_path):
        root, test = draw_tree(tmp_path / "a", names(6)), draw_tree(tmp_path / "b", names(3, 6))
        lines = ["1 id007/v0/000.wav id007/v1/002.wav", "0 id007/v0/000.wav id008/v0/001.wav"]
        data = folders(root, test_root=str(test), test_trials=self.write(tmp_path / "list.txt", lines))
        assert data.trials("test").pairs.tolist() == [[21, 23], [21, 25]]

    def test_a_list_names_missing_files(self, tree, tmp_path):
        lines = ["1 id003/v0/000.wav id003/v1/002.wav", *(f"0 id003/v0/000.wav id9{n:02}/x.wav" for n in range(7))]
        data = folders(tree, val_trials=self.write(tmp_path / "list.txt", lines))
        with pytest.raises(InputError, match=r"val_trials: .* names 7 file\(s\) .*id900/x.wav.* and 2 more;") as caught:
            data.setup()
        assert str(tree) in str(caught.value)

    def test_a_list_that_names_everybody_leaves_nobody_to_train_on(self, tree, tmp_path):
        lines = [f"1 {name}/v0/000.wav {name}/v1/002.wav" for name in names(12)]
        lines.append("0 id000/v0/000.wav id001/v0/000.wav")
        data = folders(tree, test_trials=self.write(tmp_path / "list.txt", lines))
        with pytest.raises(InputError, match=r"test_trials names all 12 speakers of .*; set test_root to that folder"):
            data.setup()

    def test_a_list_beside_named_speakers(self, tree, tmp_path):
        path = self.write(
            tmp_path / "list.txt",
            ["1 id003/v0/000.wav id003/v1/002.wav", "0 id003/v0/000.wav id007/v0/001.wav"],
        )
        data = folders(tree, test_trials=path, test_speakers=["id003", "id007", "id001"])
        assert heard(data, "test") == {"id003", "id007"}
        assert "id001" not in data.classes
        with pytest.raises(InputError, match="names speakers that are not among test_speakers: id007"):
            folders(tree, test_trials=path, test_speakers=["id003", "id001"]).setup()

    def test_labels_that_contradict_the_folders_are_reported(self, tree, tmp_path):
        lines = ["0 id003/v0/000.wav id003/v1/002.wav", "1 id003/v0/000.wav id007/v0/001.wav"]
        data = folders(tree, test_trials=self.write(tmp_path / "list.txt", lines))
        with pytest.warns(UserWarning, match="the labels of 2 of 2 trials contradict the speakers"):
            assert data.trials("test").same.tolist() == [False, True]

    def test_one_recording_per_speaker_needs_parts(self, tmp_path):
        data = folders(draw_tree(tmp_path, names(8), count=1))
        with pytest.raises(InputError, match=r"no two recordings of the val split are of one speaker.*val_segments: 2"):
            data.trials("val")
        trials = data.variant(val_segments=2).trials("val")
        assert trials.same.sum() == 2
        assert len(trials.same) == 6
        assert ((trials.pairs[trials.same] % 8)[:, 0] == (trials.pairs[trials.same] % 8)[:, 1]).all()

    def test_every_trial_is_of_samples_that_the_loader_gives(self, tree):
        data = folders(tree, val_segments=2)
        seen = torch.cat([batch.index for batch in data.val_dataloader()])
        assert set(data.trials("val").pairs.unique().tolist()) == set(seen.tolist())


class TestRealData:
    def test_librispeech(self, real_data):
        root = real_data("librispeech")
        data = SpeakerDataModule(
            root=str(root / "train-clean-100"), test_root=str(root / "test-other"), val_segments=2, eval_crop_s=3.0
        )
        assert len(data.classes) == 226
        with pytest.warns(UserWarning, match="are shorter than"):
            assert [len(data.rows(split)) for split in SPLITS] == [226, 50, 100]
        assert not set(data.classes) & heard(data, "test")
        assert (len(data.trials("test").same), data.trials("test").same.sum()) == (4950, 450)
        assert data.trials("val").same.sum() == 25
        batch = next(iter(data.train_dataloader()))
        assert batch.input.shape == (64, 32_000)
        assert 0.005 < batch.input.std() < 0.5
        assert data.preprocess(batch.input).shape == (64, 80, 201)

    def test_librispeech_from_disk_is_the_same(self, real_data):
        root = real_data("librispeech")
        data = SpeakerDataModule(root=str(root / "test-other"), sample_rate_hz=8000, crop_s=1.0, eval_crop_s=1.5)
        disk = data.variant(memory_limit_gb=1e-9)
        for split in ("train", "test"):
            for one, other in zip(*(getattr(part, f"{split}_dataloader")() for part in (data, disk)), strict=True):
                torch.testing.assert_close(one.input, other.input, rtol=0, atol=1e-5)
