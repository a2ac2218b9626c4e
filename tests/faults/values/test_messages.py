"""Messages about wrong input name what to write instead."""

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.cli.messages import condense
from lightning_fusion.errors import InputError


def create_model(name: str, **others) -> torch.nn.Module:
    return torch.nn.Linear(4, others.get("classes", 2))


def plain(name: str) -> torch.nn.Module:
    return torch.nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("create_model", "; create_model takes any keyword: give it in dict_kwargs: {classes: ...} beside class_path"),
        ("plain", ""),
    ],
)
def test_options_of_a_function_of_any_keyword(function, hint):
    message = (
        "Parser key \"network\":\n  Errors:\n    - Option 'classes' is not accepted\n  Given value: "
        f"{{'class_path': '{__name__}.{function}', 'init_args': {{'name': 'x', 'classes': 3}}}}"
    )
    assert condense(message) == f"network: Option 'classes' is not accepted{hint}"


class OnlyTest(LightningDataModule):
    def test_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(6, 4), torch.arange(6) % 2), batch_size=3)


def test_a_data_module_without_a_loader_names_splits():
    pool = ExpertPool({"a": Expert(torch.nn.Linear(4, 2), classes=["cat", "dog"])})
    message = r"^OnlyTest has no train_dataloader; implement it, or leave train out: splits: \[test\]$"
    with pytest.raises(InputError, match=message):
        collect(pool, OnlyTest())
    assert len(collect(pool, OnlyTest(), splits=["test"])["test"].target) == 6


def halves(batch):
    return torch.full((len(batch), 2), 0.5)


def test_a_function_is_an_expert_in_yaml():
    parser = ArgumentParser()
    parser.add_argument("--expert", type=Expert)
    arguments = {"network": f"{__name__}.halves", "classes": ["sit", "walk"], "output": "probabilities"}
    parsed = parser.parse_object({"expert": {"class_path": "lightning_fusion.Expert", "init_args": arguments}})
    assert parser.instantiate_classes(parsed).expert(torch.zeros(3, 4)).tolist() == [[0.5, 0.5]] * 3
