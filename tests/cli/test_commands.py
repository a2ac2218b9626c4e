import json

import yaml

from lightning_fusion.cli.help import recipes
from lightning_fusion.cli.main import main


def test_a_recipe_of_ones_own_is_named_by_its_import_path(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("answer: 5\n")
    folder = tmp_path / "run"
    found = main(["recipe", "thirdparty.recipe.constant", "--config", str(config), "--output", str(folder)])
    assert found == json.loads((folder / "results.json").read_text()) == {"answer": 5}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"output": str(folder), "answer": 5}


def test_every_recipe_package_lists_its_recipes():
    known = {"acorl", "foe", "frugal", "generative", "hat", "multiple_choice", "text_evaluation"}
    assert known <= set(recipes())
