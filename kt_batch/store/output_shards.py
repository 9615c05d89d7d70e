"""Shards of output images: all pictures of a unit in one file, with what is known of each, for training.

A tar is a WebDataset: `<key>.<format>` with the picture, then `<key>.json`. A Parquet file has one row for each
picture, and the features of Hugging Face `datasets` in its metadata. In both, the bytes of a picture lie in one piece,
so a receipt says where.

The bytes of a shard depend on its pictures and their order alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kt_batch.errors import Reason, RejectError, StorageError
from kt_batch.store import layout
from kt_batch.store.input_names import short_hash

Form = Literal["tar", "parquet"]

KEY_CHARACTERS = 80  # of the readable part of a key: with suffixes, it fits into the plainest header of a tar
GROUP_BYTES = 32 << 20  # of the pictures of a row group; a larger picture has one of its own
MOST_ROW_BYTES = (1 << 31) - (1 << 20)  # of a picture in Parquet, whose pages have 31 bits for their size
BLOCK = tarfile.BLOCKSIZE
PAGE_BYTES = (1 << 31) - 1
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class SourceShare:
    """A source image, and its share of a picture; the shares of a picture sum to 1."""

    image_id: str
    share: float


@dataclass(frozen=True)
class Sample:
    """What stands beside a picture in a shard.

    output: Its name in the run. input_name, uri, image_id: Of its input. sha256, width, height: Of the picture.
    library: What names the library by its content; empty without one.
    """

    output: str
    input_name: str
    uri: str
    image_id: str
    sha256: str
    width: int
    height: int
    method: str
    library: str
    sources: tuple[SourceShare, ...]


SOURCES = pa.list_(pa.struct([("image_id", pa.string()), ("share", pa.float64())]))
ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *((name, pa.string()) for name in ("output", "input_name", "uri", "image_id", "sha256")),
        ("width", pa.uint32()),
        ("height", pa.uint32()),
        ("method", pa.string()),
        ("library", pa.string()),
        ("sources", SOURCES),
    ]
)


def sample_key(output: str) -> str:
    """Return the key of an output in a shard: `images/park/a.jpg.png` -> `park_a_jpg-3245aedb594e9167`.

    It has no dots, where WebDataset would end it. It follows from the output's name alone, and the hash at its end
    keeps the keys of a run apart.
    """
    readable = _UNSAFE.sub("_", layout.relative_output(output).rpartition(".")[0])
    return f"{readable[:KEY_CHARACTERS]}-{short_hash(output)}"


class _Pictures(Protocol):
    """Writes pictures into an open file."""

    def add(self, sample: Sample, picture: BinaryIO, size: int) -> None:
        """Add a picture of `size` bytes."""

    def end(self) -> None:
        """Complete the file, which stays open."""

    def offsets(self) -> list[int]:
        """Return where the bytes of each picture begin, of a complete file."""


class ShardWriter:
    """Writes one shard to a scratch file, which is gone at the end of the `with` block.

    The file is made when the first picture comes. `path` is its name, `form` is `tar` or `parquet`.
    """

    def __init__(self, path: Path, form: Form) -> None:
        self.path = path
        self.form: Form = form
        self._file: BinaryIO | None = None
        self._pictures: _Pictures | None = None
        self._ended = False
        self._lock = Lock()  # the block may end while another thread adds a picture

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._ended = True
            if self._pictures:
                with suppress(OSError):  # a shard that failed; Arrow would end it later, and complain
                    self._pictures.end()
            if self._file:
                with suppress(OSError):
                    self._file.close()
            with suppress(OSError):  # a disk that has turned read-only keeps the file, and `gc` finds it
                self.path.unlink(missing_ok=True)

    def add(self, sample: Sample, picture: BinaryIO, size: int) -> None:
        """Add a picture of `size` bytes, and what is known of it.

        Raises:
            RejectError: The form of the shard cannot hold it.
            StorageError: The shard cannot be written.
        """
        picture.seek(0)
        try:
            with self._lock:
                self._opened().add(sample, picture, size)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> tuple[str, int, list[int]] | None:
        """Complete the file; return its SHA-256, its bytes, and where each picture begins; None without a picture.

        Raises:
            StorageError: The shard cannot be written.
        """
        if self._file is None or self._pictures is None:
            return None
        try:
            self._pictures.end()
            offsets = self._pictures.offsets()
            self._file.close()
            self._pictures = None
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), file.seek(0, io.SEEK_END), offsets
        except OSError as error:
            raise self._failed(error) from error

    def _opened(self) -> _Pictures:
        if self._ended:  # a thread may come late with a picture
            raise StorageError(f"{self.path} is closed: its unit has failed")
        if self._pictures is None:
            self._file = self.path.open("xb+")
            self._pictures = _TarPictures(self._file) if self.form == "tar" else _ParquetPictures(self._file)
        return self._pictures

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write {self.path}: {error.strerror or error}")


class _TarPictures:
    """A tar of regular files without owner and time."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `close` closes it
        self._offsets: list[int] = []

    def add(self, sample: Sample, picture: BinaryIO, size: int) -> None:
        key, (_, _, suffix) = sample_key(sample.output), sample.output.rpartition(".")
        self._offsets.append(self._member(f"{key}.{suffix}", picture, size))
        text = json.dumps({"key": key, **asdict(sample)}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        content = text.encode()
        self._member(f"{key}.json", io.BytesIO(content), len(content))

    def end(self) -> None:
        self._tar.close()

    def offsets(self) -> list[int]:
        return self._offsets

    def _member(self, name: str, content: BinaryIO, size: int) -> int:
        """Add a file and return where its content begins."""
        member = tarfile.TarInfo(name)
        member.size = size
        self._tar.addfile(member, content)
        return self._tar.offset - -(-size // BLOCK) * BLOCK


class _ParquetPictures:
    """A Parquet file whose pictures are neither compressed nor divided among pages."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer = pq.ParquetWriter(
            file,
            ROWS.with_metadata({"huggingface": json.dumps({"info": {"features": _features()}}, sort_keys=True)}),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            data_page_version="1.0",
            data_page_size=PAGE_BYTES,
        )
        self._rows: list[dict[str, Any]] = []  # of the next row group, without the bytes of its pictures
        self._waiting: list[bytes] = []  # those bytes
        self._groups: list[list[int]] = []  # sizes of the pictures of each row group

    def add(self, sample: Sample, picture: BinaryIO, size: int) -> None:
        if size > MOST_ROW_BYTES:
            raise RejectError(
                Reason.UNSUPPORTED,
                f"The picture of '{sample.input_name}' has {size} bytes; a row of Parquet holds {MOST_ROW_BYTES}; use "
                "--output tar or files.",
            )
        if sum(map(len, self._waiting)) + size > GROUP_BYTES:
            self._flush()
        key, (_, _, suffix) = sample_key(sample.output), sample.output.rpartition(".")
        self._waiting.append(picture.read(size))
        self._rows.append({"key": key, "image": {"path": f"{key}.{suffix}"}, **asdict(sample)})

    def end(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()

    def offsets(self) -> list[int]:
        described = pq.read_metadata(self._file)
        columns = (described.schema.column(number).path for number in range(len(described.schema)))
        number = list(columns).index("image.bytes")
        return [
            offset
            for group, sizes in enumerate(self._groups)
            for offset in self._offsets(described.row_group(group).column(number), sizes)
        ]

    def _flush(self) -> None:
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self._writer.schema)
        sizes, pictures = [len(picture) for picture in self._waiting], b"".join(self._waiting)
        self._rows, self._waiting = [], []
        ends = np.cumsum([0, *sizes], dtype=np.int32)
        values = pa.BinaryArray.from_buffers(
            pa.binary(), len(sizes), [None, pa.py_buffer(ends), pa.py_buffer(pictures)]
        )
        paths = table["image"].combine_chunks().field("path")
        column = pa.StructArray.from_arrays([values, paths], fields=list(ROWS.field("image").type))
        self._writer.write_table(table.set_column(ROWS.get_field_index("image"), ROWS.field("image"), column))
        self._groups.append(sizes)

    def _offsets(self, chunk: Any, sizes: list[int]) -> list[int]:
        """Return where the pictures of a row group begin: at the end of its only page, each behind its length."""
        at = chunk.data_page_offset + chunk.total_compressed_size - sum(4 + size for size in sizes)
        offsets = []
        for size in sizes:
            self._file.seek(at)
            if self._file.read(4) != size.to_bytes(4, "little"):
                raise StorageError(f"cannot write {self._file.name}: this version of Arrow divides a column into pages")
            offsets.append(at + 4)
            at += 4 + size
        return offsets


def _features() -> dict[str, Any]:
    """Return the columns as `datasets` describes them, so that `image` becomes pictures."""

    def feature(kind: pa.DataType) -> Any:
        if pa.types.is_list(kind):
            return [feature(kind.value_type)]
        if pa.types.is_struct(kind):
            return {child.name: feature(child.type) for child in kind}
        return {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}

    return {field.name: {"_type": "Image"} if field.name == "image" else feature(field.type) for field in ROWS}


class Section(io.RawIOBase):
    """Some bytes of an open file as a file of their own, which it closes with itself."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._section_file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as files do."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place in the section."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read as files do, and nothing beyond the section."""
        wanted = min(len(buffer), max(0, self._length - self._at))
        self._section_file.seek(self._start + self._at)
        data = self._section_file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file, too."""
        self._section_file.close()
        super().close()
