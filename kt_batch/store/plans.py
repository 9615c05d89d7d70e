"""Plans: items, the units that they are divided into, and the file that holds units."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kt_batch.errors import DamagedError, UsageError
from kt_batch.store import layout
from kt_batch.store.names import is_safe_name
from kt_batch.store.output_names import plain_output
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.plan_metadata import PlanMetadata, parse_plan_metadata
from kt_batch.store.schemas import PLAN, PLAN_AFTER, PLAN_OUTPUT, PLAN_TAGS

_IMAGE_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Item:
    """One input.

    image_id: 16 hex digits. uri: where it was listed. name: what its output is named after. output: path of the output
    in the run where the plan states one; empty for the plain path. tags: what a manifest says about it. after: where
    the edited picture was listed, for a pair; `image_id` is then that of the pair.
    """

    image_id: str
    uri: str
    name: str
    output: str = field(default="", compare=False)
    tags: tuple[str, ...] = field(default=(), compare=False)
    after: str = field(default="", compare=False)

    def output_path(self, format: str) -> str:  # noqa: A002
        """Return the path of the output in the run."""
        return self.output or plain_output(self.name, format)


@dataclass(frozen=True, slots=True)
class Unit:
    """Items that are done, retried and committed as one.

    id: 16 hex digits over the items. quarantined: image id -> why the image must not be touched again; a driver finds
    this out while it runs, no plan holds it. retry: 0 for the first attempt at its items, else the number of the retry.
    """

    id: str
    items: tuple[Item, ...]
    quarantined: Mapping[str, str] = field(default_factory=dict, compare=False)
    retry: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan file. Its units all belong to one retry, or to none."""

    units: tuple[Unit, ...]
    config: dict[str, Any]
    config_digest: str

    @property
    def retry(self) -> int:
        """Return the number of the retry; 0 for first attempts."""
        return self.units[0].retry if self.units else 0


def make_units(items: Iterable[Item], unit_size: int, retry: int = 0) -> list[Unit]:
    """Divide items into units of at most `unit_size`, independently of their order.

    Items are sorted by (image id, name, URI). All names of one image are in one unit, which may be larger only for that
    reason. An item that is listed twice, from two URIs, counts once. `retry` is the number of the retry of all units.

    Raises:
        UsageError: the unit size is under 1, or an image id is malformed.
    """
    if unit_size < 1:
        raise UsageError(f"the unit size is {unit_size}; allowed is 1 and more")
    ordered = sorted(items, key=lambda item: (item.image_id, item.name, item.uri))
    units: list[Unit] = []
    batch: list[Item] = []
    for image_id, same_image in groupby(ordered, key=lambda item: item.image_id):
        if not _IMAGE_ID.fullmatch(image_id):
            raise UsageError(f"the image id {image_id!r} is malformed; allowed are 16 lower-case hex digits")
        group = [next(same_name) for _, same_name in groupby(same_image, key=lambda item: item.name)]
        if batch and len(batch) + len(group) > unit_size:
            units.append(unit_of(batch, retry))
            batch = []
        batch += group
    return [*units, unit_of(batch, retry)] if batch else units


def owners(units: Iterable[Unit]) -> dict[str, str]:
    """Return for each image id the first unit, in plan order, that holds it.

    An image that appears under another name after it was planned is in two units. Its patches belong to the owner.
    """
    first: dict[str, str] = {}
    for unit in units:
        for item in unit.items:
            first.setdefault(item.image_id, unit.id)
    return first


def encode_plan(plan: Plan) -> bytes:
    """Encode a plan as Parquet bytes that depend on the plan alone."""
    rows = [(unit.id, item) for unit in plan.units for item in unit.items]
    ids = [[bytes.fromhex(unit) for unit, _ in rows], [bytes.fromhex(item.image_id) for _, item in rows]]
    columns: list[list[Any]] = [*ids, [item.uri for _, item in rows], [item.name for _, item in rows]]
    paired = any(item.after for _, item in rows)
    tagged = paired or any(item.tags for _, item in rows)
    named = tagged or any(item.output for _, item in rows)
    schema = pa.schema([*PLAN, *[PLAN_OUTPUT] * named, *[PLAN_TAGS] * tagged, *[PLAN_AFTER] * paired])
    columns += [[item.output or None for _, item in rows]] if named else []
    columns += [[list(item.tags) for _, item in rows]] if tagged else []
    columns += [[item.after for _, item in rows]] if paired else []
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "use_dictionary": ["unit"], "write_statistics": False, "store_schema": False}
    with pq.ParquetWriter(sink, schema, **options) as writer:
        writer.write_table(pa.table(columns, schema=schema))
        stated = PlanMetadata(plan.config, plan.config_digest, plan.retry, named, tagged, paired)
        writer.add_key_value_metadata(stated.encoded())
    return bytes(sink.getvalue())


def decode_plan(data: bytes, name: str) -> Plan:
    """Decode the plan read from `name`.

    Raises:
        DamagedError: it is not a plan, or a unit's id does not follow from its items.
    """
    return read_plan(ParquetReader(io.BytesIO(data), len(data), name), name)


def read_plan(file: ParquetReader, name: str) -> Plan:
    """Read the plan in an open Parquet file called `name`; raises as `decode_plan` does."""
    stated = parse_plan_metadata(file.metadata, name)
    outputs, tags = [PLAN_OUTPUT.name] * stated.named, [PLAN_TAGS.name] * stated.tagged
    after = [PLAN_AFTER.name] * stated.paired
    columns = file.read([*PLAN.names, *outputs, *tags, *after], nullable=outputs).to_pydict()
    columns.setdefault(PLAN_OUTPUT.name, [None] * sum(file.rows))
    columns.setdefault(PLAN_TAGS.name, [()] * sum(file.rows))
    columns.setdefault(PLAN_AFTER.name, [""] * sum(file.rows))
    names = (*PLAN.names, PLAN_OUTPUT.name, PLAN_TAGS.name, PLAN_AFTER.name)
    rows = zip(*(columns[column] for column in names), strict=True)
    return Plan(tuple(_checked_units(rows, stated.retry, name)), stated.config, stated.config_digest)


def _checked_units(rows: Iterable[tuple[Any, ...]], retry: int, name: str) -> Iterator[Unit]:
    for unit_id, members in groupby(rows, key=lambda row: row[0]):
        items = [Item(row[1].hex(), row[2], row[3], row[4] or "", tuple(row[5]), row[6]) for row in members]
        unit = unit_of(items, retry)
        for item in unit.items:
            if item.output and not (is_safe_name(item.output) and layout.is_output(item.output)):
                raise DamagedError(f"{name} names the output {item.output!r}; allowed is one in {layout.OUTPUTS}/")
        if unit.id != unit_id.hex():
            raise DamagedError(f"{name} holds a unit {unit_id.hex()} whose items make {unit.id}")
        yield unit


def unit_of(items: Sequence[Item], retry: int) -> Unit:
    """Return the unit of some items; its id follows from them and the number of the retry."""
    members = [[item.image_id, item.name, item.uri] for item in items]
    content = canonical({"retry": retry, "items": members} if retry else members)
    return Unit(hashlib.sha256(content.encode()).hexdigest()[:16], tuple(items), retry=retry)


def canonical(content: Any) -> str:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
