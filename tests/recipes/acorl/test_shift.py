import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.recipe_runs import results, value

from lightning_fusion import Expert
from lightning_fusion.acorl.forecast import Forecast
from lightning_fusion.acorl.projection import ProjectionMLP
from lightning_fusion.data.image.shortcuts import ColoredDigitsDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.acorl.forecasts import acorl_forecast
from lightning_fusion.recipes.acorl.shift import acorl_shift

DATA = partial(ColoredDigitsDataModule, batch_size=256, test_fraction=0.3, val_fraction=0.2)
ARMS = ["error reweighting", "ACoRL 1", "ACoRL 1 + error diversity", "ACoRL 1 + error reweighting"]


def run(output, **given):
    arguments = {
        "data": DATA(0.9),
        "shifted": DATA(0.1),
        "network": partial(SmallConvNet, width=2),
        "features": "pool",
        "seeds": [0, 1],
        "first_epochs": 1,
        "epochs": 1,
        "strengths": [1.0],
        "shifted_samples": [0, 30],
    }
    return acorl_shift(output=str(output), **arguments | given)


@pytest.mark.slow
def test_members_and_pools_are_evaluated_on_both_kinds_of_samples(tmp_path):
    made = []

    def projection(num_inputs: int, num_outputs: int) -> ProjectionMLP:
        made.append((num_inputs, num_outputs))
        return ProjectionMLP(num_inputs, num_outputs, hidden=4)

    run(tmp_path, arms=ARMS, projection=projection)
    assert made == [(8 + 10, 8)] * 6  # in three arms of two seeds: z and the class, to the representation of 4 x width
    found = results(tmp_path)
    report = (tmp_path / "report.md").read_text()
    table = report.partition("| rows | seed | arms | reason |")[2].partition("\n\n")[0].splitlines()[2:]
    told = [line.strip("| ").split(" | ") for line in table]
    assert len({(seed, reason) for _, seed, _, reason in told}) == len(told)  # none is repeated for the same seed
    chosen: dict[str, str] = {}
    for labels, seed, names, _ in told:
        chosen |= dict(zip(labels.split(", "), names.split(", "), strict=True)) if seed == "1" else {}
    arms = {"plain", *ARMS, "ACoRL by 30 samples", "ACoRL by 30 samples + error reweighting"}
    methods = {"first member"} | {f"{who}, {arm}" for who in ("member", "pool", "weighted pool") for arm in arms}
    for metric in ("accuracy", "shifted accuracy"):
        rows = [row for row in found["rows"] if (row["metric"], row["split"]) == (metric, "test")]
        assert {row["method"] for row in rows} == methods and len(rows) == 2 * len(methods)
        validated = [row["method"] for row in found["rows"] if (row["metric"], row["split"]) == (metric, "val")]
        assert sorted(validated) == sorted(2 * [f"{who}, {arm}" for who in ("member", "pool") for arm in arms])
    members = [
        Expert(partial(SmallConvNet, width=2), str(tmp_path / f"seed_1/members/{name}.ckpt"))
        for name in ("first_member", "ACoRL_1_and_error_diversity")
    ]
    data = DATA(0.1, seed=1)
    data.setup("test")
    batch = data.on_after_batch_transfer(data.rows("test")[torch.arange(len(data.rows("test")))], 0)
    answer = torch.stack([member(batch.input) for member in members]).mean(0).argmax(1)
    expected = (answer == batch.target).float().mean().item()
    found_one = value(found["rows"], "pool, ACoRL 1 + error diversity", "shifted accuracy", 1)
    assert found_one == pytest.approx(expected, abs=1e-6)
    assert len(chosen) == 2
    for label, arm in chosen.items():
        for metric in ("accuracy", "shifted accuracy"):
            of_row, of_arm = (value(found["rows"], f"pool, {each}", metric, 1) for each in (label, arm))
            assert of_row == of_arm
    assert "A gain is seen from about this many points: " in report
    for criterion in ("as trained", "errors of the first member weigh 20", "worse of its errors", "30 shifted samples"):
        assert f"| reversal alone | {criterion}" in report and f"| all arms | {criterion}" in report
    assert "Gain of ACoRL 1 + error reweighting over error reweighting: member " in report
    assert "Result: " in report and (tmp_path / "attributions.png").is_file()
    forecasts = json.loads((tmp_path / "seed_1/forecasts.json").read_text())
    assert [forecasts[count]["samples"] for count in ("0", "30")] == [0, 30]
    assert set(forecasts["30"]) == {field.name for field in dataclasses.fields(Forecast)}
    weights = [
        torch.load(tmp_path / f"seed_0/members/{name}.ckpt", weights_only=True)["state_dict"]["network.head.weight"]
        for name in ("plain", "error_reweighting", "ACoRL_1")
    ]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
    run(tmp_path, arms=ARMS, projection=projection, seeds=[1])  # nothing is trained again, and the results are the same
    assert results(tmp_path)["rows"] == [row for row in found["rows"] if row["seed"] == 1] and len(made) == 6
    assert np.isfinite([row["value"] for row in found["rows"]]).all()


