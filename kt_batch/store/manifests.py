"""Lists of inputs: what a manifest says, and what its rows are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kt_batch.store.names import FILE_SCHEME, path_of_file_uri
from kt_batch.store.passed_over import Kinds
from kt_batch.store.places import origin_of, scheme_of

STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest. place: An absolute path or a URI. tags: What the other columns say, sorted."""

    place: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A list of inputs that was read.

    place: As it was named. folder: What relative places in it are relative to. rows: Its rows, in its order.
    passed_over: Rows without a place. columns: Columns that cannot be tags.
    """

    place: str
    folder: str
    rows: Sequence[Row]
    passed_over: Kinds = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """Return a place that no other manifest has."""
        name = "standard-input" if self.place == STANDARD_INPUT else self.place.rstrip("/").rpartition("/")[2]
        return f"{self.folder}/{name}"

    def origins(self) -> set[str | None]:
        """Return the stores that its rows name."""
        return {origin_of(row.place) for row in self.rows}


@dataclass(frozen=True)
class PairList:
    """A list of pairs that was read: each row of `before` and the row of `after` at the same position are a pair.

    The tags of a pair are those of its row of `before`.
    """

    before: Manifest
    after: Manifest

    @property
    def manifests(self) -> tuple[Manifest, Manifest]:
        """Return both sides as lists of inputs."""
        return self.before, self.after


def path_in_manifest(uri: str, folder: str) -> str:
    """Return the path that an input is called after: below the manifest's folder, or else its whole place.

    It depends on the two places alone, so another row changes no name.
    """
    if uri.startswith(FILE_SCHEME):
        uri = str(path_of_file_uri(uri) or uri)
    if uri.startswith(f"{folder.rstrip('/')}/"):
        return uri[len(folder.rstrip("/")) + 1 :]
    scheme = scheme_of(uri)
    if scheme is None:
        return uri
    place = uri.partition("://")[2]
    return place.partition("?")[0].partition("#")[0] if scheme in ("http", "https") else place
