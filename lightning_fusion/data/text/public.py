"""The layouts of public text sets."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.text.sources import SPLIT_NAMES, Fields, Texts, _add_rows, decode, rows_of
from lightning_fusion.errors import InputError, shorten

_REVIEW = re.compile(r"<review_text>(.*?)</review_text>", re.DOTALL)


def from_reviews(files: Sequence[Path], encoding: str) -> Texts:
    """Multi-domain sentiment (Blitzer et al., ACL 2007): ``<domain>/{positive,negative}.review``, tagged blocks."""
    texts = Texts()
    for path in files:
        content = decode(path, encoding)
        line, seen = 1, 0
        for found in _REVIEW.finditer(content):
            line, seen = line + content.count("\n", seen, found.start()), found.start()
            texts.add(found[1].strip(), path.stem, path.parent.name, (str(path), line))
    if not texts.texts:
        raise InputError(f"{files[0]} and {len(files) - 1} more hold no <review_text> block; check root and encoding")
    return texts


def from_clinc150(files: Sequence[Path], encoding: str) -> Texts:
    """Intents in domains, and queries out of scope (Larson et al., EMNLP 2019): their own splits.

    Queries out of scope are marked; those of the training split are left out, for no expert is to know them.
    """
    by_name = {path.name: path for path in files}
    if missing := {"data_full.json", "domains.json"} - set(by_name):
        raise InputError(f"root: {files[0].parent} has no {shorten(sorted(missing))}, which source clinc150 reads")
    try:
        data, domains = (json.loads(decode(by_name[name], encoding)) for name in ("data_full.json", "domains.json"))
        domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
        texts = Texts()
        for number, split in enumerate(SPLITS):
            for row, (text, label) in enumerate(data[split], 1):
                texts.add(text, label, domain_of[label], (f"data_full.json, {split}", row), number)
            if number:
                for row, (text, label) in enumerate(data.get(f"oos_{split}", []), 1):
                    texts.add(text, label, "", (f"data_full.json, oos_{split}", row), number, out=True)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"root: the files in {files[0].parent} are not as clinc150's ({error!r})") from error
    return texts


def from_tweeteval(files: Sequence[Path], encoding: str, root: str) -> Texts:
    """Tasks on tweets (Barbieri et al., 2020): a folder per task; domains are tasks, classes ``task/label``.

    A task of several topics gives a domain for each (``stance_climate``), with common classes. The folder of one task
    is read as well (``root: tweeteval/stance``). Where a task has no
    training file its validation file takes that place, and validation rows are drawn from it.
    """
    texts, base = Texts(), Path(root)
    single = (base.name,) if base / "mapping.txt" in files else ()  # the folder of one task
    for path in files:
        if not path.name.endswith("_text.txt"):
            continue
        split = path.name.removesuffix("_text.txt")
        if split not in SPLIT_NAMES:
            raise InputError(f"root: {path} is called after no split; expected {shorten(SPLITS)} and _text.txt")
        parts = (*single, *path.parent.relative_to(base).parts)
        task, domain = parts[0], "_".join(parts)
        mapping = next((folder / "mapping.txt" for folder in (path.parent, path.parent.parent) if
                        (folder / "mapping.txt") in files), None)  # fmt: skip
        names = dict(
            line.split("\t")[:2] for line in ([] if mapping is None else decode(mapping, encoding).splitlines()) if line
        )
        lines, labels = (
            decode(file, encoding).rstrip("\n").split("\n") for file in (path, path.with_name(f"{split}_labels.txt"))
        )
        if len(lines) != len(labels):
            raise InputError(f"{path} has {len(lines)} lines, its labels file {len(labels)}; expected as many")
        number = SPLIT_NAMES[split]
        if number == 1 and not (path.with_name("train_text.txt")).is_file():
            number = 0
        for line, (text, label) in enumerate(zip(lines, labels, strict=True), 1):
            name = names.get(label.strip(), label.strip()).strip()
            texts.add(text, f"{task}/{name}", domain, (str(path), line), number)
    return texts


def from_ag_news(files: Sequence[Path], fields: Fields, encoding: str) -> Texts:
    """News (Zhang et al., NeurIPS 2015): class, title and description; its test file alone is split by drawing."""
    by_name = {path.name: path for path in files}
    if "test.csv" not in by_name or "classes.txt" not in by_name:
        raise InputError(f"root: {files[0].parent} lacks test.csv or classes.txt, which source ag_news reads")
    names = (name.strip() for name in decode(by_name["classes.txt"], encoding).splitlines())
    numbered = dict(enumerate(filter(None, names), 1))
    texts, both = Texts(), "train.csv" in by_name
    for stem in ("train", "test") if both else ("test",):
        path = by_name[f"{stem}.csv"]
        rows = (
            (line, {**row, "class": numbered[int(row["class"])]})
            for line, row in rows_of(path, fields, encoding)
        )  # fmt: skip
        try:
            _add_rows(texts, rows, path, fields, SPLIT_NAMES[stem] if both else None)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: found a class that classes.txt does not number ({error})") from error
    return texts


def synthetic_texts(overlap: float = 0.3, num_domains: int = 4, rows: int = 240, seed: int = 0) -> Texts:
    """Made-up reviews of products; each domain praises and blames in words of its own.

    A text is a template with nouns of the domain and words that carry the label. Those are drawn from the words that
    all domains share with probability ``overlap``, else from the domain's own: at 0 an expert reads nothing in another
    domain, at 1 all domains are one.

    Args:
        overlap: From 0, disjoint, to 1, identical.
        num_domains: D.
        rows: Texts of each domain, half of them of each label.
        seed: Of the draws.

    Example:
        >>> texts = synthetic_texts(num_domains=2, rows=4)
        >>> texts.domains[0], texts.labels[:2], len(texts.texts)
        ('domain_0', ['bad', 'good'], 8)
    """
    generator = np.random.default_rng(seed)
    letters, vowels = list("bdfgklmnprstvz"), list("aeiou")
    words: dict[str, None] = {}
    while len(words) < 24 * (num_domains + 1):
        words["".join(generator.choice(letters) + generator.choice(vowels) for _ in range(3))] = None
    pool = np.array(list(words)).reshape(num_domains + 1, 3, 8)  # the last is common; bad, good, nouns
    templates = (
        "the {n} was {w} and the {m} {v}",
        "i found this {n} {w} , its {m} rather {v} for the price",
        "{w} {n} !",
        "after a week with it the {n} seems {w} , my {m} too : {v} as they said it would be , and i asked them twice",
    )
    texts = Texts()

    def word(domain: int, kind: int) -> str:
        return str(pool[num_domains if generator.random() < overlap else domain, kind, generator.integers(8)])

    for domain in range(num_domains):
        for row in range(rows):
            kind = row % 2
            said = templates[generator.integers(len(templates))].format(
                n=word(domain, 2), m=word(domain, 2), w=word(domain, kind), v=word(domain, kind)
            )
            texts.add(said, ("bad", "good")[kind], f"domain_{domain}", ("synthetic", len(texts.texts)))
    return texts
