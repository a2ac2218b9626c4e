from typing import Any

import pytest
import torch
from helpers import TESTS, tiny
from helpers.image_trees import pixels, roles, rows
from helpers.splits import SPLITS
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule
from sklearn.datasets import load_digits
from thirdparty.images import StripesDataModule
from torch import nn

from lightning_fusion import ImageDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.errors import InputError


def digits(**arguments: Any) -> DigitsDataModule:
    usual = {"role": "fuser", "fuser_fraction": 0.2, "num_domains": 5, "classes_per_domain": 4}
    return DigitsDataModule(**(usual | arguments))


class TestCleanProtocol:
    @pytest.mark.slow
    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 1000))
    def test_no_fuser_row_is_an_experts_and_no_test_row_is_anybodys(self, seed):
        fuser, experts = roles(digits(seed=seed))
        held = rows(fuser, "train") | rows(fuser, "val")
        assert not rows(fuser, "train") & rows(fuser, "val")
        test = rows(fuser, "test")
        for expert in experts:
            own = rows(expert, "train") | rows(expert, "val")
            assert own
            assert not rows(expert, "train") & rows(expert, "val")
            assert not own & held
            assert not own & test
            assert rows(expert, "test") < test
        assert not held & test

    def test_together_the_splits_are_all_rows_of_the_domains(self):
        fuser, experts = roles(digits())
        used = set().union(*(rows(part, split) for part in (fuser, *experts) for split in SPLITS))
        assert used == set(range(1797))

    @pytest.mark.slow
    def test_an_expert_has_the_rows_of_its_classes_under_local_numbers(self):
        fuser, experts = roles(digits())
        source = load_digits().target
        for number, expert in enumerate(experts):
            part = expert.rows("train")
            assert len(expert.classes) == 4
            local = [expert.classes[target] for target in part.targets[part.rows].tolist()]
            assert local == [str(source[row]) for row in part.rows.tolist()]
            assert set(local) == set(expert.classes)
            assert part.domains[part.rows, number].all()
            assert expert.own_domains == [fuser.domains[number]]

    def test_domains_are_named_by_number_or_name(self):
        data = digits()
        by = [data.variant(role="expert", domain=domain) for domain in (3, "3", "domain_3")]
        assert len({tuple(sorted(rows(part, "train"))) for part in by}) == 1

    def test_the_centralized_model_has_all_experts_rows(self):
        fuser, experts = roles(digits())
        central = fuser.variant(role="expert", domain=None)
        union = set().union(*(rows(expert, "train") | rows(expert, "val") for expert in experts))
        assert rows(central, "train") | rows(central, "val") == union
        assert central.classes == fuser.classes
        assert central.own_domains == fuser.domains

    def test_membership_of_a_row_is_that_of_its_class(self):
        data = digits()
        part = data.rows("train")
        for number in range(5):
            member = data.variant(role="expert", domain=number).classes
            expected = [data.classes[target] in member for target in part.targets.tolist()]
            assert part.domains[:, number].tolist() == expected


class TestPaperProtocol:
    def test_most_fuser_rows_were_training_rows_of_some_expert(self):
        fuser, experts = roles(digits(protocol="paper", classes_per_domain=6))
        held = rows(fuser, "train") | rows(fuser, "val")
        trained = set().union(*(rows(expert, "train") for expert in experts))
        assert len(held & trained) / len(held) > 0.5
        assert not (held | trained) & rows(fuser, "test")

    def test_the_fuser_set_is_the_union_of_what_the_domains_held_out(self):
        fuser, experts = roles(digits(protocol="paper"))
        assert rows(fuser, "train") | rows(fuser, "val") == set().union(*(rows(expert, "val") for expert in experts))
        for expert in experts:
            assert not rows(expert, "train") & rows(expert, "val")

    def test_the_centralized_model_is_not_validated_on_its_training_rows(self):
        central = digits(protocol="paper").variant(role="expert")
        assert rows(central, "val")
        assert not rows(central, "train") & rows(central, "val")


