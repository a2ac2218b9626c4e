import json

from helpers.splits import SPLITS, everything
from helpers.text_tables import refused, sizes

from lightning_fusion.data.text.public import Clinc150TextDataModule, ReviewsTextDataModule


def test_clinc150_keeps_queries_out_of_scope_for_evaluation(tmp_path):
    domains = {"bank": ["pay", "save"], "trip": ["fly", "stay"]}
    labels = [label for each in domains.values() for label in each]
    queries = {s: [[f"{s} {label} {n}", label] for label in labels for n in range(4)] for s in SPLITS}
    queries |= {f"oos_{s}": [[f"{s} what {n}", "oos"] for n in range(3)] for s in SPLITS}
    (tmp_path / "data_full.json").write_text(json.dumps(queries))
    (tmp_path / "domains.json").write_text(json.dumps(domains))
    data = Clinc150TextDataModule(str(tmp_path), vocab_size=300)
    assert data.classes == sorted(labels) and len(data.rows("test")) == 16
    kept = data.variant(out_of_scope="keep")
    batch = everything(kept, "test")
    assert kept.classes == [*sorted(labels), "oos"] and (batch.target == 4).sum() == 3
    assert not batch.domain[batch.target == 4].any() and len(kept.rows("train")) == 16
    assert data.variant(domain="bank").classes == ["pay", "save"]


def test_reviews(tmp_path):
    for domain in ("books", "dvd"):
        (tmp_path / domain).mkdir()
        for label in ("positive", "negative"):
            block = "".join(f"<review_text>\n{label} caf\xe9 {domain} {n}\n</review_text>\n" for n in range(10))
            (tmp_path / domain / f"{label}.review").write_bytes(block.encode("latin-1"))
    data = ReviewsTextDataModule(str(tmp_path), vocab_size=300)
    assert data.domains == ["books", "dvd"] and data.classes == ["negative", "positive"]
    assert sizes(data) == [28, 4, 8]
    message = refused(data.variant(encoding="utf-8"))
    assert "negative.review, line 2: found byte 0xe9, which is not utf-8; set encoding" in message


class TestRealData:
    def test_blitzer(self, real_data):
        data = ReviewsTextDataModule(str(real_data("blitzer")), vocab_size=300)
        assert data.domains == ["books", "dvd", "electronics", "kitchen"]
        assert sum(len(data.rows(split)) for split in SPLITS) == 8000

    def test_clinc150(self, real_data):
        data = Clinc150TextDataModule(str(real_data("clinc150")), vocab_size=300)
        assert len(data.domains) == 10 and len(data.classes) == 150
        assert sizes(data) == [14995, 3000, 4500]  # 5 texts of test leave training
