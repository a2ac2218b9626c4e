import pytest
import torch
from helpers.models import CLASSES
from torch import nn

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.errors import InputError

TINY = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))


class TestNames:
    def test_renamed_classes(self):
        expert = Expert(TINY, classes=CLASSES, rename={"owl": "bird"})
        assert expert.classes == ["cat", "dog", "bird"]
        with pytest.raises(InputError, match="the expert has no class bird; it has cat, dog, owl"):
            Expert(TINY, classes=CLASSES, rename={"bird": "owl"})
        with pytest.raises(InputError, match="rename: dog and owl would both be dog"):
            Expert(TINY, classes=CLASSES, rename={"owl": "dog"})

    def test_a_class_that_is_left_out_is_named_with_the_way_out(self):
        expert = Expert(TINY, classes=["kitten", "Dog", "Owl"], rename={"kitten": "cat"})
        with pytest.raises(
            InputError, match=r"expert a has Dog, Owl, which .* lack; .* rename: {Dog: cat}, or set fold"
        ):
            ExpertPool({"a": expert}, CLASSES)

    def test_case_is_folded_on_request(self):
        folded = Expert(TINY, classes=["CAT", "Dog", "owl"], fold_case=True)
        before = folded.fingerprint
        pool = ExpertPool({"a": folded, "b": Expert(TINY, classes=["cat", "dog", "Owl"])})
        assert pool.classes == pool.expert_classes["a"] == ["cat", "dog", "Owl"]
        assert folded.fingerprint == before
        with pytest.raises(InputError, match="fold_case: the classes cat and Cat of the task differ in case only"):
            ExpertPool({"a": folded}, ["cat", "Cat", "dog", "owl"])

    def test_named_outputs_are_the_networks_names(self):
        def service(batch):
            return [{"dog": 0.9, "cat": 0.1} for _ in batch]

        expert = Expert(service, classes=["cat", "dog"], output="probabilities", rename={"dog": "hound"})
        assert expert.classes == ["cat", "hound"]
        torch.testing.assert_close(expert(torch.zeros(2, 1)), torch.tensor([[0.1, 0.9]] * 2))