class TestVariant:
    def test_shares_the_images_and_changes_only_what_is_asked(self):
        data = digits(batch_size=16)
        data.setup("fit")
        expert = data.variant(role="expert", domain=1)
        assert expert.rows("train").inputs.data_ptr() == data.rows("train").inputs.data_ptr()
        assert expert.batch_size == 16
        assert (data.role, data.domain) == ("fuser", None)
        assert {k for k in data.hparams if data.hparams[k] != expert.hparams[k]} == {"role", "domain"}
        assert rows(data, "test") == rows(digits(), "test")

    def test_another_seed_gives_other_domains_and_splits(self):
        data = digits()
        other = data.variant(seed=1)
        assert rows(data, "test") != rows(other, "test")
        fresh = digits(seed=1)
        assert all(rows(other, split) == rows(fresh, split) for split in SPLITS)
        assert torch.equal(other.rows("test").domains, fresh.rows("test").domains)

    def test_a_changed_size_is_read_anew(self):
        data = digits()
        assert pixels(data.variant(image_size=4), "val").shape[-1] == 4
        assert pixels(data, "val").shape[-1] == 8

    def test_unknown_arguments_and_bad_combinations_are_rejected(self):
        with pytest.raises(TypeError, match="DigitsDataModule has no argument rol, sead"):
            digits().variant(rol="expert", sead=3)
        with pytest.raises(InputError, match="set role: expert"):
            digits().variant(domain=1)


class TestRefusedArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_domains": 3}, "num_domains and classes_per_domain go together"),
            ({"classes_per_domain": 3}, "num_domains and classes_per_domain go together"),
            ({"role": "fuser", "fuser_fraction": 0.2, "domain": 0}, "set role: expert, or remove domain"),
            ({"fuser_fraction": 1.0}, "fuser_fraction is 1.0; expected a fraction from 0, below 1"),
            ({"role": "fuser"}, "role is fuser, and fuser_fraction is 0, so there is no fuser training set; set it"),
            ({"protocol": "paper"}, "protocol is paper, and fuser_fraction is 0"),
            ({"val_fraction": -0.1}, "val_fraction is -0.1; expected a fraction from 0, below 1"),
            ({"test_fraction": 1.5}, "test_fraction is 1.5"),
            ({"mean": [0.5] * 3, "channels": 1}, "mean has 3 values for 1 channels"),
            ({"mean": [0.5] * 3}, "mean has 3 values for 1 channels"),
            ({"std": [0.5], "channels": 3}, "std has 1 values for 3 channels"),
            ({"role": "judge"}, "role is 'judge'; expected"),
            ({"protocol": "dirty"}, "protocol is 'dirty'; expected"),
            ({"channels": 4}, "channels is 4; expected"),
            ({"batch_size": 0}, "batch_size is 0"),
            ({"batch_size": 1.5}, "batch_size is 1.5; expected a whole number"),
            ({"num_workers": -1}, "num_workers is -1; expected at least 0"),
            ({"seed": -1}, "seed is -1; expected at least 0"),
            ({"image_size": 0}, "image_size is 0; expected at least 1 pixel"),
            ({"mean": [float("nan")], "channels": 1}, r"mean is \[nan\]; expected finite numbers"),
            ({"std": [0.0], "channels": 1}, r"std is \[0.0\]; expected numbers above 0"),
            ({"std": [float("inf")], "channels": 1}, r"std is \[inf\]; expected numbers above 0"),
        ],
    )
    def test_when_it_is_built(self, arguments, message):
        with pytest.raises(InputError, match=message):
            DigitsDataModule(**arguments)

    @pytest.mark.parametrize(
        ("kind", "argument"),
        [
            (DigitsDataModule, "root"),
            (ImageDataModule, "test_fraction"),
            (DomainImageDataModule, "num_domains"),
            (DomainImageDataModule, "download"),
        ],
    )
    def test_a_source_has_no_argument_of_another(self, kind, argument):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
            kind(**({"root": "."} if kind is not DigitsDataModule else {}) | {argument: 1})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"role": "expert", "domain": 5, "num_domains": 5, "classes_per_domain": 4},
                "domain is 5; expected one or several of the 5 domains domain_0, .* domain_4, or a number below 5",
            ),
            ({"domain": []}, r"domain is \[\]; expected one or several"),
            ({"role": "expert", "domain": -1, "num_domains": 5, "classes_per_domain": 4}, "domain is -1; expected"),
            (
                {"role": "expert", "domain": "east"},
                "domain is 'east'; expected one or several of the 1 domains all, or a number below 1",
            ),
            ({"num_domains": 2, "classes_per_domain": 4}, "2 domains of 4 classes cannot cover 10"),
            ({"superclasses": "none.json"}, "found no file none.json; expected 'cifar100' or a JSON file"),
            ({"superclasses": "cifar100"}, r"names no super-class for 0, 1, 2, 3, 4 and 5 more"),
        ],
    )
    def test_when_it_is_set_up(self, arguments, message):
        with pytest.raises(InputError, match=message):
            DigitsDataModule(**arguments).setup("fit")

    @pytest.mark.parametrize("text", ["{", "[1]", '{"odd": null}', '{"odd": 1.5}'])
    def test_superclasses_that_are_no_lists_of_classes(self, tmp_path, text):
        (tmp_path / "super.json").write_text(text)
        with pytest.raises(InputError, match=r"superclasses: .*super.json is not JSON of|names no super-class for"):
            DigitsDataModule(superclasses=str(tmp_path / "super.json")).setup("fit")


