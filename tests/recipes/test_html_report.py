import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import Page
from matplotlib.figure import Figure

from lightning_fusion.plotting.interactive import CurvePoint, cost_chart
from lightning_fusion.recipes import html_report
from lightning_fusion.recipes.html_report import NAME, warn_of_missing_packages, write_page
from lightning_fusion.recipes.inspection import draw, of_classes
from lightning_fusion.recipes.report import Report, paired_gain

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
CLASSES = ["cat", "<b>dog</b>", HOSTILE]
EXPERTS = ["site 'a'", f"{HOSTILE}&amp;"]
MAIN = "FrugalFoE"
RNG = np.random.default_rng(0)


def report() -> Report:
    """Two seeds of a policy, of a rule with a curve and of one without, with names that are no names."""
    made = Report("frugal", {"seeds": [0, 1]}, {"source": HOSTILE, "classes": 3}, beside=("cost",))
    for seed in (0, 1):
        for method, value, cost in ((MAIN, 0.8, 1.5), (f"rule {HOSTILE}", 0.7, 2.0), ("all experts", 0.85, 2.0)):
            made.add(method, "accuracy", value + 0.02 * seed * (method == MAIN), seed, cost=cost)
            made.add(method, "cost", cost, seed)
        for setting, value in ((0.5, 0.6), (0.05, 0.8)):
            more = {"num_queries": 1.0, "setting": setting, "setting_name": "trade-off"}
            made.add(MAIN, "accuracy on the curve", value + 0.1 * seed, seed, cost=1 + value, **more)
        made.add(f"rule {HOSTILE}", "accuracy on the curve", 0.7, seed, cost=2.0, num_queries=2.0, experts=EXPERTS)
    made.notes = [f"Seed 0: a note about {HOSTILE}."]
    made.text = [
        "| method | value |",
        "|---|---|",
        f"| {HOSTILE} | 1 |",
        "",
        f"![x](http://x/y) {HOSTILE}",
    ]
    made.seconds = {"training": 2.0}
    return made


