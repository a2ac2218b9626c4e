import pytest
import torch
from helpers.data_files import feature_table
from helpers.splits import SPLITS, everything

from lightning_fusion.data.sensor.table import Features, FeatureTableDataModule
from lightning_fusion.errors import InputError


def test_missing_features_are_replaced_when_asked_for():
    values = torch.tensor([[1.0, torch.nan], [torch.nan, 4]])
    assert Features(values, torch.tensor([7.0, 8]))[torch.tensor([1, 0])].tolist() == [[7, 4], [1, 8]]
    assert values.isnan().sum() == 2


class TestTable:
    @pytest.fixture
    def table(self, tmp_path):
        feature_table(tmp_path / "x/table.csv")
        return {
            "root": str(tmp_path / "x/table.csv"), "columns": "numbered", "label": 45, "domain_fields": [1],
            "leave_out": [0], "batch_size": 16,
        }  # fmt: skip

    def test_rows_are_samples_and_other_columns_features(self, table):
        data = FeatureTableDataModule(**table)
        assert data.classes == ["Jogging", "Sitting", "Walking"] and data.domains == ["17", "33"]
        assert data.variant(domain=33).own_domains == ["33"]
        batch = next(iter(data.train_dataloader()))
        assert batch.input.shape == (16, 43) and data.preprocess(batch.input).shape == (16, 43)
        assert [len(data.rows(split)) for split in SPLITS] == [84, 12, 24]
        assert data.statistics().shape == (86,)

    def test_missing_values_become_training_medians_and_it_is_said_once(self, table, capsys):
        data = FeatureTableDataModule(**table, domain=17, normalization_scope="own")
        raw = data._source.series.samples
        missing = raw.isnan()
        assert missing.sum() == 18
        shared = FeatureTableDataModule(**table)
        every = raw[shared.rows("train").rows].nanmedian(0).values
        assert all(torch.equal(shared.variant(domain=name)._fill, every) for name in shared.domains)
        capsys.readouterr()
        train = data.rows("train").rows
        assert torch.equal(data._fill, raw[train].nanmedian(0).values) and (train < 60).all()
        said = [m for m in data.messages.texts if "missing" in m]
        assert said == [
            "18 of 5160 values, in 5 of 43 features, are missing and replaced by the medians of the training samples"
        ]
        for split in SPLITS:
            batch = everything(data, split)
            assert not batch.input.isnan().any() and data.preprocess(batch.input).isfinite().all()
            expected = torch.where(missing[batch.index], data._fill, raw[batch.index])
            assert torch.equal(batch.input, expected)
        assert data.preprocessing["missing"] == data._fill.tolist()

    def test_names_of_columns_and_sessions(self, tmp_path):
        path = tmp_path / "t.csv"
        lines = [f"{row},{row % 2},{row // 6},{'ab'[row % 2]}" for row in range(60)]
        path.write_text("\n".join(["one,two,trial,what", *lines]))
        data = FeatureTableDataModule(root=str(path), label="what", session_fields=["trial"])
        found = [set((data.rows(split).rows // 6).tolist()) for split in SPLITS]
        assert sum(map(len, found)) == len(set.union(*found)) == 10
        assert data.preprocessing["channels"] == ["one", "two"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"label": 46},
                "has no column 46; its columns are 0, 1, 2.*numbered the names are 0, 1, 2",
            ),
            ({"root": "none.csv"}, "root: found no file none.csv; expected one delimited file"),
            ({"leave_out": []}, None),
            ({"channels": [2, 3]}, None),
            ({"domain_fields": [38]}, "row 1: 38 is missing"),
        ],
    )
    def test_columns_that_are_named(self, table, change, message):
        data = FeatureTableDataModule(**(table | change))
        if message is None:
            assert data._source.channels[:2] == (["2", "3"] if "channels" in change else ["0", "2"])
        else:
            with pytest.raises(InputError, match=message):
                data.setup()

    def test_names_that_the_file_does_not_have(self, table):
        names = ["row", "who", *(f"f{number}" for number in range(43)), "what"]
        named = {"columns": names, "label": "what", "domain_fields": ["who"], "leave_out": ["row"]}
        data = FeatureTableDataModule(**(table | named))
        numbered = FeatureTableDataModule(**table)
        assert data.domains == numbered.domains and data._source.channels == names[2:-1]
        assert torch.equal(everything(data, "test").input, everything(numbered, "test").input)

    def test_more_labels_than_classes(self, tmp_path):
        (tmp_path / "t.csv").write_text("\n".join(["x,l", *(f"{n},{n}" for n in range(32768))]))
        with pytest.raises(InputError, match=r"more than 32767 different labels \(0, 1, 10 and 32765 more"):
            FeatureTableDataModule(root=str(tmp_path / "t.csv"), label="l").setup()

    def test_a_feature_without_any_value(self, tmp_path):
        (tmp_path / "t.csv").write_text("\n".join(["x,y,l", *(f"?,{n},{'ab'[n % 2]}" for n in range(20))]))
        with pytest.raises(InputError, match="column x has no value in any training sample"):
            FeatureTableDataModule(root=str(tmp_path / "t.csv"), label="l").setup()
