"""Count the files of a folder or an archive that are no inputs, by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from kt_batch.errors import UsageError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
    ".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs", ".jxl",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jph", ".jhc",
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2", ".raf", ".pef", ".srw",
    ".3fr", ".fff", ".iiq", ".mrw", ".x3f", ".rwl", ".dcr", ".kdc", ".erf", ".mef", ".mos",
)  # fmt: skip
ARCHIVE_SUFFIXES = (".tar", ".zip")
COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # without members that can be read alone

HIDDEN = "hidden"
NO_SUFFIX = "without suffix"
LINK = "link"
SPECIAL = "special file"  # a device, a pipe, or what only one program knows
NO_PLACE = "row without a place"

KINDS_SHOWN = 12
LONGEST_SUFFIX = 12  # characters, with the dot; what is longer is no suffix

Kinds = dict[str, int]


def is_image_name(path: str) -> bool:
    """Tell whether a listed file is an input: it has an image suffix, and nothing on its path is hidden."""
    return path.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(path)


def is_archive_name(path: str) -> bool:
    """Tell whether a file that is named in full, or by a pattern of its suffix, is entered as an archive."""
    return path.lower().endswith((*ARCHIVE_SUFFIXES, *COMPRESSED_SUFFIXES))


def is_hidden(path: str) -> bool:
    """Tell whether a component of a path begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def kind_of(path: str) -> str:
    """Return the kind under which a file that is no input is counted."""
    if is_hidden(path):
        return HIDDEN
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if 1 < len(suffix) <= LONGEST_SUFFIX and suffix[1:].isalnum() else NO_SUFFIX


def add_kinds(several: Iterable[Mapping[str, int]]) -> Kinds:
    """Return the sums of several counts, by kind."""
    total: Kinds = {}
    for counts in several:
        for kind, count in counts.items():
            total[kind] = total.get(kind, 0) + count
    return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0])))


def count_kinds(paths: Iterable[str]) -> Kinds:
    """Count files by kind."""
    return add_kinds({kind_of(path): 1} for path in paths)


def in_words(kinds: Mapping[str, int]) -> str:
    """Return counts for a person: `3 .txt, 1 .mp4`."""
    ordered = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = [f"{count} {kind}{_plural(kind, count)}" for kind, count in ordered[:KINDS_SHOWN]]
    rest = sum(count for _, count in ordered[KINDS_SHOWN:])
    return ", ".join([*shown, f"{rest} of other kinds"] if rest else shown)


def _plural(kind: str, count: int) -> str:
    return "s" if count > 1 and kind in (LINK, SPECIAL) else ""


def no_images(place: str, passed_over: Kinds, ours: Sequence[str] = ()) -> UsageError:
    """Return the error of a place without images, which says what is there."""
    beside = f" outside of {', '.join(map(repr, ours))}" if ours else ""
    there = f"; it holds {in_words(passed_over)}" if passed_over else ""
    hint = " (name archives themselves, such as 'data/*.tar')" if passed_over.keys() & set(ARCHIVE_SUFFIXES) else ""
    suffixes = ", ".join(IMAGE_SUFFIXES)
    return UsageError(f"{place} holds no images{beside}{there}{hint}; looked for files that end in {suffixes}")
