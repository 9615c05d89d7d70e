"""One edit for a series of photographs: which photographs are a series, and the edit that they share."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from kt_batch.kernels.descriptors import DESCRIPTORS
from kt_batch.kernels.likeness import ALIKE, distances
from kt_batch.kernels.quadratic import towards_identity
from kt_batch.methods.base import EditFacts, Result, SourceProvenance
from kt_batch.methods.retouch.fit import Fit
from kt_batch.methods.retouch.method import ColourMap, largest_shares
from kt_batch.methods.retouch.predict import predict

NEAR = 5_000_000  # microseconds between two photographs of a series, in order of time
COLOURS, MOST_COLOURS = 1 << 10, 1 << 16  # of a photograph and of a series, about, that the guard looks at
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Photograph:
    """A photograph that was described.

    taken: When it was taken, in ISO 8601 as EXIF says; empty if unknown. descriptors: `(33,)`.
    """

    image_id: str
    folder: str
    taken: str
    descriptors: NDArray[np.float64]


@dataclass(frozen=True)
class Gathered:
    """Photographs of one folder that share an edit.

    series: Name of the series, 16 hex digits. folder: Of its photographs. reference: Descriptors of its first
    photograph. taken: Times of the photographs that it has already. members: Photographs that are new, in order of
    time. frozen: Whether its edit is made already.
    """

    series: str
    folder: str
    reference: NDArray[np.float64]
    taken: tuple[str, ...] = ()
    members: tuple[Photograph, ...] = ()
    frozen: bool = False


@dataclass(frozen=True)
class SharedEdit:
    """The edit of a series. coefficients: `(10, 3)` at full strength. shares: Pair id -> share. The rest as in
    `EditFacts`.
    """

    series: str
    coefficients: NDArray[np.float64]
    confidence: float
    guard: float
    shares: dict[str, float]


def share_edit(fit: Fit, series: str, descriptors: NDArray[np.float64], colours: NDArray[np.float64]) -> SharedEdit:
    """Return the edit of a series: that of a photograph with the mean descriptors and the colours of its members.

    Args:
        fit: What the pairs teach.
        series: Name of the series.
        descriptors: Of its members, by ascending id, `(n, 33)`.
        colours: Even samples of all members, `(m, 3)` sRGB in [0, 1].
    """
    made = predict(fit, descriptors.mean(0), colours)
    return SharedEdit(
        series,
        made.coefficients,
        float(np.float32(made.confidence)),  # as tables hold it
        float(np.float32(made.guard)),
        largest_shares(fit.landmark_ids, made),
    )


def shared_result(edit: SharedEdit, strength: float) -> Result:
    """Return the result of `retouch` for a photograph of a series."""
    coefficients = towards_identity(edit.coefficients, strength)
    facts = EditFacts(coefficients, edit.confidence, edit.guard, strength, edit.series)
    return Result(ColourMap(coefficients), SourceProvenance(edit.shares), {"predict": 0.0}, facts)


def series_name(images: Iterable[str]) -> str:
    """Return the name of a series, 16 hex digits: it follows from the ids of its first members."""
    content = b"series:" + b"".join(bytes.fromhex(image) for image in sorted(images))
    return hashlib.sha256(content).hexdigest()[:16]


def gather_folders(known: Sequence[Gathered], new: Sequence[Photograph]) -> list[Gathered]:
    """Return the series that new photographs belong to: one for each folder.

    Args:
        known: Series that were made before; of two of one folder, the first counts.
        new: Photographs in none of them.
    """
    groups = [_Group(each) for each in known]
    of_folder: dict[str, _Group] = {}
    for group in groups:
        of_folder.setdefault(group.folder, group)
    for photograph in sorted(new, key=lambda each: each.image_id):
        if photograph.folder not in of_folder:
            groups.append(_Group.begun_by(photograph))
            of_folder[photograph.folder] = groups[-1]
        of_folder[photograph.folder].members.append(photograph)
    return [group.gathered() for group in groups if group.members]


def gather_bursts(known: Sequence[Gathered], new: Sequence[Photograph]) -> tuple[list[Gathered], list[Photograph]]:
    """Return the series that new photographs belong to, and those of an unknown time, which belong to none.

    In order of time, a photograph joins a series of its folder of which one member was taken within NEAR of it, and
    whose first photograph is like it: the most similar one of several. Otherwise it begins a series. Times with an
    offset from UTC and those without are never near.

    Args:
        known: Series that were made before.
        new: Photographs in none of them.
    """
    groups = [_Group(each) for each in known]
    references = np.empty((len(known) + len(new), len(DESCRIPTORS)))  # of groups; many may be of one second
    lines: dict[tuple[str, bool], list[tuple[int, int]]] = {}  # folder, has offset -> times with the place of a group
    for place, group in enumerate(groups):
        references[place] = group.reference
        for taken in group.taken:
            has_offset, time = moment(taken)
            insort(lines.setdefault((group.folder, has_offset), []), (time, place))
    timed = sorted(
        ((*moment(each.taken), each) for each in new if each.taken), key=lambda row: (row[0], row[1], row[2].image_id)
    )
    for has_offset, time, photograph in timed:
        line = lines.setdefault((photograph.folder, has_offset), [])
        near = line[bisect_left(line, (time - NEAR, -1)) : bisect_left(line, (time + NEAR, len(groups)))]
        place = _most_alike(references, sorted({place for _, place in near}), photograph, len(groups))
        if place == len(groups):
            references[place] = photograph.descriptors
            groups.append(_Group.begun_by(photograph))
        groups[place].members.append(photograph)
        insort(line, (time, place))
    return [group.gathered() for group in groups if group.members], [each for each in new if not each.taken]


def _most_alike(references: NDArray[np.float64], places: list[int], photograph: Photograph, other: int) -> int:
    """Return the place of the reference that a photograph is most like, or `other` if it is like none of `places`."""
    if not places:
        return other
    found = distances(references[places], photograph.descriptors)
    best = int(found.argmin())
    return places[best] if found[best] <= ALIKE else other


def moment(taken: str) -> tuple[bool, int]:
    """Return whether a time has an offset from UTC, and its microseconds; ValueError for text that is no time."""
    time = datetime.fromisoformat(taken)
    has_offset = time.tzinfo is not None
    return has_offset, (time - datetime(1970, 1, 1, tzinfo=UTC if has_offset else None)) // _MICROSECOND


class _Group:
    """A series while photographs are gathered."""

    def __init__(self, known: Gathered) -> None:
        self.series, self.folder, self.reference, self.taken = known.series, known.folder, known.reference, known.taken
        self.members: list[Photograph] = []

    @classmethod
    def begun_by(cls, photograph: Photograph) -> _Group:
        """Return a new series, whose name follows once all its members are known."""
        return cls(Gathered("", photograph.folder, photograph.descriptors))

    def gathered(self) -> Gathered:
        """Return the series with its new members."""
        name = self.series or series_name({each.image_id for each in self.members})
        members = tuple(self.members)
        return Gathered(name, self.folder, self.reference, self.taken, members, frozen=bool(self.series))


def colour_step(members: int) -> int:
    """Return the step at which the guard looks at the samples of a series: every colour of up to 64 photographs."""
    return max(1, -(-members * COLOURS // MOST_COLOURS))
