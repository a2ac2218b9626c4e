import pickle

import pytest
import torch
from helpers import TESTS
from thirdparty.sensor import PendulumDataModule

from lightning_fusion.cli.main import main
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.sensor.windowed import WindowedSensorDataModule
from lightning_fusion.errors import InputError


class TestOwnSource:
    @pytest.mark.slow
    def test_fits_from_a_yaml(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cli = main(["fit", "-c", str(TESTS / "conf/sensor_thirdparty.yaml"), "--data.init_args.times=8"])
        data = cli.datamodule
        assert type(data) is PendulumDataModule and (data.times, data.window_s) == (8, 1.0)
        assert (data.domains, data.own_domains, data.classes) == (["0.5", "1"], ["0.5"], ["rests", "swings"])
        assert dict(data.hparams) | {"lengths_m": [0.5, 1.0], "times": 8} == dict(data.hparams)
        assert cli.model.preprocessing == data.preprocessing and data.preprocessing["sample_rate_hz"] == 20
        assert cli.trainer.global_step == 2

    def test_pieces_and_variants_are_those_of_other_sources(self):
        data = PendulumDataModule(lengths_m=[0.5, 1.0], times=1, sample_rate_hz=20, window_s=1.0, piece_s=2.0)
        assert len(data._source.names) == 12 and all(len(data.rows(split)) for split in ("train", "val", "test"))
        assert data.variant(times=2)._source is not data._source
        with pytest.raises(InputError, match=r"lengths_m is \[0\]; expected lengths above 0"):
            data.variant(lengths_m=[0])
        with pytest.raises(TypeError, match="PendulumDataModule has no argument root"):
            data.variant(root="x")

    def test_what_is_missing_is_said(self):
        class Nothing(WindowedSensorDataModule):
            def __init__(self, **shared):
                super().__init__(**shared)
                self._configure()

        with pytest.raises(NotImplementedError, match=r"Nothing must implement read_source\(\)"):
            Nothing().setup()


class TestVariants:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("change", "kept"),
        [
            ({}, {"_source", "_arrangement", "_cut", "_labels", "_split"}),
            ({"domain": "p1_phone"}, {"_source", "_arrangement", "_cut", "_labels", "_split"}),
            ({"batch_size": 8}, {"_source", "_arrangement", "_cut", "_labels", "_split"}),
            ({"seed": 1}, {"_source", "_arrangement", "_cut", "_labels"}),
            ({"ignored_labels": ["activity_0"]}, {"_source", "_arrangement"}),
            ({"window_s": 1.0}, {"_source", "_arrangement"}),
            ({"window_s": 1.0, "heterogeneity": 0.5}, set()),
            ({"domain_fields": ["person"]}, set()),
        ],
    )
    def test_share_what_does_not_change(self, change, kept):
        data = SyntheticSensorDataModule()
        data.preprocess(next(iter(data.train_dataloader())).input)
        other = data.variant(**change)
        names = {"_source", "_arrangement", "_cut", "_labels", "_split", "_own", "_scale"}
        assert names & set(vars(other)) == kept
        assert all(vars(other)[name] is vars(data)[name] for name in kept)
        fresh = SyntheticSensorDataModule(**change)
        assert [other.fingerprint(split) for split in ("train", "test")] == [
            fresh.fingerprint(split) for split in ("train", "test")
        ]

    @pytest.mark.slow
    def test_what_is_measured_over_all_domains_is_measured_once(self):
        data = SyntheticSensorDataModule()
        one, other = data.variant(domain="p0_phone"), data.variant(domain="p1_phone")
        assert one.preprocessing == other.preprocessing and one._of_all is other._of_all is data._of_all
        assert torch.equal(one._scale[0], data._scale[0])

    def test_they_are_pickled_with_what_they_hold(self):
        data = SyntheticSensorDataModule(domain="p1_phone")
        data.setup()
        again = pickle.loads(pickle.dumps(data))
        assert again.fingerprint("val") == data.fingerprint("val") and again.classes == data.classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"num_workers": -1}, "num_workers is -1; expected at least 0"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"val_fraction": 1.0}, r"val_fraction is 1\.0; expected a fraction from 0, below 1"),
        ({"labels": ["a"]}, "expected two or more different names"),
    ],
)
def test_shared_arguments_are_checked_for_all_sources(change, message):
    with pytest.raises(InputError, match=message):
        SyntheticSensorDataModule(**change)
