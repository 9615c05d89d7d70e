"""Store the pictures of a unit: each in a file of its own, or all in one shard."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias

from kt_batch.errors import DamagedError, NameRefusedError, Reason, RejectError
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.provenance import AnyProvenance, source_shares
from kt_batch.store.inputs import file_time
from kt_batch.store.locations import Location
from kt_batch.store.names import TEMP_PREFIX
from kt_batch.store.output_shards import Sample, ShardWriter, SourceShare
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import ShardRef

HASHED_BYTES = 2**22  # of a file at a time

Output: TypeAlias = tuple[str, int]  # SHA-256 and bytes


@dataclass(frozen=True)
class About:
    """Facts about a picture before it is encoded: its (width, height), and the sources it was made of."""

    size: tuple[int, int]
    provenance: AnyProvenance


class Outputs(Protocol):
    """Takes the pictures of a unit, one after the other."""

    def refusal(self, item: Item) -> str | None:
        """Return why the place takes no picture of this name; None where it takes one."""

    def put(self, item: Item, file: BinaryIO, about: About) -> Output | RejectError:
        """Store a picture; return its SHA-256 and bytes, or why it cannot be stored."""

    def finish(self) -> ShardRef | None:
        """Complete what was stored, and return the shard, where there is one."""


@contextmanager
def open_outputs(job: TranslateJob, location: Location, unit: Unit, library: str) -> Iterator[Outputs]:
    """Yield where the pictures of a unit go. `library` names the library by its content."""
    if job.config.output == "files":
        yield Files(job, location)
        return
    path = location.scratch_directory() / f"{TEMP_PREFIX}{secrets.token_hex(12)}.{job.config.output}"
    with ShardWriter(path, job.config.output) as writer:
        yield Shard(job, location, unit, library, writer)


class Files:
    """A file for each picture, at its final name."""

    def __init__(self, job: TranslateJob, location: Location) -> None:
        self._job, self._location = job, location

    def refusal(self, item: Item) -> str | None:
        """See `Outputs`."""
        return self._location.refusal(item.output_path(self._job.config.format))

    def put(self, item: Item, file: BinaryIO, about: About) -> Output | RejectError:  # noqa: ARG002 - tables say it
        """Put an image if absent at its final name, or adopt the same image that is there.

        With mixed numerics an image of another class is adopted too, unless another image may have had the name.
        """
        name = item.output_path(self._job.config.format)
        sha256, size = _content(file)
        try:
            time_of_photograph = None if self._job.config.metadata == "strip" else file_time(item.uri)
            if self._location.put_file_if_absent(name, file, time_of_photograph):
                return sha256, size
        except NameRefusedError as error:
            return RejectError(Reason.NAME_REFUSED, f"{error}.")
        with self._location.open(name) as there:
            present, size = _content(there)
        if present != sha256 and item.name in self._job.name_conflicts:
            why = (
                f"'{name}' at '{self._location.uri}' is there already, in no receipt of this run, and was not made "
                f"from what '{item.uri}' holds now: remove it and use --retry-rejected."
            )
            return RejectError(Reason.CHANGED, why)
        if present != sha256 and not self._job.mix_numerics:
            raise DamagedError(
                f"'{name}' at '{self._location.uri}' is there already with other content, in no receipt of this run; "
                "remove it and start again."
            )
        return present, size

    def finish(self) -> ShardRef | None:
        """Return None: every picture is stored."""
        return None


class Shard:
    """One file for all pictures of a unit, published under its own hash once it is complete.

    Another attempt at the unit makes the same bytes, and so the same name.
    """

    def __init__(self, job: TranslateJob, location: Location, unit: Unit, library: str, writer: ShardWriter) -> None:
        self._config, self._location, self._unit = job.config, location, unit
        self._library, self._writer = library, writer
        self._added: list[str] = []  # names of items

    def refusal(self, item: Item) -> str | None:  # noqa: ARG002 - no file gets the name
        """Return None: no file gets the name of an output."""
        return None

    def put(self, item: Item, file: BinaryIO, about: About) -> Output | RejectError:
        """See `Outputs`."""
        sha256, size = _content(file)
        try:
            self._writer.add(self._sample(item, sha256, about), file, size)
        except RejectError as error:
            return error.with_traceback(None)
        self._added.append(item.name)
        return sha256, size

    def finish(self) -> ShardRef | None:
        """See `Outputs`."""
        finished = self._writer.finish()
        if finished is None:
            return None
        sha256, size, places = finished
        at = dict(zip(self._added, places, strict=True))
        offsets: Sequence[int | None] = [at.get(item.name) for item in self._unit.items]
        shard = ShardRef(form=self._writer.form, bytes=size, sha256=sha256, offsets=tuple(offsets))
        self._location.put_content(shard.name(self._unit.id), self._writer.path)
        return shard

    def _sample(self, item: Item, sha256: str, about: About) -> Sample:
        return Sample(
            output=item.output_path(self._config.format),
            input_name=item.name,
            uri=item.uri,
            image_id=item.image_id,
            sha256=sha256,
            width=about.size[0],
            height=about.size[1],
            method=self._config.method,
            library=self._library,
            sources=tuple(SourceShare(*each) for each in source_shares(about.provenance, item)),
        )


def _content(file: BinaryIO) -> Output:
    """Return SHA-256 and bytes of an open file."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(HASHED_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
