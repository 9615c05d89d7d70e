"""Foreign text (names and messages that others chose) as a person may see it: nothing in it steers a terminal."""

from __future__ import annotations

import json
import unicodedata


def printable(text: str) -> str:
    r"""Return one line of text in which every character is visible, spaces aside.

    Everything else becomes an escape as in Python, such as `\x1b`, `\n` or `\u202e`: control characters and line ends,
    marks that change the direction of writing, invisible format characters, lone surrogates (bytes of a name that are
    not UTF-8), and characters without a meaning.
    """
    if text.isprintable():
        return text
    return "".join(character if is_visible(character) else _escape(character) for character in text)


def printable_lines(text: str) -> list[str]:
    r"""Return the lines of a text of ours, a traceback or a page of options; only `\n` ends a line."""
    return [printable(line) for line in text.removesuffix("\n").split("\n")]


def printable_json(content: object, *, only_ascii: bool = False) -> str:
    r"""Return a value as one line of JSON with the same characters escaped, as `\u001b`.

    Args:
        content: A value; what JSON does not know is written as its text.
        only_ascii: Escape everything beyond ASCII, for readers of another encoding.
    """
    text = json.dumps(content, ensure_ascii=only_ascii, default=str)
    if text.isprintable():
        return text
    # Unprintable characters stand within strings only, where every character may be an escape.
    return "".join(
        character if is_visible(character) else json.dumps(character, ensure_ascii=True)[1:-1] for character in text
    )


def is_visible(character: str) -> bool:
    """Return whether a character is shown as itself: it is printable, or a space of some width."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
