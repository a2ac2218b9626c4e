"""Each estimator's accuracy through the pool equals its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.data.names import canonical_label
from lightning_fusion.errors import InputError
from lightning_fusion.experts.estimators import class_order

NAMES = ["1", "2", "10"]


def samples(rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Three blobs, and the number of the class of each."""
    generator = np.random.default_rng(0)
    classes = generator.integers(3, size=rows)
    return (generator.normal(size=(rows, 2)) + 4 * np.eye(3)[classes][:, :2] - 2 * (classes == 2)[:, None]), classes


X, NUMBERS = samples()
LABELS = np.array(NAMES)[NUMBERS]

ESTIMATORS = {
    "logistic": LogisticRegression(),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
    "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2),
    "forest": RandomForestClassifier(5, random_state=0),
    "perceptron": MLPClassifier(8, max_iter=300, random_state=0),
    "calibrated": CalibratedClassifierCV(SVC(), cv=2),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("order", [NAMES, ["10", "2", "1"]], ids=["in order", "reversed"])
def test_accuracy_through_the_pool_is_its_own(name, order):
    estimator = ESTIMATORS[name].fit(X, LABELS)
    targets = torch.tensor([order.index(label) for label in LABELS])
    pool = ExpertPool({"a": Expert(estimator, classes=order)}, classes=order)
    outputs = collect(pool, {"test": (torch.tensor(X), targets)})
    own = estimator.score(X, LABELS)
    assert own > 0.8
    assert (outputs.scattered("test")[:, 0].argmax(1) == targets.numpy()).mean() == own


def test_the_order_of_the_outputs_is_that_of_the_names():
    model = LogisticRegression().fit(X, LABELS)
    found = Expert(model.predict_proba, classes=NAMES)(torch.tensor(X))
    columns = [list(model.classes_).index(name) for name in NAMES]
    torch.testing.assert_close(found, torch.tensor(model.predict_proba(X)[:, columns], dtype=torch.float32))


def test_names_are_the_estimators_where_none_are_given():
    assert Expert(LogisticRegression().fit(X, LABELS)).classes == ["1", "10", "2"]
    assert Expert(LogisticRegression().fit(X, NUMBERS.astype(float))).classes == ["0", "1", "2"]


def test_numbered_labels_may_have_other_names():
    expert = Expert(LogisticRegression().fit(X, NUMBERS), classes=["cat", "dog", "owl"])
    assert (expert(torch.tensor(X)).argmax(1).numpy() == NUMBERS).mean() > 0.8


@pytest.mark.parametrize("method", ["predict_log_proba", "decision_function"])
def test_other_methods_give_logits_in_the_order_of_the_names(method):
    model = LogisticRegression().fit(X, LABELS)
    expert = Expert(getattr(model, method), classes=NAMES)
    assert expert.output == "logits"
    assert (np.array(NAMES)[expert(torch.tensor(X)).argmax(1)] == LABELS).mean() == model.score(X, LABELS)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (LogisticRegression(), {}, "LogisticRegression has no classes_; fit it first"),
        (make_pipeline(StandardScaler(), LogisticRegression()), {}, "Pipeline is not fitted|Pipeline has no classes_"),
        (LinearRegression().fit(X, NUMBERS), {"classes": NAMES}, "LinearRegression has no predict_proba"),
        (SVC().fit(X, LABELS), {"classes": NAMES}, "SVC has no predict_proba"),
        (LogisticRegression().fit(X, LABELS), {"classes": ["1", "2"]}, r"found 2 \(1, 2\); the estimator has 3"),
        (LogisticRegression().fit(X, LABELS), {"classes": ["1", "2", "11"]}, "found 11, which the estimator does not"),
        (LogisticRegression().fit(X, NUMBERS), {"classes": ["0", "1", "3"]}, "found 3, which the estimator does not"),
        (LogisticRegression().fit(X, LABELS), {"output": "logits"}, "predict_proba gives probabilities"),
        (
            MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([NUMBERS, NUMBERS], 1)),
            {"classes": NAMES},
            "several outputs",
        ),
    ],
)
def test_what_cannot_be_known_raises(network, arguments, message):
    with pytest.raises(InputError, match=message):
        Expert(network, **arguments)


@settings(max_examples=50)
@given(
    st.lists(st.text().filter(canonical_label), min_size=2, max_size=6, unique_by=canonical_label).flatmap(
        lambda n: st.tuples(st.just(n), st.permutations(n))
    )
)
def test_any_order_of_the_names_selects_their_columns(both):
    known, names = both
    found, columns = class_order(known, names)
    assert found == [canonical_label(name) for name in names]
    assert [known[column] for column in (columns or range(len(known)))] == names


class TestDeclaredOutputs:
    def test_probabilities_declared_as_logits_raise_on_the_first_batch(self):
        expert = Expert(lambda x: x, classes=["a", "b"])
        with pytest.raises(InputError, match=r"all 2 outputs .* sum to 1: set output to 'probabilities'"):
            expert(torch.tensor([[0.2, 0.8], [0.5, 0.5]]))

    def test_logits_that_sum_to_one_by_chance_are_logits(self):
        assert Expert(lambda x: x, classes=["a", "b"])(torch.tensor([[0.2, 0.8]])).shape == (1, 2)
        assert Expert(lambda x: x, classes=["a", "b"])(torch.tensor([[0.2, 0.8], [1.5, -0.5]])).shape == (2, 2)
