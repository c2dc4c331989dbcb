"""Text of others, as it may be shown."""


def visible(text: str) -> str:
    r"""Text without what a terminal obeys and XML can't hold: `\x1b` for the character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
