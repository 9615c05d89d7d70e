"""The provenance table of a unit: one row per matched patch, of one level or of several, or per source image."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.config import Layer
from kt_batch.errors import DamagedError
from kt_batch.index.ids import unpack_ids
from kt_batch.methods.base import EditFacts, LevelProvenance, PatchProvenance, SourceProvenance
from kt_batch.store.plans import Item
from kt_batch.store.schemas import EDITS, EDITS_SERIES, LEVELS, PROVENANCE, SHARES
from kt_batch.store.tables import slices

T = TypeVar("T")
NCC_STEPS = 128  # of the NCC at finer levels, from 0 to 1: more steps take half of the table
AnyProvenance: TypeAlias = PatchProvenance | LevelProvenance | SourceProvenance


def source_shares(provenance: AnyProvenance, item: Item) -> list[tuple[str, float]]:
    """Return the source images of a picture with their shares, the largest first, ties by id.

    The share of an image is the mean weight of its patches over the query patches, of several levels over those of the
    coarse one; that of a pair may be negative. An input without any other source is its own.
    """
    if isinstance(provenance, LevelProvenance):
        provenance = next(iter(provenance.levels.values()))
    if isinstance(provenance, SourceProvenance):
        shares = dict(provenance.shares) or {item.image_id: 1.0}
    else:
        images, _, _ = unpack_ids(provenance.patch_ids.flatten(0, 1).numpy())
        distinct, codes = np.unique(images.view(">u8")[:, 0], return_inverse=True)
        weights = np.bincount(codes, provenance.weights.flatten().double().numpy()) / len(provenance.weights)
        shares = {f"{image:016x}": float(weight) for image, weight in zip(distinct.tolist(), weights, strict=True)}
    rounded = ((image, round(share, 6)) for image, share in shares.items())
    return sorted(((image, share) for image, share in rounded if share), key=lambda each: (-abs(each[1]), each[0]))


@dataclass(frozen=True)
class Libraries:
    """The libraries that matches are from.

    names: As the command named them. holder: Image id (16 hex digits) -> the number of the library that holds it, for
    methods whose matches do not say it.
    """

    names: tuple[str, ...]
    holder: Callable[[str], int] | None = None

    def numbers(self, provenance: PatchProvenance) -> NDArray[np.int32]:
        """Return the number of the library of each match, `(n * k,)`."""
        if provenance.libraries is not None:
            return provenance.libraries.flatten().numpy().astype(np.int32)
        if self.holder is None or len(self.names) == 1:
            return np.zeros(provenance.ncc.numel(), np.int32)
        images, _, _ = unpack_ids(provenance.patch_ids.flatten(0, 1).numpy())
        distinct, codes = np.unique(images.view(">u8")[:, 0], return_inverse=True)
        return np.array([self.holder(f"{image:016x}") for image in distinct.tolist()], np.int32)[codes]


class ProvenanceRows(Protocol):
    """Gathers the provenance of outputs, one after the other, and makes the row groups of one table at the end."""

    @property
    def names(self) -> list[str]:
        """Return the outputs so far."""

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of the table."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Return the levels of each output, from coarse to fine; none where it has no levels."""

    def add(self, item: Item, name: str, provenance: Any) -> None:
        """Add the provenance of the output `name` of an input."""

    def remove(self, names: Container[str]) -> None:
        """Remove outputs that could not be stored."""

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the rows of each row group, output after output."""


@dataclass(frozen=True)
class _PatchPart:
    """The columns of one output, its query patches, and the sums over the best match of each."""

    columns: tuple[NDArray[Any], ...]
    patches: int
    ncc_sum: float
    certified: int


@dataclass
class PatchRows:
    """Rows of outputs with patch provenance.

    They are kept as compact columns until the end: a table of its own for every small image costs more than its bytes.

    names: Outputs so far. groups: Rows of each.
    """

    schema: ClassVar[pa.Schema] = PROVENANCE
    levels: ClassVar[tuple[str, ...]] = ()
    libraries: Libraries
    names: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    _parts: list[_PatchPart] = field(default_factory=list)

    def add(self, item: Item, name: str, provenance: PatchProvenance) -> None:  # noqa: ARG002 - patches have sources
        """Add the provenance of the output `name` of an input.

        Raises:
            DamagedError: a score is NaN or infinite.
        """
        if not provenance.ncc.isfinite().all():
            raise DamagedError(
                f"A match of '{name}' has a score that is not finite: an index in '{', '.join(self.libraries.names)}' "
                "holds patches of values that no patch has; make the index again."
            )
        n, k = provenance.ncc.shape
        rank = np.tile(np.arange(k, dtype=np.uint8), n)
        ncc = provenance.ncc.flatten().numpy().astype(np.float16)
        certified = np.repeat(provenance.certified.numpy(), k) & (rank == 0)
        columns = (
            np.repeat(provenance.rows.numpy(), k).astype(np.uint16),
            np.repeat(provenance.cols.numpy(), k).astype(np.uint16),
            rank,
            provenance.weights.flatten().numpy(),
            provenance.patch_ids.flatten(0, 1).numpy(),
            ncc,
            certified,
            self.libraries.numbers(provenance),
        )
        self.names.append(name)
        self.groups.append(n * k)
        best = float(ncc[rank == 0].astype(np.float64).sum())  # float16 values add exactly, in any order
        self._parts.append(_PatchPart(columns, n, best, int(np.count_nonzero(certified))))

    @property
    def patches(self) -> int:
        """Return the number of query patches."""
        return sum(part.patches for part in self._parts)

    @property
    def ncc_sum(self) -> float:
        """Return the sum of the NCC of the best match of every patch."""
        return sum((part.ncc_sum for part in self._parts), start=0.0)

    @property
    def certified(self) -> int:
        """Return how many best matches are certified."""
        return sum(part.certified for part in self._parts)

    def remove(self, names: Container[str]) -> None:
        """Remove outputs that could not be stored."""
        self.names, self.groups, self._parts = _without(names, self.names, self.groups, self._parts)

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the rows of each output."""
        return slices(self.table(), self.groups)

    def table(self) -> pa.Table:
        """Return one row per (patch, rank), output after output, in reading order."""
        rows, cols, rank, weights, patch_ids, ncc, certified, libraries = (
            np.concatenate(column) for column in zip(*(part.columns for part in self._parts), strict=True)
        )
        image_ids, source_rows, source_cols = unpack_ids(patch_ids)
        distinct, codes = np.unique(image_ids.view(">u8")[:, 0], return_inverse=True)
        sources = [value.tobytes() for value in distinct.astype(">u8").view("V8")]
        columns = [
            _outputs(self.names, self.groups),
            pa.array(rows),
            pa.array(cols),
            pa.array(rank),
            pa.array(weights),
            pa.DictionaryArray.from_arrays(pa.array(libraries), pa.array(self.libraries.names)),
            pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(sources, pa.binary(8))),
            pa.array(source_rows),
            pa.array(source_cols),
            pa.array(ncc),
            pa.array(certified),
        ]
        return pa.Table.from_arrays(columns, schema=PROVENANCE)


