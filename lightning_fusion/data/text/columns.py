"""Tables of texts: roles of columns, and the base class of sources with named columns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_fusion.data.base import Stage
from lightning_fusion.data.domains import check_label_names
from lightning_fusion.data.names import as_labels, as_names, canonical_label
from lightning_fusion.data.text.datamodule import BaseTextDataModule
from lightning_fusion.data.text.new_texts import NewTexts, read_new_texts
from lightning_fusion.data.text.texts import SPLIT_NAMES, Texts
from lightning_fusion.errors import InputError, shorten

Table = tuple[str, Iterable[tuple[int, Mapping[str, Any]]], int | None]
"""Location of a table, line (or number) and values of each row, and the index of the split, None if not named."""


@dataclass(frozen=True)
class Fields:
    """Roles of the columns of a table of texts.

    Attributes:
        text: Column of the text.
        label: Column of the label.
        pair: Column of a second text.
        domains: Columns whose values, joined by ``_``, name the domain.
        split: Column that names the split.
        out_of_scope: Label of texts of no class, which need no domain.
        ignored: Labels of unlabeled texts.
        names: Names of the values of some columns.

    Example:
        >>> fields = Fields(domains=("shop",), names={"label": {"1": "bad", "5": "good"}})
        >>> texts = Texts()
        >>> fields.add(texts, "reviews.csv", [(2, {"text": "a fine book", "label": 5, "shop": "books"})])
        >>> texts.labels, texts.domains
        (['good'], ['books'])
    """

    text: str = "text"
    label: str = "label"
    pair: str | None = None
    domains: tuple[str, ...] = ()
    split: str | None = None
    out_of_scope: str | None = None
    ignored: frozenset[str] = frozenset()
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def needed(self) -> list[str]:
        """Return the names of all columns to read, each once."""
        return list(dict.fromkeys(filter(None, (self.text, self.pair, self.label, *self.domains, self.split))))

    def add(
        self, texts: Texts, place: str, rows: Iterable[tuple[int, Mapping[str, Any]]], split: int | None = None
    ) -> None:
        """Append rows of a table; texts whose label is missing, blank or ignored are unlabeled.

        Args:
            texts: Texts to append to.
            place: File or table, for messages.
            rows: Line and values of each row.
            split: Index of the split; the column ``split`` takes precedence.

        Raises:
            InputError: If a value is missing, of another type, or unknown; the message names place and line.
        """
        needed = self.needed
        for line, row in rows:
            here = f"{place}, line {line}"
            values = {name: self._named(name, row.get(name), here) for name in needed}
            label = "" if (written := values[self.label]) is None else canonical_label(written)
            label = "" if label in self.ignored else label
            out = self.out_of_scope is not None and label == self.out_of_scope
            needless = (self.label, *(self.domains if out else ()))
            if lacking := [name for name, value in values.items() if value is None and name not in needless]:
                raise InputError(f"{here}: {shorten(lacking)} is missing; fill it in, or remove the row")
            own = split if self.split is None else self._split(str(values[self.split]), here)
            if blank := [name for name in self.domains if name not in needless and not str(values[name]).strip()]:
                raise InputError(f"{here}: {shorten(blank)} is empty; fill it in, or remove the row")
            nowhere = out or (not label and self.label in self.domains)
            texts.add(
                str(values[self.text]),
                label and str(values[self.label]),
                "" if nowhere else "_".join(str(values[name]) for name in self.domains) or "all",
                (place, line),
                own,
                None if self.pair is None else str(values[self.pair]),
                out,
            )

    def _named(self, column: str, value: Any, place: str) -> Any:
        if column == self.label and (value != value or canonical_label(value) in self.ignored):
            return None
        if isinstance(value, dict | list | bytes) or value != value:
            raise InputError(f"{place}: {column} is {value!r:.60}; expected a text or number")
        if value is None or column not in self.names or not (written := canonical_label(value)):
            return value
        if written not in self.names[column]:
            raise InputError(
                f"{place}: {column} is {value!r:.60}; expected one of {shorten(self.names[column], 9)}: add it to "
                "value_names"
            )
        return self.names[column][written]

    def _split(self, name: str, place: str) -> int:
        if name.lower() not in SPLIT_NAMES:
            raise InputError(f"{place}: {self.split} is {name!r}; expected one of {shorten(SPLIT_NAMES, 9)}")
        return SPLIT_NAMES[name.lower()]


def names_of_values(names: Mapping[str, Mapping[str | int, str]] | None) -> dict[str, dict[str, str]]:
    """Convert the names of values by column to strings (YAML reads 1 as a number).

    Example:
        >>> names_of_values({"stars": {1: "bad", 5: "good"}})
        {'stars': {'1': 'bad', '5': 'good'}}
    """
    return {
        column: {canonical_label(value): canonical_label(name) for value, name in each.items()}
        for column, each in (names or {}).items()
    }


class ColumnTextDataModule(BaseTextDataModule):
    """Base class of sources of texts with named columns; a source implements :meth:`tables`.

    Args:
        text: Column of the text.
        label: Column of the label.
        pair: Column of a second text.
        domain_fields: Columns whose values, joined by ``_``, name a domain (slashes and dots become underscores,
            because names of experts may not contain them). ``None`` (default) means a single domain.
        split_field: Column with the value ``train``, ``val`` or ``test``. A part of ``train`` is drawn for validation
            if no row is in ``val``.
        value_names: Names of the values of some columns: ``{label: {"1": bad, "5": good}}``.
        ignored_labels: Labels of texts that count as unlabeled, as texts without a label do.
        unlabeled: What happens to unlabeled texts in training: ``keep`` gives them the target -100, ``drop`` leaves
            them out. ``None`` (default) keeps them for :class:`~lightning_fusion.TargetDataModule`, and leaves them
            out otherwise. Validation, testing, the tokenizer and the training of a fuser use labeled texts only.
        out_of_scope_label: Label of texts of none of the classes; such a row needs no domain.
        out_of_scope: ``keep`` includes these texts in validation and test if no ``domain`` is selected: without
            domain, and with an additional last class that no expert has. Any prediction for them is wrong, so
            risk-coverage curves over these splits measure abstention.
        **shared: Arguments of :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule`.
    """

    stage_of = BaseTextDataModule.stage_of | dict.fromkeys(("out_of_scope", "unlabeled"), Stage.USING)

    def __init__(
        self,
        text: str = "text",
        label: str = "label",
        pair: str | None = None,
        domain_fields: list[str] | None = None,
        split_field: str | None = None,
        value_names: dict[str, dict[str | int, str]] | None = None,
        ignored_labels: list[str | int] | None = None,
        unlabeled: Literal["keep", "drop"] | None = None,
        out_of_scope_label: str | None = None,
        out_of_scope: Literal["drop", "keep"] = "drop",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.text, self.label, self.pair, self.domain_fields = text, label, pair, domain_fields
        self.split_field, self.value_names = split_field, value_names
        self.ignored_labels, self.unlabeled = ignored_labels, unlabeled
        self.out_of_scope_label, self.out_of_scope = out_of_scope_label, out_of_scope

    def tables(self) -> Iterable[Table]:
        """Yield the rows of each file or table; implemented by a source."""
        raise NotImplementedError(f"{type(self).__name__} must implement tables()")

    def read(self) -> Texts:
        """Read all texts from the columns that the arguments name."""
        texts = Texts()
        for place, rows, split in self.tables():
            self.fields.add(texts, place, rows, split)
        if self.out_of_scope_label is not None and not any(texts.out_of_scope):
            raise InputError(
                f"out_of_scope_label: no text of {self.origin} has the label {self.out_of_scope_label!r}; the labels "
                f"are {shorten(sorted(set(texts.labels)), 9)}"
            )
        return texts

    def new_texts(self, root: str) -> NewTexts:
        """Read texts for prediction: the text columns of tables, and the lines of ``.txt`` files; no other column.

        Args:
            root: File or folder.
        """
        return read_new_texts(root, self.text, self.pair, self.messages, **self.format_of_files)

    @property
    def format_of_files(self) -> dict[str, Any]:
        """Arguments that say how files are read: ``encoding``, and those of delimited files."""
        names = ("encoding", "delimiter", "columns", "quoting")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    @property
    def fields(self) -> Fields:
        """Roles of the columns."""
        return Fields(
            self.text,
            self.label,
            self.pair,
            tuple(self.domain_fields or ()),
            self.split_field,
            None if self.out_of_scope_label is None else canonical_label(self.out_of_scope_label),
            frozenset(as_labels(self.ignored_labels, "ignored_labels")),
            names_of_values(self.value_names),
        )

    @property
    def domains_are_classes(self) -> bool:
        """Whether each domain is a class, so that a single domain is no classification task."""
        return as_names(self.domain_fields) == [self.label]

    def _check(self) -> None:
        self._check_choices({"out_of_scope": ("drop", "keep"), "unlabeled": ("keep", "drop", None)})
        check_label_names(self.labels, self.ignored_labels)
        if self.out_of_scope == "keep" and self.out_of_scope_label is None:
            raise InputError(
                "out_of_scope is keep, but out_of_scope_label is not set; set it to the label of texts that are "
                "of none of the classes, or set out_of_scope: drop"
            )
        if strange := sorted(set(self.value_names or {}) - set(self.fields.needed)):
            raise InputError(
                f"value_names has {shorten(strange)}, which is not a column that is read; expected some of "
                f"{shorten(self.fields.needed)}"
            )
        super()._check()
