"""A selection as files: checkpoints of the sources, and the configuration that reads them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.data.views.base import DataView
from lightning_fusion.described import imported_class
from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.stored import write_expert
from lightning_fusion.files import write_text
from lightning_fusion.hat.ranking import Selection
from lightning_fusion.hyperparameters import constructor_arguments

POOL, DATA, TABLE, LEDGER, TOKENIZER = "pool.yaml", "data.yaml", "selection.json", "ledger.json", "tokenizer"
_KNOWN = {"lightning_fusion", "torch"}  # packages whose classes every command imports


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise InputError if a folder contains a selection that may not be replaced."""
    if (folder / POOL).exists() and not overwrite:
        raise InputError(f"output: {folder} contains a selection; set overwrite, or name another folder")


def save_selection(selection: Selection, data: FusionDataModule, folder: Path) -> list[str]:
    """Write the selected sources as files that a configuration of ``fit``, ``collect`` or ``export`` reads.

    ::

        pool.yaml                   the experts by name, best first; written last
        experts/<rank>_<name>.ckpt  weights and metadata of a source
        data.yaml                   normalization or tokenizer of the best source, where the target has another
        tokenizer/                  that tokenizer
        selection.json              criteria of all sources
        ledger.json                 bytes by stage and direction

    A checkpoint names the class of its network, which is built from imported classes only. Classes of other packages
    than this one and torch, which the process has imported, are named in ``pool.yaml`` as well, so that a later command
    imports them.

    Args:
        selection: The selection.
        data: Data module of the target.
        folder: Folder of the files; an earlier selection in it is replaced.

    Returns:
        Names of the files in the folder, without those of the sources.
    """
    (folder / "experts").mkdir(parents=True, exist_ok=True)
    (folder / POOL).unlink(missing_ok=True)  # while the files are replaced there is no selection
    for earlier in (folder / "experts").glob("[0-9]*_*.ckpt"):
        earlier.unlink()
    members = {}
    for rank, (name, expert) in enumerate(selection.experts.items(), 1):
        key = re.sub(r"[^\w-]", "_", name)[:40]  # names are those of others: no interpolation may be in a path
        members[name] = _stored(expert, folder, name, f"experts/{rank}_{key}.ckpt")
    content = {LEDGER: selection.ledger.as_dict(), TABLE: selection.as_dict()}
    for name, found in content.items():
        write_text(folder / name, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    given = arguments_for(selection, data)
    best = next(iter(selection.experts))
    if given is None:
        comment = f"# Nothing to give: the data of the target have the normalization of {best!a}, or other channels.\n"
        write_text(folder / DATA, comment + "{}\n")
    else:
        text, what = selection.experts[best].new_sample_facts.get("trained_tokenizer"), "normalization"
        if text is not None:
            TextTokenizer.parse(text).save(folder / TOKENIZER)
            what = "tokenizer"
        comment = f"# The {what} of {best!a}, the best source; a second -c gives it to the data of the target.\n"
        write_text(folder / DATA, comment + _dumped({"data": given}))
    comment = f"# Sources by rank ({selection.rank_by}); a second -c gives them to a configuration of fit or collect.\n"
    write_text(folder / POOL, comment + _dumped({"experts": members}))
    return [POOL, DATA, TABLE, LEDGER]


def arguments_for(selection: Selection, data: FusionDataModule) -> dict[str, Any] | None:
    """Return the arguments that give the target's data the normalization or the tokenizer of the best source.

    Args:
        selection: The selection.
        data: Data module of the target, which may be a view of another one.

    Returns:
        ``init_args`` of the data module, nested as its views are; ``None`` if it has these already, or channels
        differ. The tokenizer is a folder beside the file.
    """
    best = next(iter(selection.experts))
    known = selection.cards[best].preprocessing or {}
    depth = 0
    while isinstance(data, DataView):
        data, depth = data.data, depth + 1
    takes = constructor_arguments(type(data))
    ours = getattr(data, "preprocessing", None) or {}
    if ours.get("channels") != known.get("channels"):
        return None
    own = known.get("normalization_scope") == "own"  # each domain has statistics of its own
    names = ["normalization_scope"] if own else ["mean", "std"]
    given: dict[str, Any] = {name: known[name] for name in names if name in takes and name in known}
    if "trained_tokenizer" in selection.experts[best].new_sample_facts:  # read where it is another than the target's
        given["tokenizer"] = TOKENIZER
    if all(ours.get(name) == value for name, value in given.items()):
        return None
    for _ in range(depth + 1 if given else 0):
        given = {"init_args": given}
        if depth:
            given, depth = {"data": given}, depth - 1
    return given or None


def _stored(expert: Expert, folder: Path, name: str, path: str) -> dict[str, Any]:
    """Write the checkpoint of a source, and return its entry of ``pool.yaml``."""
    write_expert(expert, folder / path, name)
    given: dict[str, Any] = {"checkpoint": path}
    given |= {key: value for key, value in (("output", expert.output), ("cost", expert.cost)) if value != _DEFAULT[key]}
    kind = imported_class((expert.spec or {}).get("class_path"), object)
    if kind is not None and kind.__module__.partition(".")[0] not in _KNOWN:
        first = next(iter(constructor_arguments(kind)))  # of a network that maps a number of classes
        arguments = {first: len(expert.classes)} | (expert.spec or {}).get("init_args", {})
        if "${" in json.dumps(arguments):
            raise InputError(f"source {name}: an argument of its network has an interpolation, ${{...}}; exclude it")
        given["network"] = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
    return {"class_path": "lightning_fusion.Expert", "init_args": given}


_DEFAULT: Mapping[str, Any] = {"output": "logits", "cost": 1.0}


def _dumped(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return text
