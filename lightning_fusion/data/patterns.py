"""Files found by a path pattern, with the fields that it extracts."""

import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.folders import left_out_messages, walk_files
from lightning_fusion.errors import InputError, nearest_path, shorten


@dataclass
class FoundFile:
    """A file that matched a pattern.

    Attributes:
        name: Path relative to the root, with forward slashes.
        fields: Values of the pattern's fields.
    """

    name: str
    fields: dict[str, str]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a path pattern to a regular expression.

    ``{name}`` matches part of a file or folder name, as short as possible, and the same text if it is repeated;
    ``{name:2}`` matches exactly two characters; ``*`` matches any part of a name; ``**`` matches any number of folders.

    Raises:
        InputError: If a brace is unmatched, or nothing decides where a field ends: fields that touch need a width.

    Example:
        >>> match = compile_pattern("{label}_{speaker}_{utterance}.wav").fullmatch("7_lucas_12.wav")
        >>> match.groupdict()
        {'label': '7', 'speaker': 'lucas', 'utterance': '12'}
        >>> compile_pattern("{speaker}/**").fullmatch("id10270/5r0dWxy17C8/00001.wav")["speaker"]
        'id10270'
        >>> compile_pattern("{speaker:2}{text:3}{label:1}{take}.wav").fullmatch("03a01Fa.wav").groupdict()
        {'speaker': '03', 'text': 'a01', 'label': 'F', 'take': 'a'}
    """
    return re.compile(_expression(pattern, "+?"))


def _expression(pattern: str, count: str) -> str:
    """Return the regular expression of a pattern; ``count`` is the quantifier of fields without a width."""
    seen: set[str] = set()
    parts = []
    before = ""  # the token before, if it has no fixed width
    for token in filter(None, re.split(r"(\*\*/|\*\*|\*|\{[^\W\d]\w*(?::[1-9]\d*)?\})", pattern)):
        open_ended = token
        if name := re.fullmatch(r"\{(\w+)(?::(\d+))?\}", token):
            if name[1] in seen:
                parts.append(f"(?P={name[1]})")
            else:
                parts.append(f"(?P<{name[1]}>[^/]{f'{{{name[2]}}}' if name[2] else count})")
            open_ended = before if name[2] or name[1] in seen else token  # widths do not separate their neighbors
            seen.add(name[1])
        elif token in ("*", "**"):
            parts.append("[^/]*" if token == "*" else ".*")
        else:
            if "{" in token or "}" in token:
                raise InputError(
                    f"pattern: found {token!r} in {pattern!r}; a field is a name in braces, as {{speaker}}, or with a "
                    "width, as {speaker:2}"
                )
            parts.append("(?:.*/)?" if token == "**/" else re.escape(token))
            open_ended = ""
        if before and open_ended == token and "{" in before + token:
            raise InputError(
                f"pattern: nothing between {before} and {token} in {pattern!r} decides where one ends; give widths, as "
                "{speaker:2}, or a separator between them"
            )
        before = open_ended
    return "".join(parts)


def find_files(
    root: str | Path,
    pattern: str,
    suffixes: Collection[str],
    kind: str,
    hint: str,
    key: str = "root",
    messages: MessageLog | None = None,
) -> list[FoundFile]:
    """Find all files of a kind under a folder that match a pattern, sorted by name.

    Hidden files, hidden folders and folders of file servers are skipped; files of other suffixes are listed.

    Args:
        root: Folder to search.
        pattern: Pattern of paths relative to ``root``; syntax as in :func:`compile_pattern`.
        suffixes: Suffixes of the files, in lower case.
        kind: Name of the kind of file, for messages.
        hint: Fields that the pattern should contain, for messages.
        key: Argument that names the folder, for messages.
        messages: Log of what is left out; a new one by default.

    Raises:
        InputError: If the folder does not exist, holds no such file, or none that matches; if a subfolder cannot be
            opened or links to one of its parents.
    """
    if not Path(root).is_dir():
        raise InputError(
            f"{key}: found no folder {root}{nearest_path(root)}; expected {kind}s in it that match {pattern}"
        )
    messages = messages or MessageLog()
    expression, longest = compile_pattern(pattern), re.compile(_expression(pattern, "+"))
    others: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    found, unmatched, ambiguous = [], [], []
    for name in walk_files(str(root), key, skipped):
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in suffixes:
            others[suffix] += 1
        elif match := expression.fullmatch(name):
            found.append(FoundFile(name, fields := match.groupdict()))
            if (other := longest.fullmatch(name)) and other.groupdict() != fields:
                ambiguous.append((name, fields, other.groupdict()))
        else:
            unmatched.append(name)
    if not found and not unmatched:
        seen = shorten((f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common()), 3)
        raise InputError(
            f"{key}: there is no {kind} ({', '.join(sorted(suffixes))}) under {root}, which should contain "
            f"{pattern}; found {seen or 'no file at all'}"
        )
    if not found:
        raise InputError(
            f"{key}: none of the {len(unmatched)} {kind}s under {root} matches the pattern {pattern}; one is "
            f"{min(unmatched)}: set pattern to describe it, with {hint}"
        )
    if unmatched:
        messages.warn(
            f"{len(unmatched)} of {len(found) + len(unmatched)} {kind}s under {root} do not match the pattern "
            f"{pattern} and are left out: {shorten(sorted(unmatched), 3)}"
        )
    if ambiguous:
        name, fields, other_fields = min(ambiguous, key=lambda case: case[0])
        differ = [key for key in fields if fields[key] != other_fields[key]]
        first, second = (", ".join(f"{key} {case[key]!r}" for key in differ) for case in (fields, other_fields))
        messages.warn(
            f"{len(ambiguous)} of {len(found)} {kind}s under {root} match the pattern {pattern} in several ways: "
            f"{name} has {first}, or {second}. The first is used; give widths, as {{{differ[0]}:2}}, or separators"
        )
    warning, message = left_out_messages(root, others, skipped, ", ".join(sorted(suffixes)))
    messages.warn(warning)
    messages.info(message)
    return sorted(found, key=lambda file: file.name)
