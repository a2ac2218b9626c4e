import json
from functools import partial

import numpy as np
import pytest
import torch
from lightning import Trainer

from lightning_fusion import ExpertModule, TextDataModule
from lightning_fusion.data.samplers import LengthSampler
from lightning_fusion.data.text.public import synthetic_texts
from lightning_fusion.data.text.sources import normalise
from lightning_fusion.data.text.tokens import TokenRows
from lightning_fusion.encoders import TextBag, TextTransformer
from lightning_fusion.errors import InputError

SPLITS = ("train", "val", "test")
ROWS = [(f"{word} {noun} {n}", label, domain) for domain, noun in (("a", "book"), ("b", "pan"))
        for label, word in (("good", "great"), ("bad", "poor")) for n in range(20)]  # fmt: skip


def table(path, rows=ROWS, names="text,label,domain"):
    path.write_text("\n".join([names, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def files(root, **arguments):
    few = {"domain_fields": ["domain"], "vocab_size": 300, "batch_size": 8}
    return TextDataModule(root=root, **(few | arguments))


def everything(data, split):
    rows = data.rows(split)
    return rows[torch.arange(len(rows))]


def refused(data):
    with pytest.raises(InputError) as caught:
        data.setup()
    return str(caught.value)


class TestNames:
    def test_blanks_around_labels_and_domains_are_typing(self, tmp_path):
        rows = [(text, f"{label} " if n % 3 else label, f" {domain}" if n % 2 else domain)
                for n, (text, label, domain) in enumerate(ROWS)]  # fmt: skip
        data = files(table(tmp_path / "t.csv", rows))
        assert data.classes == ["bad", "good"] and data.domains == ["a", "b"]

    @pytest.mark.parametrize("mark", [";", "\t"])
    def test_a_file_that_is_cut_otherwise_is_told_as_that(self, tmp_path, mark):
        path = table(tmp_path / "t.csv")
        (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace(",", mark))
        assert f"the file may want delimiter: {mark!r}" in refused(files(path))
        assert files(path, delimiter=mark).classes == ["bad", "good"]

    def test_domains_that_would_be_one_are_told(self, tmp_path):
        rows = [(text, label, "x/y" if n % 2 else "x_y") for n, (text, label, _) in enumerate(ROWS)]
        assert "line 3: the domains 'x_y' and 'x/y' would both be called x_y; rename one" in refused(
            files(table(tmp_path / "t.csv", rows))
        )

    @pytest.mark.parametrize("change", [{"text": ["a", "b"]}, {"label": {"name": "good"}}, {"label": float("nan")}])
    def test_values_that_are_no_text_are_told(self, tmp_path, change):
        lines = [dict(zip(("text", "label", "domain"), row, strict=True)) for row in ROWS]
        lines[4] |= change
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (name,) = change
        message = refused(files(str(tmp_path / "t.jsonl")))
        assert f"line 5: {name} is " in message and "expected a text or number" in message

    def test_a_delimiter_is_one_character(self, tmp_path):
        with pytest.raises(InputError, match=r"delimiter is '\|\|'; expected one character"):
            files(table(tmp_path / "t.csv"), delimiter="||")

    def test_names_that_differ_by_case_are_told(self, tmp_path):
        rows = [(text, label.title() if n % 4 == 0 else label, domain) for n, (text, label, domain) in enumerate(ROWS)]
        with pytest.warns(UserWarning, match="the labels 'Good', 'good' differ by case only, and count as 2"):
            assert len(files(table(tmp_path / "t.csv", rows)).classes) == 4
        rows = [(text, label, domain.upper() if n % 4 == 0 else domain) for n, (text, label, domain) in enumerate(ROWS)]
        with pytest.warns(UserWarning, match="the domains 'A', 'a' differ by case only"):
            files(table(tmp_path / "d.csv", rows)).setup()


class TestOutOfScope:
    """Texts of one's own that are of none of the classes."""

    ROWS = (*ROWS, *((f"why is the sky so {n}", "neither ", "a" if n % 2 else "") for n in range(20)))

    def test_they_have_a_class_that_no_expert_knows(self, tmp_path):
        data = files(table(tmp_path / "t.csv", self.ROWS), out_of_scope_label="neither", out_of_scope="keep")
        assert data.classes == ["bad", "good", "neither"] and data.domains == ["a", "b"]
        assert data.variant(domain="a").classes == ["bad", "good"]
        counts = {split: torch.bincount(everything(data, split).target, minlength=3).tolist() for split in SPLITS}
        assert counts["train"][2] == 0 and counts["test"] == [8, 8, 4] and counts["val"][2] > 0
        outside = everything(data, "test")
        assert not outside.domain[outside.target == 2].any() and outside.domain[outside.target < 2].any(1).all()
        fuser = data.variant(role="fuser", fuser_share=0.3)
        assert torch.bincount(everything(fuser, "test").target, minlength=3).tolist() == [8, 8, 4]

    def test_dropped_they_are_as_if_they_were_not_there(self, tmp_path):
        data = files(table(tmp_path / "t.csv", self.ROWS), out_of_scope_label="neither")
        assert data.classes == ["bad", "good"]
        assert all(everything(data, split).target.max() == 1 for split in SPLITS)

    def test_in_json_lines_the_domain_may_be_missing(self, tmp_path):
        lines = [{"text": text, "label": label.strip(), "domain": domain or None} for text, label, domain in self.ROWS]
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
        data = files(str(tmp_path / "t.jsonl"), out_of_scope_label="neither", out_of_scope="keep")
        assert data.classes[-1] == "neither" and data.domains == ["a", "b"]

    def test_bad_input(self, tmp_path):
        path = table(tmp_path / "t.csv", self.ROWS)
        assert "line 82: domain is empty" in refused(files(path))
        message = refused(files(table(tmp_path / "named.csv"), out_of_scope_label="niether"))
        assert "no text of" in message and "has the label 'niether'; the labels are bad, good" in message
        with pytest.raises(
            InputError, match=r"knows no text out of scope; .* or in one's own files out_of_scope_label"
        ):
            files(path, out_of_scope="keep")
        with pytest.raises(InputError, match="out_of_scope_label is for source files, huggingface"):
            TextDataModule(source="synthetic", out_of_scope_label="x")


class TestSplits:
    def test_each_domain_and_label_has_its_shares(self, tmp_path):
        data = files(table(tmp_path / "t.csv"))
        counts = [[len(everything(data.variant(domain=name), split).target) for split in SPLITS] for name in "ab"]
        assert counts == [[28, 4, 8], [28, 4, 8]]
        assert torch.bincount(everything(data, "test").target).tolist() == [8, 8]
        index = torch.cat([everything(data, split).index for split in SPLITS])
        assert sorted(index.tolist()) == list(range(80))

    def test_equal_texts_stay_in_one_split(self, tmp_path):
        again = [(text.upper() + "  ", label, domain) for text, label, domain in ROWS]
        data = files(table(tmp_path / "t.csv", ROWS + again))
        seen = [{normalise((ROWS + again)[row][0]) for row in everything(data, s).index} for s in SPLITS]
        assert sum(map(len, seen)) == len(set.union(*seen)) == 80

    def test_named_splits_stand_and_their_copies_leave_training(self, tmp_path):
        rows = [(*row, "test" if number % 4 == 0 else "train") for number, row in enumerate(ROWS)]
        rows.append((*ROWS[0], "train"))
        data = files(table(tmp_path / "t.csv", rows, "text,label,domain,part"), split_field="part")
        assert sorted(everything(data, "test").index.tolist()) == list(range(0, 80, 4))
        assert 80 not in torch.cat([everything(data, split).index for split in SPLITS])

    def test_roles_share_no_text_and_one_tokenizer(self, tmp_path):
        expert = files(table(tmp_path / "t.csv"), fuser_share=0.25)
        fuser = expert.variant(role="fuser")
        parts = [set(everything(data, s).index.tolist()) for data in (expert, fuser) for s in ("train", "val")]
        assert sum(map(len, parts)) == len(set.union(*parts)) and all(parts)
        assert expert.preprocessing == fuser.preprocessing == expert.variant(domain="a").preprocessing
        assert torch.equal(everything(expert, "test").index, everything(fuser, "test").index)


class TestTokens:
    def test_a_batch_is_padded_to_its_longest_text(self):
        tokens, offsets = torch.arange(1, 11, dtype=torch.int32), torch.tensor([0, 2, 7, 10])
        batch = TokenRows(tokens, offsets, pad_id=0)[torch.tensor([2, 0])]
        assert batch["input_ids"].tolist() == [[8, 9, 10], [1, 2, 0]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]

    def test_the_cache_gives_the_same_and_reads_no_text(self, tmp_path, monkeypatch):
        root, cache = table(tmp_path / "t.csv"), str(tmp_path / "cache")
        plain, first = files(root), files(root, cache=cache)
        first.prepare_data()
        found = [plain.fingerprint(split) for split in SPLITS]
        monkeypatch.setattr(TextDataModule, "_read", lambda data: pytest.fail("it read the texts again"))
        again = files(root, cache=cache)
        for data in (first, again):
            assert [data.fingerprint(split) for split in SPLITS] == found
        (entry,) = (tmp_path / "cache").iterdir()
        (entry / "tokens.bin").write_bytes(b"1234")
        assert "is damaged (tokens.bin has 4 bytes); remove this folder" in refused(files(root, cache=cache))

    def test_a_saved_tokenizer_reads_alike(self, tmp_path):
        root = table(tmp_path / "t.csv")
        data = files(root)
        data.save_tokenizer(tmp_path / "tokenizer")
        other = files(root, tokenizer=str(tmp_path / "tokenizer"))
        assert other.preprocessing == data.preprocessing and other.vocab_size == data.vocab_size
        assert torch.equal(everything(other, "test").input["input_ids"], everything(data, "test").input["input_ids"])
        for one in (data, other):
            row = everything(one, "test").input["input_ids"][0]
            assert normalise(one.decode(row)) in {normalise(text) for text, _, _ in ROWS}
        assert "tokenizer: found none called" in refused(files(root, tokenizer=str(tmp_path / "nowhere")))

    def test_long_texts_are_cut_and_counted(self, tmp_path):
        letters = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 100_000))
        root = table(tmp_path / "t.csv", [(letters, "good", "a"), ("word " * 20_000, "bad", "a"), *ROWS])
        data = files(root, max_length=16)
        with pytest.MonkeyPatch.context() as patch:
            told = []
            patch.setattr("lightning_fusion.data.text.datamodule.rank_zero_info", told.append)
            data.setup()
        assert told == ["2 of 82 texts are longer than max_length (16 tokens): cut"]
        assert max(len(everything(data, split).input["input_ids"][0]) for split in SPLITS) <= 16

    def test_statistics_tell_domains_apart(self):
        data = TextDataModule(source="synthetic", overlap=0.0)
        one, other = (data.variant(domain=f"domain_{n}").statistics() for n in range(2))
        assert one.norm() == pytest.approx(1) and one @ other < 0.75 < 0.95 < one @ data.variant(
            domain="domain_0"
        ).statistics("test")


class TestOrder:
    def test_batches_hold_similar_lengths_and_every_row_once(self):
        lengths = torch.randint(1, 200, (1003,), generator=torch.Generator().manual_seed(0))
        sampler = LengthSampler(1003, 16, shuffle=True, lengths=lengths)
        batches = list(sampler)
        assert len(batches) == len(sampler) and torch.equal(torch.cat(batches).sort().values, torch.arange(1003))
        assert np.mean([float(lengths[b].max() - lengths[b].min()) for b in batches[:-1]]) < 20
        sampler.set_epoch(1)
        other = list(sampler)
        sampler.set_epoch(0)
        assert all(map(torch.equal, batches, sampler)) and not torch.equal(batches[0], other[0])

    def test_two_processes_see_the_batches_of_one(self):
        lengths = torch.arange(50) % 7
        (one,) = (LengthSampler(50, 8, shuffle=True, lengths=lengths),)
        parts = [LengthSampler(50, 4, shuffle=True, lengths=lengths) for _ in range(2)]
        for rank, part in enumerate(parts):
            part.num_replicas, part.rank = 2, rank
        assert len(parts[0]) == len(parts[1]) == len(one)
        for whole, left, right in zip(one, *parts, strict=True):
            assert set(whole.tolist()) == {*left.tolist(), *right.tolist()}


def save_arrow(path, rows, names):
    """A table as the datasets library writes it, with numbers for labels and their names in the schema."""
    pyarrow = pytest.importorskip("pyarrow", reason="Arrow and Parquet files want pyarrow")
    pytest.importorskip("pyarrow.parquet")

    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[1] = [names.index(label) for label in columns[1]]
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    found = pyarrow.table(dict(zip(("text", "label", "domain"), columns, strict=True)))
    found = found.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(found, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, found.schema) as writer:
            writer.write_table(found)


class TestSources:
    def test_json_lines_with_a_file_per_split(self, tmp_path):
        for name, part in (("train", ROWS[::2]), ("validation", ROWS[1::4]), ("test", ROWS[3::4])):
            lines = [json.dumps(dict(zip(("text", "label", "domain"), row, strict=True))) for row in part]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        data = files(str(tmp_path))
        assert [len(data.rows(split)) for split in SPLITS] == [40, 20, 20]
        same = files(str(tmp_path), source="huggingface")
        assert same.classes == data.classes and [len(same.rows(split)) for split in SPLITS] == [40, 20, 20]

    @pytest.mark.parametrize("kind", ["arrow", "parquet"])
    def test_folders_of_the_datasets_library(self, tmp_path, kind):
        """As ``save_to_disk`` and ``to_parquet`` write them: class names in the schema, a split in parts."""
        parts = {"train/data-00000-of-00002": ROWS[:40:2], "train/data-00001-of-00002": ROWS[40::2]}
        parts |= {"validation/data-00000-of-00001": ROWS[1::4], "test/data-00000-of-00001": ROWS[3::4]}
        for name, rows in parts.items():
            save_arrow(tmp_path / f"{name}.{kind}", rows, ["good", "bad"])
        data = files(str(tmp_path), source="huggingface")
        assert [len(data.rows(split)) for split in SPLITS] == [40, 20, 20]
        same = files(table(tmp_path / "same.csv"))
        assert data.classes == same.classes == ["bad", "good"] and data.domains == same.domains

    def test_one_split_in_parts_is_drawn_from(self, tmp_path):
        for number in range(2):
            save_arrow(tmp_path / f"data-{number:05}-of-00002.arrow", ROWS[number::2], ["good", "bad"])
        (tmp_path / "dataset_info.json").write_text(
            json.dumps({"features": {"label": {"names": ["fine", "poor"], "_type": "ClassLabel"}}})
        )
        data = files(str(tmp_path), source="huggingface")
        assert data.classes == ["fine", "poor"] and sum(len(data.rows(split)) for split in SPLITS) == len(ROWS)

    @pytest.mark.parametrize("kind", ["arrow", "parquet"])
    def test_a_damaged_table_is_named(self, tmp_path, kind):
        path = tmp_path / f"train.{kind}"
        save_arrow(path, ROWS, ["good", "bad"])
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(InputError, match=rf"train\.{kind}: .*; the file is damaged or of another kind"):
            files(str(tmp_path), source="huggingface").setup()

    def test_domains_can_name_experts(self, tmp_path):
        names = {"a": "Film / Video", "b": "U.S. News"}
        data = files(table(tmp_path / "t.csv", [(text, label, names[domain]) for text, label, domain in ROWS]))
        assert data.domains == ["Film _ Video", "U_S_ News"]
        assert data.variant(domain="U_S_ News").own_domains == ["U_S_ News"]

    def test_pairs_are_read_together(self, tmp_path):
        data = files(table(tmp_path / "t.csv", names="text,label,other"), pair="other", domain_fields=None)
        ids = everything(data, "train").input["input_ids"]
        assert ((ids == 2).sum(1) == 1).all() and data.domains == ["all"]

    def test_clinc150_keeps_queries_out_of_scope_for_evaluation(self, tmp_path):
        domains = {"bank": ["pay", "save"], "trip": ["fly", "stay"]}
        labels = [label for each in domains.values() for label in each]
        queries = {s: [[f"{s} {label} {n}", label] for label in labels for n in range(4)] for s in SPLITS}
        queries |= {f"oos_{s}": [[f"{s} what {n}", "oos"] for n in range(3)] for s in SPLITS}
        (tmp_path / "data_full.json").write_text(json.dumps(queries))
        (tmp_path / "domains.json").write_text(json.dumps(domains))
        data = TextDataModule("clinc150", str(tmp_path), vocab_size=300)
        assert data.classes == sorted(labels) and len(data.rows("test")) == 16
        kept = data.variant(out_of_scope="keep")
        batch = everything(kept, "test")
        assert kept.classes == [*sorted(labels), "oos"] and (batch.target == 4).sum() == 3
        assert not batch.domain[batch.target == 4].any() and len(kept.rows("train")) == 16
        assert data.variant(domain="bank").classes == ["pay", "save"]

    def test_reviews(self, tmp_path):
        for domain in ("books", "dvd"):
            (tmp_path / domain).mkdir()
            for label in ("positive", "negative"):
                block = "".join(f"<review_text>\n{label} caf\xe9 {domain} {n}\n</review_text>\n" for n in range(10))
                (tmp_path / domain / f"{label}.review").write_bytes(block.encode("latin-1"))
        data = TextDataModule("reviews", str(tmp_path), vocab_size=300)
        assert data.domains == ["books", "dvd"] and data.classes == ["negative", "positive"]
        assert [len(data.rows(split)) for split in SPLITS] == [28, 4, 8]
        message = refused(data.variant(encoding="utf-8"))
        assert "negative.review, line 2: found byte 0xe9, which is no utf-8; set encoding" in message

    def test_overlap_is_a_dial(self):
        def shared(overlap):
            texts = synthetic_texts(overlap, num_domains=2)
            parts = (texts.texts[:240], texts.texts[240:])
            sets = [set(" ".join(part).split()) for part in parts]
            return len(sets[0] & sets[1]) / len(sets[0] | sets[1])

        assert shared(0.0) < shared(0.5) < shared(1.0) == 1.0


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([*ROWS, ("  ", "good", "a")], {}, r"t\.csv, line 82: the text is empty; repair or remove it"),
        (ROWS, {"text": "body"}, r"t\.csv has no column body; its columns are text, label, domain; set text"),
        (ROWS, {"columns": ["text", "text", "label"]}, r"has text twice among its columns; rename one"),
        ([*ROWS, ("one", "good")], {}, r"line 82: found 2 values, expected 3 \(text, label, domain\); quote texts"),
        ([*ROWS, ("one", "", "a")], {}, r"line 82: label is empty; name it, or remove the row"),
        ([*ROWS, ("one", "good", " ")], {}, r"line 82: domain is empty; name it, or remove the row"),
        (ROWS, {"labels": ["good", "fine"]}, r"has the label 'bad'; expected one of good, fine: add it to labels"),
        (ROWS, {"domain": "c"}, r"domain is 'c'; expected one or several of the 2 domains a, b"),
        (ROWS[:20], {}, r"domain a has good as its only class; a classifier needs two"),
    ],
)
def test_bad_tables_are_refused(tmp_path, rows, arguments, message):
    with pytest.raises(InputError, match=message):
        files(table(tmp_path / "t.csv", rows), **arguments).setup()


