import numpy as np
import pytest
from helpers.splits import SPLITS, everything

from lightning_fusion.data.sensor.uci_har import UCIHARDataModule
from lightning_fusion.errors import InputError


class TestUciHar:
    @pytest.fixture
    def root(self, tmp_path):
        generator = np.random.default_rng(0)
        for split, people in {"train": "12", "test": "3"}.items():
            folder = tmp_path / split / "Inertial Signals"
            folder.mkdir(parents=True)
            who = [person for person in people for _ in range(24)]
            what = [("1", "2")[n // 4 % 2] for n in range(len(who))]
            for signal in ("total_acc", "body_gyro"):
                for axis in "xyz":
                    np.savetxt(folder / f"{signal}_{axis}_{split}.txt", generator.normal(size=(len(who), 16)))
            (tmp_path / split / f"subject_{split}.txt").write_text("\n".join(who))
            (tmp_path / split / f"y_{split}.txt").write_text("\n".join(what))
        (tmp_path / "activity_labels.txt").write_text("1 WALKING\n2 SITTING\n")
        return tmp_path

    def test_windows_as_they_are(self, root):
        data = UCIHARDataModule(root=str(root))
        assert data.classes == ["SITTING", "WALKING"] and data.domains == ["1", "2", "3"]
        assert len(data._source.names) == 18  # runs of one subject and activity
        batch = everything(data.variant(domain=3), "train")
        assert batch.input.shape[1:] == (6, 16)
        lines = np.loadtxt(root / "test/Inertial Signals/body_gyro_y_test.txt")
        row = int(batch.index[0]) - 48
        np.testing.assert_allclose(batch.input[0, 4], lines[row], rtol=1e-6)

    def test_pieces_share_no_samples(self, root):
        data = UCIHARDataModule(root=str(root), sample_rate_hz=10, piece_s=1.6)
        # runs of four windows that overlap by half: two and two, and the first two share samples with the last two
        assert len(data._source.names) == 36 and data._source.series.lengths.tolist()[:2] == [16, 32]
        rows = {split: data.rows(split).rows.tolist() for split in SPLITS}
        assert sum(map(len, rows.values())) == 54 and all(rows.values())

    def test_its_own_split(self, root):
        data = UCIHARDataModule(root=str(root), split_field="split", channels=["body_gyro_x"])
        assert [everything(data, split).domain.any(0).tolist() for split in ("train", "test")] == [
            [True, True, False], [False, False, True],
        ]  # fmt: skip
        assert len(data.rows("val")) and everything(data, "val").input.shape[1] == 1

    def test_a_subject_without_a_signal(self, root):
        path = root / "train/Inertial Signals/body_gyro_x_train.txt"
        values = np.loadtxt(path)
        values[24:] = np.nan  # all of subject 2
        np.savetxt(path, values)
        data = UCIHARDataModule(root=str(root))
        with pytest.warns(UserWarning, match=r"6 recordings lack channels .*: 6 of 6 of 2 \(body_gyro_x\)"):
            data.setup()
        assert data.domains == ["1", "3"] and everything(data, "train").input.isfinite().all()
        with pytest.raises(InputError, match=r"domain 2 has no recording with all channels: .* lacks body_gyro_x"):
            data.variant(domain=2).setup()
        values[3, 5] = np.nan
        np.savetxt(path, values)
        with pytest.raises(InputError, match=r"body_gyro_x_train\.txt, row 4, has a value that is not a number"):
            UCIHARDataModule(root=str(root)).setup()

    def test_bad_files(self, root):
        for content in (b"1\n", b"1 WALKING\n2 \xff\n"):
            (root / "activity_labels.txt").write_bytes(content)
            with pytest.raises(InputError, match=r"activity_labels\.txt cannot be read .*; expected lines '1 WALKING'"):
                UCIHARDataModule(root=str(root)).setup()
        (root / "activity_labels.txt").unlink()
        data = UCIHARDataModule(root=str(root))
        (root / "test/y_test.txt").write_text("1\n2\n")
        with pytest.raises(
            InputError, match=r"test: its files differ in their numbers of lines.*y 2 x 16\): one is trunc"
        ):
            data.setup()
        (root / "test/y_test.txt").write_text("")
        with pytest.raises(InputError, match=r"y_test\.txt is empty"):
            data.setup()
        with pytest.raises(InputError, match=r"found no file .*body_acc_x_train\.txt; expected the layout of UCI HAR"):
            UCIHARDataModule(root=str(root), channels=["body_acc_x"]).setup()
        with pytest.raises(InputError, match="neither a folder train nor test"):
            UCIHARDataModule(root=str(root / "train")).setup()
