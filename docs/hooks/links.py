"""Links, references and formulas of the site.

Pages link to files of the repository, as its readers need it; on the site such links lead to pages.
"""

import html
import posixpath
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from pages import COPIES, ROOT, TUTORIALS, modules

LINK = r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)"
ROLE = r":\w+:<code>~?([\w.]+)</code>"
FORMULA = r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>'


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite relative links; links to files that the site does not have become plain text."""
    origin = _origin(page.file.src_uri)
    if origin is None:
        return markdown
    known = {_origin(file.src_uri): file.src_uri for file in files}

    def rewritten(match: re.Match[str]) -> str:
        image, text, target, anchor = match[2], match[3], match[4], match[5] or ""
        if match[1]:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if path in known:
            target = posixpath.relpath(known[path], posixpath.dirname(page.file.src_uri) or ".")
            return f"{image}[{text}]({target}{anchor})"
        return text if (ROOT / path).exists() else match[0]  # the strict build reports what does not exist

    return re.sub(rf"(^```.*?^```$)|{LINK}", rewritten, markdown, flags=re.MULTILINE | re.DOTALL)


def _origin(page: str) -> str | None:
    """Return the file of the repository that a page shows; None for pages that show none.

    Example:
        >>> _origin("index.md"), _origin("methods/foe.md"), _origin("tutorials/tour.md"), _origin("reference/index.md")
        ('README.md', 'docs/methods/foe.md', 'notebooks/tour.ipynb', None)
    """
    copied = {target: source for source, target in COPIES.items()}
    if page in copied:
        return copied[page]
    if page.startswith("tutorials/"):
        return f"{TUTORIALS}/{Path(page).stem}.ipynb"
    return None if page.startswith("reference/") else f"docs/{page}"


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Turn references of docstrings into links and formulas into MathML, which browsers show without scripts."""
    content = re.sub(ROLE, _reference, content)
    return re.sub(FORMULA, _mathml, content, flags=re.DOTALL)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Check that a page loads nothing from other servers."""
    if loaded := re.findall(r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="(https?://[^"]+)', output):
        raise ValueError(f"{page.file.src_uri} loads {loaded[0]}; the site has to work without a network")
    return output


def _reference(match: re.Match[str]) -> str:
    name = match[1].rpartition(".")[2]
    path = _defined().get(name)
    code = f"<code>{name}</code>"
    return f'<autoref identifier="{path}" optional>{code}</autoref>' if path else code


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    return convert(html.unescape(match[2]).strip(), display="block" if match[1] == "div" else "inline")


@cache
def _defined() -> dict[str, str]:
    """Return the import paths of public names that only one module defines."""
    found: dict[str, list[str]] = {}
    for module in modules():
        for name in module.names:
            found.setdefault(name, []).append(f"{module.path}.{name}")
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}
