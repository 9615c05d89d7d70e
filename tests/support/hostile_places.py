"""The complete corpus in one directory, with odd names and entries that are not images."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from kt_batch.errors import Reason
from kt_batch.store.passed_over import IMAGE_SUFFIXES
from tests.support.hostile import Verdict, make_corpus, picture, saved
from tests.support.hostile_codecs import codecs
from tests.support.hostile_damage import damage
from tests.support.hostile_formats import formats
from tests.support.hostile_samples import samples

ROOT_READS_ALL = os.geteuid() == 0


@dataclass(frozen=True)
class Whole:
    """A directory, the arguments that name it, and the expected verdict of each URI."""

    folder: Path
    arguments: list[Path]
    good: frozenset[str]
    bad: dict[str, str]  # URI -> reason

    @property
    def cases(self) -> int:
        """Return the number of files with a verdict."""
        return len(self.good) + len(self.bad)


def make_whole(folder: Path) -> Whole:
    """Write the complete corpus, over 600 files, into an empty directory.

    Targets of links are next to that directory.
    """
    verdicts: dict[Path, Verdict] = {}
    (folder / "plain").mkdir()
    for case in make_corpus(folder / "plain"):
        verdicts[folder / "plain" / case.name] = case.verdict
    for name, verdict, _, content in (*formats(), *damage(), *samples(), *codecs()):
        verdicts[folder / name] = verdict
        (folder / name).write_bytes(content)
    for number, (path, verdict) in enumerate((*_names(folder / "names"), *_places(folder / "places"))):
        verdicts[path] = verdict
        if not path.is_symlink() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(saved(picture(8 + number % 5, 6), "PNG"))
    _passed_over(folder / "passed over")
    return Whole(
        folder,
        [folder, *(path for path in verdicts if not path.name.lower().endswith(IMAGE_SUFFIXES))],
        frozenset(uri(path) for path, verdict in verdicts.items() if verdict == "good"),
        {uri(path): str(verdict) for path, verdict in verdicts.items() if verdict != "good"},
    )


def uri(path: Path) -> str:
    """Return a path as a plan stores it."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return str(path)


