"""Changes of JSON files that carry a digest of their content."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fusion.files import sealed


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a file, as its author could: the digest is that of the new content."""
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(sealed(content)))
