import pytest
from helpers import language_models

from lightning_fusion.errors import InputError
from lightning_fusion.generation.choices import read_categories, read_choices


def test_questions_of_all_subjects(tmp_path):
    language_models.choice_files(tmp_path, count=3)
    found = read_choices(tmp_path, "val")
    assert found.questions[0] == "algebra, 0?" and found.options[0] == ["one", "two", "three", "four"]
    assert found.subjects == ["algebra"] * 3 + ["geometry"] * 3 + ["poetry"] * 3
    letters = [line[-1] for line in (tmp_path / "val/algebra_val.csv").read_text().split()]
    assert ["ABCD"[answer] for answer in found.answers[:3]] == [one for one in letters if one in "ABCD"]
    numbers = found.numbers(read_categories(tmp_path / "categories.csv"), ["arts", "science"])
    assert numbers.tolist() == [1] * 6 + [0] * 3


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"found no <subject>_val\.csv"):
        read_choices(tmp_path, "val")
    (tmp_path / "val").mkdir()
    path = tmp_path / "val/law_val.csv"
    path.write_text("q,1,2,3,4,A\nq,1,2,3,4,E\n")
    with pytest.raises(InputError, match=r"law_val\.csv, row 2: found the answer 'E'"):
        read_choices(tmp_path, "val")
    path.write_text("q,1,2,3,A\n")
    with pytest.raises(InputError, match="row 1: found 5 values; expected question, four options"):
        read_choices(tmp_path, "val")
    with pytest.raises(InputError, match="categories: found no file"):
        read_categories(tmp_path / "none.csv")
    (tmp_path / "twice.csv").write_text("law,a\nlaw,b\n")
    with pytest.raises(InputError, match="row 2: found law again"):
        read_categories(tmp_path / "twice.csv")
