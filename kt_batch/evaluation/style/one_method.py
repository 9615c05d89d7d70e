"""All pictures of one method, measured while they are made: what the child process of `method_process` does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kt_batch.errors import KtBatchError, StorageError
from kt_batch.evaluation.style.contenders import OwnMethod, picture_of
from kt_batch.evaluation.style.painting_banks import PaintingBank
from kt_batch.evaluation.style.pictures import StylePicture, as_written, read_picture
from kt_batch.memory import peak_memory
from kt_batch.methods.base import LevelProvenance, Method, PatchProvenance, Result
from kt_batch.methods.features import to_pixels
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.store.images.files import encode
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.targets import write_file

DIGITS = 3  # of seconds

Answer = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """The work of one child.

    name, method, values, layer, size: those of `OwnMethod`. threads: Threads to compute on. photographs, paintings: URI
    by image id. folder: Where pictures go, as PHOTOGRAPH__PAINTING.png with both ids. banks: The fields of each
    `PaintingBank`, by image id of its painting.
    """

    name: str
    method: str
    values: Mapping[str, object]
    layer: str | None
    size: int
    threads: int
    photographs: Mapping[str, str]
    paintings: Mapping[str, str]
    folder: str
    banks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def own_method(self) -> OwnMethod:
        """Return the method. Raises UsageError for one that cannot be used."""
        banks = {image: PaintingBank(**bank) for image, bank in self.banks.items()}
        return OwnMethod(self.name, self.method, self.values, self.layer, self.size, banks=banks)

    def written(self) -> str:
        """Return the request as text, for `read_request`."""
        return json.dumps(asdict(self))


def read_request(text: str) -> Request:
    """Return the request that `Request.written` wrote."""
    return Request(**json.loads(text))


def make_pictures(request: Request, answer: Answer) -> None:
    """Make a picture of every photograph after every painting.

    Each answer is one line of JSON, an object with `peak` (most bytes resident so far) and one of these:

    - `loaded`: seconds of loading the networks.
    - `prepared`, `painting`, `seconds`, `processor_seconds`: a painting is prepared.
    - `explains`, `photograph`, `painting`, `seconds`, `processor_seconds`: a picture is made.
    - `failed`: a reason, with `photograph` and `painting` where one picture failed, with `painting` where all after it
      do, alone where nothing can be made.

    Args:
        request: The method and the pictures.
        answer: Takes one line.
    """

    def say(**facts: object) -> None:
        answer(json.dumps({**facts, "peak": peak_memory()}))

    fix_numerics(request.threads)
    with _failing(say), ImageReaderProcess() as reader:
        photographs, paintings = (
            [_read(identity, uri, request.size, reader) for identity, uri in places.items()]
            for places in (request.photographs, request.paintings)
        )
        own = request.own_method()
        with _timed() as spent:
            networks = own.load()
        say(loaded=spent["seconds"])
        for painting in paintings:
            with _failing(say, painting=painting.id):
                with _timed() as spent:
                    ready = own.prepared(painting, networks)
                say(painting=painting.id, prepared=True, **spent)
                for photograph in photographs:
                    with _failing(say, painting=painting.id, photograph=photograph.id):
                        _make(ready, photograph, painting, Path(request.folder), say)


def _read(identity: str, uri: str, size: int, reader: ImageReaderProcess) -> StylePicture:
    """Read a picture. Raises StorageError when its file is not the one that the request was made for."""
    picture = read_picture(uri, size, reader.decode)
    if picture.id != identity:
        raise StorageError(f"'{uri}' has changed since the comparison began.")
    return picture


def _make(
    ready: Method, photograph: StylePicture, painting: StylePicture, folder: Path, say: Callable[..., None]
) -> None:
    """Make one picture, write it, and answer."""
    with _timed() as spent:
        result = ready.translate(photograph.image)
    picture = as_written(picture_of(result, photograph))
    write_file(folder / f"{photograph.id}__{painting.id}.png", encode(to_pixels(picture), "png", 100))
    say(photograph=photograph.id, painting=painting.id, explains=kind_of(result), **spent)


def kind_of(result: Result) -> str:
    """Return what the provenance of a result says: `patches`, `levels`, `shares`, or `nothing` without any share."""
    match result.provenance:
        case PatchProvenance():
            return "patches"
        case LevelProvenance():
            return "levels"
    return "shares" if result.provenance.shares else "nothing"


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Measure the block: `seconds` that pass, and `processor_seconds` of this process."""
    spent: dict[str, float] = {}
    clock, processor = time.perf_counter(), time.process_time()
    yield spent
    spent["seconds"] = round(time.perf_counter() - clock, DIGITS)
    spent["processor_seconds"] = round(time.process_time() - processor, DIGITS)


@contextmanager
def _failing(say: Callable[..., None], **where: Any) -> Iterator[None]:
    """Answer with the reason where the block fails."""
    try:
        yield
    except KtBatchError as error:
        say(failed=str(error), **where)
    except Exception as error:  # noqa: BLE001 - whatever a method does wrong costs its own picture
        say(failed=f"internal error, {type(error).__name__}: {error}", **where)
