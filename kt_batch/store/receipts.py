"""Receipts: the record of what a unit committed.

The file `receipts/<unit>.json` is the commit itself. A receipt is compact JSON. It holds no table names, because they
follow from kind, unit and hash. A receipt therefore stays small and cannot point anywhere else.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kt_batch.errors import DamagedError
from kt_batch.store.documents import parse_document
from kt_batch.store.layout import TABLE_KIND, output_shard_path, part_path

RECEIPT_FORMAT: Final = "kt-batch-receipt/1"

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, Field(pattern=rf"^({TABLE_KIND})$")]
Level = Annotated[str, Field(pattern=r"^relu[1-4]_1(@[1-9][0-9]{0,3})?$")]  # a layer, or a layer at a working size
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0, lt=2**35), AfterValidator(lambda value: round(value, 3))]  # also of a clock
WorkerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}:[0-9]{1,10}$")]
HOST_LENGTH = 32
OPTIONAL = (
    "ncc_sum", "certified", "finished", "worker", "item_seconds", "publishing", "sizes", "shard", "sources",
)  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRef(_Record):
    """One part file.

    Its kind is its directory, and its name holds its unit and the beginning of its SHA-256. Provenance of a method with
    levels has a row group for each level of each output; `levels` names them, from coarse to fine.
    """

    kind: Kind
    name: str
    rows: Count
    bytes: Count
    sha256: Sha256
    levels: Annotated[tuple[Level, ...], Field(max_length=16)] = ()


class ShardRef(_Record):
    """The file that holds all output images of a unit.

    `offsets` is aligned with the outputs of the unit: where the bytes of each begin, None for a rejected item. A
    picture can therefore be read without its neighbours, and without a reader for the form of the file.
    """

    form: Literal["tar", "parquet"]
    bytes: Count
    sha256: Sha256
    offsets: tuple[Count | None, ...]

    def name(self, unit: str) -> str:
        """Return the path of the shard of a unit."""
        return output_shard_path(unit, self.sha256, self.form)


Pixels = tuple[Count, Count]


@dataclass(frozen=True)
class PictureSizes:
    """The sizes of outputs and of their inputs, (width, height) in pixels.

    smallest, largest: Of the outputs. input: Of the largest input. reduced: Outputs with fewer pixels than their input.
    """

    smallest: Pixels
    largest: Pixels
    input: Pixels
    reduced: Count


def join_sizes(sizes: Iterable[PictureSizes | None]) -> PictureSizes | None:
    """Return the sizes of all outputs; None where none were recorded."""
    known = [each for each in sizes if each is not None]
    if not known:
        return None
    return PictureSizes(
        smallest=min((each.smallest for each in known), key=_by_area),
        largest=max((each.largest for each in known), key=_by_area),
        input=max((each.input for each in known), key=_by_area),
        reduced=sum(each.reduced for each in known),
    )


def _by_area(pixels: Pixels) -> tuple[int, Pixels]:
    return pixels[0] * pixels[1], pixels


class Receipt(_Record):
    """The record of one finished unit.

    `outputs` is aligned with the unit's items: (SHA-256, bytes) of each output image, None for a rejected item; empty
    when the job makes no images. `timings` (seconds per stage, to the millisecond) and `attempt` are in no digest.

    `ncc_sum` and `certified` cover the best match of every patch: the sum of the NCC, and the number of certified
    matches. They are None for a job that matches no patches, and in receipts of earlier versions.

    Five fields are for reports alone, and in no digest: `finished` (Unix seconds), `worker` (host:process), `sizes`,
    `item_seconds`, aligned with the unit's items: seconds of working on the item's image and waiting for it, None for a
    rejected item or one of another unit, and `publishing`: how files got their names where there are no hard links. No
    decision uses them. Receipts of earlier versions lack them.

    `shard` is where the output images are, and None where each is a file of its own.

    `sources`, aligned with the unit's items, is the image id of the single source that each output was made from; None
    for a rejected item, and empty where outputs have all sources.
    """

    format: Literal["kt-batch-receipt/1"] = RECEIPT_FORMAT
    unit: Hex16
    attempt: Hex16
    config_digest: Hex16
    tables: tuple[TableRef, ...] = ()
    outputs: tuple[tuple[Sha256, Count] | None, ...] = ()
    rejects: Count = 0
    images: Count = 0
    patches: Count = 0
    ncc_sum: Annotated[float, Field(ge=-(2**53), le=2**53)] | None = None
    certified: Count | None = None
    numerics: dict[str, str] = {}
    timings: dict[str, Seconds] = {}
    finished: Seconds | None = None
    worker: WorkerName | None = None
    item_seconds: tuple[Seconds | None, ...] = ()
    publishing: Literal["rename", "lock"] | None = None
    sizes: PictureSizes | None = None
    shard: ShardRef | None = None
    sources: tuple[Hex16 | None, ...] = ()

    @model_validator(mode="after")
    def _names_follow(self) -> Self:
        for table in self.tables:
            expected = part_path(table.kind, self.unit, table.sha256)
            if table.name != expected:
                raise ValueError(f"the table {table.name!r} of unit {self.unit} should be called {expected!r}")
        return self

    @model_validator(mode="after")
    def _offsets_follow(self) -> Self:
        if self.shard and [at is None for at in self.shard.offsets] != [output is None for output in self.outputs]:
            raise ValueError(f"the shard of unit {self.unit} has offsets of other outputs than the receipt")
        return self

    @property
    def output_bytes(self) -> int:
        """Return the bytes of the files that hold the output images."""
        return self.shard.bytes if self.shard else sum(output[1] for output in self.outputs if output)

    def to_json(self) -> bytes:
        """Encode as canonical bytes: sorted keys, no spaces.

        Table names and values that were not recorded are left out.
        """
        content = self.model_dump(mode="json", exclude={"tables": {"__all__": {"name"}}})
        for table in content["tables"]:
            if not table["levels"]:
                del table["levels"]
        for field in OPTIONAL:
            if content[field] in (None, []):
                del content[field]
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def parse_receipt(data: bytes, name: str) -> Receipt:
    """Decode the receipt read from `name`, which ends in `<unit>.json`.

    Raises:
        DamagedError: it is not a receipt, or is another unit's.
    """
    try:
        receipt = Receipt.model_validate(_with_names(parse_document(data, name)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{name} is not a receipt of the format {RECEIPT_FORMAT}: {_first_line(error)}") from error
    if not name.endswith(f"{receipt.unit}.json"):
        raise DamagedError(f"{name} is the receipt of another unit, {receipt.unit}")
    return receipt


def check_adopted(mine: Receipt, theirs: Receipt, name: str) -> None:
    """Check the receipt of another attempt, read from `name`, with the one that was just made of the same unit.

    Raises:
        DamagedError: it is of another configuration, or has other outputs on the same numerics class.
    """
    both = [(one, other) for one, other in zip(mine.outputs, theirs.outputs, strict=False) if one and other]
    others = mine.numerics == theirs.numerics and any(one != other for one, other in both)
    if others or mine.config_digest != theirs.config_digest:
        raise DamagedError(
            f"{name} claims other outputs or another configuration than this worker has just found for the same "
            "images; somebody else wrote it."
        )


def new_attempt() -> str:
    """Return a random attempt id of 16 hex digits.

    A writer recognises its own receipt by it.
    """
    return secrets.token_hex(8)


def this_worker() -> str:
    """Return `host:process` of this process.

    Of a long host name, only the end of its first label remains: pods differ there.
    """
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "-"
    if len(host) > HOST_LENGTH:
        host = host.split(".")[0][-HOST_LENGTH:] or "-"
    return f"{host}:{os.getpid()}"


def _with_names(content: Any) -> Any:
    """Put the table names back; a name in the content is overruled."""
    unit = content["unit"]
    named = [{**table, "name": part_path(table["kind"], unit, table["sha256"])} for table in content["tables"]]
    return {**content, "tables": named}


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'receipt'}: {first['msg']}"
    return f"{type(error).__name__}: {error}"
