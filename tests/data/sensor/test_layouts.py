import numpy as np
import pytest
import torch
from helpers.splits import SPLITS
from hypothesis import given
from hypothesis import strategies as st

from lightning_fusion import SensorDataModule
from lightning_fusion.data.sensor.layouts import array_columns, cut_pieces
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two people, three activities of which the second person lacks one, five segments of three positions x 2 columns.

    A value is 1000 + 10 x column + segment, so that a batch says where it is from.
    """
    root = tmp_path_factory.mktemp("positions")
    for person, activities in {"p1": "abc", "p2": "ab"}.items():
        for activity in activities:
            (root / activity / person).mkdir(parents=True)
            for segment in range(5):
                values = np.tile(1000 + 10 * np.arange(6) + segment, (20, 1)) + 0.1 * (np.arange(20) % 2)[:, None]
                np.savetxt(root / activity / person / f"s{segment}.txt", values, delimiter=",", fmt="%.1f")
    return root


def positions(folder, **arguments):
    few = {"pattern": "{activity}/{person}/{segment}.txt", "columns": "numbered", "label": "activity"}
    few |= {"channels": {"torso": [0, 1], "arm": [2, 3], "leg": [4, 5]}, "domain_fields": ["person", "position"]}
    few |= {"sample_rate_hz": 10, "window_s": 1.0}
    return SensorDataModule(root=str(folder), **(few | arguments))


class TestPositions:
    def test_each_position_of_a_person_is_a_domain_with_its_own_columns(self, folder):
        data = positions(folder)
        assert data.domains == ["p1_arm", "p1_leg", "p1_torso", "p2_arm", "p2_leg", "p2_torso"]
        assert data.groups == {name: name[:2] for name in data.domains}
        leg = data.variant(domain="p2_leg")
        assert leg.classes == ["a", "b"] and data.classes == ["a", "b", "c"]
        batch = leg.rows("train")[torch.arange(len(leg.rows("train")))]
        assert batch.input.shape[1] == 2
        assert batch.input.mean(2).sub(1000).div(10).floor().unique(dim=0).tolist() == [[4, 5]]

    @pytest.mark.parametrize("fields", [["person", "position"], ["position"], ["person"]])
    @pytest.mark.parametrize("piece_s", [None, 1.0])
    def test_positions_of_one_moment_stay_in_one_split(self, folder, fields, piece_s):
        data = positions(folder, domain_fields=fields, piece_s=piece_s)
        data.setup()
        source, cut = data._source, data._cut
        files = np.array([name.split(" (")[0] for name in source.names])[cut.recording]
        within = cut.starts - source.series.begins[np.searchsorted(source.series.begins, cut.starts, "right") - 1]
        piece = source.moment[cut.recording]
        held = {}
        for file, moment, start, split in zip(files, piece, within, data._split, strict=True):
            held.setdefault((file, moment, start), []).append(int(split))
        assert all(len(splits) == 3 and len(set(splits)) == 1 for splits in held.values())
        assert {split for splits in held.values() for split in splits} == {0, 1, 2}

    @pytest.mark.slow
    def test_with_a_cache(self, folder, tmp_path):
        first = positions(folder, cache=str(tmp_path)).fingerprint("train")
        assert (
            first
            == positions(folder, cache=str(tmp_path)).fingerprint("train")
            == positions(folder).fingerprint("train")
        )
        other = positions(folder, cache=str(tmp_path), channels={"arm": [0, 1], "torso": [2, 3], "leg": [4, 5]})
        assert other.fingerprint("train") != first

    def test_a_field_of_that_name(self, folder):
        with pytest.raises(InputError, match="the pattern has a field position; rename that field"):
            positions(folder, pattern="{activity}/{person}/{position}.txt").setup()

    def test_arrays_of_several_columns(self, tmp_path):
        for take in range(6):
            arrays = {"arm_acc": np.full((40, 3), 1.0), "leg_acc": np.full((40, 3), 2.0), "label": ["a", "b"] * 20}
            np.savez(tmp_path / f"p_{take}.npz", **(arrays | {"label": np.repeat(["a", "b"], 20)}))
        channels = {"arm": ["arm_acc"], "leg": ["leg_acc"]}
        data = positions(tmp_path, pattern="{person}_{take}.npz", columns=None, label="label", channels=channels)
        assert data.domains == ["p_arm", "p_leg"] and data.preprocessing["channels"] == [
            "arm_acc_0",
            "arm_acc_1",
            "arm_acc_2",
        ]
        with pytest.raises(InputError, match=r"p_0\.npz names its arrays; remove it"):
            data.variant(columns="numbered").setup()
        rows = data.variant(domain="p_leg").rows("train")
        assert rows[torch.tensor([0])].input.unique().tolist() == [2.0]

    def test_an_array_on_its_side(self, tmp_path):
        np.savez(tmp_path / "a.npz", acc=np.zeros((3, 40)))
        with pytest.raises(InputError, match=r"the array acc has shape \(3, 40\); expected \(T, columns\)"):
            array_columns(str(tmp_path / "a.npz"), ["acc"])


class TestPieces:
    @pytest.mark.slow
    @given(
        st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=30), min_size=1, max_size=4), st.integers(1, 9)
    )
    def test_pieces_cover_all_and_cross_no_border(self, recordings, length):
        series = load_series([Recorded(np.zeros((len(one), 1), np.float32), np.array(list(one))) for one in recordings])
        pieces, recording = cut_pieces(series, length)
        ends = pieces.begins + pieces.lengths
        assert pieces.begins[0] == 0 and ends[-1] == len(series.labels) and (ends[:-1] == pieces.begins[1:]).all()
        assert set(series.begins) <= set(pieces.begins) and (pieces.lengths < 2 * length).all()
        for begin, end, number in zip(pieces.begins, ends, recording, strict=True):
            assert len(set(series.labels[begin:end])) == 1
            assert series.begins[number] <= begin < series.begins[number] + series.lengths[number]
            alone = begin == 0 or series.labels[begin - 1] != series.labels[begin] or begin in series.begins
            assert end - begin >= length or alone  # only a bout that is shorter as a whole

    @pytest.mark.parametrize("piece_s", [None, 2.0])
    def test_two_long_files_give_three_splits(self, tmp_path, piece_s):
        for person, take in (("p", 0), ("p", 1), ("q", 0), ("q", 1)):
            lines = ["x,label", *(f"{n},{'0abc'[n // 40 % 4]}" for n in range(320))]
            (tmp_path / f"{person}_{take}.csv").write_text("\n".join(lines))
        data = SensorDataModule(
            root=str(tmp_path), pattern="{person}_{take}.csv", channels=["x"], domain_fields=["person"],
            ignored_labels=["0"], sample_rate_hz=10, window_s=1.0, piece_s=piece_s,
        )  # fmt: skip
        if piece_s is None:
            with pytest.warns(UserWarning, match="too few recordings for three splits.*; cut long files into pieces"):
                data.setup()
            with pytest.raises(InputError, match=r"the val split .* or cut long files into pieces with piece_s"):
                data.rows("val")
            return
        seen = {}
        for split in SPLITS:
            rows = data.rows(split)
            assert set(rows.targets[rows.rows].tolist()) == {0, 1, 2}
            seen[split] = {
                n for row in rows.rows.tolist() for n in range(data._cut.starts[row], data._cut.starts[row] + 10)
            }
        assert not seen["train"] & seen["test"] and not seen["train"] & seen["val"] and not seen["val"] & seen["test"]
