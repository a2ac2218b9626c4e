import json
import os

import numpy as np
import pytest
from helpers.recipe_runs import PARTS
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from lightning_fusion.recipes.report import Report, paired_gain


class TestPairedGain:
    @pytest.mark.parametrize("count", [2, 3, 10])
    def test_equals_scipys_paired_t_interval(self, count):
        generator = np.random.default_rng(count)
        ours, theirs = generator.random(count), generator.random(count)
        mean, low, high = paired_gain(ours.tolist(), theirs.tolist())
        interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert mean == pytest.approx((ours - theirs).mean())
        assert (low, high) == pytest.approx((interval.low, interval.high))

    def test_one_pair_has_no_interval(self):
        assert paired_gain([0.75], [0.5]) == (0.25, None, None)


def report() -> Report:
    made = Report("foe", {"seeds": [1, 0]}, {"source": "digits"})
    for seed, (ours, theirs) in {1: (0.8, 0.7), 0: (0.6, 0.6)}.items():
        made.add("ours", "accuracy", ours, seed)
        made.add("ours", "accuracy", 0.1, seed, domain="x")
        made.add("theirs", "accuracy", theirs, seed)
    made.add("once", "accuracy", 0.9, 0)
    made.seconds["training"] = 1.234
    made.notes.append("A note.")
    return made


def test_what_seeds_say_alike_is_said_once():
    made = report()
    made.notes = [
        f"Seed {seed}, FoE: only {share}% of expert_{seed % 2}'s rows" for seed, share in ((0, 43.5), (2, 41))
    ]
    made.notes += ["Seed 1, FoE: only 44.1% of expert_1's rows", "Other."]
    assert [
        line for line in made._markdown("ours", {}, {}).splitlines() if line.startswith("- ") and "FoE:" in line
    ] == [
        "- Seeds 0, 2 (values of the first), FoE: only 43.5% of expert_0's rows",
        "- Seed 1, FoE: only 44.1% of expert_1's rows",
    ]
    assert len(made.notes) == 4


def test_a_run_that_went_on_keeps_its_durations(tmp_path):
    report().save(tmp_path, "ours")
    again = report()
    again.seconds = {"training": 0.1, "drawing": 2.0}
    again.save(tmp_path, "ours")
    assert json.loads((tmp_path / "results.json").read_text())["seconds"] == {"training": 1.2, "drawing": 2.0}
    (tmp_path / "results.json").write_text("{cut")
    report().save(tmp_path, "ours")
    assert json.loads((tmp_path / "results.json").read_text())["seconds"] == {"training": 1.2}


def test_the_main_row_stands_first_and_the_others_as_they_came():
    assert [cells[0] for cells in report()._cells("theirs")] == ["theirs", "ours", "once"]


class TestReport:
    def test_figures_are_ordered_by_seed_and_leave_domains_out(self):
        assert report().values("ours") == [0.6, 0.8]
        assert report().methods() == ["ours", "theirs", "once"]

    def test_summary_has_means_deviations_and_paired_gains(self):
        entries = report().summary("ours")
        means = {entry["method"]: entry for entry in entries if entry["against"] is None}
        assert means["ours"]["mean"] == pytest.approx(0.7)
        assert means["ours"]["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
        assert means["once"]["std"] is None
        (gain,) = [entry for entry in entries if entry["against"] is not None]  # 'once' has no pair
        assert (gain["method"], gain["against"]) == ("ours", "theirs")
        assert (gain["gain"], gain["gain_low"], gain["gain_high"]) == pytest.approx(paired_gain([0.6, 0.8], [0.6, 0.7]))

    def test_files_hold_everything(self, tmp_path):
        report().save(tmp_path, "ours", {"a": (Figure(figsize=(1, 1)), "A picture")})
        results = json.loads((tmp_path / "results.json").read_text())
        assert set(results) == PARTS
        assert results["rows"][1] == {
            "method": "ours", "metric": "accuracy", "split": "test", "seed": 1, "value": 0.1, "domain": "x"
        }  # fmt: skip
        assert results["seconds"] == {"training": 1.2}
        text = (tmp_path / "report.md").read_text()
        for part in (
            "| **ours** | **0.700 ± 0.141** |",
            "| theirs | 0.650 ± 0.071 | +5.0 [",
            "![A picture](a.png)",
            "- A note.",
        ):
            assert part in text
        assert sorted(os.listdir(tmp_path)) == ["a.png", "report.md", "results.json"]

    def test_names_with_line_breaks_begin_no_other_part(self, tmp_path):
        hostile = report()
        hostile.data, hostile.notes = {"class names": "a\n# b"}, ["Class a\n- b has no samples."]
        hostile.save(tmp_path, "ours", {"a": (Figure(figsize=(1, 1)), "Class a\n# b")})
        lines = (tmp_path / "report.md").read_text().splitlines()
        assert "- class names: a # b" in lines and "- Class a - b has no samples." in lines and "# b" not in lines

    def test_the_table_says_how_many_seeds(self, tmp_path):
        console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
        report().print("ours", tmp_path, console)
        text = console.export_text()
        assert "mean of 2 seeds" in text
        assert "+5.0" in text
        assert "A note." in text
