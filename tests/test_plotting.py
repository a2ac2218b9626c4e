import itertools
from functools import partial

import matplotlib
import matplotlib.figure
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.image import imread
from matplotlib.text import Text
from scipy.stats import norm
from torchmetrics.classification import BinaryCalibrationError

from lightning_fusion import plotting
from lightning_fusion.errors import InputError
from lightning_fusion.verification.error_rates import equal_error_rate, error_curve

RNG = np.random.default_rng(0)
DOMAINS = [f"domain_{number}" for number in range(5)]
METHODS = ["FoE (label)", "best single expert", "softmax average", "most confident", "logistic stacking"]
ACCURACIES = {method: RNG.uniform(0.2, 1, 5) for method in METHODS}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TARGETS = RNG.integers(10, size=400)
PREDICTIONS = np.where(RNG.random(400) < 0.8, TARGETS, RNG.integers(10, size=400))
EXPERTS = [f"site_{letter}" for letter in "abcdefgh"]
COSTS = np.linspace(0, 8, 400)
CURVES = {
    name: (
        COSTS[: 400 - 20 * place],
        (0.1 + (0.88 - 0.03 * place) * (1 - np.exp(-COSTS / (1 + 0.2 * place))))[: 400 - 20 * place],
    )
    for place, name in enumerate(
        [
            "FrugalFoE",
            "FrugalFoE (masked MLP)",
            "FrugalFoE (parametric risk)",
            "random subsets",
            "confidence cascade",
        ]
    )
}
POINTS = {
    "best single expert": (1.0, 0.4),
    "all experts, kNN": (8.0, 0.977),
    "all experts, logistic stacking": (8.0, 0.972),
    "majority class": (0.0, 0.1),
    "oracle": (1.0, 1.0),
    "FrugalFoE": (3.6, 0.955),
}
COVERAGE = {
    name: (np.linspace(0.01, 1, 99), np.linspace(0, error, 99)) for name, error in (("FrugalFoE", 0.2), ("b", 0.3))
}
FUSIONS = ("average of the outputs", "weighted average", "late fusion of the features")
STRENGTHS = [0.0, 0.5, 1.0]
GAINS = {
    strength: {
        fusion: (gain := RNG.normal(0.01, 0.01, 3), (gain.mean() - 0.02, gain.mean() + 0.02)) for fusion in FUSIONS
    }
    for strength in STRENGTHS[1:]
}
TARGET_DOMAINS = {f"user_{number}": value for number, value in enumerate(RNG.uniform(0.6, 1, 12))}
LOCAL = {name: value - 0.1 for name, value in TARGET_DOMAINS.items()}
CONFIDENCE = RNG.uniform(0.3, 1, 400)
STAGES = {"index": 3e4, "statistics": 2.1e6, "weights of the finalists": 7.9e6}


