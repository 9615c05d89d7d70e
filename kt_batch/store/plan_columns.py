"""The columns of a plan that only some plans have, and the formats that tell which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from kt_batch.store.schemas import PLAN, PLAN_OUTPUT, PLAN_TAGS

PLAN_FORMAT = "kt-batch-plan/1"
RETRY_FORMAT = "kt-batch-plan/2"  # with the number of the retry in the metadata
NAMES_FORMAT = "kt-batch-plan/3"  # with a column of outputs whose path is not the plain one, and perhaps a retry
TAGS_FORMAT = "kt-batch-plan/4"  # with a column of tags, and perhaps one of outputs and a retry
PLAN_FORMATS = (PLAN_FORMAT, RETRY_FORMAT, NAMES_FORMAT, TAGS_FORMAT)
ALLOWED = f"{PLAN_FORMAT!r} to {TAGS_FORMAT!r}"


class Planned(Protocol):
    """An item of a plan, as far as it has optional columns."""

    @property
    def output(self) -> str:
        """Return the path of the output, empty for the plain one."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the tags that a manifest gave it."""


def optional_columns(items: Sequence[Planned]) -> list[tuple[pa.Field, list[str | None]]]:
    """Return the columns that these items need beyond those of every plan, with their values."""
    outputs = [item.output or None for item in items]
    tags = [json.dumps(item.tags, ensure_ascii=False, separators=(",", ":")) if item.tags else None for item in items]
    return [(column, values) for column, values in ((PLAN_OUTPUT, outputs), (PLAN_TAGS, tags)) if any(values)]


def plan_format(optional: Sequence[pa.Field], retry: int) -> str:
    """Return the format of a plan with these optional columns: the first one that has them."""
    if PLAN_TAGS in optional:
        return TAGS_FORMAT
    return NAMES_FORMAT if optional else RETRY_FORMAT if retry else PLAN_FORMAT


def plan_schema(kind: str, stored: Sequence[str]) -> pa.Schema:
    """Return the schema of a plan of a format with these stored columns."""
    if kind not in (NAMES_FORMAT, TAGS_FORMAT):
        return PLAN
    schema = PLAN.append(PLAN_OUTPUT) if kind == NAMES_FORMAT or PLAN_OUTPUT.name in stored else PLAN
    return schema.append(PLAN_TAGS) if kind == TAGS_FORMAT else schema


def read_tags(text: str | None) -> tuple[str, ...]:
    """Return the tags of a row. Raises ValueError for anything but a JSON list of texts."""
    tags = json.loads(text) if text else []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"its tags are {text!r}; allowed is a JSON list of texts")
    return tuple(tags)
