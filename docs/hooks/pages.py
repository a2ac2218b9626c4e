"""Pages of the site that are made from README.md, notebooks, docstrings, ``--help`` and shipped YAML files.

MkDocs calls :func:`on_files`. Nothing is written into the repository.
"""

import ast
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

COPIES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changes.md",
    "SECURITY.md": "project/security.md",
}
"""Files of the repository, and the pages that show them."""

TUTORIALS = "notebooks"
CONFIGS = "configs"
HIDDEN = ("cli",)
"""Packages whose names are not public: commands are described by their ``--help``."""


class Module(NamedTuple):
    """A module of the library with the public names that it defines, read from its source."""

    path: str
    description: str
    names: list[str]


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and put the pages that match a pattern of ``nav`` in its place."""
    from mkdocs.structure.files import File

    sys.path.insert(0, str(ROOT))  # the site describes this checkout
    added: dict[str, str | bytes] = {target: (ROOT / source).read_text("utf-8") for source, target in COPIES.items()}
    added |= python_pages() | command_pages() | configuration_pages() | tutorial_pages()
    for name, content in added.items():
        files.append(File.generated(config, name, content=content))
    config.nav = _expanded(config.nav, sorted(file.src_uri for file in files.documentation_pages()))
    return files


def _expanded(nav: list[Any], pages: list[str]) -> list[Any]:
    """Replace patterns by the pages that match and are not listed beside them."""
    found: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            found += [{title: _expanded(sub, pages) if isinstance(sub, list) else sub} for title, sub in item.items()]
        elif "*" in item:
            matching = [page for page in pages if fnmatch(page, item) and page not in nav]
            if not matching:
                raise ValueError(f"mkdocs.yml: nav: no page matches {item}")
            found += matching
        else:
            found.append(item)
    return found


def modules() -> Iterator[Module]:
    """Yield every module of the library that defines public names."""
    package = ROOT / "lightning_fusion"
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if file.name.startswith("__") or parts[1] in HIDDEN:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
            and not node.name.startswith("_")
            and ast.get_docstring(node)
        ]
        if names:
            yield Module(".".join(parts), ast.get_docstring(tree) or "", names)


def python_pages() -> dict[str, str]:
    """Return a page for each package with all its public names, and one for the names that users import most."""
    from lightning_fusion import PUBLIC

    packages: dict[str, list[Module]] = {}
    for module in modules():
        packages.setdefault(module.path.rpartition(".")[0], []).append(module)
    pages, rows = {}, []
    for package, members in packages.items():
        short = package.removeprefix("lightning_fusion").lstrip(".")
        text = _docstring(package) if short else "Modules outside of packages."
        name = f"reference/python/{short or 'modules'}.md"
        blocks = [f"# {short or 'single modules'}\n\n{text}", *(f"::: {module.path}" for module in members)]
        pages[name] = "\n\n".join(blocks) + "\n"
        rows.append(f"| [{short or 'single modules'}]({Path(name).name}) | {text.partition(chr(10))[0]} |")
    table = [
        f"| [`{name}`][lightning_fusion.{path}.{name}] | {_docstring(f'lightning_fusion.{path}', name)} |"
        for name, path in PUBLIC.items()
    ]
    pages["reference/python/index.md"] = "\n".join(
        [
            "# Python\n\nNames of the top level, as in `from lightning_fusion import Expert`:\n",
            "| name | description |\n|---|---|",
            *table,
            "\nAll other names are imported by their path. YAML files name classes by the same paths.\n",
            "| package | contents |\n|---|---|",
            *rows,
        ]
    )
    return pages


def _docstring(module: str, name: str | None = None) -> str:
    """Return the docstring of a module, or the first line of that of one of its names, from the source."""
    base = ROOT.joinpath(*module.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    tree: Any = ast.parse(file.read_text(encoding="utf-8"))
    if name is None:
        return ast.get_docstring(tree) or ""
    node = next(node for node in tree.body if getattr(node, "name", None) == name)
    return (ast.get_docstring(node) or "").partition("\n")[0]


def command_pages() -> dict[str, str]:
    """Return a page for each command with the text that its ``--help`` prints."""
    from lightning_fusion.cli.configs import USAGE
    from lightning_fusion.cli.help import COMMANDS, TRAINING, recipes, show_help, usage

    os.environ["COLUMNS"] = "110"
    texts = {"configs": USAGE}
    for command in [command for command in COMMANDS if command != "recipe"]:
        texts[command] = _printed(show_help, command, ["--help"])
    for name in recipes():
        texts[f"recipe {name}"] = _printed(show_help, "recipe", [name, "--help"])
    program = [sys.executable, "-m", "lightning_fusion", "fit", "--help"]  # its parser needs Lightning
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    texts[", ".join(TRAINING)] = (
        f"{done.stdout}\nvalidate, test and predict take the same options, --ckpt_path of the checkpoint included."
    )
    pages, rows = {}, []
    for command, text in texts.items():
        name = "fit" if command.startswith("fit") else re.sub(r"[^\w]+", "_", command)
        text = text.replace(str(ROOT) + os.sep, "")
        pages[f"reference/commands/{name}.md"] = f"# {command}\n\n```text\n{text.rstrip()}\n```\n"
        rows.append(f"- [{command}]({name}.md)")
    overview = usage().replace(str(ROOT) + os.sep, "")
    pages["reference/commands/index.md"] = "\n".join(["# Command line\n", "```text", overview, "```\n", *sorted(rows)])
    return pages


def _printed(function: Any, *args: Any) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        function(*args)
    return output.getvalue()


def configuration_pages() -> dict[str, str]:
    """Return a page for each folder of shipped YAML files, which describe every key in a comment."""
    folders: dict[str, list[Path]] = {}
    for file in sorted((ROOT / CONFIGS).rglob("*.yaml")):
        folders.setdefault(file.parent.relative_to(ROOT / CONFIGS).as_posix(), []).append(file)
    pages, lines = {}, []
    for folder, files in folders.items():
        blocks = [f"# {folder}/\n"]
        for file in files:
            name, text = file.relative_to(ROOT / CONFIGS).as_posix(), file.read_text(encoding="utf-8")
            blocks.append(f"## {name}\n\n```yaml\n{text.rstrip()}\n```\n")
            title = text.partition("\n")[0].lstrip("# ") if text.startswith("#") else ""
            lines.append(f"| [{name}]({folder}.md#{_anchor(name)}) | {title} |")
        pages[f"reference/configuration/{folder}.md"] = "\n".join(blocks)
    pages["reference/configuration/index.md"] = "\n".join([CONFIGURATION, *lines])
    return pages


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


CONFIGURATION = """# Configuration

