"""Keep the states of methods within the images of a unit, so that a killed worker goes on where it was.

When a state is kept is up to a clock; what comes out is not: a state is exact, and any of them leads to the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping

import torch

from kt_batch.errors import DamagedError, MissingError, StorageError
from kt_batch.events import log_event
from kt_batch.methods.checkpoints import State
from kt_batch.runners.base import Heartbeat
from kt_batch.store.checkpoints import (
    Checkpoint,
    find_checkpoints,
    parse_checkpoint_name,
    put_checkpoint,
    read_checkpoint,
    remove_checkpoints,
)
from kt_batch.store.locations import Location
from kt_batch.store.plans import canonical

SECONDS = 60.0  # between two states of a picture; shorter work keeps none
SHARE = 20  # between two states there is as many times the time that the last one took to write


class UnitCheckpoints:
    """The checkpoints of one unit, as `methods.checkpoints.Keeper`.

    A checkpoint counts for the same picture, settings and numerics class alone. One that cannot be used or written
    costs time and nothing else.
    """

    def __init__(self, location: Location, unit: str, belongs: Mapping[str, object], beat: Heartbeat) -> None:
        """Take the run, the id of the unit, the JSON-able identity of its work, and the heartbeat of its worker."""
        self._location, self._unit, self._beat = location, unit, beat
        self._identity = hashlib.sha256(canonical(belongs).encode()).hexdigest()
        self._names: list[str] | None = None  # of the unit; None before anybody asked
        self._due = 0.0
        self._long, self._image = False, ""

    def of(self, image: str) -> UnitCheckpoints:
        """Return the checkpoints for an image of the unit, which heartbeats name from now on."""
        self._image = image
        return self

    def last(self, picture: str) -> State | None:
        """See `Keeper`."""
        self._due, self._long = time.monotonic() + SECONDS, False
        for name in sorted(self._of(picture), reverse=True):
            self._beat(self._image)
            try:
                found = read_checkpoint(self._location, name)
            except (DamagedError, MissingError, StorageError) as error:
                log_event("checkpoint_unusable", str(error), logging.WARNING, name=name)
                continue
            if found.document.get("identity") == self._identity and found.document.get("picture") == picture:
                self._long = True
                log_event("continued", name=name)
                tensors = {key: torch.from_numpy(array) for key, array in found.arrays.items()}
                return State(found.document["values"], tensors)
        return None

    def offer(self, picture: str, step: int, state: Callable[[], State], final: bool) -> None:
        """See `Keeper`. The end of a picture that kept a state is kept as well, whatever the time."""
        if time.monotonic() < self._due and not (final and self._long):
            return
        began, earlier = time.monotonic(), self._of(picture)
        made = state()
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in made.tensors.items()}
        document = {"identity": self._identity, "picture": picture, "values": made.values}
        try:
            content = Checkpoint(document, arrays)
            name = put_checkpoint(self._location, self._unit, self._short(picture), step, content)
            self._names = [*(self._names or ()), name]
            self._remove([each for each in earlier if each < name])
        except (StorageError, DamagedError) as error:
            log_event("checkpoint_unwritten", str(error), logging.WARNING)
        self._long = True
        now = time.monotonic()
        self._due = now + max(SECONDS, SHARE * (now - began))
        self._beat(self._image)  # its deadline starts again

    def remove(self) -> None:
        """Remove the checkpoints of a unit that is committed; those that cannot be removed are left to `gc`."""
        try:
            self._remove(list(self._names or ()))
        except StorageError as error:
            log_event("checkpoint_left", str(error), logging.WARNING)

    def _remove(self, names: list[str]) -> None:
        remove_checkpoints(self._location, names)
        self._names = [name for name in self._names or () if name not in names]

    def _of(self, picture: str) -> list[str]:
        if self._names is None:
            try:
                self._names = find_checkpoints(self._location, self._unit)
            except StorageError as error:
                log_event("checkpoint_unusable", str(error), logging.WARNING)
                self._names = []
        found = ((name, parse_checkpoint_name(name)) for name in self._names)
        return [name for name, parsed in found if parsed and parsed.picture == self._short(picture)]

    def _short(self, picture: str) -> str:
        """Return the digits of a picture in a name: pictures of other work have others."""
        return hashlib.sha256(f"{self._identity} {picture}".encode()).hexdigest()[:16]
