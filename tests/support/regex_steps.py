"""Counts the steps of a backtracking search for a regular expression, and builds texts that make it take many.

The search tries what Python's would, without its short cuts: one step for each character and each choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from re import _parser  # type: ignore[attr-defined]  # isort: skip

PROBES = "a0 _#-/.:\n\r\"'=<>[](){}+*x9Zf\\\x00ÿ"  # characters that texts are made of
ENDS = ("\x01", "!", "\n", "")  # what makes a match fail at last, or not


class TooManySteps(Exception):
    """The search takes more steps than it may."""


def steps(pattern: re.Pattern[Any], text: str, most: int) -> int:
    """Return the number of steps until every way to match the whole text has failed, or one has not.

    Raises:
        TooManySteps: More than `most`.
    """
    search = _Search(pattern, text, most)
    any(end == len(text) for end in search.sequence(list(parse(pattern)), 0))
    return search.steps


def parse(pattern: re.Pattern[Any]) -> Any:
    """Return the parsed expression."""
    return _parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)


class _Search:
    def __init__(self, pattern: re.Pattern[Any], text: str, most: int) -> None:
        self.pattern, self.text, self.most, self.steps = pattern, text, most, 0

    def sequence(self, items: list[Any], at: int) -> Iterator[int]:
        """Yield where the items may end that begin at a place."""
        self._count()
        if not items:
            yield at
            return
        for end in self._item(items[0], at):
            yield from self.sequence(items[1:], end)

    def _item(self, item: Any, at: int) -> Iterator[int]:
        kind, value = str(item[0]), item[1]
        if kind.endswith("_REPEAT"):
            yield from self._repeat(value[0], int(value[1]), list(value[2]), at)
        elif kind == "SUBPATTERN":
            yield from self.sequence(list(value[3]), at)
        elif kind == "BRANCH":
            for branch in value[1]:
                yield from self.sequence(list(branch), at)
        elif kind == "AT":
            if at == (0 if "BEGINNING" in str(value) else len(self.text)):
                yield at
        elif at < len(self.text) and accepts(self.pattern, item, self.text[at]):
            yield at + 1

    def _repeat(self, least: int, most: int, body: list[Any], at: int) -> Iterator[int]:
        self._count()
        if most:
            for end in self.sequence(body, at):
                if end > at:
                    yield from self._repeat(max(0, least - 1), most - 1, body, end)
        if least == 0:
            yield at

    def _count(self) -> None:
        self.steps += 1
        if self.steps > self.most:
            raise TooManySteps


def accepts(pattern: re.Pattern[Any], item: Any, character: str) -> bool:
    """Return whether one item of an expression, such as a set, accepts a character."""
    kind, value = str(item[0]), item[1]
    match kind:
        case "LITERAL" | "NOT_LITERAL":
            same = chr(value) == character
            if pattern.flags & re.IGNORECASE:
                same = chr(value).lower() == character.lower()
            return same == (kind == "LITERAL")
        case "ANY":
            return character != "\n" or bool(pattern.flags & re.DOTALL)
        case "IN":
            negated = str(value[0][0]) == "NEGATE"
            return any(_is_in(member, character) for member in value[negated:]) != negated
    raise NotImplementedError(f"{kind} in {pattern.pattern!r}: teach it to tests/support/regex_steps.py")


def _is_in(member: Any, character: str) -> bool:
    kind, value = str(member[0]), member[1]
    if kind == "LITERAL":
        return chr(value) == character
    if kind == "RANGE":
        return bool(value[0] <= ord(character) <= value[1])
    return re.match(CATEGORIES[str(value)], character, re.ASCII) is not None


CATEGORIES = {
    "CATEGORY_DIGIT": r"\d", "CATEGORY_NOT_DIGIT": r"\D", "CATEGORY_SPACE": r"\s", "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w", "CATEGORY_NOT_WORD": r"\W",
}  # fmt: skip


def attacks(pattern: re.Pattern[Any], length: int) -> Iterator[str]:
    """Yield texts that repeat what an unbounded repeat accepts, between what leads to it and what may fail."""
    for prefix, repeated in _repeats(pattern, list(parse(pattern)), ""):
        for end in ENDS:
            yield prefix + repeated * (length // len(repeated)) + end


def _repeats(pattern: re.Pattern[Any], items: list[Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield for every unbounded repeat: a text that leads to it, and each of some texts that it accepts."""
    for item in items:
        kind, value = str(item[0]), item[1]
        bodies = []
        if kind == "SUBPATTERN":
            bodies = [value[3]]
        elif kind == "BRANCH":
            bodies = value[1]
        elif kind.endswith("_REPEAT"):
            bodies = [value[2]]
            if int(value[1]) > 1000:
                yield from ((prefix, text) for text in samples(pattern, list(value[2])) if text)
        for body in bodies:
            yield from _repeats(pattern, list(body), prefix)
        prefix += next(iter(samples(pattern, [item])), "")


def samples(pattern: re.Pattern[Any], items: list[Any]) -> list[str]:
    """Return some texts that the items accept; each repeat has the least turns, or one."""
    texts = [""]
    for item in items:
        kind, value = str(item[0]), item[1]
        if kind.endswith("_REPEAT"):
            once = samples(pattern, list(value[2]))
            following = [text * turns for turns in (value[0], max(1, value[0])) for text in once]
        elif kind == "SUBPATTERN":
            following = samples(pattern, list(value[3]))
        elif kind == "BRANCH":
            following = [text for branch in value[1] for text in samples(pattern, list(branch))]
        elif kind == "AT":
            following = [""]
        elif kind == "LITERAL":
            following = [chr(value)]
        else:
            following = [each for each in PROBES if accepts(pattern, item, each)]
        texts = [text + more for text in texts for more in dict.fromkeys(following)][:60]
    return texts
