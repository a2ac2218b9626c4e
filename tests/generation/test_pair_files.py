import numpy as np
import pytest
from helpers import data_files

from lightning_fusion.errors import InputError
from lightning_fusion.generation.pair_files import PairFiles


@pytest.fixture
def news(tmp_path):
    data_files.news_files(tmp_path / "news")
    return tmp_path / "news"


def test_parts_share_no_text_and_every_domain_is_in_each(news):
    rows = (news / "test.csv").read_text()
    (news / "test.csv").write_text(rows + rows.replace("Report", "REPORT"))  # each text twice, but for case
    data = data_files.news(news, vocab_size=400)
    owner = np.array(data.texts.domains)
    assert data.domains == ["Sports", "World"] and len(data.part) == 160
    assert (data.part[:80] == data.part[80:]).all()
    assert all(set(owner[data.part == part]) == {"Sports", "World"} for part in range(5))
    assert 0.15 < (data.part == 4).mean() < 0.25
    assert (data.variant(seed=1).part != data.part).any()


def test_roles_have_their_own_pairs_and_the_tokenizer_reads_the_experts_training_texts_only(news):
    rows = (news / "test.csv").read_text().splitlines()
    data = data_files.news(news, vocab_size=400, batch_size=4, ask_batch_size=7)
    expert, fuser = data.module("expert", "World"), data.module("fuser")
    assert len(expert.rows("train")) == sum(data.texts.domains[row] == "World" for row in data.rows("expert", "train"))
    assert (expert.batch_size, fuser.batch_size) == (4, 7)
    with pytest.raises(InputError, match="no split 'test'"):
        expert.rows("test")
    batch = next(iter(fuser.test_dataloader()))
    row = data.rows("fuser", "test")[0]
    ids = batch.input["target_ids"][0]
    assert data.decode(ids[ids != 0].tolist()) == data.texts.labels[row]
    unseen = [row for row in range(len(rows)) if data.part[row] != 0]
    for place in unseen:
        rows[place] = rows[place].replace("Report", "Zebra")
    (news / "test.csv").write_text("\n".join(rows))
    again = data_files.news(news, vocab_size=400)
    assert (again.part == data.part).all() and again.fingerprint() != data.fingerprint()
    assert again.tokenizer.fingerprint == data.tokenizer.fingerprint


def test_experts_learn_from_cut_texts_and_are_judged_by_whole_ones(news):
    whole = data_files.news(news, vocab_size=300, max_read=500, max_write=500)
    cut = whole.variant(max_read=12, max_write=5)
    assert whole.tell_cut() is None
    encode = whole.tokenizer.backend.encode
    read = sum(len(encode(text).ids) > 12 for text in whole.texts.texts)
    write = sum(len(encode(text).ids) > 5 for text in whole.texts.labels)
    assert 0 < write < len(cut.part) and read > 0
    assert cut.tell_cut() == (
        f"Of {len(cut.part)} pairs, {read} to read are longer than max_read (12 tokens) and {write} to write are "
        "longer than max_write (5 tokens): experts receive truncated texts."
    )
    for split in ("train", "val"):
        (batch,) = cut.module("expert", "World")._loader(split)
        assert batch.input["input_ids"].shape[1] == 12 and batch.input["target_ids"].shape[1] == 5
    for split in ("train", "val", "test"):
        rows = cut.rows("fuser", split)
        inputs = cut.module("fuser").rows(split).inputs[np.arange(len(rows))]
        assert inputs["input_ids"].shape[1] == 12
        texts = [cut.decode([token for token in ids if token != 0]) for ids in inputs["target_ids"].tolist()]
        assert texts == [cut.texts.labels[row] for row in rows]


def test_named_columns_and_slashes(tmp_path):
    path = tmp_path / "pairs.csv"
    lines = [f"{kind},long {row} text,short {row}" for row in range(20) for kind in ("a/b", "c")]
    path.write_text("\n".join(["section,body,head", *lines]))
    data = PairFiles(str(path), read="body", write="head", domain_fields=["section"], vocab_size=300)
    assert data.domains == ["a/b", "c"] and data.texts.labels[0] == "short 0"


def test_bad_input(news, tmp_path):
    with pytest.raises(InputError, match="domain_fields: found none; name the column"):
        PairFiles(str(news / "test.csv"), [])
    with pytest.raises(InputError, match=r"test_fraction is 0\.9, fuser_fraction 0\.2"):
        data_files.news(news, test_fraction=0.9)
    with pytest.raises(InputError, match="must be at least 1"):
        data_files.news(news, max_read=0)
    path = tmp_path / "few.csv"
    path.write_text("d,description,title\n" + "a,x y,x\n" + "".join(f"b,text {row},t\n" for row in range(20)))
    with pytest.raises(InputError, match=r"has no pair of the domain\(s\) a; give more pairs"):
        PairFiles(str(path), domain_fields=["d"]).part  # noqa: B018
    path.write_text("d,description,title\na, ,x\n")
    with pytest.raises(InputError, match=r"few.csv, line 2: description is empty"):
        PairFiles(str(path), domain_fields=["d"]).texts  # noqa: B018
