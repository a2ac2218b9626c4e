"""What README.md and the pages of docs/ show runs as it stands."""

import re
import shlex

import pytest
import torch
from helpers import TESTS
from helpers.command_line import parse

ROOT = TESTS.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
MADE_BY_RUNS = {
    "runs/mine/seed_0/pool.yaml": "experts/text_synthetic_pool.yaml",
    "runs/sources/pool.yaml": "experts/digits_pool.yaml",
    "runs/sources/data.yaml": "experts/digits_pool.yaml",
    "pool.yaml": "experts/folders_pool.yaml",
    "runs/intent_models/recipe.yaml": "recipes/foe_multiple_choice.yaml",
}
"""Files that a user or a command before writes, and a shipped one of that kind."""
WHOLE = ["README.md", *sorted(name for name in PAGES if name.startswith("docs/how-to/"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Every call of lightning-fusion in a bash block or an indented line, also inside a loop; $d and the like are 0."""
    indented = re.findall(r"^    (lightning-fusion .*)$", PAGES[page], flags=re.MULTILINE)
    lines = "\n".join([*blocks(page, "bash"), *indented]).replace("\\\n", " ").splitlines()
    parts = [part.strip().removeprefix("do ").strip() for line in lines for part in re.split(r";|&&", line)]
    return [re.sub(r"\$\{?\w+\}?", "0", part) for part in parts if part.startswith("lightning-fusion ")]


def test_every_language_of_a_block_is_known():
    for page, text in PAGES.items():
        found = set(re.findall(r"^```(\w+)", text, flags=re.MULTILINE))
        assert found <= {"bash", "python", "yaml", "text", "json"}, page
    assert blocks("README.md", "python") and blocks("README.md", "bash")


@pytest.mark.slow
@pytest.mark.parametrize("page, number", [(page, n) for page in WHOLE for n in range(len(blocks(page, "python")))])
def test_python_runs(page, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    code = re.sub(r"max_epochs=\d+", "max_epochs=1", blocks(page, "python")[number])  # all else as it stands
    exec(compile(code, f"{page}, python block {number}", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for made, like in MADE_BY_RUNS.items():
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).write_bytes((ROOT / "configs" / like).read_bytes())
    for block in blocks(page, "yaml"):
        if named := re.match(r"# (\S+\.yaml)\n", block):  # a file that the page asks for
            (tmp_path / named[1]).write_text(block)
    for command in commands(page):
        assert parse(shlex.split(command, comments=True)[1:]), command


def test_an_option_that_does_not_exist_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unrecognized arguments: --nonsense=1"):
        parse([*shlex.split(commands("README.md")[0])[1:], "--nonsense=1"])


def test_linked_files_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_linked_headings_exist():
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            other = ((ROOT / page).parent / target).resolve() if target else ROOT / page
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}, page


def test_named_configs_exist():
    for page, text in PAGES.items():
        for name in re.findall(r"`(configs/[\w./]+|(?:\w+/)+\w+\.yaml)`", text):
            assert (ROOT / "configs" / name.removeprefix("configs/")).exists() or (ROOT / name).exists(), (
                f"{page}: {name}"
            )


def test_the_readme_stays_short():
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 150
    first = [line.partition(" #")[0].strip() for line in lines[:15]]
    assert {"make demo", "make test"} <= set(first) and any(line.startswith("![") for line in first)


def test_the_architecture_page_names_every_package_and_recipe_file():
    package, text = ROOT / "lightning_fusion", PAGES["docs/architecture.md"]
    packages = [path.parent.name for path in package.glob("*/__init__.py")]
    files = [path.name for path in (package / "recipes").glob("*.py") if path.name != "__init__.py"]
    assert [name for name in packages if f"{name}/" not in text and f"lightning_fusion/{name}`" not in text] == []
    assert [name for name in files if f"`{name}`" not in text] == []
