"""Check a shard of a run: its bytes, and those of each picture in it, in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from kt_batch.errors import DamagedError
from kt_batch.store.locations import Location
from kt_batch.store.receipts import ShardRef
from kt_batch.store.run import Output

CHUNK = 1 << 20  # bytes that are read at a time


def shard_faults(location: Location, name: str, shard: ShardRef, outputs: Sequence[Output]) -> list[str]:
    """Return a fault for a shard that is not what its receipt says, and for every picture of it that is not.

    Args:
        location: The run.
        name: The path of the shard.
        shard: As the receipt has it.
        outputs: Its pictures, in the order of their bytes.

    Raises:
        MissingError: It is gone.
        DamagedError: It has another size, or the receipt has pictures that overlap or lie outside of it.
    """
    size, end = location.size(name), 0
    if size != shard.bytes:
        raise DamagedError(f"'{name}' at '{location.uri}' has {size} bytes, not {shard.bytes}.")
    for output in outputs:
        if not end <= output.offset <= output.offset + output.bytes <= size:
            raise DamagedError(f"The receipt of '{name}' at '{location.uri}' has '{output.name}' where it cannot be.")
        end = output.offset + output.bytes
    whole, faults, at = hashlib.sha256(), [], 0
    with location.open(name) as file:
        for output in outputs:
            for chunk in _chunks(file, output.offset - at):
                whole.update(chunk)
            own = hashlib.sha256()
            for chunk in _chunks(file, output.bytes):
                whole.update(chunk)
                own.update(chunk)
            at = output.offset + output.bytes
            if own.hexdigest() != output.sha256:
                found = f"the SHA-256 {own.hexdigest()}, not {output.sha256}"
                faults.append(f"'{output.name}' in '{name}' at '{location.uri}' has {found}.")
        for chunk in _chunks(file, size - at):
            whole.update(chunk)
    if whole.hexdigest() != shard.sha256:
        faults.append(f"'{name}' at '{location.uri}' has the SHA-256 {whole.hexdigest()}, not {shard.sha256}.")
    return faults


def _chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the next bytes of a file; fewer where it ends."""
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        length -= len(chunk)
        yield chunk
