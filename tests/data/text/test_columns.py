import json

import pytest
import torch
from helpers.splits import SPLITS, everything
from helpers.text_tables import FEW, ROWS, delimited, refused, table

from lightning_fusion.data.text.json_lines import JSONTextDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError


class TestNames:
    def test_blanks_around_labels_and_domains_are_typing(self, tmp_path):
        rows = [(text, f"{label} " if n % 3 else label, f" {domain}" if n % 2 else domain)
                for n, (text, label, domain) in enumerate(ROWS)]  # fmt: skip
        data = delimited(table(tmp_path / "t.csv", rows))
        assert data.classes == ["bad", "good"] and data.domains == ["a", "b"]

    @pytest.mark.parametrize("change", [{"text": ["a", "b"]}, {"label": {"name": "good"}}])
    def test_values_that_are_no_text_are_reported(self, tmp_path, change):
        lines = [dict(zip(("text", "label", "domain"), row, strict=True)) for row in ROWS]
        lines[4] |= change
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (name,) = change
        message = refused(JSONTextDataModule(str(tmp_path / "t.jsonl"), **FEW))
        assert f"line 5: {name} is " in message and "expected a text or number" in message

    def test_names_that_differ_by_case_are_reported(self, tmp_path):
        rows = [(text, label.title() if n % 4 == 0 else label, domain) for n, (text, label, domain) in enumerate(ROWS)]
        message = (
            "the labels 'Bad' and 'bad', 'Good' and 'good' are nearly equal and count as 4: .*"
            "labels: {'bad': 'Bad', 'good': 'Good'}"
        )
        with pytest.warns(UserWarning, match=message):
            assert len(delimited(table(tmp_path / "t.csv", rows)).classes) == 4
        rows = [(text, label, domain.upper() if n % 4 == 0 else domain) for n, (text, label, domain) in enumerate(ROWS)]
        with pytest.warns(UserWarning, match="the domains 'A' and 'a', 'B' and 'b' are nearly equal"):
            delimited(table(tmp_path / "d.csv", rows)).setup()

    def test_domains_are_free_text(self, tmp_path):
        names = {"a": "Film / Video", "b": "U.S. News"}
        data = delimited(table(tmp_path / "t.csv", [(text, label, names[domain]) for text, label, domain in ROWS]))
        assert data.domains == ["Film / Video", "U.S. News"]
        assert data.variant(domain="U.S. News").own_domains == ["U.S. News"]


