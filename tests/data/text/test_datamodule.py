from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.splits import SPLITS, everything
from helpers.text_tables import ROWS, delimited, refused, table
from lightning import Trainer
from thirdparty.text import LinesTextDataModule, write_lines

from lightning_fusion import ExpertModule, TextDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.data.text.texts import normalize
from lightning_fusion.encoders import TextBag, TextTransformer
from lightning_fusion.errors import InputError


class TestSplits:
    def test_each_domain_and_label_has_its_shares(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv"))
        counts = [[len(everything(data.variant(domain=name), split).target) for split in SPLITS] for name in "ab"]
        assert counts == [[28, 4, 8], [28, 4, 8]]
        assert torch.bincount(everything(data, "test").target).tolist() == [8, 8]
        index = torch.cat([everything(data, split).index for split in SPLITS])
        assert sorted(index.tolist()) == list(range(80))

    def test_equal_texts_stay_in_one_split(self, tmp_path):
        again = [(text.upper() + "  ", label, domain) for text, label, domain in ROWS]
        data = delimited(table(tmp_path / "t.csv", ROWS + again))
        seen = [{normalize((ROWS + again)[row][0]) for row in everything(data, s).index} for s in SPLITS]
        assert sum(map(len, seen)) == len(set.union(*seen)) == 80

    def test_named_splits_stand_and_their_copies_leave_training(self, tmp_path):
        rows = [(*row, "test" if number % 4 == 0 else "train") for number, row in enumerate(ROWS)]
        rows.append((*ROWS[0], "train"))
        data = delimited(table(tmp_path / "t.csv", rows, "text,label,domain,part"), split_field="part")
        assert sorted(everything(data, "test").index.tolist()) == list(range(0, 80, 4))
        assert 80 not in torch.cat([everything(data, split).index for split in SPLITS])

    def test_roles_share_no_text_and_one_tokenizer(self, tmp_path):
        expert = delimited(table(tmp_path / "t.csv"), fuser_fraction=0.25)
        fuser = expert.variant(role="fuser")
        parts = [set(everything(data, s).index.tolist()) for data in (expert, fuser) for s in ("train", "val")]
        assert sum(map(len, parts)) == len(set.union(*parts)) and all(parts)
        assert expert.preprocessing == fuser.preprocessing == expert.variant(domain="a").preprocessing
        assert torch.equal(everything(expert, "test").index, everything(fuser, "test").index)


class TestTokens:
    def test_the_cache_gives_the_same_and_reads_no_text(self, tmp_path, monkeypatch):
        root, cache = table(tmp_path / "t.csv"), str(tmp_path / "cache")
        plain, first = delimited(root), delimited(root, cache=cache)
        first.prepare_data()
        found = [plain.fingerprint(split) for split in SPLITS]
        monkeypatch.setattr(TextDataModule, "read", lambda data: pytest.fail("it read the texts again"))
        again = delimited(root, cache=cache)
        for data in (first, again):
            assert [data.fingerprint(split) for split in SPLITS] == found
        (entry,) = (tmp_path / "cache").iterdir()
        (file,) = entry.glob("data-*/0.bin")
        file.write_bytes(b"1234")
        assert "is damaged (0.bin of tokens has 4 bytes, the manifest has" in refused(delimited(root, cache=cache))

    def test_a_cache_is_of_the_arguments_that_read(self, tmp_path):
        root, cache = table(tmp_path / "t.csv"), str(tmp_path / "cache")
        data = delimited(root, cache=cache)
        for change in ({}, {"batch_size": 3}, {"domain": "a"}, {"bucket": False}, {"labels": ["good", "bad"]}):
            assert data.variant(**change).own_domains
        assert len(list((tmp_path / "cache").iterdir())) == 1
        assert delimited(root, cache=cache, label="domain").classes == ["a", "b"]
        assert data.variant(seed=1).own_domains and len(list((tmp_path / "cache").iterdir())) == 3

    def test_variants_share_what_is_read(self, tmp_path):
        data = delimited(table(tmp_path / "t.csv"), fuser_fraction=0.25)
        tokens = data.rows("train").inputs.tokens
        for change in ({"batch_size": 3}, {"domain": "a"}, {"role": "fuser"}, {"out_of_scope": "drop"}):
            assert data.variant(**change).rows("train").inputs.tokens is tokens
        assert data.variant(max_length=8).rows("train").inputs.tokens is not tokens
        assert data.variant(label="domain").classes == ["a", "b"]

    def test_a_saved_tokenizer_reads_alike(self, tmp_path):
        root = table(tmp_path / "t.csv")
        data = delimited(root)
        data.save_tokenizer(tmp_path / "tokenizer")
        other = delimited(root, tokenizer=str(tmp_path / "tokenizer"))
        assert other.preprocessing == data.preprocessing and other.vocab_size == data.vocab_size
        assert torch.equal(everything(other, "test").input["input_ids"], everything(data, "test").input["input_ids"])
        for one in (data, other):
            row = everything(one, "test").input["input_ids"][0]
            assert normalize(one.decode(row)) in {normalize(text) for text, _, _ in ROWS}
        assert refused(delimited(str(tmp_path / "nowhere.csv"))).startswith("root: found no file or folder")
        assert "tokenizer: found none named" in refused(delimited(root, tokenizer=str(tmp_path / "nowhere")))

    @pytest.mark.slow
    def test_long_texts_are_cut_and_counted(self, tmp_path):
        letters = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 100_000))
        root = table(tmp_path / "t.csv", [(letters, "good", "a"), ("word " * 20_000, "bad", "a"), *ROWS])
        data = delimited(root, max_length=16)
        with pytest.MonkeyPatch.context() as patch:
            told: list[str] = []
            patch.setattr("lightning_fusion.data.domains.rank_zero_info", told.append)
            data.setup()
        assert told == ["truncated 2 of 82 texts longer than max_length (16 tokens)"]
        assert max(len(everything(data, split).input["input_ids"][0]) for split in SPLITS) <= 16

    @pytest.mark.slow
    def test_statistics_tell_domains_apart(self):
        data = SyntheticTextDataModule(overlap=0.0)
        one, other = (data.variant(domain=f"domain_{n}").statistics() for n in range(2))
        assert one.norm() == pytest.approx(1) and one @ other < 0.75 < 0.95 < one @ data.variant(
            domain="domain_0"
        ).statistics("test")


