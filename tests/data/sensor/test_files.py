import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_fusion.data.sensor.files import RecordingFormat, files_key, read_recording
from lightning_fusion.errors import InputError

HOW = {"channels": ("x", "y"), "sample_rate_hz": 10.0}


def how(**changes):
    return RecordingFormat(**(HOW | changes))


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path / "a.csv", "label,y,x", "sit,2,1", "sit,4,3", '"walk",6,5')


class TestFormats:
    def test_columns_are_read_by_name_in_the_order_of_the_channels(self, plain):
        one = read_recording(plain, how(label="label"))
        assert one.samples.tolist() == [[1, 2], [3, 4], [5, 6]] and one.samples.dtype == np.float32
        assert one.labels.tolist() == ["sit", "sit", "walk"] and one.gaps is None
        assert read_recording(plain, how()).labels is None

    def test_names_may_be_quoted_spaced_and_marked(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"x", y\r\n1,2\r\n3,4\r\n')
        assert read_recording(str(tmp_path / "a.csv"), how()).samples.tolist() == [[1, 2], [3, 4]]

    def test_columns_without_names(self, tmp_path):
        path = write(tmp_path / "a.txt", "1  2 walk", "3 4  walk")
        one = read_recording(path, how(columns=("x", "y", "label"), label="label", delimiter=" "))
        assert one.samples.tolist() == [[1, 2], [3, 4]] and one.labels.tolist() == ["walk"] * 2

    def test_npz_holds_an_array_per_channel(self, tmp_path):
        path = str(tmp_path / "a.npz")
        np.savez(path, y=[2, 4], x=[1, 3], label="walk")
        one = read_recording(path, how(label="label"))
        assert one.samples.tolist() == [[1, 2], [3, 4]] and one.labels.tolist() == ["walk"] * 2

    def test_npz_may_hold_arrays_of_several_columns(self, tmp_path):
        path = str(tmp_path / "a.npz")
        np.savez(path, acc=[[1, 2, 3], [4, 5, 6]], y=[7, 8], label=[["sit"], ["walk"]])
        one = read_recording(path, how(channels=("acc_2", "y", "acc_0"), label="label"))
        assert one.samples.tolist() == [[3, 7, 1], [6, 8, 4]] and one.labels.tolist() == ["sit", "walk"]
        with pytest.raises(InputError, match=r"^\S+ has no acc_3; its arrays are acc \(2, 3\), y, label"):
            read_recording(path, how(channels=("acc_3", "y"), label="label"))

    def test_npy_holds_columns(self, tmp_path):
        path = str(tmp_path / "a.npy")
        np.save(path, np.array([[7.0, 2, 1], [8, 4, 3]]))
        one = read_recording(path, how(columns=("label", "y", "x"), label="label"))
        assert one.samples.tolist() == [[1, 2], [3, 4]] and one.labels.tolist() == ["7", "8"]
        np.save(path, np.array([[1.0, 2], [3, 4]]))
        assert read_recording(path, how()).samples.tolist() == [[1, 2], [3, 4]]

    def test_a_key_names_files_and_how_they_are_read(self, plain, tmp_path):
        key = files_key([plain], ["a"], how(), None)
        assert key == files_key([plain], ["a"], how(), None)
        others = [files_key([plain], ["b"], how(), None), files_key([plain], ["a"], how(label="label"), None)]
        others.append(files_key([plain], ["a"], how(), ["walk"]))
        write(tmp_path / "a.csv", "x,y", "1,2")
        others.append(files_key([plain], ["a"], how(), None))
        assert len({key, *others}) == 5


class TestResampling:
    def stamped(self, path, times, values, unit=1.0, **changes):
        rows = [
            f"{time * unit:.9f},{value},{-value},{int(value > 4.5)}" for time, value in zip(times, values, strict=True)
        ]
        file = write(path, "t,x,y,label", *rows)
        return read_recording(file, how(**({"timestamp": "t", "label": "label"} | changes)))

    def test_a_straight_line_stays_one(self, tmp_path):
        times = np.array([5.0, 5.07, 5.19, 5.33, 5.4, 5.52, 5.6])
        one = self.stamped(tmp_path / "a.csv", times, 10 * (times - 5))
        np.testing.assert_allclose(one.samples[:, 0], np.arange(7), atol=1e-5)
        np.testing.assert_allclose(one.samples[:, 1], -np.arange(7), atol=1e-5)
        assert one.labels.tolist() == ["0"] * 5 + ["1"] * 2  # of the nearest sample

    @pytest.mark.parametrize(("unit", "factor"), [("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
    def test_units(self, tmp_path, unit, factor):
        times = np.arange(0, 2, 0.125)
        one = self.stamped(tmp_path / "a.csv", times, times, factor, timestamp_unit=unit)
        np.testing.assert_allclose(one.samples[:, 0], np.arange(19) / 10, atol=1e-5)

    def test_equal_timestamps_are_averaged(self, tmp_path):
        one = self.stamped(tmp_path / "a.csv", [0, 0.1, 0.1, 0.2], [0, 1, 3, 4])
        np.testing.assert_allclose(one.samples[:, 0], [0, 2, 4], atol=1e-6)

    def test_fast_recordings_are_averaged(self, tmp_path):
        times = np.arange(0, 4, 0.01)
        fast = np.sin(2 * np.pi * 10 * times)  # every tenth sample is the same: one point of 10 would fold it to 0 Hz
        one = self.stamped(tmp_path / "a.csv", times, 5 + fast)
        assert np.abs(one.samples[1:-1, 0] - 5).max() < 0.02
        one = self.stamped(tmp_path / "b.csv", times, times)
        np.testing.assert_allclose(one.samples[1:-1, 0], np.arange(1, 39) / 10, atol=1e-3)

    def test_without_timestamps_the_declared_rate_is_believed(self, tmp_path):
        path = write(tmp_path / "a.csv", "x,y", *(f"{n},{n}" for n in range(9)))
        np.testing.assert_allclose(read_recording(path, how(recorded_rate_hz=8.0)).samples[:, 0], np.arange(11) * 0.8)

    def test_gaps_are_marked(self, tmp_path):
        times = [0, 0.1, 0.2, 1.2, 1.3]
        one = self.stamped(tmp_path / "a.csv", times, [0] * 5)
        assert np.flatnonzero(one.gaps).tolist() == [3]  # one sample between the pieces
        assert len(one.samples) == len(one.labels) == 6
        assert self.stamped(tmp_path / "a.csv", times, [0] * 5, max_gap_s=2.0).gaps is None

    @pytest.mark.slow
    @given(
        steps=st.lists(st.floats(0.001, 0.4), min_size=3, max_size=40),
        seed=st.integers(0, 1000),
    )
    @example(steps=[0.25, 0.25, 1 / 256, 1 / 256], seed=0)  # the median of the steps is a rate 22 times their mean's
    @settings(max_examples=50, deadline=None)
    def test_against_numpy_where_nothing_is_averaged(self, tmp_path_factory, steps, seed):
        times = np.cumsum(steps) - steps[0]
        values = np.random.default_rng(seed).normal(size=len(times)).round(6)
        rate = (len(times) - 1) / times[-1]
        path = tmp_path_factory.mktemp("x") / "a.csv"
        one = self.stamped(path, times, values, sample_rate_hz=rate)
        expected = np.interp(np.arange(len(one.samples)) / rate, times, values)
        np.testing.assert_allclose(one.samples[:, 0], expected, atol=1e-5)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("lines", "changes", "message"),
        [
            ([""], {}, "a.csv is empty: expected column names in its first line"),
            (["x,y"], {}, "a.csv is empty: found no row of samples"),
            (["x,z", "1,2"], {}, "a.csv has no y; its columns are x, z: name those to read with channels"),
            (["x,y,x", "1,2,3"], {}, "more than one x among its columns"),
            (["x,y", "1,2", "3,oops"], {}, "row 3: y is 'oops'; expected a number"),
            (["x,y", "1,2", "", "3,"], {}, "row 4: y is ''; expected a number"),
            (["x,y", "1,2", "nan,3"], {}, "row 3: x is nan; expected a number: repair the row"),
            (["x,y", "1,2", "3"], {}, r"row 3: found 1 columns, expected 2 \(x, y\); the file may be truncated"),
            (["x,y", "1,2"], {"label": "label"}, "a.csv has no label"),
            (
                ["x,y", "1,2,", "1,2,3"],
                {},
                r"row 3: found 3 columns, expected 2 \(x, y\): name all columns in the first",
            ),
            (["x,y", "1,5,2,5"], {}, r"row 2: found 4 columns, expected 2 .* change delimiter \(commas in numbers\?\)"),
            (["x,y", "1,2", "1,-1e300"], {}, r"row 3: y is -1e\+300; expected a number"),
            (
                ["x,y", "1,2", "1,99"],
                {"limits": {"y": (-80, 80)}},
                "row 3: y is 99; limits are -80 to 80.*another",
            ),
            (
                ["t,x,y", "0,1,2", ".1,1,2", ".05,1,2"],
                {"timestamp": "t"},
                "row 4: the timestamp 0.05 is before",
            ),
            (["t,x,y", "7,1,2", "7,1,2"], {"timestamp": "t"}, r"all 2 row\(s\) have the timestamp 7"),
            (
                ["t,x,y", "0,1,2", "100,1,2"],
                {"timestamp": "t"},
                "imply 0.01 Hz, sample_rate_hz is 10; change timestamp_unit",
            ),
            (
                ["t,x,y", "0,1,2", ".1,1,2"],
                {"timestamp": "t", "recorded_rate_hz": 20.0},
                "imply 10 Hz, recorded_rate_hz is 20; change recorded_rate_hz",
            ),
        ],
    )
    def test_say_file_row_and_what_to_change(self, tmp_path, lines, changes, message):
        with pytest.raises(InputError, match=message):
            read_recording(write(tmp_path / "a.csv", *lines), how(**changes))

    def test_a_file_of_no_bytes_and_none(self, tmp_path):
        (tmp_path / "a.csv").touch()
        with pytest.raises(InputError, match=r"a\.csv is empty: expected column names"):
            read_recording(str(tmp_path / "a.csv"), how())
        with pytest.raises(InputError, match=r"b\.csv cannot be read \(No such file"):
            read_recording(str(tmp_path / "b.csv"), how())

    def test_no_line_of_names(self, tmp_path):
        path = write(tmp_path / "a.txt", "1.5,2.5", "3,4")
        with pytest.raises(InputError, match=r"has no x, y; its columns are 1.5, 2.5.*set columns: numbered"):
            read_recording(path, how())

    def test_arrays(self, tmp_path):
        path = str(tmp_path / "a.npz")
        np.savez(path, x=[1, 2], y=[1, 2, 3])
        with pytest.raises(InputError, match=r"arrays \(T,\) of one length; found x \(2,\), y \(3,\)"):
            read_recording(path, how())
        np.savez(path, x=[1, 2])
        with pytest.raises(InputError, match="has no y; its arrays are x"):
            read_recording(path, how())
        (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:90])
        with pytest.raises(InputError, match="is truncated or no npz"):
            read_recording(path, how())
        path = str(tmp_path / "a.npy")
        np.save(path, np.zeros((5, 3)))
        with pytest.raises(InputError, match=r"has shape \(5, 3\); expected \(T, 2\) with the columns x, y"):
            read_recording(path, how())
        np.save(path, np.array([{}], object))
        with pytest.raises(InputError, match="is truncated or no npy file of numbers"):
            read_recording(path, how())
