"""The rule of one standard error, on numbers worked by hand."""

import json

import numpy as np
import pytest

from lightning_fusion.recipes.advice import (
    BootstrapScores,
    SampleScores,
    Validation,
    advise,
    sample_scores,
    standard_error,
)
from lightning_fusion.recipes.report import Report

ORDER = ("average", "stacking", "fuser")


def scores(*right: int, first: int = 0) -> SampleScores:
    return SampleScores(np.array(right, float), np.arange(first, first + len(right)))


def validation(**methods) -> Validation:
    """Results of methods by seed: a list per seed, of samples that no other seed has."""
    found = Validation()
    for method, seeds in methods.items():
        for seed, right in enumerate(seeds):
            found.add(method, seed, scores(*right, first=100 * seed), queries=len(method))
    return found


def advised(**methods) -> str:
    return advise(validation(**methods), ORDER, "accuracy").method


class TestStandardError:
    def test_one_seed_is_that_of_the_paired_differences(self):
        """Differences 1, 1, 0, -1, 0, 0, 0, 0: mean 1/8, variance (3 - 8/64) / 7, error sqrt(variance / 8)."""
        ours, theirs = scores(1, 1, 1, 0, 1, 1, 0, 0), scores(0, 0, 1, 1, 1, 1, 0, 0)
        assert standard_error([ours], [theirs]) == pytest.approx(np.sqrt((3 - 1 / 8) / 7 / 8))

    def test_equal_samples_of_two_seeds_are_one_sample(self):
        """Two seeds with the same errors on the same samples know no more than one of them."""
        ours, theirs = scores(1, 1, 1, 0), scores(1, 0, 0, 0)
        once = standard_error([ours], [theirs])
        assert standard_error([ours, ours], [theirs, theirs]) == pytest.approx(once)
        others = [scores(1, 1, 1, 0, first=10), scores(1, 0, 0, 0, first=10)]
        assert standard_error([ours, others[0]], [theirs, others[1]]) == pytest.approx(
            np.sqrt(8 / 7 * 2 * 4 * (0.5 / 8) ** 2)
        )

    def test_seeds_that_agree_by_chance_do_not_shrink_it(self):
        """Both seeds have the difference 1/4, so that their deviation is 0; the samples say otherwise."""
        ours, theirs = (
            [scores(1, 1, 1, 0), scores(1, 1, 0, 1, first=4)],
            [scores(1, 1, 0, 0), scores(1, 0, 0, 1, first=4)],
        )
        assert standard_error(ours, theirs) == pytest.approx(np.sqrt(8 / 7 * (2 * 0.75**2 + 6 * 0.25**2)) / 8)

    def test_seeds_that_differ_count_with_their_deviation(self):
        """Differences 0.8 and 0 of seeds of ten samples: deviation 0.4 sqrt(2), error 0.4; over samples it is 0.06."""
        ours, theirs = (
            [scores(*[1] * 10), scores(*[1] * 10, first=10)],
            [scores(*[0] * 8, 1, 1), scores(*[1] * 10, first=10)],
        )
        assert standard_error(ours, theirs) == pytest.approx(0.4)

    def test_samples_of_one_person_count_as_one(self):
        """Two people, differences 1 and 0 on all four samples of each: (1 - 1/2, 0 - 1/2) / 2, times 2 / (2 - 1)."""
        ours, theirs = scores(*[1] * 8), scores(*[0] * 4, *[1] * 4)
        people = np.repeat([0, 1], 4)
        found = standard_error([ours._replace(group=people)], [theirs._replace(group=people)])
        assert found == pytest.approx(np.sqrt(2 * 2 * 0.25**2))
        assert standard_error([ours], [theirs]) == pytest.approx(np.sqrt(8 * 0.5**2 / 7 / 8))

    def test_bootstrap_draws_are_paired(self):
        ours, theirs = (BootstrapScores(0.2, np.array(draws), 50) for draws in ([0.1, 0.2, 0.3], [0.2, 0.3, 0.4]))
        assert standard_error([ours], [theirs]) == pytest.approx(0, abs=1e-12)
        assert standard_error([ours]) == pytest.approx(np.std([0.1, 0.2, 0.3]))

    def test_one_sample_has_none(self):
        assert standard_error([scores(1)], [scores(0)]) is None