class TestOutOfScope:
    """Texts of one's own that are of none of the classes."""

    ROWS = (*ROWS, *((f"why is the sky so {n}", "neither ", "a" if n % 2 else "") for n in range(20)))

    def test_they_have_a_class_that_no_expert_knows(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv", self.ROWS), out_of_scope_label="neither", out_of_scope="keep")
        assert data.classes == ["bad", "good", "neither"] and data.domains == ["a", "b"]
        assert data.variant(domain="a").classes == ["bad", "good"]
        counts = {split: torch.bincount(everything(data, split).target, minlength=3).tolist() for split in SPLITS}
        assert counts["train"][2] == 0 and counts["test"] == [8, 8, 4] and counts["val"][2] > 0
        outside = everything(data, "test")
        assert not outside.domain[outside.target == 2].any() and outside.domain[outside.target < 2].any(1).all()
        fuser = data.variant(role="fuser", fuser_fraction=0.3)
        assert torch.bincount(everything(fuser, "test").target, minlength=3).tolist() == [8, 8, 4]

    def test_dropped_they_are_as_if_they_were_not_there(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv", self.ROWS), out_of_scope_label="neither")
        assert data.classes == ["bad", "good"]
        assert all(everything(data, split).target.max() == 1 for split in SPLITS)

    def test_in_json_lines_the_domain_may_be_missing(self, tmp_path):
        lines = [{"text": text, "label": label.strip(), "domain": domain or None} for text, label, domain in self.ROWS]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
        data = JSONTextDataModule(str(tmp_path / "t.jsonl"), out_of_scope_label="neither", out_of_scope="keep", **FEW)
        assert data.classes[-1] == "neither" and data.domains == ["a", "b"]

    def test_bad_input(self, tmp_path):
        path = table(tmp_path / "t.csv", self.ROWS)
        assert "line 82: domain is empty" in refused(delimited(path))
        message = refused(delimited(table(tmp_path / "named.csv"), out_of_scope_label="niether"))
        assert "no text of" in message and "has the label 'niether'; the labels are bad, good" in message
        with pytest.raises(InputError, match=r"out_of_scope is keep, but out_of_scope_label is not set"):
            delimited(path, out_of_scope="keep")


class TestNamesOfValues:
    """AG News has numbers for classes, and no line of names."""

    ROWS = [f'"{1 + n % 2}","title {n}","{("treaty", "match")[n % 2]} number {n}"' for n in range(40)]
    NEWS = {"columns": ["class", "title", "text"], "label": "class", "domain_fields": ["class"]}

    def test_labels_and_domains_have_them(self, tmp_path):
        (tmp_path / "test.csv").write_text("\n".join(self.ROWS))
        names = {"class": {1: "World", "2": "Sci/Tech"}}
        data = delimited(str(tmp_path / "test.csv"), value_names=names, **self.NEWS)
        assert data.classes == ["Sci/Tech", "World"] and data.domains == ["Sci/Tech", "World"]
        assert data.variant(domain="World").classes == ["World"]  # a domain is a class

    def test_bad_input(self, tmp_path):
        (tmp_path / "test.csv").write_text("\n".join(self.ROWS))
        data = delimited(str(tmp_path / "test.csv"), value_names={"class": {"1": "World"}}, **self.NEWS)
        assert "test.csv, line 2: class is '2'; expected one of 1: add it to value_names" in refused(data)
        with pytest.raises(InputError, match="value_names has kind, which is not a column that is read"):
            delimited("x.csv", value_names={"kind": {"1": "World"}})


class TestUnlabeledTexts:
    MORE = (("a fine book 98", "", "a"), ("a fine pan 99", " ", "b"), ("great pan 0!", "unsure", "b"))

    @pytest.mark.parametrize(("unlabeled", "count"), [(None, 0), ("drop", 0), ("keep", 3)])
    def test_are_in_training_where_they_are_kept(self, tmp_path, unlabeled, count):
        plain = delimited(table(tmp_path / "plain.csv"))
        root = table(tmp_path / "t.csv", [*ROWS, *self.MORE])
        data = delimited(root, ignored_labels=["unsure"], unlabeled=unlabeled)
        assert data.classes == plain.classes and data.preprocessing == plain.preprocessing
        for split in SPLITS:
            own, same = everything(data, split), everything(plain, split)
            kept = own.target >= 0
            assert torch.equal(own.index[kept], same.index) and torch.equal(own.target[kept], same.target)
            assert int((own.target == -100).sum()) == (count if split == "train" else 0)
        assert (everything(data.variant(role="fuser", fuser_fraction=0.25), "train").target >= 0).all()

    def test_belong_to_the_target_of_a_transfer(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv", [*ROWS, *self.MORE]), ignored_labels=["unsure"])
        target = TargetDataModule(data, "b", labeled_per_class=2).rows("train")
        without = TargetDataModule(data.variant(unlabeled="drop"), "b", labeled_per_class=2).rows("train")
        assert len(target) == len(without) + 2 and int(target.labeled.sum()) == 4

    def test_equal_to_a_held_out_text_are_left_out(self, tmp_path):
        rows = [(*row, "test" if number % 4 == 0 else "train") for number, row in enumerate(ROWS)]
        rows += [(ROWS[0][0].upper(), "", "a", "train"), ("new one", "", "a", "train"), ("new two", "", "a", "test")]
        root = table(tmp_path / "t.csv", rows, "text,label,domain,part")
        data = delimited(root, split_field="part", unlabeled="keep")
        assert set(everything(data, "train").index.tolist()) & {80, 81, 82} == {81}

    def test_objects_may_lack_the_label(self, tmp_path):
        rows = [{"text": text, "label": label} for text, label, _ in ROWS] + [{"text": "new"}]
        path = tmp_path / "t.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        assert 80 in everything(JSONTextDataModule(str(path), unlabeled="keep"), "train").index
        path.write_text("\n".join(json.dumps({"text": row["text"], "lable": 1}) for row in rows))
        assert "has no column label; its columns are text, lable" in refused(JSONTextDataModule(str(path)))
