"""Pictures for a blind look: two results beside their photograph and painting, without a word on who made them."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path

from PIL import Image

from kt_batch.errors import UsageError
from kt_batch.evaluation.style.contenders import Finished
from kt_batch.evaluation.style.pictures import StylePicture, bytes_of
from kt_batch.store.targets import write_file

GAP = 12  # pixels between the four pictures
GROUND = (128, 128, 128)
NAME_BYTES = 6  # of a file's random name


@dataclass(frozen=True)
class Look:
    """A row of the key: a file, and what it shows."""

    file: str
    photograph: str
    painting: str
    left: str
    right: str


def write_looks(
    photographs: Sequence[StylePicture],
    paintings: Sequence[StylePicture],
    folders: Sequence[Finished],
    out: Path,
    *,
    seed: int = 0,
    both_orders: bool = False,
) -> list[Look]:
    """Write one PNG for each photograph, painting and two folders of results, and return the key.

    The upper row shows the photograph and the painting, the lower row the two results. All four have the size of the
    photograph; a painting of another shape is fitted into it on grey. File names and sides are random by the seed, and
    names tell nothing.

    Args:
        photographs: the photographs.
        paintings: the paintings.
        folders: finished pictures, with distinct names.
        out: a new or empty folder.
        seed: of names and sides.
        both_orders: write each two results in both orders, not in one.

    Raises:
        UsageError: there are fewer than two folders, or `out` is no empty folder.
        MissingError: a finished picture is missing.
    """
    if len({folder.name for folder in folders}) < len(folders) or len(folders) < 2:
        raise UsageError(f"A blind look compares two or more folders with distinct names; there are {len(folders)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists already and is no empty folder; name a new one.")
    out.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)  # noqa: S311 - no secret
    key = []
    for photograph in photographs:
        for painting in paintings:
            made = {folder.name: bytes_of(folder.after(painting)(photograph)) for folder in folders}
            for left, right in _orders(list(made), chance, both_orders):
                name = f"{chance.randbytes(NAME_BYTES).hex()}.png"
                shown = (bytes_of(photograph.image), bytes_of(painting.image), made[left], made[right])
                write_file(out / name, _png(arranged(*map(Image.fromarray, shown))))
                key.append(Look(name, photograph.id, painting.id, left, right))
    return sorted(key, key=lambda look: look.file)


def _orders(names: Sequence[str], chance: random.Random, both: bool) -> Iterator[tuple[str, str]]:
    """Yield each two names once in a random order, or in both orders."""
    for pair in combinations(names, 2):
        first, second = chance.sample(pair, 2)
        yield first, second
        if both:
            yield second, first


def arranged(photograph: Image.Image, painting: Image.Image, left: Image.Image, right: Image.Image) -> Image.Image:
    """Return four pictures in two rows, each in the size of the photograph."""
    width, height = photograph.size
    sheet = Image.new("RGB", (2 * width + 3 * GAP, 2 * height + 3 * GAP), GROUND)
    for number, picture in enumerate((photograph, painting, left, right)):
        scale = min(width / picture.width, height / picture.height)
        size = round(picture.width * scale), round(picture.height * scale)
        fitted = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
        column, row = number % 2, number // 2
        x = GAP + column * (width + GAP) + (width - fitted.width) // 2
        y = GAP + row * (height + GAP) + (height - fitted.height) // 2
        sheet.paste(fitted, (x, y))
    return sheet


def key_text(key: Sequence[Look]) -> str:
    """Return the key as CSV: file, ids of photograph and painting, the methods on the left and on the right."""
    text = io.StringIO()
    rows = csv.DictWriter(text, [field.name for field in fields(Look)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(look) for look in key)
    return text.getvalue()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