@pytest.mark.slow
def test_third_members_are_trained_beside_both_earlier_ones(tmp_path):
    experts = []

    def projection(num_inputs: int, num_outputs: int) -> ProjectionMLP:
        experts.append(num_outputs)
        return ProjectionMLP(num_inputs, num_outputs, hidden=4)

    run(tmp_path, arms=["ACoRL 1"], projection=projection, seeds=[0], members=3, shifted_samples=[0])
    assert len(experts) == 1 + 2  # one projection for each earlier member
    rows = results(tmp_path)["rows"]
    names = ("first_member", "ACoRL_1", "ACoRL_1_member_3")
    members = [Expert(partial(SmallConvNet, width=2), str(tmp_path / f"seed_0/members/{name}.ckpt")) for name in names]
    data = DATA(0.1, seed=0)
    data.setup("test")
    batch = data.on_after_batch_transfer(data.rows("test")[torch.arange(len(data.rows("test")))], 0)
    answers = torch.stack([member(batch.input) for member in members])
    for who, given in (("pool", answers.mean(0)), ("member", answers[2])):
        expected = float((given.argmax(1) == batch.target).double().mean())
        assert value(rows, f"{who}, ACoRL 1", "shifted accuracy") == pytest.approx(expected, abs=1e-6)
    plain = [
        torch.load(tmp_path / f"seed_0/members/{name}.ckpt", weights_only=True) for name in ("plain", "plain_member_3")
    ]
    weights = [each["state_dict"]["network.head.weight"] for each in plain]
    assert not torch.equal(*weights)  # another start, as in a deep ensemble


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": 1}, "members is 1; expected at least 2"),
        ({"epochs": 0}, "first_epochs is 1, epochs 0, longer 1.6; expected at least 1"),
        ({"strengths": [0.0]}, r"strengths: found \[0.0\]; expected numbers above 0"),
        ({"arms": ["ACoRL 2"]}, "arms: found ACoRL 2; expected some of plain, plain, 1.6 x epochs, error reweighting"),
        ({"shifted_samples": [-1]}, r"shifted_samples: found \[-1\]"),
        ({"shifted": tiny.data()}, "shifted: its classes are cat, dog, owl; those of data 0, 1"),
    ],
)
def test_rejected(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", **given)


@pytest.mark.slow
def test_a_forecast_says_why_for_given_experts(tmp_path):
    torch.manual_seed(0)
    network = partial(SmallConvNet, width=2)
    experts = {"first": Expert(network(10), classes=[str(digit) for digit in range(10)], features="pool")}
    given = {"experts": experts, "network": network, "features": "pool", "epochs": 1, "shifted_samples": 20}
    acorl_forecast(DATA(0.9), shifted=DATA(0.1), output=str(tmp_path), **given)
    report = (tmp_path / "report.md").read_text()
    assert "forecast: the reversal is " in report and "20 shifted samples, fewer than 50, tell" in report
    with pytest.raises(InputError, match="epochs is 0, shifted_samples 20; expected at least 1 and 4"):
        acorl_forecast(DATA(0.9), output=str(tmp_path), **given | {"epochs": 0})
