import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import tiny

from lightning_fusion import Expert, ExpertModule, ExpertPool, collect
from lightning_fusion.acorl.forecast import Forecast, Learned, build_probe, forecast, learned_from, verdict
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError

ROWS = {"train": 48, "val": 24, "test": 3}


def made_forecast(**changed) -> Forecast:
    given = {"r2": 0.5, "accuracy": 0.9, "shifted": 0.1, "other": 0.4, "chance": 0.1, "samples": 100}
    given |= {"other_trained": 0.5, "chance_trained": 0.1}
    return Forecast(**given | changed)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"r2": 0.3}, "explain 30% of what the experts know beyond the class: there is too little to remove"),
        ({"r2": -0.4}, "explain 0% of what the experts know beyond the class: there is too little to remove"),
        (
            {"shifted": 0.55, "other": 0.7},
            "experts 0.90 as trained, 0.55 shifted: they do not live on a cue that breaks",
        ),
        (
            {"other": 0.15},
            "samples 0.15 on others, the experts 0.10, chance 0.10: no cue that they lack is easy to learn",
        ),
        ({"other_trained": 0.15}, "that network 0.15 as trained, the most frequent class 0.10: the cue is not in the"),
        ({"shifted": 0.35}, "samples 0.40 on others, the experts 0.35, chance 0.10: no cue that they lack is easy"),
    ],
)
def test_each_condition_can_fail_alone(changed, says):
    assert made_forecast().pays and len(made_forecast().reasons) == 4
    found = made_forecast(**changed)
    assert not found.pays and len(found.reasons) == 4
    assert any(says in reason for reason in found.reasons) and not made_forecast().objections
    assert len(found.objections) == ("r2" not in changed) and all(says in objection for objection in found.objections)


def test_without_shifted_samples_r2_decides_and_the_rest_is_said_to_be_unknown():
    unknown = dict.fromkeys(("shifted", "other", "other_trained", "chance_trained"), math.nan) | {"samples": 0}
    assert made_forecast(**unknown).pays and not made_forecast(r2=0.0, **unknown).pays
    assert "nothing is known" in made_forecast(**unknown).reasons[-1]
    few = {"other": math.nan, "other_trained": math.nan, "samples": 20}
    assert made_forecast(**few).pays and not made_forecast(shifted=0.55, **few).pays
    assert made_forecast(**few).reasons[-1] == "20 shifted samples, fewer than 50, tell nothing of other cues"


@pytest.mark.parametrize(
    ("r2", "shifted", "says"),
    [
        ([0.50, 0.38, 0.60, 0.60, 0.60], [0.11, 0.19, 0.09, 0.11, 0.11], "pays"),  # digits, .9
        ([0.13, 0.19, 0.30, 0.28, 0.21], [0.11, 0.12, 0.09, 0.10, 0.10], "does not pay"),  # digits, 1, gaps
        ([0.209, 0.298, 0.404], [0.11, 0.17, 0.11], "uncertain"),  # digits, .95, which paid
        ([0.33, 0.45, 0.52], [0.73, 0.73, 0.64], "does not pay"),  # books, kitchen: R2 on both sides, with objections
    ],
)
def test_r2_alone_decides_where_all_seeds_agree_on_it(r2, shifted, says):
    found = [made_forecast(r2=one, shifted=other) for one, other in zip(r2, shifted, strict=True)]
    assert verdict(found) == says


@pytest.fixture(scope="module")
def probed():
    """Data, a trained probe, and what it and the experts answer for the validation split."""
    torch.manual_seed(0)
    data, experts = tiny.data(rows=ROWS, batch_size=8), tiny.experts(features="body")
    probe = build_probe(network=tiny.Net, experts=experts, features="body", classes=tiny.CLASSES)
    tiny.trainer(2).fit(probe, datamodule=data)
    members = {**experts, "probe": Expert(probe.network, classes=tiny.CLASSES, features="body")}
    pool = ExpertPool(members, tiny.CLASSES)
    how = {"splits": ("val",), "trainer": tiny.trainer()}
    return data, probe, members, [collect(pool, data, keep_representations=kept, **how) for kept in (True, False)]


@pytest.mark.slow
def test_r2_and_accuracies_are_those_of_the_validation_split(probed):
    data, probe, members, (outputs, bare) = probed
    batch = data.rows("val")[torch.arange(24)]
    with torch.no_grad():
        v = {name: expert.network.body(batch.input) for name, expert in members.items()}
        losses = probe.adversary.losses(v["probe"], v, batch.target)
    rows = np.arange(5, 15)
    found = forecast(probe.adversary, "probe", outputs, bare, rows, Learned(0.5, 0.6))
    assert found.r2 == pytest.approx(1 - min(map(float, losses.values())), abs=1e-5)
    right = outputs.scattered("val")[:, :2].mean(1).argmax(1) == batch.target.numpy()
    assert (found.accuracy, found.shifted) == (right.mean(), right[rows].mean())
    assert (found.other, found.other_trained, found.samples) == (0.5, 0.6, 10)
    assert found.chance_trained == np.bincount(batch.target.numpy()).max() / 24
    assert found.chance == np.bincount(batch.target.numpy()[rows]).max() / 10
    with pytest.raises(InputError, match="the store has no representations of a; collect with keep_representations"):
        forecast(probe.adversary, "probe", bare)


def test_a_probe_is_trained_as_a_plain_expert(probed):
    probe = probed[1]
    torch.manual_seed(0)
    tiny.experts(features="body")
    plain = ExpertModule(tiny.Net, classes=tiny.CLASSES, features="body")
    tiny.trainer(2).fit(plain, datamodule=tiny.data(rows=ROWS, batch_size=8))
    assert tiny.same(plain.network, probe.network)


@pytest.mark.slow
def test_a_network_of_few_samples_learns_an_easy_cue_and_nothing_from_noise():
    rows, target = torch.arange(60), torch.arange(60) % 3
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for input in (noise + 4 * torch.eye(4)[target], noise):
        data = TensorDataModule(dict.fromkeys(("train", "val", "test"), (input, target)), tiny.CLASSES)
        found.append(learned_from(tiny.Net, data, rows, data, partial(torch.optim.Adam, lr=0.05)))
    assert min(found[0]) > 0.9 and found[1].shifted < 0.5 < found[1].trained  # noise is learned by heart
    assert math.isnan(learned_from(tiny.Net, data, rows[:49], data).shifted)
