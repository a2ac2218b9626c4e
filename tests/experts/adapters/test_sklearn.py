import numpy as np
import pytest
import torch
from helpers.models import raw
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.sklearn import SklearnExpert

ROWS = np.random.default_rng(0).normal(size=(60, 12))
LABELS = np.array(["dog", "cat", "owl"])[ROWS[:, :3].argmax(1)]


def save(path, estimator) -> str:
    pytest.importorskip("skops.io").dump(estimator, path)  # it takes seconds to import: not at the collection
    return str(path)


def test_a_pipeline_on_images_of_any_size(tmp_path, opened):
    preprocess = ImagePreprocessing(2, fit="stretch")
    rows = preprocess(raw(opened)).flatten(1).double().numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS)
    expert = SklearnExpert(save(tmp_path / "a.skops", model), classes=["owl", "cat", "dog"], preprocess=preprocess)
    expected = model.predict_proba(rows)[:, [2, 0, 1]]
    np.testing.assert_allclose(expert(raw(opened)), expected, atol=1e-6)
    assert expert.unknown_state() is None


def test_columns_of_a_data_frame_are_named_again(tmp_path):
    import pandas as pd

    table = pd.DataFrame(ROWS, columns=[f"c{number}" for number in range(12)])
    model = LogisticRegression().fit(table, np.unique(LABELS, return_inverse=True)[1])
    expert = SklearnExpert(save(tmp_path / "a.skops", model), classes=["cat", "dog", "owl"])
    np.testing.assert_allclose(expert(torch.from_numpy(ROWS)), model.predict_proba(table), atol=1e-6)


def test_a_vectorizer_reads_texts(tmp_path):
    texts = ["good food", "bad food", "good tea", "bad tea"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["+", "-", "+", "-"])
    expert = SklearnExpert(save(tmp_path / "a.skops", model))
    batch = {"input_ids": torch.zeros(4, 2), "text": texts}
    np.testing.assert_allclose(expert(batch), model.predict_proba(texts), atol=1e-6)
    pool = ExpertPool({"words": expert})
    pool.convert_from({"tokenizer": "x"})
    with pytest.raises(InputError, match=r"expert words: .* found a dict of input_ids; .* set keep_texts: true"):
        pool({"input_ids": torch.zeros(4, 2)})


def test_types_beyond_those_of_skops_need_a_word(tmp_path):
    path = save(tmp_path / "a.skops", RandomForestClassifier(2, random_state=0).fit(ROWS, LABELS))
    with pytest.raises(InputError, match=r"contains sklearn.tree._tree.Tree, .* add them: trusted: \[sklearn.tree"):
        SklearnExpert(path)
    assert SklearnExpert(path, trusted=["sklearn.tree._tree.Tree"]).classes == ["cat", "dog", "owl"]


def test_what_gives_no_probabilities_is_named(tmp_path):
    with pytest.raises(InputError, match=r"contains a LinearSVC without predict_proba; .* CalibratedClassifierCV"):
        SklearnExpert(save(tmp_path / "a.skops", LinearSVC().fit(ROWS, LABELS)))
    with pytest.raises(InputError, match="contains a Pipeline without predict_proba"):
        SklearnExpert(save(tmp_path / "a.skops", make_pipeline(StandardScaler()).fit(ROWS)))
    model = CalibratedClassifierCV(LinearSVC()).fit(ROWS, LABELS)
    path = save(tmp_path / "a.skops", model)
    assert SklearnExpert(path, trusted=pytest.importorskip("skops.io").get_untrusted_types(file=path))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"found a Pipeline for the weights in .*; .* its skops file to SklearnExpert"):
        Expert(make_pipeline(StandardScaler()), str(tmp_path / "a.ckpt"), ["a"])


def test_rows_of_another_width_are_named(tmp_path):
    model = LogisticRegression().fit(ROWS, LABELS)
    expert = SklearnExpert(save(tmp_path / "a.skops", model))
    with pytest.raises(InputError, match=r"takes 12 values of each sample; found 27, of samples of shape \(3, 3, 3\)"):
        expert(torch.zeros(2, 3, 3, 3))
    with pytest.raises(InputError, match="takes rows of values; found a list: set preprocess"):
        expert([torch.zeros(3, 3, 3)])


def test_other_files_are_named(tmp_path):
    import joblib

    joblib.dump(LogisticRegression().fit(ROWS, LABELS), tmp_path / "a.joblib")
    with pytest.raises(InputError, match=r"a.joblib is a pickled estimator; .* save it with skops.io.dump"):
        SklearnExpert(str(tmp_path / "a.joblib"))
    (tmp_path / "b.skops").write_text("x")
    with pytest.raises(InputError, match="skops cannot read"):
        SklearnExpert(str(tmp_path / "b.skops"))
