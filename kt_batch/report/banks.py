"""The filter banks below a place, as one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kt_batch.errors import KtBatchError, MissingError
from kt_batch.redaction import redacted
from kt_batch.store.bank_files import BANK_SUFFIX, MOST_HEADER, check_size, header_length, parse_bank_header
from kt_batch.store.local import LocalLocation
from kt_batch.store.locations import Location, absolute_place, open_location


@dataclass(frozen=True)
class BankRow:
    """One bank.

    file: Its name below the place. images: Image id -> file name of each style image. network: Content id of the
    network that it belongs to. losses: By name. added: Trained beside a network that stayed as it was. reason: Why a
    damaged one cannot be read.
    """

    file: str
    name: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    kernel: int = 0
    channels: int = 0
    steps: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0
    network: str = ""
    added: bool = False
    reason: str = ""


def list_banks(place: str) -> list[BankRow]:
    """Return the banks at a place or below it, by file name. Only headers are read.

    A bank that cannot be read is a row with a reason.

    Raises:
        MissingError: There is no such folder.
        StorageError: The place cannot be listed.
    """
    location = open_location(absolute_place(place))
    if isinstance(location, LocalLocation) and not location.root.is_dir():
        raise MissingError(f"'{place}' is no folder; name a folder or s3://bucket/prefix with filter banks in it.")
    return [_row(location, name) for name in location.list() if name.endswith(BANK_SUFFIX)]


def _row(location: Location, name: str) -> BankRow:
    where = f"{location.uri}/{name}"
    try:
        length = header_length(location.read_range(name, 0, 8), where)
        header = parse_bank_header(location.read_range(name, 8, min(length, MOST_HEADER)), where)
        size = location.size(name)
        check_size(header, length, size, where)
    except (KtBatchError, OSError) as error:
        return BankRow(name, reason=redacted(str(error)))
    return BankRow(
        file=name,
        name=header.name,
        images=header.images,
        kernel=header.kernel,
        channels=header.channels,
        steps=header.steps,
        losses=header.losses,
        bytes=size,
        network=header.network,
        added=header.added,
    )
