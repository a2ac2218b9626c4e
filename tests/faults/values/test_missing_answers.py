"""Answers of remote experts: every kind of bad answer is reported or missing, row by row, and never made up."""

import math
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion import (
    Expert,
    ExpertOutputs,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    OutputsDataModule,
    collect,
    diagnose,
)
from lightning_fusion.acorl.fusion import average_outputs, fit_output_weights
from lightning_fusion.baselines import (
    BASELINES,
    BestSingle,
    confidence_cascade,
    frugal_ml,
    least_expensive_correct,
    oracle_expert,
    oracle_selection,
)
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import query_rows

ROWS = 60
CLASSES = ["cat", "dog", "owl"]


def fixed(seed: int = 0, rows: int = ROWS) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs of three experts on samples of three classes, and the classes."""
    generator = np.random.default_rng(seed)
    target = generator.integers(3, size=rows)
    logits = generator.normal(size=(3, rows, 3)) + 2 * np.eye(3)[target]
    return dict(zip("abc", tiny.softmax(logits).astype(np.float32), strict=True)), target


def store(missing: object = None, **changes: object) -> ExpertOutputs:
    splits = {}
    for number, split in enumerate(("train", "val", "test")):
        outputs, target = fixed(number)
        splits[split] = {
            "probabilities": outputs,
            "target": target,
            **({} if missing is None else {"missing": missing}),
        }
    return ExpertOutputs.from_arrays(splits, dict.fromkeys("abc", CLASSES), CLASSES, **changes)


def mask(seed: int = 9, rows: int = ROWS) -> np.ndarray:
    """Missing answers (N, 3): expert c answers always."""
    found = np.random.default_rng(seed).random((rows, 3)) < 0.2
    found[:, 2] = False
    return found


class Remote:
    """A service that is wrong about some rows, which their first number names."""

    def __init__(self, bad: object, rows: tuple[int, ...] = (3,)) -> None:
        self.bad, self.rows, self.calls = bad, rows, 0

    def __call__(self, x: torch.Tensor) -> object:
        self.calls += 1
        answer = torch.tensor([[0.2, 0.3, 0.5]]).repeat(len(x), 1)
        wrong = torch.isin(x[:, 0].long(), torch.tensor(self.rows))
        if not wrong.any():
            return answer
        if isinstance(self.bad, Exception):
            raise self.bad
        if callable(self.bad):
            return self.bad(answer)
        rows = answer.tolist()
        return [self.bad if bad else row for row, bad in zip(rows, wrong.tolist(), strict=True)]


BAD = {
    "-3": ([-3.0] * 3, "outputs that are not probabilities"),
    "1e6": ([1e6] * 3, "outputs that are not probabilities"),
    "sum 2": ([1.0, 1.0, 0.0], r"outputs that are not probabilities.*\(sum 2; expected 1 within 0\.001\)"),
    "nan": ([math.nan] * 3, "NaN or None"),
    "inf": ([math.inf, 0.0, 0.0], "NaN or infinite"),
    "None": (None, "NaN or None"),
    "text": ("cat", "no array of numbers"),
    "words": (["a", "b", "c"], "no array of numbers"),
    "short": ([0.5, 0.5], "no array of numbers"),
    "raises": (OSError("row is too long"), "failed.* OSError: row is too long"),
    "raises InputError": (InputError("row is too long"), "row is too long"),
    "nothing": (lambda answer: None, "NoneType that makes no array of numbers"),
    "fewer rows": (lambda answer: answer[:-1], "shape|rows"),
    "fewer classes": (lambda answer: answer[:, :2], r"shape \(.*2\)"),
    "flat": (lambda answer: answer.flatten(), r"shape \("),
    "complex": (lambda answer: answer.to(torch.complex64), "complex"),
}


@pytest.mark.parametrize("kind", BAD)
class TestEveryKindOfBadAnswer:
    """The expert answers wrongly on row 3 of 8."""

    def test_of_an_ask_function(self, kind):
        bad, message = BAD[kind]
        x, remote = torch.arange(8.0)[:, None], Remote(bad)
        with pytest.raises(InputError, match=f"expert remote .*{message}|expert remote {message}"):
            query_rows(lambda rows: remote(x[rows]), torch.arange(8), 3, "remote")
        found = query_rows(lambda rows: remote(x[rows]), torch.arange(8), 3, "remote", "skip")
        assert found.isnan().all(1).tolist() == [row == 3 for row in range(8)]
        assert (found[[0, 7]] == torch.tensor([0.2, 0.3, 0.5])).all()

    def test_in_collect(self, kind):
        bad, message = BAD[kind]
        data = {"test": (torch.arange(8.0)[:, None], torch.arange(8) % 3)}

        def pool() -> ExpertPool:
            sound = Expert(Remote(None, ()), classes=CLASSES, output="probabilities")
            return ExpertPool({"sound": sound, "remote": Expert(Remote(bad), classes=CLASSES, output="probabilities")})

        with pytest.raises(InputError, match=message):
            collect(pool(), data, trainer=tiny.trainer())
        with pytest.warns(UserWarning, match="answers of expert remote are missing: 1 of 8 in test; it "):
            found = collect(pool(), data, trainer=tiny.trainer(), on_failure="skip")
        assert found["test"].missing.tolist() == [[False, row == 3] for row in range(8)]
        assert np.isnan(found.scattered("test")[3, 1]).all() and np.isfinite(found.scattered("test")[3, 0]).all()


def test_a_network_without_an_answer_is_reported_with_the_option_that_continues():
    network = torch.nn.Linear(4, 3)
    network.weight.data.fill_(math.nan)
    with pytest.raises(InputError, match=r"expert a returned NaN .* row\(s\) 0, 1 of the batch; on_failure='skip'"):
        data = {"test": (torch.ones(2, 4), torch.zeros(2).long())}
        collect(ExpertPool({"a": Expert(network, classes=CLASSES)}), data, trainer=tiny.trainer())


def test_a_row_that_raises_does_not_fail_its_group():
    remote, x = Remote(OSError("too long"), (5, 200)), torch.arange(256.0)[:, None]
    found = query_rows(lambda rows: remote(x[rows]), torch.arange(256), 3, "remote", "skip")
    assert found.isnan().any(1).nonzero().flatten().tolist() == [5, 200]
    assert remote.calls < 40  # halves, not single rows


def test_further_attempts_are_made_on_the_failed_rows_alone(monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    queried: list[list[int]] = []

    def flaky(rows):
        queried.append(rows.tolist())
        answer = torch.full((len(rows), 2), 0.5)
        if len(queried) < 3:
            answer[rows == 2] = math.nan
        return answer

    for on_failure in ("raise", "skip"):
        queried.clear(), pauses.clear()
        assert query_rows(flaky, torch.arange(4), 2, "remote", on_failure, retries=4).isfinite().all()
        assert queried == [[0, 1, 2, 3], [2], [2]] and pauses == [0.1, 0.2]
    queried.clear()
    with pytest.raises(InputError, match=r"returned NaN or None for row\(s\) 2; on_failure"):
        query_rows(flaky, torch.arange(4), 2, "remote", retries=1)


class TestStores:
    def test_a_mask_and_rows_of_nan_are_the_same_and_are_stored(self, tmp_path):
        absent = mask()
        one = store(absent)
        outputs, target = fixed()
        holes = {name: np.where(absent[:, [k]], np.nan, values) for k, (name, values) in enumerate(outputs.items())}
        given = {"test": {"probabilities": holes, "target": target, "missing": "nan"}}
        other = ExpertOutputs.from_arrays(given, dict.fromkeys("abc", CLASSES))
        assert np.array_equal(one["train"].missing, absent) and np.array_equal(other["test"].missing, absent)
        assert np.array_equal(one.scattered("train"), other.scattered("test"), equal_nan=True)
        assert np.array_equal(np.isnan(one.scattered("train")).all(2), absent)
        opened = one.save(tmp_path)
        assert np.array_equal(opened["val"].missing, absent)
        assert np.array_equal(opened.scattered("val"), one.scattered("val"), equal_nan=True)
        assert f"({absent.sum()} answers missing)" in repr(opened)

    def test_for_all_splits_at_once_and_rows_of_none(self):
        outputs, target = fixed()
        absent = mask()
        listed = {
            name: [None if lost else row for row, lost in zip(values.tolist(), absent[:, k], strict=True)]
            for k, (name, values) in enumerate(outputs.items())
        }
        names = dict.fromkeys("abc", CLASSES)
        found = ExpertOutputs.from_arrays({"test": {"probabilities": listed, "target": target}}, names, missing="nan")
        given = {"test": {"probabilities": outputs, "target": target}}
        other = ExpertOutputs.from_arrays(given, names, missing={"test": absent})
        assert np.array_equal(found["test"].missing, absent) and np.array_equal(other["test"].missing, absent)
        assert np.array_equal(found.scattered("test"), other.scattered("test"), equal_nan=True)
        with pytest.raises(InputError, match=r"missing: found the split\(s\) tset; the splits are test"):
            ExpertOutputs.from_arrays(given, names, missing={"tset": absent})

    def test_without_missing_answers_nothing_is_stored(self):
        assert not store()["test"].missing.any() and "missing" not in dict(store()["test"].arrays())

    def test_nan_that_is_not_declared_is_an_error_that_says_how(self):
        outputs, target = fixed()
        outputs["b"][4] = np.nan
        with pytest.raises(
            InputError, match=r"expert b returned NaN.* row\(s\) 4 of the batch; declare missing answers"
        ):
            ExpertOutputs.from_arrays(
                {"test": {"probabilities": outputs, "target": target}}, dict.fromkeys("abc", CLASSES)
            )

    @pytest.mark.parametrize("wrong", ["None", np.zeros((ROWS, 2), bool), np.full((ROWS, 3), 2)])
    def test_a_wrong_mask(self, wrong):
        with pytest.raises(InputError, match="split train: missing"):
            store(wrong)

    def test_half_a_row_is_not_missing(self):
        outputs, target = fixed()
        outputs["b"][4, 0] = np.nan
        given = {"test": {"probabilities": outputs, "target": target, "missing": "nan"}}
        with pytest.raises(InputError, match="expert b returned NaN"):
            ExpertOutputs.from_arrays(given, dict.fromkeys("abc", CLASSES))


class TestDiagnose:
    def test_says_how_many_are_missing_and_measures_the_others(self):
        absent = mask()
        found = diagnose(store(absent))
        assert [expert.missing for expert in found.experts] == absent.sum(0).tolist()
        outputs, target = fixed()
        for number, (values, expert) in enumerate(zip(outputs.values(), found.experts, strict=True)):
            there = ~absent[:, number]
            assert expert.accuracy == pytest.approx((values.argmax(1) == target)[there].mean())
        assert any("Missing answers among 60 samples: a " in finding for finding in found.findings)
        both = ~absent[:, 0] & ~absent[:, 1]
        right = [(outputs[name].argmax(1) == target)[both] for name in "ab"]
        assert found.diversity["disagreement"][0][1] == pytest.approx((right[0] != right[1]).mean())

    def test_samples_without_any_answer_are_left_out(self):
        absent = mask()
        absent[7] = True
        found = diagnose(store(absent))
        assert found.rows == ROWS - 1
        assert found.findings[0] == "1 of 60 samples have no answer of any expert; they are left out."


class TestFuser:
    @pytest.mark.slow
    def test_trains_and_predicts(self):
        outputs = store(mask())
        for target in ("label", "expert"):
            domains = {} if target == "label" else {"domains": ["x"], "expert_domains": {name: ["x"] for name in "abc"}}
            given = outputs
            if domains:
                splits = {
                    name: {
                        "probabilities": part.probabilities,
                        "target": part.target,
                        "missing": part.missing,
                        "domain": np.ones((len(part), 1), bool),
                    }
                    for name, part in outputs.splits.items()
                }
                given = ExpertOutputs.from_arrays(
                    splits, dict.fromkeys("abc", CLASSES), CLASSES, ["x"], domains["expert_domains"]
                )
            module = FoEFuserModule(classes=CLASSES, expert_classes=given.expert_classes, target=target, **domains)
            data = OutputsDataModule(given, batch_size=20)
            trainer = tiny.trainer(2)
            trainer.fit(module, data)
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            assert all(math.isfinite(value) for value in metrics.values()), metrics
            assert metrics["val_accuracy"] > 0.5
            part = given["val"]
            right = (given.scattered("val").argmax(2) == part.target[:, None]) & ~part.missing
            assert metrics["val_best_expert_accuracy"] == pytest.approx(right.mean(0).max())

    def test_what_stands_in_for_a_missing_answer_is_not_read(self):
        module = FoEFuserModule(expert_classes=dict.fromkeys("abc", CLASSES), mean_weight=0.5).eval()
        values = torch.from_numpy(store(mask()).concatenated("test"))
        assert module.fuse(values).isfinite().all()
        expected = torch.from_numpy(store(mask()).scattered("test")).nanmean(1)
        mixed = module.network(values.nan_to_num(0)).softmax(1) / 2 + expected / 2
        torch.testing.assert_close(module.fuse(values).exp(), mixed)

    def test_an_expert_without_an_answer_is_not_chosen(self):
        domains = {"domains": ["x"], "expert_domains": {name: ["x"] for name in "abc"}}
        module = FoEFuserModule(expert_classes=dict.fromkeys("abc", CLASSES), target="expert", **domains).eval()
        outputs = store(mask())
        values = torch.from_numpy(outputs.concatenated("test"))
        chosen = module._choose(values, module.network(values.nan_to_num(0)))
        assert not outputs["test"].missing[np.arange(ROWS), chosen.numpy()].any()
        with pytest.raises(InputError, match=r"target: expert needs an answer .* row\(s\) 0, 1 of the batch have none"):
            module.fuse(torch.full((2, 9), math.nan))

    def test_representations_cannot_be_missing(self):
        module = FoEFuserModule(
            expert_classes=dict.fromkeys("ab", CLASSES), representation_dims=dict.fromkeys("ab", 2)
        ).eval()
        with pytest.raises(InputError, match="representations cannot take missing answers"):
            module.fuse(torch.full((2, 10), math.nan))
        pool = ExpertPool({"a": Expert(tiny.Net(3), classes=CLASSES, features="body")})
        with pytest.raises(InputError, match="keep_representations: a representation cannot be missing"):
            collect(
                pool, {"test": (torch.zeros(2, 4), torch.zeros(2).long())}, keep_representations=True, on_failure="skip"
            )


class TestPolicy:
    @pytest.mark.slow
    def test_is_fitted_on_complete_samples_and_continues_without_missing_answers(self):
        absent = mask()
        outputs, target = fixed()
        complete = ~absent.any(1)
        with pytest.warns(UserWarning, match=rf"{(~complete).sum()} of 60 calibration samples lack an answer"):
            policy = FrugalFoE(trade_off=0.01).fit(store(absent)["train"])
        expected = FrugalFoE(trade_off=0.01).fit({k: v[complete] for k, v in outputs.items()}, target[complete])
        queries = fixed(1)[0]
        assert all(map(torch.equal, policy.predict(queries), expected.predict(queries)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = policy.predict(store(absent)["val"])
            masked = policy.predict(queries, missing=absent)
            turned = policy.predict({k: queries[k] for k in "cab"}, missing=absent[:, [2, 0, 1]])
            curve = policy.curve(store(absent)["val"], trade_offs=[0.1, 0.01])
        assert not (answer.queried.numpy() & absent).any() and answer.queried.any(1).all()
        assert all(map(torch.equal, answer, masked)) and all(map(torch.equal, answer, turned))
        assert len(curve.accuracy) == 2
        assert torch.equal(answer.cost, answer.queried.sum(1).double())
        with pytest.raises(InputError, match=r"expert a returned NaN"):
            policy.fuse(["a"], store(absent)["val"])

    def test_undeclared_nan_still_raises(self):
        policy = FrugalFoE().fit(*fixed())
        holes = {name: values.copy() for name, values in fixed(1)[0].items()}
        for values in holes.values():
            values[3] = np.nan
        with pytest.raises(InputError, match=r"expert . returned NaN or None for row\(s\) 3; on_failure"):
            policy.predict(holes)
        with pytest.raises(InputError, match=r"missing: found torch.bool of shape"):
            policy.predict(holes, missing=np.zeros((3, ROWS), bool))

    def test_too_few_complete_samples(self):
        absent = np.zeros((ROWS, 3), bool)
        absent[1:, 0] = True
        with pytest.raises(InputError, match=r"found 1 of 60 \(missing: a 59\); query these experts again, or leave"):
            FrugalFoE().fit(store(absent)["train"])

    @pytest.mark.filterwarnings("ignore")
    def test_the_module_reads_the_mask_of_a_store(self):
        outputs = store(mask())
        module = FrugalFoEModule(FrugalFoE(trade_off=0.01), classes=CLASSES, expert_classes=outputs.expert_classes)
        trainer = tiny.trainer(1)
        trainer.fit(module, OutputsDataModule(outputs))
        expected = FrugalFoE(trade_off=0.01).fit(outputs["train"]).predict(outputs["test"])
        found = trainer.predict(module, OutputsDataModule(outputs).test_dataloader())
        assert torch.equal(torch.cat([part["queried"] for part in found]), expected.queried)

    def test_a_policy_fitted_on_scores_takes_scores(self):
        outputs, target = fixed()
        logits = {name: np.log(values) for name, values in outputs.items()}
        policy = FrugalFoE().fit(logits, target)
        assert policy.predict(lambda name, rows: logits[name][rows.numpy()], ROWS).predicted.shape == (ROWS,)


class TestBaselines:
    @pytest.mark.parametrize("name", sorted(BASELINES))
    def test_take_missing_answers_or_say_that_they_cannot(self, name):
        outputs = store(mask())
        given, target, queries = outputs.scattered("train"), outputs["train"].target, outputs.scattered("test")
        rule = BASELINES[name]()
        if name in ("k-nearest neighbors", "KNORA-E"):
            with pytest.raises(InputError, match=f"{type(rule).__name__} cannot take missing answers; found"):
                rule.fit(given, target)
            rule.fit(store().scattered("train"), target)
            with pytest.raises(InputError, match="cannot take missing answers"):
                rule.predict(queries)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = rule.fit(given, target).predict(queries)
        assert (found == outputs["test"].target).mean() > 0.6
        nothing = queries.copy()
        nothing[4] = np.nan
        if name != "logistic stacking":
            with pytest.raises(InputError, match=r"no expert answered for row\(s\) 4"):
                rule.predict(nothing)

    def test_the_mean_and_the_vote_are_of_the_answers(self):
        sure, unsure, absent = [0.9, 0.1], [0.3, 0.7], [np.nan] * 2
        given = np.array([[sure, unsure, absent], [absent, unsure, absent]], np.float32)
        for name in ("softmax average", "most confident", "majority vote"):
            assert BASELINES[name]().predict(given).tolist() == [0, 1]

    def test_the_next_best_expert_answers_for_the_best(self):
        outputs, target = fixed()
        known = np.stack(list(outputs.values()), 1)
        rule = BestSingle().fit(known, target)
        order = np.argsort(-(known.argmax(2) == target[:, None]).mean(0), kind="stable")
        holes = known.copy()
        holes[:10, order[0]] = np.nan
        expected = np.r_[known[:10, order[1]].argmax(1), known[10:, order[0]].argmax(1)]
        assert np.array_equal(rule.predict(holes), expected)

    def test_oracles_and_cascades_pass_over_missing_answers(self):
        outputs = store(mask())
        given, target, absent = outputs.scattered("train"), outputs["train"].target, mask()
        right = (given.argmax(2) == target[:, None]) & ~absent
        assert np.array_equal(oracle_selection(given, target), right.any(1))
        trained = np.ones_like(absent)
        assert np.allclose(oracle_expert(given, target, trained), right.sum(1) / (~absent).sum(1))
        assert not (least_expensive_correct(given, target, [1, 2, 3]).queried & absent).any()
        for point in confidence_cascade(given, given, target, [1, 2, 3]):
            assert not (point.queried & absent).any() and point.queried.any(1).all()
        with pytest.raises(InputError, match="frugal_ml cannot take missing answers"):
            frugal_ml(given, given, target, [1, 2, 3])


def test_output_fusion_averages_the_answers_that_are_there():
    outputs, absent = torch.from_numpy(store(mask()).scattered("train")), torch.from_numpy(mask())
    torch.testing.assert_close(average_outputs(outputs), outputs.nanmean(1))
    weights = torch.tensor([0.2, 0.3, 0.5])
    own = weights * ~absent
    expected = (outputs.nan_to_num(0) * (own / own.sum(1, keepdim=True))[:, :, None]).sum(1)
    torch.testing.assert_close(average_outputs(outputs, weights), expected)
    with pytest.raises(InputError, match="fit_output_weights cannot take missing answers"):
        fit_output_weights(outputs, torch.zeros(ROWS, dtype=torch.long))


class TestPermutations:
    """A permutation that is told to the library changes nothing."""

    @pytest.mark.slow
    @settings(max_examples=5, deadline=None)
    @given(
        classes=st.permutations(range(3)),
        rows=st.permutations(range(ROWS)),
        experts=st.permutations("abc"),
        seed=st.integers(0, 99),
    )
    def test_of_classes_samples_and_experts_with_missing_answers(self, classes, rows, experts, seed):
        outputs, target = fixed(seed)
        absent = mask(seed)
        plain = ExpertOutputs.from_arrays(
            {"train": {"probabilities": outputs, "target": target, "missing": absent}},
            dict.fromkeys("abc", CLASSES),
            CLASSES,
        )
        order = list(rows)
        turned = ExpertOutputs.from_arrays(
            {
                "train": {
                    "probabilities": {name: outputs[name][order][:, list(classes)] for name in experts},
                    "target": [CLASSES[label] for label in target[order]],
                    "missing": absent[order][:, ["abc".index(name) for name in experts]],
                    "index": order,
                }
            },
            {name: [CLASSES[number] for number in classes] for name in experts},
            CLASSES,
        )
        columns = ["abc".index(name) for name in experts]
        assert np.array_equal(plain.scattered("train")[order][:, columns], turned.scattered("train"), equal_nan=True)
        for name in ("softmax average", "most confident", "majority vote"):
            expected = BASELINES[name]().predict(plain.scattered("train"))[order]
            assert np.array_equal(BASELINES[name]().predict(turned.scattered("train")), expected)
        one, other = diagnose(plain), diagnose(turned)
        assert {e.name: (e.missing, e.accuracy) for e in one.experts} == {
            e.name: (e.missing, pytest.approx(e.accuracy)) for e in other.experts
        }

    @pytest.mark.slow
    @settings(max_examples=5, deadline=None)
    @given(order=st.permutations(range(ROWS)), names=st.permutations("abc"), seed=st.integers(0, 99))
    def test_of_calibration_samples_and_experts_of_a_policy(self, order, names, seed):
        outputs, target = fixed(seed)
        queries, _ = fixed(seed + 1)
        costs = {"a": 1.0, "b": 1.7, "c": 2.9}
        plain = FrugalFoE(costs, trade_off=0.01).fit(outputs, target).predict(queries)
        turned = {name: outputs[name][list(order)] for name in names}
        found = FrugalFoE(costs, trade_off=0.01).fit(turned, target[list(order)]).predict(queries)
        columns = ["".join(names).index(name) for name in "abc"]
        assert torch.equal(found.queried[:, columns], plain.queried)
        assert torch.equal(found.probabilities, plain.probabilities) and torch.equal(found.cost, plain.cost)

    @pytest.mark.slow
    @settings(max_examples=4, deadline=None)
    @given(
        orders=st.tuples(*[st.permutations(range(3))] * 3),
        names=st.permutations("abc"),
        rows=st.permutations(range(ROWS)),
    )
    def test_of_the_outputs_of_experts_in_collect(self, orders, names, rows):
        outputs, target = fixed()

        def expert(name: str, order: list[int]) -> Expert:
            values = torch.from_numpy(outputs[name])[:, order]

            def remote(x: torch.Tensor) -> torch.Tensor:
                return values[x[:, 0].long()]

            return Expert(remote, classes=[CLASSES[number] for number in order], output="probabilities")

        pools = [
            {name: expert(name, [0, 1, 2]) for name in "abc"},
            {name: expert(name, list(order)) for name, order in zip(names, orders, strict=True)},
        ]
        stores = []
        for pool, order in zip(pools, (list(range(ROWS)), list(rows)), strict=True):
            inputs = torch.tensor(order, dtype=torch.float32)[:, None]
            data = {"test": (inputs, torch.from_numpy(target[order]))}
            stores.append(collect(ExpertPool(pool, CLASSES), data, trainer=tiny.trainer()))
        columns = ["abc".index(name) for name in names]
        assert np.array_equal(stores[0].scattered("test")[list(rows)][:, columns], stores[1].scattered("test"))