class TestPreprocessing:
    def test_floats_are_scaled_and_normalized(self):
        data = DigitsDataModule(mean=[0.25], std=[2.0])
        images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
        expected = torch.tensor([(0 - 0.25) / 2, (0.2 - 0.25) / 2, (1 - 0.25) / 2]).view(3, 1, 1, 1)
        torch.testing.assert_close(data.preprocess(images), expected)
        assert images.flatten().tolist() == [0, 51, 255]

    def test_each_channel_has_its_own(self):
        data = DigitsDataModule(channels=3, mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 0.25])
        value = data.preprocess(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
        assert value.tolist() == [1.0, 1.0, 0.0]

    def test_augmentation_happens_in_training_only(self):
        class Spy(LightningModule):
            def __init__(self):
                super().__init__()
                self.weight, self.seen = nn.Parameter(torch.zeros(())), {"train": [], "val": []}

            def training_step(self, batch, batch_idx):
                self.seen["train"].append(batch.input.max().item())
                return self.weight

            def validation_step(self, batch, batch_idx):
                self.seen["val"].append(batch.input.max().item())

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        class Dark(nn.Module):
            def forward(self, images):
                assert images.dtype == torch.float32
                return images * 0

        spy, data = Spy(), DigitsDataModule(augmentation=Dark(), mean=[0.0], std=[1.0], batch_size=200)
        tiny.trainer().fit(spy, datamodule=data)
        assert set(spy.seen["train"]) == {0.0}
        assert set(spy.seen["val"]) == {1.0}

    def test_fingerprint_follows_pixels_labels_and_preprocessing(self):
        same = digits(batch_size=7, augmentation=nn.Identity())
        assert digits().fingerprint("test") == same.fingerprint("test")
        others = [digits(seed=1), digits(mean=[0.1]), digits(image_size=4), digits(classes_per_domain=5)]
        prints = [data.fingerprint("test") for data in (same, *others)]
        assert len(set(prints)) == 5
        assert len({same.fingerprint(split) for split in SPLITS}) == 3


class TestForeignSource:
    def test_it_is_split_and_cut_as_the_librarys_own(self):
        data = StripesDataModule(count=12, domain="night", channels=1)
        assert (data.classes, data.domains, data.own_domains) == (["flat", "upright"], ["day", "night"], ["night"])
        assert [len(data.rows(split)) for split in SPLITS] == [16, 2, 6]
        other = data.variant(domain="day", seed=3)
        assert other.rows("train").inputs is data.rows("train").inputs
        assert len(data.variant(count=20).rows("test")) == 10

    @pytest.mark.slow
    def test_it_trains_an_expert_through_its_class_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cli = main(["fit", "-c", str(TESTS / "conf/images_thirdparty.yaml"), "--data.init_args.domain=day"])
        assert isinstance(cli.datamodule, StripesDataModule) and cli.model.classes == ["flat", "upright"]
        assert cli.datamodule.hparams["count"] == 16 and cli.trainer.global_step == 2
