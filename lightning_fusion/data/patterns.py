"""Files found by a path pattern, with the fields that it extracts."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.errors import InputError, shorten


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

    ``{name}`` matches part of a file or folder name, as short as possible, and the same text where it is repeated;
    ``*`` matches any part of a name; ``**`` matches any number of folders.

    Raises:
        InputError: If a brace is unmatched.

    Example:
        >>> match = compile_pattern("{label}_{speaker}_{utterance}.wav").fullmatch("7_lucas_12.wav")
        >>> match.groupdict()
        {'label': '7', 'speaker': 'lucas', 'utterance': '12'}
        >>> compile_pattern("{speaker}/**").fullmatch("id10270/5r0dWxy17C8/00001.wav")["speaker"]
        'id10270'
    """
    seen: set[str] = set()
    parts = []
    for token in re.split(r"(\*\*/|\*\*|\*|\{[^\W\d]\w*\})", pattern):
        if name := re.fullmatch(r"\{(\w+)\}", token):
            parts.append(f"(?P={name[1]})" if name[1] in seen else f"(?P<{name[1]}>[^/]+?)")
            seen.add(name[1])
        elif "{" in token or "}" in token:
            raise InputError(f"pattern: found {token!r} in {pattern!r}; a field is a name in braces, as {{speaker}}")
        else:
            parts.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}.get(token) or re.escape(token))
    return re.compile("".join(parts))


def find_files(
    root: str | Path,
    pattern: str,
    suffixes: Collection[str],
    kind: str,
    hint: str,
    key: str = "root",
    unread: Collection[str] = (),
) -> list[FoundFile]:
    """Find all files of a kind under a folder that match a pattern, sorted by name; hidden files are skipped.

    Args:
        root: Folder to search.
        pattern: Pattern of paths relative to ``root``; syntax as in :func:`compile_pattern`.
        suffixes: Suffixes of the files, in lower case.
        kind: Name of the kind of file, for messages.
        hint: Fields that the pattern should contain, for messages.
        key: Argument that names the folder, for messages.
        unread: Suffixes of files of this kind that are not supported; they are listed in a warning.

    Raises:
        InputError: If the folder does not exist, holds no such file, or none that matches; if a subfolder cannot be
            opened or links to one of its parents.
    """
    if not Path(root).is_dir():
        raise InputError(f"{key}: found no folder {root}; expected {kind}s in it that match {pattern}")
    expression = compile_pattern(pattern)
    others: Counter[str] = Counter()
    found, unmatched = [], []
    for name in _walk(str(root), key):
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in suffixes:
            others[suffix] += 1
        elif match := expression.fullmatch(name):
            found.append(FoundFile(name, match.groupdict()))
        else:
            unmatched.append(name)
    if not found and not unmatched:
        seen = shorten((f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common()), 3)
        raise InputError(
            f"{key}: there is no {kind} ({', '.join(sorted(suffixes))}) under {root}, which should hold "
            f"{pattern}; found {seen or 'no file at all'}"
        )
    if not found:
        raise InputError(
            f"{key}: none of the {len(unmatched)} {kind}s under {root} matches the pattern {pattern}; one is "
            f"{min(unmatched)}: set pattern to describe it, with {hint}"
        )
    if unmatched:
        rank_zero_warn(
            f"{len(unmatched)} of {len(found) + len(unmatched)} {kind}s under {root} do not match the pattern "
            f"{pattern} and are left out: {shorten(sorted(unmatched), 3)}"
        )
    if left := {suffix: others[suffix] for suffix in sorted(set(unread) & set(others))}:
        listed = shorten(f"{count} {suffix}" for suffix, count in left.items())
        rank_zero_warn(
            f"{listed} file(s) under {root} are left out; convert them to {', '.join(sorted(suffixes))} if they are to "
            "count"
        )
    return sorted(found, key=lambda file: file.name)


def _walk(root: str, key: str) -> Iterator[str]:
    def reject(error: OSError) -> None:
        raise InputError(f"{key}: the folder {error.filename} cannot be opened ({error.strerror})") from error

    for folder, folders, names in os.walk(root, onerror=reject, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (os.path.join(folder, name) for name in folders):
            if os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path)):
                raise InputError(f"{key}: {path} links to one of its parent folders; remove the link")
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if below == "." else below + "/"
        for name in names:
            if not name.startswith("."):
                yield prefix + name
