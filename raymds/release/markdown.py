"""Names and tables in Markdown."""

import re
from collections.abc import Iterable, Sequence

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")


def escaped(text: str) -> str:
    """A name as it is, whatever Markdown or HTML it looks like."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.replace("&", "&amp;").split()))


def table(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are Markdown already; `numbers` are the columns that stand right."""
    right = set(numbers)
    marks = ["---:" if i in right else "---" for i in range(len(names))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, marks, *rows))