def trials(count: int = 800, seed: int = 1, apart: float = 1.5):
    """Scores and kinds, a third of them of one speaker."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.rand(count, generator=generator) < 0.3
    return torch.randn(count, generator=generator) + apart * same, same


def rates(scores, same):
    curve = error_curve(scores, same)
    return curve.false_alarm, curve.miss


FIGURES = {
    "grouped_bars": partial(
        plotting.grouped_bars, ACCURACIES, DOMAINS, label="test accuracy", title="Accuracy on each domain", top=1
    ),
    "confusion": partial(
        plotting.confusion, TARGETS, PREDICTIONS, CLASSES, title="FoE (label):\nfractions of each true class, seed 0"
    ),
    "heat_map": partial(
        plotting.heat_map,
        RNG.dirichlet(np.ones(4), size=6),
        ["walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying"],
        ["user_1/phone", "user_2/phone", "user_3/watch", "user_9/watch"],
        title="Mean weight of the sources of user_5/phone",
        label="mean weight",
        ylabel="class of the test samples",
    ),
    "diagnosis": partial(plotting.diagnosis, RNG.random((5, 5)), RNG.random((5, 5)) / 2, DOMAINS, DOMAINS),
    "permutation_importance": partial(
        plotting.permutation_importance, {name: RNG.uniform(-0.01, 0.2, 3) for name in EXPERTS}
    ),
    "overlap_curves": partial(
        plotting.overlap_curves,
        [0, 0.25, 0.5, 0.75, 1],
        {name: RNG.uniform(0.7, 1, (5, 3)) for name in ("FoE (label)", *METHODS[1:3], "oracle selection")},
        main="FoE (label)",
        ceiling="oracle selection",
        label="test accuracy",
    ),
    "risk_coverage_curves": partial(plotting.risk_coverage_curves, COVERAGE, main="FrugalFoE", in_scope=0.7),
    "cost_curves": partial(plotting.cost_curves, CURVES, POINTS, main="FrugalFoE", close=(0.75, 0.99)),
    "queries": partial(plotting.queries, np.arange(8) < RNG.integers(1, 7, (500, 1)), EXPERTS),
    "reversal_strengths": partial(
        plotting.reversal_strengths,
        STRENGTHS,
        {"val": RNG.uniform(0.8, 0.9, (3, 3)), "test": RNG.uniform(0.8, 0.9, (3, 3))},
        GAINS,
        metric="accuracy",
        fusion=FUSIONS[0],
        higher_is_better=True,
    ),
    "target_accuracies": partial(
        plotting.target_accuracies,
        TARGET_DOMAINS,
        LOCAL,
        {"HaT": 0.85} | {f"average of {number}, selected": 0.6 + number / 100 for number in range(18)},
        main="HaT",
        against="local model, few labels",
    ),
    "traffic": partial(plotting.traffic, STAGES, 2.6e7),
    "sweep_trials": partial(
        plotting.sweep_trials,
        range(12),
        np.linspace(0.8, 0.9, 12),
        {
            "model.init_args.optimizer.init_args.lr": np.geomspace(1e-4, 1e-2, 12).tolist(),
            "model.init_args.optimizer.init_args.weight_decay": [0.0, 0.0001, 0.01] * 4,
            "model.init_args.target": ["label", "expert"] * 6,
            "data.init_args.batch_size": [32, 64, 128] * 4,
            "seed": [0] * 12,
        },
        metric="val_accuracy",
        maximize=True,
    ),
    "det_curves": partial(
        plotting.det_curves,
        {
            "first member": rates(*trials()),
            "ACoRL, scores": rates(*trials(seed=2, apart=3.0)),
            "easy": rates(*trials(50, apart=20.0)),
        },
    ),
    "reliability": partial(
        plotting.reliability, CONFIDENCE, RNG.random(400) < CONFIDENCE - 0.1, title="Reliability, validation"
    ),
    "pictures": partial(
        plotting.pictures,
        [RNG.random((3, 16, 20)), *(RNG.random((1, 8, 8)) for _ in range(7))],
        [f"automobile, a long name ({value:.2f})\nnot truck" for value in CONFIDENCE[:8]],
        title="The most confident errors",
    ),
    "attribution_maps": partial(
        plotting.attribution_maps,
        torch.rand(4, 3, 16, 16),
        {name: torch.rand(4, 16, 16) for name in ("first member", "second, plain", "second, ACoRL")},
    ),
}


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure) -> list[str]:
    return [text.get_text() for part in figure.legends for text in part.get_texts()]


def shown(figure) -> list[Text]:
    """The texts that are drawn: not those of axes that are turned off, nor labels of ticks beyond the ends."""
    left_out = set()
    for axes in figure.axes:
        for axis, view in ((axes.xaxis, axes.viewLim.intervalx), (axes.yaxis, axes.viewLim.intervaly)):
            beyond = [
                tick for tick in axis.get_major_ticks() if not min(view) - 1e-9 <= tick.get_loc() <= max(view) + 1e-9
            ]
            for part in beyond if axes.axison else [axis]:
                left_out |= set(part.findobj(Text))
    return [text for text in figure.findobj(Text) if text not in left_out and text.get_visible() and text.get_text()]


def test_every_figure_is_among_them():
    assert {name for name in plotting.__all__ if hasattr(getattr(plotting, name), "__wrapped__")} == set(FIGURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_texts_lie_in_the_figure_and_apart(name):
    figure = drawn(FIGURES[name]())
    width, height = figure.bbox.size
    boxes = {text: text.get_window_extent() for text in shown(figure)}
    assert len(boxes) > 3
    for text, box in boxes.items():
        assert box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1, text
    straight = [(text, box) for text, box in boxes.items() if text.get_rotation() % 90 == 0]
    for (text, box), (other, second) in itertools.combinations(straight, 2):
        across = min(box.x1, second.x1) - max(box.x0, second.x0)
        along = min(box.y1, second.y1) - max(box.y0, second.y0)
        assert across < 1 or along < 1, (text, other)


def test_bars_of_a_reliability_diagram_are_accuracies_and_the_title_has_the_error():
    confidence, correct = np.array([0.55, 0.56, 0.95, 1.0, 0.05]), np.array([True, False, True, True, False])
    figure = plotting.reliability(confidence, correct, title="A", bins=10)
    upper, lower = figure.axes
    found = {round(bar.get_x() + bar.get_width() / 2, 2): bar.get_height() for bar in upper.patches}
    assert found == {0.05: 0.0, 0.55: 0.5, 0.95: 1.0}
    assert [round(bar.get_height()) for bar in lower.patches] == [20, 0, 0, 0, 0, 40, 0, 0, 0, 40]
    error = 0.4 * abs(0.5 - 0.555) + 0.4 * abs(1 - 0.975) + 0.2 * 0.05
    assert figure.get_suptitle() == f"A\nexpected calibration error {error:.3f}"


def test_the_calibration_error_is_that_of_torchmetrics():
    confidence, correct = torch.from_numpy(CONFIDENCE), torch.rand(400) < 0.7
    metric = BinaryCalibrationError(n_bins=15)
    reference = metric(confidence, correct.long())  # of the probability of a class; correct predictions are its class
    assert f"error {float(reference):.3f}" in plotting.reliability(confidence, correct, title="A").get_suptitle()


@pytest.mark.parametrize(("confidence", "correct"), [([], []), ([0.5], [True, False])])
def test_predictions_of_no_shape_are_rejected(confidence, correct):
    with pytest.raises(InputError, match=r"expected \(N,\) both"):
        plotting.reliability(confidence, correct, title="A")


def test_pictures_need_channels_and_captions():
    with pytest.raises(InputError, match=r"found shape \(2, 4, 4\)"):
        plotting.pictures([np.zeros((2, 4, 4))], ["a"], title="A")
    with pytest.raises(InputError, match="found 1 images and 0 captions"):
        plotting.pictures([np.zeros((1, 4, 4))], [], title="A")


def test_a_bar_of_each_method_in_each_group():
    axes = FIGURES["grouped_bars"]().axes[0]
    bars = {part.get_label(): [bar.get_height() for bar in part] for part in axes.containers}
    assert {name: pytest.approx(list(values)) for name, values in ACCURACIES.items()} == bars
    assert ticks(axes.xaxis) == DOMAINS and axes.get_ylim() == (0, 1)
    centers = np.array([[bar.get_x() + bar.get_width() / 2 for bar in part] for part in axes.containers])
    np.testing.assert_allclose(centers.mean(0), range(5), atol=1e-9)
    assert legend(axes.figure) == METHODS


def test_bars_may_be_negative():
    axes = plotting.grouped_bars({"a": [-0.5, 0.2]}, ["x", "y"], label="correlation", title="t").axes[0]
    assert axes.get_ylim()[0] < -0.5 and not axes.figure.legends


def test_confusion_is_normalized_by_the_true_class():
    figure = plotting.confusion([0, 0, 0, 2], [0, 0, 1, 2], ["a", "b", "c"], title="t", xlabel="chosen", ylabel="own")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 0, 0], [0, 0, 1]])
    assert texts(axes) == ["0.67", "0.33", "0.00", "0.00", "0.00", "0.00", "0.00", "0.00", "1.00"]
    assert [text.get_color() for text in axes.texts] == ["white", *["black"] * 7, "white"]  # by the shade, not the rank
    assert figure.axes[1].get_ylabel() == "fraction of the own"
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["a", "b", "c"], ["a", "b", "c"])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("chosen", "own")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 13, 150])  # with numbers, with all names, with some of the names
def test_any_number_of_classes_and_experts_can_be_drawn(count):
    names = [f"org/model-{number}-of-a-rather-long-name" for number in range(count)]
    axes = drawn(plotting.confusion(range(count), range(count), names, title="t")).axes[0]
    assert len(texts(axes)) == (4 if count == 2 else 0)
    assert max(axes.figure.get_size_inches()) < 17
    assert ticks(axes.yaxis)[0] == "org/model-0-of-a…ather-long-name" and len(ticks(axes.yaxis)) == min(count, 75)
    axes = drawn(plotting.diagnosis(RNG.random((3, count)), RNG.random((count, count)), names, list("abc"))).axes[1]
    assert axes.images[0].get_array().shape == (count, count)
    axes = drawn(plotting.queries(np.ones((4, count), bool), names)).axes[1]
    assert [bar.get_width() for bar in axes.patches] == [100] * count


@pytest.mark.slow
def test_a_name_is_no_formula():
    names = ["$5_to_$10 {", "$a_b^{$"]
    figure = plotting.confusion([0, 1], [0, 1], names, title=names[0])
    assert ticks(drawn(figure).axes[0].xaxis) == names
    drawn(plotting.heat_map(np.eye(2), names, names, title=names[1], label=names[0], xlabel=names[0]))
    drawn(plotting.grouped_bars({name: [1.0] for name in names}, names[:1], label=names[0], title=names[1]))


def test_characters_that_the_font_lacks_are_one_warning(tmp_path):
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.text(0, 0, "猫狗鸟")
    with pytest.warns(UserWarning) as found:
        plotting.save(figure, tmp_path / "names.png")
    assert [str(each.message).partition(" of the names")[0] for each in found] == [
        "names.png: the font of figures lacks 3 characters"
    ]


def test_shades_and_numbers_of_a_heat_map():
    values = np.array([[0.1, np.nan, 0.9], [0.5, 0.0, 1.0]])
    axes, scale = plotting.heat_map(values, ["r", "s"], ["a", "b", "c"], title="t", label="weight").axes
    assert scale.get_ylabel() == "weight"
    assert texts(axes) == ["0.10", "nan", "0.90", "0.50", "0.00", "1.00"]
    assert [text.get_color() for text in axes.texts] == ["black", "black", "white", "black", "black", "white"]
    assert axes.images[0].get_clim() == (0, 1)
    half = plotting.heat_map(values / 2, ["r", "s"], list("abc"), title="t", label="weight", top=None)
    assert half.axes[0].images[0].get_clim() == (0, 0.5)


def test_diagnosis_shows_accuracies_and_pairs():
    accuracies, pairs = RNG.random((2, 3)), np.array([[0, 0.2, 0.4], [0.2, 0, np.nan], [0.4, np.nan, 0]])
    left, right = plotting.diagnosis(accuracies, pairs, list("abc"), ["x", "y"]).axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), accuracies)
    assert left.images[0].get_clim() == (0, 1) and right.images[0].get_clim() == (0, 0.4)
    assert ticks(left.yaxis) == ["x", "y"] and ticks(right.yaxis) == list("abc")


def test_importance_is_the_mean_over_seeds():
    axes = plotting.permutation_importance({"a": [0.1, 0.3], "b": [-0.02, 0.0]}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([20, -1])
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [pytest.approx([10, 30]), pytest.approx([-2, 0])]
    assert ticks(axes.yaxis) == ["a", "b"] and axes.yaxis_inverted()


def test_overlap_lines_are_means_and_dots_are_seeds():
    figure = plotting.overlap_curves(
        [0, 1], {"ours": [[0.8, 1.0], [0.5, 0.7]], "oracle": [[1, 1], [1, 1]]}, main="ours", ceiling="oracle", label="y"
    )
    mean, *dots = figure.axes[0].lines[:3]
    np.testing.assert_allclose(mean.get_ydata(), [0.9, 0.6])
    np.testing.assert_allclose([line.get_ydata() for line in dots], [[0.8, 0.5], [1.0, 0.7]])
    assert figure.axes[0].lines[3].get_linestyle() == "--" and legend(figure) == ["ours", "oracle"]


def test_risk_coverage_is_in_per_cent():
    axes = FIGURES["risk_coverage_curves"]().axes[0]
    assert axes.lines[0].get_color() == "black" and axes.lines[1].get_linestyle() == "--"
    np.testing.assert_allclose(axes.lines[1].get_ydata()[-1], 30)
    assert list(axes.lines[2].get_xdata()) == [70, 70]
    alone = plotting.risk_coverage_curves({"FrugalFoE": COVERAGE["b"]}, main="FrugalFoE")
    assert len(alone.axes[0].lines) == 1 and not alone.legends


def test_cost_curves_are_whole_at_the_left_and_close_at_the_right():
    whole, close = FIGURES["cost_curves"]().axes
    names = [*CURVES, *list(POINTS)[:-1], "FrugalFoE in the table"]
    assert [line.get_label() for line in whole.lines] == names
    assert [line.get_label() for line in close.lines] == [
        n for n in names if n not in ("best single expert", "majority class", "oracle")
    ]
    assert whole.lines[0].get_color() == "black" and whole.lines[1].get_linestyle() == ":"
    np.testing.assert_array_equal(whole.lines[3].get_ydata(), CURVES["random subsets"][1])
    assert (whole.lines[-1].get_xdata()[0], whole.lines[-1].get_ydata()[0]) == POINTS["FrugalFoE"]
    assert close.get_ylim() == (0.75, 0.99)
    assert len({line.get_marker() for line in whole.lines[len(CURVES) :]}) == len(POINTS)
    assert legend(whole.figure) == names


def test_queries_are_counted_by_sample_and_by_expert():
    queried = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]], bool)
    number, which = plotting.queries(queried, list("abc")).axes
    assert {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in number.patches} == {1: 25, 2: 50, 3: 25}
    assert [bar.get_width() for bar in which.patches] == [100, 50, 50]
    nobody = plotting.queries(np.zeros((4, 2), bool), list("ab")).axes[0]
    assert [bar.get_height() for bar in nobody.patches] == [100, 0, 0]


def test_strengths_and_paired_gains():
    figure = FIGURES["reversal_strengths"]()
    left, right = figure.axes
    assert ticks(left.xaxis) == ["0\n(plain)", "0.5", "1"]
    assert sorted(legend(figure)) == ["lambda 0.5", "lambda 1", "test", "validation"]
    assert ticks(right.yaxis) == list(FUSIONS)
    bars = [part for part in right.containers if part.has_xerr]
    assert len(bars) == 6
    gains, (low, high) = GAINS[0.5][FUSIONS[0]]
    (mean,) = bars[0].lines[0].get_xdata()
    assert mean == pytest.approx(100 * gains.mean())
    segment = bars[0].lines[2][0].get_segments()[0]
    assert sorted(segment[:, 0]) == pytest.approx([100 * low, 100 * high])
    one = plotting.reversal_strengths(
        [0.0, 2.0],
        {"val": [[0.1], [0.2]]},
        {2.0: {"a": ([0.1], None)}},
        metric="EER",
        fusion="a",
        higher_is_better=False,
    )
    assert "lower is better" in one.axes[1].get_xlabel() and not one.axes[1].containers[0].has_xerr


def test_students_against_local_models():
    left, right = FIGURES["target_accuracies"]().axes
    names, (local, student) = ticks(left.yaxis), left.lines
    assert list(local.get_xdata()) == [LOCAL[name] for name in names]
    assert list(student.get_xdata()) == [TARGET_DOMAINS[name] for name in names]
    assert legend(left.figure) == ["local model, few labels", "HaT"]
    widths = [bar.get_width() for bar in right.patches]
    assert widths == sorted(widths) and ticks(right.yaxis)[-1] == "HaT"
    assert right.patches[-1].get_facecolor() == to_rgba("tab:red")


def test_targets_are_named_in_the_order_of_their_gain():
    student, local = {"a": 0.5, "b": 0.9, "c": 0.7}, {"a": 0.6, "b": 0.4, "c": 0.6}
    left = plotting.target_accuracies(student, local, {"HaT": 0.7}, main="HaT", against="local").axes[0]
    assert ticks(left.yaxis) == ["b", "c", "a"] and left.yaxis_inverted()


@pytest.mark.slow
def test_many_groups_are_rows_with_horizontal_names():
    names = [f"person_{number:02d}_phone_left_pocket" for number in range(22)]
    values = {f"method {number}": RNG.random(22) for number in range(12)}
    figure = drawn(plotting.grouped_bars(values, names, label="test accuracy", title="t", top=1))
    axes = figure.axes[0]
    assert ticks(axes.yaxis) == names and {label.get_rotation() for label in axes.get_yticklabels()} == {0}
    for line in axes.lines:
        np.testing.assert_array_equal(line.get_xdata(), values[line.get_label()])
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 12
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(one.y0 > other.y1 - 1 for one, other in itertools.pairwise(boxes))
    assert axes.get_xlim() == (0, 1) and axes.get_xlabel() == "test accuracy" and legend(figure) == list(values)


def test_a_sweep_shows_its_best_trial_and_the_parameters_that_vary():
    axes = FIGURES["sweep_trials"]().axes
    assert [part.get_xlabel() for part in axes[1:]] == [
        *("model.optimizer.lr", "model.optimizer.weight_decay", "model.target", "data.batch_size")
    ]
    assert [part.lines[-1].get_ydata()[0] for part in axes[1:]] == pytest.approx([0.9] * 4)
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), np.linspace(0.8, 0.9, 12))


def test_traffic_stacks_the_stages():
    axes = FIGURES["traffic"]().axes[0]
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert np.allclose(spans, [(0, 0.03), (0.03, 2.13), (2.13, 10.03), (0, 26)])
    assert ticks(drawn(axes.figure).axes[0].yaxis) == ["selection", "all models"]


def test_det_curves_are_marked_at_the_equal_error_rate():
    figure = FIGURES["det_curves"]()
    axes = figure.axes[0]
    rate = equal_error_rate(*trials()).item()
    assert legend(figure)[0] == f"first member: EER {100 * rate:.2f} %"
    assert axes.lines[1].get_xdata()[0] == axes.lines[1].get_ydata()[0]
    x, y = axes.lines[0].get_data()
    assert np.isfinite(x).all() and np.any((x == axes.lines[1].get_xdata()[0]) & (y == axes.lines[1].get_ydata()[0]))
    assert (np.diff(x) <= 0).all() and (np.diff(y) >= 0).all()
    low, high = axes.get_xlim()
    assert axes.get_ylim() == (low, high) and low < axes.lines[1].get_xdata()[0] < high
    assert "5" in ticks(axes.xaxis) and ticks(axes.xaxis) == ticks(axes.yaxis)


def test_det_axes_begin_where_the_trials_can_measure():
    def lowest(count: int, apart: float) -> float:
        """Rate at which the axes begin, of scores that overlap by 1 - apart."""
        same = torch.arange(count) % 2
        axes = plotting.det_curves({"a": rates(same * apart + torch.rand(count), same)}).axes[0]
        assert all((np.asarray(line.get_xdata()) >= axes.get_xlim()[0]).all() for line in axes.lines[:2])
        return float(norm.cdf(axes.get_xlim()[0]))

    assert lowest(100, 0.5) == pytest.approx(0.8 / 50)  # one of 50 trials of each kind
    assert lowest(100, 5.0) == pytest.approx(0.8 / 50)  # no error: rates of 0 lie on the edge
    assert lowest(2000, 0.9) == pytest.approx(0.8 / 1000)
    assert 0.05 < lowest(2000, 0.2) < 0.4  # a weak system: no curve is where rates are small


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 1, 8, 8), (4, 8, 40)])
def test_maps_stand_beside_their_inputs(shape):
    images, maps = torch.randn(shape), torch.rand(4, *shape[-2:])
    grid = np.array(plotting.attribution_maps(images, {"ACoRL": maps, "plain": 2 * maps}).axes).reshape(4, 3)
    assert [axes.get_title() for axes in grid[0]] == ["input", "ACoRL", "plain"]
    for row in range(4):
        np.testing.assert_array_equal(grid[row, 1].images[0].get_array(), maps[row])
        low, high = grid[row, 1].images[0].get_clim()
        assert low == 0 and high == pytest.approx(np.quantile(maps[row], 0.99))
        assert grid[row, 2].images[0].get_clim()[1] == pytest.approx(2 * high)
        picture = grid[row, 0].images[0].get_array()
        assert picture.shape == (*shape[-2:], 3)[: 3 if shape[1] == 3 else 2]
        assert picture.min() == 0 and picture.max() == 1
        assert grid[row, 0].images[0].origin == ("lower" if len(shape) == 3 else "upper")


@pytest.mark.slow
def test_no_figure_belongs_to_pyplot_or_changes_the_style():
    before = dict(matplotlib.rcParams)
    for figure in FIGURES.values():
        figure()
    assert matplotlib.pyplot.get_fignums() == [] and dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = FIGURES["traffic"]()
    plotting.save(figure, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[:2] == (149, 455)  # of 65 dpi, as tests/matplotlibrc says
    plotting.save(figure, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    monkeypatch.setattr(figure, "savefig", lambda path, **_: (path.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        plotting.save(figure, tmp_path / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"] and imread(tmp_path / "a.png").any()


MAPS = torch.rand(2, 4, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plotting.det_curves({}), "curves is empty"),
        (lambda: plotting.attribution_maps(torch.ones(2, 2, 4, 4), {"a": MAPS}), r"images has shape \(2, 2, 4, 4\)"),
        (lambda: plotting.attribution_maps(torch.ones(2, 1, 4, 4), {}), "maps is empty"),
        (
            lambda: plotting.attribution_maps(torch.ones(2, 1, 4, 4), {"a": MAPS, "b": MAPS[:1]}),
            r"\{'b': \(1, 4, 4\)\}; expected \(2, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