A YAML file of a training command has the sections of LightningCLI: `seed_everything`, `trainer`, `model`, `data`,
`optimizer` and `lr_scheduler`. `class_path` names a class and `init_args` its arguments, which the
[Python reference](../python/index.md) describes. Files of other commands have the options of the
[command](../commands/index.md) as keys.

- Options of the command line replace values of files: `--data.init_args.domain=0`. Later files replace earlier ones.
- `lightning-fusion fit --data.help CLASS` lists the arguments of a class; `--print_config` prints the whole result.
- Shipped files are found by name in any folder. `lightning-fusion configs NAME` prints one.

| file | contents |
|---|---|"""


def tutorial_pages() -> dict[str, str | bytes]:
    """Render the notebooks with the outputs that they contain; nothing is executed."""
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = MarkdownExporter(preprocessors=[CoalesceStreamsPreprocessor])
    pages: dict[str, str | bytes] = {}
    rows = []
    for file in sorted((ROOT / TUTORIALS).glob("*.ipynb")):
        text, resources = exporter.from_filename(
            str(file), resources={"unique_key": file.stem, "output_files_dir": f"{file.stem}_files"}
        )
        pages |= {f"tutorials/{name}": content for name, content in resources["outputs"].items()}
        text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
        text = re.sub(r"^    +\n", "\n", text, flags=re.MULTILINE)
        pages[f"tutorials/{file.stem}.md"] = text
        title = text.partition("\n")[0].lstrip("# ")
        rows.append(f"| [{title}]({file.stem}.md) | `notebooks/{file.name}` |")
    pages["tutorials/index.md"] = "\n".join(
        [
            "# Tutorials\n\nEach tutorial is a notebook of the repository with its outputs; none needs a download.\n",
            "| tutorial | notebook |\n|---|---|",
            *rows,
        ]
    )
    return pages