class TestAdvise:
    def test_a_better_method_is_advised_where_it_wins_clearly(self):
        """Alone correct on five of ten samples: 0.5 behind, error sqrt((5 - 2.5) / 9 / 10) = 0.17."""
        assert advised(average=[[1] * 5 + [0] * 5], fuser=[[1] * 10]) == "fuser"

    @pytest.mark.parametrize(
        ("wins", "losses", "method"), [(1, 0, "average"), (2, 1, "average"), (4, 0, "fuser"), (6, 1, "fuser")]
    )
    def test_the_rule_is_mcnemars_statistic(self, wins, losses, method):
        """Within one standard error if (wins - losses)^2 <= wins + losses, up to a factor of 1 - 1/n."""
        rest = 200 - wins - losses
        fuser, average = [1] * wins + [0] * losses + [1] * rest, [0] * wins + [1] * losses + [1] * rest
        assert advised(average=[average], fuser=[fuser]) == method

    def test_the_simplest_of_several_is_advised(self):
        rows = [1] * 40
        stacking, fuser = [0, *rows[1:]], [1, 1, 0, *rows[3:]]
        assert advised(fuser=[fuser], stacking=[stacking], average=[[0] * 20 + rows[20:]]) == "stacking"

    @pytest.mark.parametrize("seeds", [[[1]], [[1], [1]], [[1, 1]]])
    def test_equal_results_are_the_averages(self, seeds):
        assert advised(fuser=seeds, average=seeds) == "average"

    def test_a_single_sample_decides_nothing(self):
        assert advised(average=[[0]], fuser=[[1]]) == "average"

    def test_a_method_without_a_seed_is_no_candidate(self):
        found = validation(average=[[0] * 9, [0] * 9], fuser=[[1] * 9])
        assert [each.method for each in advise(found, ORDER, "accuracy").candidates] == ["average"]

    def test_an_excluded_method_is_named_but_never_advised(self):
        found = validation(average=[[1] * 5 + [0] * 5])
        found.add("central", 0, scores(*[1] * 10), queries=1, excluded="it needs all data")
        advice = advise(found, ORDER, "accuracy")
        assert advice.method == advice.best == "average"
        assert advice.of("central").behind == pytest.approx(-0.5)
        assert "central is better on validation (1.000), but it needs all data." in advice.remarks()

    def test_the_lower_of_errors_is_the_better(self):
        found = Validation(lower_is_better=True)
        for method, value in (("average", 0.3), ("fuser", 0.1)):
            found.add(method, 0, BootstrapScores(value, value + np.array([-0.01, 0.01]), 50), queries=2)
        assert advise(found, ORDER, "eer").method == "fuser"

    def test_the_best_seed_answers_and_the_first_of_equals(self):
        found = validation(average=[[1, 0], [1, 1], [1, 1]])
        assert advise(found, ORDER, "accuracy").of("average").seed == 1

    def test_nothing_is_advised_without_results(self):
        assert advise(Validation(), ORDER, "accuracy") is None


def test_samples_of_the_balanced_accuracy_have_its_mean():
    """Two of four correct in one class, one of one in the other: (1/2 + 1) / 2."""
    found = sample_scores("balanced accuracy", np.array([1, 1, 0, 0, 1]), np.array([0, 0, 0, 0, 1]))
    np.testing.assert_allclose(found, [0.625, 0.625, 0, 0, 2.5])
    assert found.mean() == pytest.approx(0.75)


def test_a_report_records_and_prints_the_advice(tmp_path, capsys):
    report = Report("mine", {"seeds": [0]})
    for method, right in (("average", [1, 1, 0, 1]), ("fuser", [1, 1, 1, 1])):
        report.add(method, "accuracy", 0.5, 0)
        report.validate(method, scores(*right), 0, queries=2)
    report.advice = advise(report.validation, ORDER, "accuracy")
    report.save(tmp_path, "fuser")
    results = json.loads((tmp_path / "results.json").read_text())
    held = {row["method"]: row["value"] for row in results["rows"] if row["split"] == "val"}
    assert held == {"average": 0.75, "fuser": 1.0}
    assert {row["method"]: row["mean"] for row in results["summary"]} == {"average": 0.5, "fuser": 0.5}  # of the test
    advice = results["advice"]
    assert (advice["method"], advice["seed"], advice["split"], advice["samples"]) == ("average", 0, "val", 4)
    assert [each["method"] for each in advice["candidates"]] == ["average", "fuser"]
    text = (tmp_path / "report.md").read_text()
    assert "| **average** | 0.750 ± 0.250 | 0.250 ± 0.250 | yes | 2.0 | 0 |" in text
    assert "4 validation samples are few" in text
    report.print("fuser", tmp_path)
    assert "advice: average (accuracy 0.750 on 4 validation samples)" in " ".join(capsys.readouterr().out.split())