def _names(folder: Path) -> Iterator[tuple[Path, Verdict]]:
    names = (
        "caf\u00e9.png", "cafe\u0301.png", "\u1112\u1161\u11ab.png", "\ud55c.png",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467.png", "\U0001f1e9\U0001f1ea.png", "\u2764\ufe0f.png",
        "\u202egnp.jpg.png", "\u200b.png", "\ufeffmark.png", "\u00a0space.png", "\u2028line.png", "\u0085next.png",
        "\u05d0\u05d1.png", "\u0627\u0644.png", "\u0e01\u0e33.png", "\uff0e\uff0e\uff0fwide.png", "\ufdd0.png",
        "\U0010ffff.png", " leading.png", "trailing .png", "   .png", "a  b.png", "\t.png", "\n.png", "a\r\nb.png",
        "\x01\x02.png", "\x1b[31mred\x1b[0m.png", "\x7f.png", "\x08\x08.png", "-.png", "--.png", "--help.png",
        "-o.png", "--library=x.png", "@file.png", "+x.png", "=1+1.png", "~.png", "~root.png", "a..b.png", "a...png",
        "a\\..\\..\\up.png", "a\\b.png", "C:\\x.png", "C:x.png", "\\\\host\\share.png", "nul.png", "COM1.png",
        "%2e%2e%2fup.png", "%00.png", "%.png", "100%.png", "%s%n%x.png", "%2F.png", "{0}.png", "{{x}}.png",
        "${HOME}.png", "$HOME.png", "a&b.png", "a;b.png", "a|b.png", "a>b.png", "a<b>.png", "'.png", '".png', "`.png",
        "#.png", "?.png", "*.png", "[.png", "].png", "[a-z].png", "**.png", "!.png", "^.png", ",.png", "a=b.png",
        "a:b.png", "s3:.png", "file:.png", "<script>alert(1)<.png", "Same.png", "same.png", "SAME.png", "same.PNG",
        "same.pNg", "same.jpg", "same.JPG", "same.jpeg", "same.tif", "same.png.png", "same", "images.png", "plan.png",
        "run.json.png", "png.png", "tmp-.png", "null.png", "1e5.png", "True.png", "x" * 251 + ".png",
        "x" * 247 + ".png", "x" * 248 + ".png", "\u5c71" * 83 + ".png", "\U0001f5fb" * 62 + ".png",
        "deep/" * 20 + "a.png", "\u00e9/" * 20 + "a.png", " / /a.png", "-/-rf.png", "a.jpg.png/b.png", "%2e%2e/a.png",
        "x/a.png", ("d" * 200 + "/") * 4 + "a.png", ("d" * 200 + "/") * 4 + "b.png",
    )  # fmt: skip
    for name in dict.fromkeys(names):
        yield folder / name, "good"
    long, room = "e" * 250 + "/", 4090 - len(os.fsencode(folder))  # as long as a path can be
    yield folder / (long * (room // 251 - 1) + "e" * (room % 251 + 100) + "/a.png"), "good"
    yield folder / os.fsdecode(b"latin\xe9.png"), "good"
    yield folder / os.fsdecode(b"\xff\xfe\x80.png"), "good"


def _places(folder: Path) -> Iterator[tuple[Path, Verdict]]:
    """Create special entries at their paths; other paths get a picture."""
    folder.mkdir()
    outside = folder.parent.parent / "outside"
    (outside / "more").mkdir(parents=True)
    (outside / "photo.png").write_bytes(saved(picture(9, 9), "PNG"))
    (outside / "more/other.png").write_bytes(saved(picture(10, 9), "PNG"))
    targets: dict[str, tuple[str | Path, Verdict]] = {
        "to_outside.png": (outside / "photo.png", "good"),
        "relative.png": ("../../outside/photo.png", "good"),
        "twice.png": ("to_outside.png", "good"),
        "dangling.png": ("nowhere.png", Reason.UNREADABLE),
        "itself.png": ("itself.png", Reason.UNREADABLE),
        "there.png": ("back.png", Reason.UNREADABLE),
        "back.png": ("there.png", Reason.UNREADABLE),
        "null.png": ("/dev/null", Reason.UNREADABLE),
        "zero.png": ("/dev/zero", Reason.UNREADABLE),
        "kernel.png": ("/proc/self/pagemap", Reason.EMPTY),
        "messages.png": ("/proc/kmsg" if ROOT_READS_ALL else "/proc/self/maps", Reason.EMPTY),
        "endless_name.png": ("x" * 3000, Reason.UNREADABLE),
        "nothing_in.png": ("photo.png/deeper", Reason.UNREADABLE),
    }
    for name, (target, verdict) in targets.items():
        (folder / name).symlink_to(target)
        yield folder / name, verdict
    (folder / "linked").symlink_to(outside / "more")
    yield folder / "linked/other.png", "good"
    (folder / "loop").symlink_to(".")
    (folder / "up").symlink_to("..")
    yield from _no_files(folder)
    yield from _twins(folder)


def _no_files(folder: Path) -> Iterator[tuple[Path, Verdict]]:
    os.mkfifo(folder / "pipe.png")
    yield folder / "pipe.png", Reason.UNREADABLE
    with socket.socket(socket.AF_UNIX) as endpoint:
        here = os.open(folder, os.O_RDONLY)
        try:
            endpoint.bind(f"/proc/self/fd/{here}/socket.png")  # a socket's whole path is at most 108 bytes
        finally:
            os.close(here)
    yield folder / "socket.png", Reason.UNREADABLE
    (folder / "directory.jpg").mkdir()
    yield folder / "directory.jpg/inside.png", "good"
    for name, size, verdict in (("sparse", 2**28, Reason.NOT_AN_IMAGE), ("endless", 2**33, Reason.TOO_MANY_PIXELS)):
        with (folder / f"{name}.tif").open("wb") as file:
            file.truncate(size)
        yield folder / f"{name}.tif", verdict
    closed = folder / "closed.png"
    closed.write_bytes(saved(picture(11, 9), "PNG"))
    closed.chmod(0)
    yield closed, "good" if ROOT_READS_ALL else Reason.UNREADABLE


def _twins(folder: Path) -> Iterator[tuple[Path, Verdict]]:
    content = saved(picture(12, 9), "PNG")
    for name in ("twin_1.png", "twin_2.jpg", "elsewhere/twin_1.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        yield path, "good"
    (folder / "hard.png").hardlink_to(folder / "twin_1.png")
    yield folder / "hard.png", "good"
    for name in ("bad_twin_1.png", "bad_twin_2.png"):
        (folder / name).write_bytes(content[:60])
        yield folder / name, Reason.TRUNCATED


def _passed_over(folder: Path) -> None:
    """Create entries that a directory listing must ignore."""
    (folder / ".hidden").mkdir(parents=True)
    (folder / "empty.png").mkdir()
    content = saved(picture(13, 9), "PNG")
    for name in (
        ".hidden/a.png",
        ".a.png",
        "..png",
        "...png",
        "..\\..\\up.png",
        "notes.txt",
        "Thumbs.db",
        "a.png.part",
        "a.png~",
        "png",
        "a.svg",
    ):
        (folder / name).write_bytes(content)
