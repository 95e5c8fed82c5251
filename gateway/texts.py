"""Texts from outside, made fit to be kept: pure."""

from __future__ import annotations


def storable(text: str, most: int | None = None) -> str:
    """Return *text* without what a PostgreSQL ``text`` refuses: NUL and lone surrogates.

    At most *most* characters of it, where that is given. Each sign that goes becomes U+FFFD.
    """
    if most is not None:
        text = text[:most]
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # "replace" would write "?"; through UTF-16 each lone surrogate becomes U+FFFD instead.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
