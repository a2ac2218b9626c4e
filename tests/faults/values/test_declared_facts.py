"""Declared classes and domains that contradict outputs, data or a checkpoint are reported or aligned by name."""

import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import nn

from lightning_fusion import (
    Expert,
    ExpertModule,
    ExpertOutputs,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    OutputsDataModule,
    collect,
    diagnose,
)
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.permutation import better_order

NAMES = ["1", "2", "3", "4", "5"]


def outputs_of(skill: float, rows: int = 400, seed: int = 0, order: list[int] | None = None) -> ExpertOutputs:
    """One expert of five classes, whose columns are in another order than declared where ``order`` is given."""
    generator = np.random.default_rng(seed)
    target = generator.integers(5, size=rows)
    said = tiny.softmax(skill * np.eye(5)[target] + generator.normal(size=(rows, 5)))
    said = said if order is None else said[:, order]
    part = {"probabilities": {"a": said}, "target": target}
    return ExpertOutputs.from_arrays({"train": part}, {"a": NAMES}, NAMES)


class TestOrderOfClasses:
    @pytest.mark.parametrize("order", [[1, 0, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 1, 0, 3]])
    def test_a_wrong_order_is_found_and_named(self, order):
        right, found = diagnose(outputs_of(2.0)), diagnose(outputs_of(2.0, order=order))
        expert = found.experts[0]
        assert expert.class_order == [NAMES[number] for number in order]
        assert expert.class_order_accuracy == pytest.approx(right.experts[0].accuracy)
        assert found.findings[0].startswith(f"CLASS ORDER: a (accuracy {expert.accuracy:.1%}) is correct on ")
        assert not any("Poorly calibrated" in finding for finding in found.findings)

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("skill", [0.0, 0.3, 2.0, 5.0])
    def test_the_right_order_and_chance_are_left_alone(self, skill, seed):
        found = diagnose(outputs_of(skill, seed=seed))
        assert found.experts[0].class_order is None and not any("CLASS ORDER" in line for line in found.findings)

    def test_few_samples_prove_nothing(self):
        assert better_order(np.array([1, 0]), np.array([0, 1]), ["a", "b"]) is None
        assert better_order(np.array([], int), np.array([], int), ["a", "b"]) is None

    def test_a_checkpoint_knows_its_order(self, tmp_path):
        torch.manual_seed(0)
        module = ExpertModule(tiny.Net, classes=["cat", "dog", "owl"])
        trainer = tiny.trainer(1)
        trainer.fit(module, tiny.data())
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        path, x = str(tmp_path / "a.ckpt"), torch.randn(5, 4)
        plain = Expert(checkpoint=path)
        turned = Expert(checkpoint=path, classes=["owl", "cat", "dog"])
        assert torch.equal(turned(x), plain(x)[:, [2, 0, 1]]) and turned.fingerprint != plain.fingerprint
        assert torch.equal(Expert(checkpoint=path, classes=["A", "B", "C"])(x), plain(x))
        for wrong in (["cat", "dog"], ["cat", "dog", "fish"], ["A", "B"]):
            with pytest.raises(InputError, match="classes: found"):
                Expert(checkpoint=path, classes=wrong)

    def test_more_outputs_than_names(self):
        expert = Expert(nn.Linear(4, 5), classes=NAMES[:4])
        with pytest.raises(InputError, match=r"shape \(3, 5\); expected \(batch, 4\) for its classes 1, 2, 3, 4"):
            expert(torch.zeros(3, 4))