def inspection(count: int = 40):
    outputs = RNG.dirichlet(np.ones(3), (count, 2))
    outputs[0, 1] = np.nan
    targets, fused = RNG.integers(3, size=count), RNG.dirichlet(np.ones(3), count)
    queried = RNG.random((count, 2)) < 0.7
    names = [f"folder/{HOSTILE}/{row}.png" for row in range(count)]
    more = {"weights": RNG.dirichlet(np.ones(2), count), "weighting": "Weights.", "queried": queried}
    numbers = {"cost": queried.sum(1).astype(float), "out-of-distribution": queried[:, 0]}
    return of_classes(
        f"{MAIN}, seed 1", f"All {count} test samples.", outputs, fused, targets, CLASSES, EXPERTS,
        names=names, domains=[HOSTILE] * count, numbers=numbers, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run with its page."""
    made, place = report(), tmp_path_factory.mktemp("run")
    figures = {"bars": (Figure(figsize=(1, 1)), f"A figure of {HOSTILE}")}
    made.save(place, MAIN, figures)
    write_page(made, MAIN, place, figures, inspection().record())
    return place


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page(folder / NAME)


class TestPage:
    def test_the_table_has_the_values_of_the_results(self, folder, page):
        results = json.loads((folder / "results.json").read_text())
        assert page.table[0] == ["method", "accuracy", "95 % interval", "cost", f"gain of {MAIN} (points)"]
        of = {(row["method"], row["metric"]): row for row in results["summary"] if not row["against"]}
        gained = [row for row in results["summary"] if row["against"] and row["metric"] == "accuracy"]
        gains = {row["against"]: row["gain"] for row in gained}
        rows = page.table[1 : 1 + len(gains) + 1]
        assert {row[0] for row in rows} == {method for method, _ in of}
        for method, accuracy, interval, cost, gain in rows:
            assert accuracy == f"{of[method, 'accuracy']['mean']:.3f} ± {of[method, 'accuracy']['std']:.3f}"
            assert cost.startswith(f"{of[method, 'cost']['mean']:.3f}")
            assert gain.startswith(f"{100 * gains[method]:+.1f}" if method in gains else "")
            values = [row["value"] for row in results["rows"] if (row["method"], row["metric"]) == (method, "accuracy")]
            _, low, high = paired_gain(values, [0, 0])
            assert interval == f"{low:.3f} to {high:.3f}"

    def test_names_are_no_html_and_nothing_is_fetched(self, page):
        assert [given.get("id") for tag, given in page.tags if tag == "script"] == ["charts", "inspection", None, None]
        assert all(not name.startswith("on") for _, given in page.tags for name in given)
        fetched = [given.get("src") or "" for tag, given in page.tags if tag in ("img", "script", "link", "iframe")]
        assert all(address == "" or address.startswith("data:image/png;base64,") for address in fetched)
        assert [given["alt"] for tag, given in page.tags if tag == "img"] == [f"A figure of {HOSTILE}"]
        policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv"))
        assert policy.startswith("default-src 'none'") and "http" not in policy
        texts = "".join("".join(parts) for parts in page.texts.values())
        assert texts.count(HOSTILE) >= 4  # whole, as text

    def test_samples_are_whole(self, page):
        found = page.data("inspection")
        assert found["experts"] == EXPERTS and len(found["samples"]) == 40
        first = found["samples"][0]
        assert first["experts"][1][:2] == [None, None] and first["domain"] == HOSTILE
        assert {sample["target"] for sample in found["samples"]} == set(CLASSES)
        assert all(sample["correct"] == (sample["answer"] == sample["target"]) for sample in found["samples"])
        assert first["numbers"]["out-of-distribution"] in (True, False)

    def test_every_point_of_the_curve_has_its_setting(self, page):
        go = pytest.importorskip("plotly.graph_objects")
        charts = page.data("charts")
        assert set(charts) == {"methods", "costs"}
        for chart in charts.values():
            data = json.loads(json.dumps(chart["data"]).replace('"theme"', '"black"'))  # the script replaces it
            go.Figure({"data": data, "layout": chart["layout"]})  # plotly knows every key and value
        policy, rule, *single = charts["costs"]["data"]
        assert policy["x"] == pytest.approx([1.6, 1.8]) and policy["y"] == pytest.approx([0.65, 0.85])
        assert "trade-off 0.5, 1 queries per sample<br>seed 0: 0.6000" in policy["text"][0]
        assert policy["mode"] == "lines+markers" and rule["mode"] == "markers"  # subsets of seeds are not joined
        assert "experts: site &#x27;a&#x27;, &lt;/script&gt;" in rule["text"][0]
        assert [trace["name"] for trace in single] == [f"{MAIN}, in the table", "all experts"]
        assert "<img" not in json.dumps(charts)


def test_a_recipe_without_costs_and_samples(tmp_path):
    made = Report("foe", {}, {"source": "x"})
    made.add("ours", "accuracy", 0.5, 0)
    made.save(tmp_path, "ours", {})
    write_page(made, "ours", tmp_path, {}, None)
    page = Page(tmp_path / NAME)
    assert page.table == [["method", "accuracy", "gain of ours (points)"], ["ours", "0.500", ""]]
    assert set(page.data("charts")) == {"methods"} and page.data("inspection") is None
    assert not {"samples", "costs", "figures"} & {given.get("id") for _, given in page.tags}


def test_without_its_packages_no_page_is_written_or_left(folder, tmp_path, monkeypatch):
    shutil.copy(folder / NAME, tmp_path / NAME)
    monkeypatch.setattr(html_report, "installed", lambda package: package != "plotly")
    with pytest.warns(
        UserWarning, match=r"report.html is not written: found no package plotly; pip install .*\[report\]"
    ):
        warn_of_missing_packages()
    write_page(report(), MAIN, tmp_path, {}, None)
    assert not (tmp_path / NAME).exists()


class TestDraw:
    def test_half_of_the_samples_are_wrong_ones(self):
        correct = np.arange(1000) >= 300
        rows, sentence = draw(correct, seed=0)
        assert len(set(rows.tolist())) == 200 and (~correct[rows]).sum() == 100 and (np.diff(rows) > 0).all()
        assert (
            sentence == "200 of 1000 test samples: 100 of 300 wrong ones, and 100 of 700 correct ones, drawn at random."
        )
        assert draw(correct, seed=0)[0].tolist() == rows.tolist() != draw(correct, seed=1)[0].tolist()

    def test_few_correct_ones_are_all_shown(self):
        correct = np.arange(1000) < 30
        rows, sentence = draw(correct, seed=0)
        assert correct[rows].sum() == 30 and "170 of 970 wrong ones, and 30 of 30" in sentence

    def test_few_samples_are_all_shown(self):
        assert draw(np.array([True, False]), 0)[1] == "All 2 test samples."


def test_long_names_are_cut_beside_the_axes_and_whole_in_the_hover():
    name = "a method <with> a name of very many words that goes on for long"
    (trace,) = cost_chart({name: [CurvePoint(1, 0.5, [])]}, {}, label="accuracy", main="x", connected=[])["data"]
    assert len(trace["name"]) < 60 and "…" in trace["name"]
    assert "a method &lt;with&gt; a name of very many words that goes on for long" in trace["text"][0]


@pytest.fixture(scope="module")
def browser():
    """A headless browser: that of playwright, or one of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    with playwright.sync_playwright() as started:
        names = (started.chromium.executable_path, "chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), None)
        if path is None:
            pytest.skip("no Chromium is installed: run 'playwright install chromium'")
        running = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_the_page_in_a_browser_without_network(folder, browser, scheme, width):
    context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": width, "height": 900})
    tab, problems = context.new_page(), []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: problems.append(dialog.message))
    tab.on("request", lambda sent: sent.url.startswith(("file:", "data:", "blob:")) or problems.append(sent.url))
    tab.goto((folder / NAME).as_uri())
    tab.wait_for_selector("#costs .legend")
    assert tab.title() == "frugal: test accuracy"  # no name ran as a script
    assert tab.evaluate("document.documentElement.scrollWidth") <= width

    def first() -> list[str]:
        return [row.split("\t")[0] for row in tab.locator("#methods tbody").inner_text().splitlines()]

    order = first()
    tab.click("#methods th:nth-child(2) button")
    assert first()[0] == "all experts" and tab.get_attribute("#methods th:nth-child(2)", "aria-sort") == "descending"
    tab.click("#methods th:nth-child(2) button")
    assert first()[-1] == "all experts"
    tab.click("#methods th:nth-child(2) button")
    assert first() == order

    samples = Page(folder / NAME).data("inspection")["samples"]
    assert tab.inner_text("#count") == "40 of 40 samples"
    tab.check("#wrong")
    wrong = [sample for sample in samples if not sample["correct"]]
    assert tab.inner_text("#count") == f"{len(wrong)} of 40 samples"
    tab.select_option("#class", HOSTILE)
    own = [sample for sample in wrong if sample["target"] == HOSTILE]
    assert tab.locator("#list li").count() == len(own) > 1
    tab.locator("#list button").nth(1).click()
    shown = tab.inner_text("#detail")
    assert own[1]["name"] in shown and f"Cost: {own[1]['numbers']['cost']:.3f}"[:7] in shown and HOSTILE in shown
    assert tab.locator("#detail tbody tr").count() == len(EXPERTS)
    tab.fill("#search", "no such name")
    assert tab.locator("#list li").count() == 0 and "No sample" in tab.inner_text("#detail")

    tab.locator("#costs .chart").scroll_into_view_if_needed()
    tab.locator("#costs .scatterlayer .trace").first.locator(".points path").first.hover(force=True)
    tab.wait_for_selector("#costs .hoverlayer .hovertext")
    assert "trade-off 0.5" in tab.text_content("#costs .hoverlayer")
    assert problems == []
    context.close()