def test_a_label_unseen_in_training_is_refused(tmp_path):
    rows = [(*row, "test" if n % 4 == 0 else "train") for n, row in enumerate(ROWS)]
    path = table(tmp_path / "t.csv", [*rows, ("new one", "odd", "a", "test")], "text,label,domain,part")
    assert "the label odd is in no training text of domain a, b; remove its rows" in refused(
        files(path, split_field="part")
    )
    assert files(path, split_field="part", labels=["bad", "good", "odd"]).classes == ["bad", "good", "odd"]


def test_texts_of_unknown_tokens_are_refused_or_dropped(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"[UNK]": 0, "[PAD]": 1, "great": 2, "poor": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(tmp_path / "words")
    path = table(tmp_path / "t.csv", [*ROWS, ("xyz", "good", "a")])
    data = files(path, tokenizer=str(tmp_path / "words"))
    assert "line 82: the text is made of tokens that the tokenizer does not know; repair" in refused(data)
    dropped = data.variant(unreadable="drop")
    assert sum(len(dropped.rows(split)) for split in SPLITS) == 80 and dropped.preprocessing["pad_id"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "synthetic", "root": "x"}, "source synthetic needs no root; remove it"),
        ({"root": None}, "source files needs root: where the texts are"),
        ({"root": "x", "vocab_size": 100}, "vocab_size is 100; expected at least 260: 256 bytes"),
        ({"root": "x", "role": "fuser"}, "role fuser reads texts that no expert trains on; set fuser_share"),
        ({"source": "reviews", "root": "x", "pair": "y"}, "pair is for source files, huggingface, ag_news; remove it"),
        ({"root": "x", "out_of_scope": "keep"}, "source files knows no text out of scope"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        TextDataModule(**arguments)


def test_a_network_with_fewer_tokens_than_the_data_is_refused():
    with pytest.raises(
        InputError, match=r"tokenizer has 300 tokens, the network knows 200; set the network's vocab_size"
    ):
        ExpertModule(partial(TextBag, vocab_size=200), classes=["a", "b"], vocab_size=300)


def fitted(folder, epochs, resume=None):
    torch.manual_seed(0)
    data = TextDataModule(source="synthetic", domain="domain_0", batch_size=32, vocab_size=300)
    module = ExpertModule(partial(TextTransformer, vocab_size=300, width=16, layers=1), classes=data.classes,
                          optimizer=partial(torch.optim.AdamW, lr=1e-2), scheduler=partial(
                              torch.optim.lr_scheduler.ConstantLR, factor=1.0))  # fmt: skip
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=epochs, enable_checkpointing=False, **quiet)
    trainer.fit(module, data, ckpt_path=resume, weights_only=False if resume else None)
    if resume is None:
        trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module, trainer, data


def test_an_expert_learns_and_resumes_bit_for_bit(tmp_path):
    whole, trainer, data = fitted(tmp_path, 4)
    (result,) = trainer.test(whole, data, verbose=False)
    assert result["test_accuracy"] > 0.65  # chance is 0.5
    fitted(tmp_path, 2)
    resumed, _, _ = fitted(tmp_path, 4, tmp_path / "2.ckpt")
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.data
class TestRealData:
    def test_blitzer(self, real_data):
        data = TextDataModule("reviews", str(real_data("blitzer")), vocab_size=300)
        assert data.domains == ["books", "dvd", "electronics", "kitchen"]
        assert sum(len(data.rows(split)) for split in SPLITS) == 8000

    def test_clinc150(self, real_data):
        data = TextDataModule("clinc150", str(real_data("clinc150")), vocab_size=300)
        assert len(data.domains) == 10 and len(data.classes) == 150
        assert [len(data.rows(split)) for split in SPLITS] == [14995, 3000, 4500]  # 5 texts of test leave training