def test_a_label_unseen_in_training_is_rejected(tmp_path):
    rows = [(*row, "test" if n % 4 == 0 else "train") for n, row in enumerate(ROWS)]
    path = table(tmp_path / "t.csv", [*rows, ("new one", "odd", "a", "test")], "text,label,domain,part")
    assert "the label odd is in no training text of domain a, b; remove its rows" in refused(
        delimited(path, split_field="part")
    )
    assert delimited(path, split_field="part", labels=["bad", "good", "odd"]).classes == ["bad", "good", "odd"]


def test_texts_of_unknown_tokens_are_rejected_or_dropped(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"[UNK]": 0, "[PAD]": 1, "great": 2, "poor": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(tmp_path / "words")
    path = table(tmp_path / "t.csv", [*ROWS, ("xyz", "good", "a")])
    data = delimited(path, tokenizer=str(tmp_path / "words"))
    assert "line 82: the text is made of unknown tokens only; repair" in refused(data)
    dropped = data.variant(unreadable="drop")
    assert sum(len(dropped.rows(split)) for split in SPLITS) == 80 and dropped.preprocessing["pad_id"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 100}, "vocab_size is 100; expected at least 260: 256 byte tokens"),
        ({"role": "fuser"}, "role fuser needs texts that no expert trains on; set fuser_fraction"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0; expected a fraction from 0, below 1"),
        ({"val_fraction": 0.8, "test_fraction": 0.3}, "leave no training samples; lower them"),
        ({"labels": ["good", "good"]}, "expected two or more different names"),
    ],
)
def test_arguments_that_do_not_fit_are_rejected(arguments, message):
    with pytest.raises(InputError, match=message):
        TextDataModule(root="x.csv", **arguments)


def test_a_network_with_fewer_tokens_than_the_data_is_rejected():
    with pytest.raises(
        InputError, match=r"tokenizer has 300 tokens, the network has 200; set the network's vocab_size"
    ):
        ExpertModule(partial(TextBag, vocab_size=200), classes=["a", "b"], vocab_size=300)


def fitted(folder, epochs, resume=None):
    torch.manual_seed(0)
    data = SyntheticTextDataModule(domain="domain_0", batch_size=32, vocab_size=300)
    module = ExpertModule(partial(TextTransformer, vocab_size=300, width=16, layers=1), classes=data.classes,
                          optimizer=partial(torch.optim.AdamW, lr=1e-2), scheduler=partial(
                              torch.optim.lr_scheduler.ConstantLR, factor=1.0))  # fmt: skip
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=epochs, enable_checkpointing=False, **quiet)
    trainer.fit(module, data, ckpt_path=resume, weights_only=False if resume else None)
    if resume is None:
        trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return module, trainer, data


@pytest.mark.slow
def test_an_expert_learns_and_resumes_bit_for_bit(tmp_path):
    whole, trainer, data = fitted(tmp_path, 4)
    (result,) = trainer.test(whole, data, verbose=False)
    assert result["test_accuracy"] > 0.65  # chance is 0.5
    fitted(tmp_path, 2)
    resumed, _, _ = fitted(tmp_path, 4, tmp_path / "2.ckpt")
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


class TestASourceOfSomebodyElse:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return write_lines(tmp_path / "lines")

    @pytest.mark.slow
    def test_works_by_class_path(self, folder):
        cli = main(["fit", "-c", str(Path(__file__).parents[2] / "conf/text_thirdparty.yaml")])
        assert cli.datamodule.domains == ["film", "shop"] and cli.model.classes == ["bad", "good"]
        assert sum(map(len, map(cli.datamodule.rows, SPLITS))) == 40 and len(list(Path("cache").iterdir())) == 1
        assert cli.model.hparams["vocab_size"] == cli.datamodule.vocab_size

    def test_has_variants_and_errors_of_its_own(self, folder):
        data = LinesTextDataModule(str(folder), comment="%", vocab_size=300)
        assert dict(data.hparams)["comment"] == "%" and dict(data.hparams)["seed"] == 0
        other = data.variant(comment="#", domain="film")
        assert sum(len(other.rows(split)) for split in SPLITS) == 42  # with the two lines that are comments elsewhere
        with pytest.raises(InputError, match="comment is '--'; expected one character"):
            data.variant(comment="--")

    def test_without_files_there_is_no_cache(self):
        with pytest.raises(InputError, match="cache: SyntheticTextDataModule reads no file to cache; remove cache"):
            SyntheticTextDataModule(cache="cache")