@dataclass(frozen=True)
class _LevelPart:
    """The packed tables of the levels of one output, and sums over the coarse one."""

    packed: tuple[pa.Buffer, ...]
    patches: int
    ncc_sum: float
    certified: int


@dataclass
class LevelRows:
    """Rows of outputs with patch provenance at several levels: a row group for each level of each output.

    A fine level has many rows. They are kept compressed until the end: a tenth of what their columns take. The NCC of
    all levels but the coarse one is rounded. The sums are those of the coarse one, whose matches an index found.

    levels: Those that every output has, from coarse to fine. names: Outputs so far.
    """

    schema: ClassVar[pa.Schema] = LEVELS
    libraries: Libraries
    levels: tuple[Layer, ...]
    names: list[str] = field(default_factory=list)
    _parts: list[_LevelPart] = field(default_factory=list)

    def add(self, item: Item, name: str, provenance: LevelProvenance) -> None:
        """Add the provenance of the output `name` of an input; raise DamagedError as `PatchRows` does."""
        rows = {level: PatchRows(self.libraries) for level in self.levels}
        coarse = rows[self.levels[0]]
        for level, each in rows.items():
            patches = provenance.levels[level]
            if each is not coarse:
                patches = replace(patches, ncc=(patches.ncc * NCC_STEPS).round() / NCC_STEPS)
            each.add(item, name, patches)
        packed = tuple(_packed(_with_level(each.table(), level)) for level, each in rows.items())
        self.names.append(name)
        self._parts.append(_LevelPart(packed, coarse.patches, coarse.ncc_sum, coarse.certified))

    @property
    def patches(self) -> int:
        """Return the number of query patches of the coarse level."""
        return sum(part.patches for part in self._parts)

    @property
    def ncc_sum(self) -> float:
        """Return the sum of the NCC of the best match of every patch of the coarse level."""
        return sum((part.ncc_sum for part in self._parts), start=0.0)

    @property
    def certified(self) -> int:
        """Return how many best matches of the coarse level are certified."""
        return sum(part.certified for part in self._parts)

    def remove(self, names: Container[str]) -> None:
        """Remove outputs that could not be stored."""
        kept = [row for row in zip(self.names, self._parts, strict=True) if row[0] not in names]
        self.names, self._parts = [name for name, _ in kept], [part for _, part in kept]

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the rows of each level of each output, from coarse to fine, in reading order."""
        for part in self._parts:
            for packed in part.packed:
                yield pa.ipc.open_stream(packed).read_all()


def _packed(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _with_level(table: pa.Table, level: str) -> pa.Table:
    codes = pa.array(np.zeros(table.num_rows, np.int32))
    column = pa.DictionaryArray.from_arrays(codes, pa.array([level]))
    return table.add_column(LEVELS.get_field_index("level"), LEVELS.field("level"), column)


@dataclass
class SourceRows:
    """Rows of outputs with a share for each source image. uris: Image id -> URI. The rest as in PatchRows.

    Shares of an edit learned from pairs may be negative: such a pair pulls the edit away from its own.
    """

    schema: ClassVar[pa.Schema] = SHARES
    levels: ClassVar[tuple[str, ...]] = ()
    uris: dict[str, str]
    names: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    _parts: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, item: Item, name: str, provenance: SourceProvenance) -> None:
        """Add the provenance of the output `name` of an input, which is its own source where there is no other."""
        shares = provenance.shares
        if not shares:
            shares, self.uris[item.image_id] = {item.image_id: 1.0}, item.uri
        self.names.append(name)
        self.groups.append(len(shares))
        self._parts.append(shares)

    def remove(self, names: Container[str]) -> None:
        """Remove outputs that could not be stored."""
        self.names, self.groups, self._parts = _without(names, self.names, self.groups, self._parts)

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the rows of each output."""
        return slices(self.table(), self.groups)

    def table(self) -> pa.Table:
        """Return one row per source, output after output, by ascending image id."""
        rows = [(source, share) for shares in self._parts for source, share in sorted(shares.items())]
        sources = pa.array([bytes.fromhex(source) for source, _ in rows], pa.binary(8))
        columns = [
            _outputs(self.names, self.groups),
            sources.dictionary_encode(),
            pa.array([self.uris.get(source, "") for source, _ in rows], pa.string()).dictionary_encode(),
            pa.array([share for _, share in rows], pa.float32()),
        ]
        return pa.Table.from_arrays(columns, schema=SHARES)