class TestAlignedByName:
    """A pool without classes has those of its first expert first; data and stores have their own order."""

    def pools(self) -> list[ExpertPool]:
        torch.manual_seed(0)
        first, second = Expert(tiny.Net(2), classes=["owl", "dog"]), Expert(tiny.Net(2), classes=["cat", "dog"])
        return [ExpertPool({"a": first, "b": second}), ExpertPool({"a": first, "b": second}, tiny.CLASSES)]

    @pytest.mark.slow
    def test_a_fuser_of_a_store_and_of_raw_data(self):
        results = []
        for pool in self.pools():
            for source in (OutputsDataModule(collect(pool, tiny.data(), trainer=tiny.trainer())), tiny.data()):
                torch.manual_seed(1)
                module, trainer = FoEFuserModule(experts=pool), tiny.trainer(1)
                trainer.fit(module, source)
                assert module.classes == tiny.CLASSES and module.pool.classes == tiny.CLASSES
                results.append(float(trainer.test(module, source, verbose=False)[0]["test_loss"]))
        assert results[0] == pytest.approx(results[2], abs=1e-6) and results[1] == pytest.approx(results[3], abs=1e-6)

    def test_a_trained_fuser_rejects_another_order(self):
        module, trainer = FoEFuserModule(experts=self.pools()[1]), tiny.trainer(1)
        trainer.fit(module, tiny.data())
        turned = TensorDataModule(tiny.tensors(), ["owl", "dog", "cat"], tiny.DOMAINS)
        with pytest.raises(
            InputError, match="the fuser was trained on cat, dog, owl; the data have them in the order owl"
        ):
            trainer.test(module, turned)

    @pytest.mark.slow
    def test_a_policy(self):
        plain, told = self.pools()
        store = collect(told, tiny.data(rows={"train": 40, "val": 9, "test": 11}), trainer=tiny.trainer())
        policy = FrugalFoE(fuser_neighbors=3).fit(store["train"])
        x = torch.randn(6, 4)
        module = FrugalFoEModule(policy, plain)
        assert module.classes == tiny.CLASSES
        assert torch.equal(module(x).probabilities, FrugalFoEModule(policy, told)(x).probabilities)
        fresh = FrugalFoEModule(FrugalFoE(fuser_neighbors=3), plain)
        tiny.trainer(1).fit(fresh, OutputsDataModule(store))
        assert torch.equal(fresh(x).probabilities, module(x).probabilities)

    @pytest.mark.parametrize("make", [FoEFuserModule, lambda experts: FrugalFoEModule(experts=experts)])
    def test_data_of_more_classes(self, make):
        data = TensorDataModule(tiny.tensors(), ["ant", *tiny.CLASSES], tiny.DOMAINS)
        with pytest.raises(InputError, match="has owl, dog, cat, the data ant, cat, dog, owl; give the experts"):
            tiny.trainer(1).fit(make(experts=self.pools()[0]), data)

    def test_an_expert_in_training(self):
        module = ExpertModule(tiny.Net, classes=["owl", "dog", "cat"])
        with pytest.raises(
            InputError, match="classes: the model has the order owl, dog, cat, the data module cat, dog, owl"
        ):
            tiny.trainer(1).fit(module, tiny.data())


class TestDomains:
    @pytest.mark.parametrize("wrong", ["Plain", "plian", "plains"])
    def test_a_misspelt_domain_is_an_error_with_the_nearest_name(self, wrong):
        data = TensorDataModule(tiny.tensors(), tiny.CLASSES, ["plain", "photo"])
        pool = ExpertPool({"a": Expert(tiny.Net(3), classes=tiny.CLASSES, domains=[wrong])})
        with pytest.raises(InputError, match=r"domains: expert a has .*, the data plain, photo; did you mean plain"):
            collect(pool, data, trainer=tiny.trainer())

    def test_in_arrays(self):
        part = {"probabilities": {"a": [[0.9, 0.1]]}, "target": [0], "domain": [[True, False]]}
        with pytest.raises(InputError, match="expert a has Plain, the data plain, photo; did you mean plain"):
            ExpertOutputs.from_arrays(
                {"test": part}, {"a": ["cat", "dog"]}, domains=["plain", "photo"], expert_domains={"a": ["Plain"]}
            )

    def test_another_domain_is_reported_and_numbered_ones_are_different(self):
        data = TensorDataModule(tiny.tensors(), tiny.CLASSES, ["site_1", "site_2"])
        pool = ExpertPool({"a": Expert(tiny.Net(3), classes=tiny.CLASSES, domains=["site_3"])})
        with pytest.warns(
            UserWarning, match=r"domains: those of expert\(s\) a are none of the data's \(site_1, site_2\)"
        ):
            collect(pool, data, trainer=tiny.trainer())

    def test_a_checkpoint_of_another_domain_is_reported_at_test(self, tmp_path):
        class OneDomain(TensorDataModule):
            own_domains: list

        def of(domain: str) -> OneDomain:
            data = OneDomain(tiny.tensors(), tiny.CLASSES, tiny.DOMAINS)
            data.own_domains = [domain]
            return data

        module, trainer = ExpertModule(tiny.Net, classes=tiny.CLASSES, trained_on=["x"]), tiny.trainer(1)
        trainer.fit(module, of("x"))
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        other = ExpertModule(tiny.Net, classes=tiny.CLASSES, trained_on=["y"])
        with pytest.warns(UserWarning, match="domains: the checkpoint was trained on x; the data are of y"):
            tiny.trainer().test(other, of("y"), ckpt_path=tmp_path / "x.ckpt", verbose=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="domains:")
            tiny.trainer().test(module, of("x"), ckpt_path=tmp_path / "x.ckpt", verbose=False)
        turned = ExpertModule(tiny.Net, classes=["A", "B", "C"])
        with pytest.raises(
            InputError, match="classes: the checkpoint was trained on cat, dog, owl; the model has A, B, C"
        ):
            tiny.trainer().predict(turned, of("x"), ckpt_path=tmp_path / "x.ckpt")
