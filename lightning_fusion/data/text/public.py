"""Public text data sets with a layout of their own, a class for each.

Use :class:`~lightning_fusion.data.text.delimited.TextDataModule` for a data set in CSV, such as AG News (``columns:
[class, title, description]``), and :class:`~lightning_fusion.data.text.huggingface.HuggingFaceTextDataModule` for one
on the hub.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

from lightning_fusion.data.base import SPLITS, Stage
from lightning_fusion.data.text.datamodule import BaseTextDataModule
from lightning_fusion.data.text.texts import SPLIT_NAMES, Texts, find_files, read_text
from lightning_fusion.errors import InputError, shorten

_REVIEW = re.compile(r"<review_text>(.*?)</review_text>", re.DOTALL)


class ReviewsTextDataModule(BaseTextDataModule):
    """Multi-domain sentiment data set: product reviews (Blitzer et al., ACL 2007).

    Each domain has a folder with ``positive.review`` and ``negative.review``, which contain ``<review_text>`` blocks.

    Args:
        root: Folder with a folder per domain.
        encoding: Encoding of the files.
        **shared: Arguments of :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule`.

    Raises:
        InputError: If an argument is out of range, or a file or text cannot be read.
    """

    def __init__(self, root: str, encoding: str = "latin-1", **shared: Any) -> None:
        super().__init__(**shared)
        self.root, self.encoding = root, encoding
        self._configure()

    def files(self) -> list[Path]:
        """Return the files of all domains, two for each."""
        return find_files(self.root, "*/positive.review", "*/negative.review")

    def read(self) -> Texts:
        """Read all reviews."""
        texts, files = Texts(), self.files()
        for path in files:
            content = read_text(path, self.encoding, self.messages.warn)
            if (opened := content.count("<review_text>")) != len(_REVIEW.findall(content)):
                raise InputError(
                    f"{path} opens {opened} <review_text> blocks, of which {len(_REVIEW.findall(content))} are closed; "
                    "repair the file"
                )
            line, seen = 1, 0
            for found in _REVIEW.finditer(content):
                line, seen = line + content.count("\n", seen, found.start()), found.start()
                texts.add(found[1].strip(), path.stem, path.parent.name, (str(path), line))
        if not texts.texts:
            raise InputError(
                f"{files[0]} and {len(files) - 1} more contain no <review_text> block; check root and encoding"
            )
        return texts


class Clinc150TextDataModule(BaseTextDataModule):
    """clinc150: queries to an assistant, intents in domains, out-of-scope queries (Larson et al., EMNLP 2019).

    The official splits are used. Out-of-scope queries of the training split are left out.

    Args:
        root: Folder with ``data_full.json`` and ``domains.json``.
        out_of_scope: ``keep`` includes out-of-scope queries in validation and test if no ``domain`` is selected:
            without domain, and with an additional last class that no expert has. Any prediction for them is wrong, so
            risk-coverage curves over these splits measure abstention.
        **shared: Arguments of :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule`.

    Raises:
        InputError: If an argument is out of range, or a file cannot be read.
    """

    stage_of = BaseTextDataModule.stage_of | {"out_of_scope": Stage.USING}

    def __init__(self, root: str, out_of_scope: Literal["drop", "keep"] = "drop", **shared: Any) -> None:
        super().__init__(**shared)
        self.root, self.out_of_scope = root, out_of_scope
        self._configure()

    def files(self) -> list[Path]:
        """Return the file of queries and the file of domains."""
        found = [Path(self.root, name) for name in ("data_full.json", "domains.json")]
        if missing := [path.name for path in found if not path.is_file()]:
            raise InputError(f"root: {self.root} has no {shorten(missing)}; expected the files of clinc150")
        return found

    def read(self) -> Texts:
        """Read all queries but the out-of-scope ones of the training split."""
        contents = [read_text(path, "utf-8") for path in self.files()]
        texts = Texts()
        try:
            data, domains = map(json.loads, contents)
            domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
            for number, split in enumerate(SPLITS):
                for row, (text, label) in enumerate(data[split], 1):
                    texts.add(text, label, domain_of[label], (f"data_full.json, {split}", row), number)
                if number:
                    for row, (text, label) in enumerate(data.get(f"oos_{split}", []), 1):
                        texts.add(text, label, "", (f"data_full.json, oos_{split}", row), number, out_of_scope=True)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"root: the files in {self.root} are not in the format of clinc150 ({error!r})") from error
        return texts

    def _check(self) -> None:
        self._check_choices({"out_of_scope": ("drop", "keep")})
        super()._check()


class TweetEvalTextDataModule(BaseTextDataModule):
    """TweetEval (Barbieri et al., Findings of EMNLP 2020): tasks as domains, classes named ``task/label``.

    The official splits are used: ``{train,val,test}_{text,labels}.txt`` in a folder per task, with ``mapping.txt``. A
    task of several topics gives a domain for each (``stance_climate``), with common classes. Where a task has no
    training file its validation file is used for training, and validation samples are drawn from it.

    Args:
        root: Folder of all tasks, or of one (``tweeteval/stance``).
        **shared: Arguments of :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule`.

    Raises:
        InputError: If an argument is out of range, or a file cannot be read.
    """

    def __init__(self, root: str, **shared: Any) -> None:
        super().__init__(**shared)
        self.root = root
        self._configure()

    def files(self) -> list[Path]:
        """Return the files of texts, labels and label names of all tasks."""
        return find_files(self.root, "**/*_text.txt", "**/*_labels.txt", "**/mapping.txt")

    def read(self) -> Texts:
        """Read all tweets."""
        texts, base, files = Texts(), Path(self.root), self.files()
        single = (base.name,) if base / "mapping.txt" in files else ()  # the folder of one task
        for path in files:
            if not path.name.endswith("_text.txt"):
                continue
            split = path.name.removesuffix("_text.txt")
            if split not in SPLIT_NAMES:
                raise InputError(f"root: {path} does not name a split; expected {shorten(SPLITS)} and _text.txt")
            parts = (*single, *path.parent.relative_to(base).parts)
            names = self._names(path.parent, files)
            lines, labels = (
                read_text(file, "utf-8").rstrip("\n").split("\n")
                for file in (path, path.with_name(f"{split}_labels.txt"))
            )
            if len(lines) != len(labels):
                raise InputError(f"{path} has {len(lines)} lines, its labels file {len(labels)}; expected as many")
            number = SPLIT_NAMES[split]
            if number == 1 and not path.with_name("train_text.txt").is_file():
                number = 0
            for line, (text, label) in enumerate(zip(lines, labels, strict=True), 1):
                name = names.get(label.strip(), label.strip()).strip()
                texts.add(text, f"{parts[0]}/{name}", "_".join(parts), (str(path), line), number)
        return texts

    @staticmethod
    def _names(folder: Path, files: list[Path]) -> dict[str, str]:
        """Read the names of the labels from ``mapping.txt`` in a folder or its parent."""
        for path in (folder / "mapping.txt", folder.parent / "mapping.txt"):
            if path in files:
                return dict(line.split("\t")[:2] for line in read_text(path, "utf-8").splitlines() if line)
        return {}
