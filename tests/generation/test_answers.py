import numpy as np
import pytest
from helpers import generation_script, language_models

from lightning_fusion.generation.answers import InferenceSettings, run_expert
from lightning_fusion.store import ForeignFolderError

ROWS = [np.array(row) for row in ([5, 6, 7], [6], [5, 6, 7], [7, 8])]


def ask(folder, kind: str = "both") -> tuple[list[list[int]], np.ndarray, int]:
    language_models.Counted.reset()
    texts, vectors = run_expert(
        generation_script.experts()["a"], ROWS, kind, InferenceSettings(3, batch_size=2, folder=folder)
    )
    return [text.tolist() for text in texts], vectors, language_models.Counted.calls


def test_equal_texts_are_worked_on_once_and_no_text_twice(tmp_path):
    texts, vectors, calls = ask(tmp_path)
    assert calls == 2 and texts[0] == texts[2] and len(vectors) == 4
    again, kept, calls = ask(tmp_path)
    assert calls == 0 and again == texts and np.array_equal(kept, vectors)
    assert ask(tmp_path, "text")[2] == 0  # who was read has written as well
    assert ask(None)[2] == 2


def test_a_damaged_batch_is_processed_again_and_replaced(tmp_path):
    texts, vectors, _ = ask(tmp_path)
    file = sorted(tmp_path.glob("*/*/data-*/3.bin"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="bytes.*these texts are processed again"):
        again, repeated, calls = ask(tmp_path)
    assert calls == 1 and again == texts and np.allclose(repeated, vectors)
    assert ask(tmp_path)[2] == 0


def test_remains_of_a_killed_run_are_passed_over_and_other_files_are_named(tmp_path):
    ask(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "half" / "data-000000000000").mkdir(parents=True)
    assert ask(tmp_path)[2] == 0
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").touch()
    with pytest.raises(ForeignFolderError, match="contains other files"):
        ask(tmp_path)