@dataclass
class EditRows:
    """Rows of outputs that an edit made; empty for other methods. in_series: Whether photographs share edits."""

    library: str
    in_series: bool = False
    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, edit: EditFacts | None) -> None:
        """Add the edit of the output `name`, where there is one."""
        if edit is not None:
            self.rows.append(
                {
                    "output": name,
                    "library": self.library,
                    "map": edit.coefficients.ravel().tolist(),
                    "confidence": edit.confidence,
                    "guard": edit.guard,
                    "strength": edit.strength,
                    **({"series": bytes.fromhex(edit.series) or None} if self.in_series else {}),
                }
            )

    def remove(self, names: Container[str]) -> None:
        """Remove outputs that could not be stored."""
        self.rows = [row for row in self.rows if row["output"] not in names]

    def table(self) -> pa.Table:
        """Return one row per output."""
        return pa.Table.from_pylist(self.rows, schema=pa.schema([*EDITS, *[EDITS_SERIES] * self.in_series]))


def _without(
    removed: Container[str], names: list[str], groups: list[int], parts: list[T]
) -> tuple[list[str], list[int], list[T]]:
    kept = [row for row in zip(names, groups, parts, strict=True) if row[0] not in removed]
    return [name for name, _, _ in kept], [group for _, group, _ in kept], [part for _, _, part in kept]


def _outputs(names: list[str], groups: list[int]) -> pa.DictionaryArray:
    codes = np.repeat(np.arange(len(names), dtype=np.int32), groups)
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names))
