import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import language_models
from helpers.pages import samples_of

from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.generators import TransformersGenerator
from lightning_fusion.generation.choices import read_choices
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.recipes.generation.multiple_choice import CALIBRATED, MAIN, PROBABILITIES, multiple_choice, prompt
from lightning_fusion.store import ArrayStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    language_models.choice_files(folder / "mmlu")
    for number, kind in enumerate(("gpt2", "t5")):
        language_models.save_speaker(folder / kind, kind, seed=number)
    return folder


def start(folder, **more):
    experts = {kind: str(folder / kind) for kind in ("gpt2", "t5")}
    settings = {"categories": str(folder / "mmlu/categories.csv"), "fuser_epochs": 2, "hidden": 8, "max_length": 48}
    settings |= {"trainer": {"accelerator": "cpu"}, "output": str(folder / "run"), "experts": experts}
    return multiple_choice(str(folder / "mmlu"), **(settings | more))


@pytest.fixture(scope="module")
def report(folder):
    return start(folder)


@pytest.mark.slow
def test_an_experts_answers_are_its_likeliest_letters(folder, report):
    network = TransformersGenerator(str(folder / "gpt2")).eval()
    tokenizer = TextTokenizer.load(str(folder / "gpt2"), download=False).backend
    found = read_choices(folder / "mmlu", "test")
    right = []
    for question, options, answer in zip(found.questions, found.options, found.answers, strict=True):
        ids = torch.tensor([tokenizer(prompt(question, options, listed=True))["input_ids"][-48:]])
        scores = []
        for letter in "ABCD":
            text = [*tokenizer(f" {letter}", add_special_tokens=False)["input_ids"], 2]
            whole = torch.cat([ids, torch.tensor([text])], 1)
            with torch.no_grad():
                logs = network.model(whole).logits.log_softmax(2)[0]
            first = ids.shape[1]
            scores.append(sum(float(logs[first - 1 + place, token]) for place, token in enumerate(text)))
        right.append(int(np.argmax(scores)) == answer)
    assert report.values("single expert gpt2") == pytest.approx([np.mean(right)])


@pytest.mark.slow
def test_the_calibrated_expert_is_the_best_on_validation(folder, report):
    rows = {}
    for number in (0, 1):
        stored = ArrayStore(folder / f"run/answers/{number}", "answers of an expert")
        name = Path(stored.metadata["expert"]).name
        rows[name] = {split: stored[f"{split}_likelihood"].argmax(1) for split in ("val", "test")}
    value, count = 0.0, 0
    parts = {split: read_choices(folder / "mmlu", split) for split in ("val", "test")}
    for subjects in (["algebra", "geometry"], ["poetry"]):
        own = {split: np.isin(part.subjects, subjects) for split, part in parts.items()}
        right = {n: {s: (rows[n][s] == parts[s].answers)[own[s]] for s in own} for n in rows}
        overall = {n: (rows[n]["val"] == parts["val"].answers).mean() for n in rows}
        best = max(right, key=lambda n: (right[n]["val"].mean(), overall[n]))
        value, count = value + right[best]["test"].sum(), count + own["test"].sum()
    assert report.values(CALIBRATED) == pytest.approx([value / count])
    assert report.values(CALIBRATED, "choice accuracy") == [1]
    oracle = report.values("oracle (any expert correct)")[0]
    assert all(report.values(method)[0] <= oracle for method in (MAIN, PROBABILITIES, CALIBRATED))
    assert "| science |" in (folder / "run/report.md").read_text()
    samples = samples_of(folder / "run")["samples"]
    assert [sample["target"] for sample in samples] == [list("ABCD")[number] for number in parts["test"].answers]
    assert np.mean([sample["correct"] for sample in samples]) == pytest.approx(report.values(MAIN)[0])


@pytest.mark.slow
def test_a_second_run_asks_nobody(folder, report):
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("answers/*/manifest.json")}
    assert len(files) == 2 and start(folder).rows == report.rows
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_likelihood_of_the_texts(folder):
    found = start(folder, options="texts", per_token=True, output=str(folder / "texts"), seeds=[0, 1])
    assert len(found.values(MAIN)) == 2


def test_bad_input(folder, tmp_path):
    with pytest.raises(InputError, match="fusion needs two at least"):
        start(folder, experts={"one": str(folder / "t5")})
    (tmp_path / "categories.csv").write_text("algebra,science\n")
    text = (folder / "mmlu/test/poetry_test.csv").read_text()
    (folder / "mmlu/test/law_test.csv").write_text(text)
    with pytest.raises(InputError, match=r"names no category for the subject\(s\) law; add rows"):
        start(folder)
    with pytest.raises(InputError, match="test: the categories law have no val question"):
        start(folder, categories=None)
    (folder / "mmlu/test/law_test.csv").unlink()


@pytest.mark.parametrize("letter", ["AB", "CD", "ABCD", "E", "a", ""])
def test_an_answer_is_one_letter(folder, tmp_path, letter):
    (tmp_path / "val").mkdir()
    (tmp_path / "val/law_val.csv").write_text(f"why?,one,two,three,four,{letter}\n")
    with pytest.raises(InputError, match=f"row 1: found the answer '{letter}'"):
        read_choices(tmp_path, "val")


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"cut", None])
def test_what_an_expert_said_is_processed_again_where_it_is_damaged(folder, report, tmp_path, content):
    shutil.copytree(folder / "run", tmp_path / "run")
    file = next((tmp_path / "run/answers/0").glob("data-*/0.bin"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.warns(UserWarning, match=r"0.bin of \w+ has .* bytes.* this expert is queried again"):
        again = start(folder, output=str(tmp_path / "run"))
    (file,) = (tmp_path / "run/answers/0").glob("data-*/0.bin")
    assert again.rows == report.rows and file.read_bytes() == whole


def test_another_tokenizer_is_another_expert(folder, tmp_path):
    shutil.copytree(folder / "gpt2", tmp_path / "gpt2")
    before = GenerativeExpert(transformers=str(tmp_path / "gpt2")).fingerprint
    assert before == GenerativeExpert(transformers=str(folder / "gpt2")).fingerprint
    TextTokenizer.train(["other words"] * 9, 300, lowercase=True).save(tmp_path / "gpt2")
    assert GenerativeExpert(transformers=str(tmp_path / "gpt2")).fingerprint != before


def test_a_folder_without_a_tokenizer_is_reported(folder, tmp_path):
    shutil.copytree(folder / "gpt2", tmp_path / "gpt2", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match=r"tokenizer: "):
        TextTokenizer.load(str(tmp_path / "gpt2"), download=False)


def test_models_of_real_questions_know_their_own(tmp_path, real_data):
    """Two small language models, trained a little on clinc150's intents: the choice is better than either."""
    source = Path(__file__).parents[3] / "benchmarks/intent_models.py"
    make = runpy.run_path(str(source))["make"]
    names = make(real_data("clinc150"), tmp_path / "made", epochs=3, questions=25, width=32, models=2)
    experts = {name: str(tmp_path / "made/models" / name) for name in names}
    own = {domain for name in names for domain in name.split("-")}
    assert len(names) == 2 and {path.name for path in (tmp_path / "made/test").iterdir()} == {
        f"{domain}_test.csv" for domain in own
    }
    report = multiple_choice(
        str(tmp_path / "made"),
        experts,
        str(tmp_path / "run"),
        options="texts",
        batch_size=50,
        trainer={"accelerator": "cpu"},
    )
    singles = [report.values(f"single expert {name}")[0] for name in names]
    assert report.values(CALIBRATED)[0] > max(singles) and report.values(MAIN)[0] > max(singles)
