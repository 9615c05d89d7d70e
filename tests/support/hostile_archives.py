"""Archives that people and attackers make, each with its verdict."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from kt_batch.errors import Reason

GIGABYTES = 3 << 30


def picture(seed: int, side: int = 8) -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (seed % 256, 40, 90)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Verdict:
    """What becomes of an archive.

    images: Name below the archive -> its bytes. rejects: Name below the archive, empty for the archive itself -> the
    reason. passed_over: Other entries by kind.
    """

    images: Mapping[str, bytes] = field(default_factory=dict)
    rejects: Mapping[str, Reason] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)


Maker = Callable[[Path], Verdict]


# ---- tar -------------------------------------------------------------------------------------------------------------


def tar_entry(name: bytes | str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """Return the blocks of one entry; `size` is what the header states, if not the truth."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.type, info.size = kind, len(data) if size is None else size
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = "/etc/passwd"
    head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % 512)


def pax(records: Mapping[str, str]) -> bytes:
    """Return an extended header of the next entry."""
    text = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        text += str(length).encode() + rest
    return tar_entry("pax", text, tarfile.XHDTYPE)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _zip(data: bytes, images: Mapping[str, bytes] | None = None, **verdict: object) -> Maker:
    def make(path: Path) -> Verdict:
        path.write_bytes(data)
        return Verdict(images or {}, **verdict)  # type: ignore[arg-type]

    return make


END = bytes(1024)
A, B = picture(1), picture(2)


def _tar(*entries: bytes, images: Mapping[str, bytes] | None = None, end: bytes = END, **verdict: object) -> Maker:
    def make(path: Path) -> Verdict:
        path.write_bytes(b"".join(entries) + end)
        return Verdict(images or {}, **verdict)  # type: ignore[arg-type]

    return make


def _spoiled(entry: bytes, at: int = 100) -> bytes:
    return entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]


def _gigabytes_of_extension(path: Path) -> Verdict:
    """Write a PAX header of gigabytes, as a hole in the file."""
    head = tar_entry("pax", b"", tarfile.XHDTYPE, GIGABYTES)
    with path.open("wb") as file:
        file.write(tar_entry("a.png", A) + head)
        file.seek(GIGABYTES, os.SEEK_CUR)
        file.write(tar_entry("b.png", B) + tar_entry("c.png", A) + END)
    return Verdict({"a.png": A, "c.png": A}, {"b.png": Reason.UNSUPPORTED})


def _sparse_header() -> bytes:
    """Return the header of a sparse file of GNU tar whose map goes on in two more blocks."""
    block = bytearray(tar_entry("hole.png", b"", tarfile.GNUTYPE_SPARSE, len(A)))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytearray(512)
    more[504] = 1
    return bytes(block) + bytes(more) + bytes(512) + A + bytes(-len(A) % 512)


_NEGATIVE = bytearray(tar_entry("b.png", B))
_NEGATIVE[124:136] = b"\xff" * 12
_NEGATIVE[148:156] = b" " * 8
_NEGATIVE[148:156] = b"%06o\0 " % sum(_NEGATIVE)

TARS: dict[str, Maker] = {
    "webdataset": _tar(
        tar_entry("000.png", A), tar_entry("000.json", b"{}"), tar_entry("001.png", B), tar_entry("001.json", b"{}"),
        images={"000.png": A, "001.png": B}, passed_over={".json": 2},
    ),
    "made by `tar cf x.tar .`": _tar(
        tar_entry("./", kind=tarfile.DIRTYPE), tar_entry("./a.png", A), tar_entry("./sub/b.png", B),
        images={"a.png": A, "sub/b.png": B},
    ),
    "a name of 300 bytes in a GNU header": _tar(
        tar_entry("x" * 300 + "/a.png", A), images={"x" * 300 + "/a.png": A},
    ),
    "a name in a PAX header": _tar(pax({"path": "päx/a.png"}), tar_entry("short", A), images={"päx/a.png": A}),
    "a member without bytes": _tar(tar_entry("a.png"), images={"a.png": b""}),
    "names that lead elsewhere": _tar(
        tar_entry("../../a.png", A), tar_entry("/etc/b.png", B),
        images={"%2E%2E/%2E%2E/a.png": A, "etc/b.png": B},
    ),
    "links, devices, pipes and folders": _tar(
        tar_entry("link.png", kind=tarfile.SYMTYPE), tar_entry("hard.png", kind=tarfile.LNKTYPE),
        tar_entry("null.png", kind=tarfile.CHRTYPE), tar_entry("pipe.png", kind=tarfile.FIFOTYPE),
        tar_entry("folder.png", kind=tarfile.DIRTYPE), tar_entry("a.png", A),
        images={"a.png": A}, passed_over={"link": 2, "special file": 2},
    ),
    "names that are not UTF-8 or have controls": _tar(
        tar_entry(b"caf\xe9.png", A), tar_entry("a\nb.png", B), images={"caf%E9.png": A, "a%0Ab.png": B},
    ),
    "hidden files and nested archives": _tar(
        tar_entry("._a.png", A), tar_entry("inner.tar", tar_entry("b.png", B) + END), tar_entry("a.png", A),
        images={"a.png": A}, passed_over={"hidden": 1, ".tar": 1},
    ),
    "a sparse file of GNU tar": _tar(
        _sparse_header(), tar_entry("a.png", A), images={"a.png": A}, rejects={"hole.png": Reason.UNSUPPORTED},
    ),
    "a sparse file of PAX": _tar(
        pax({"GNU.sparse.major": "1", "GNU.sparse.name": "hole.png"}), tar_entry("x", B), tar_entry("a.png", A),
        images={"a.png": A}, rejects={"hole.png": Reason.UNSUPPORTED},
    ),
    "a PAX header of gigabytes": _gigabytes_of_extension,
    "a malformed PAX header": _tar(
        tar_entry("pax", b"99999999999 path=x\n", tarfile.XHDTYPE), tar_entry("b.png", B), tar_entry("a.png", A),
        images={"a.png": A}, rejects={"b.png": Reason.UNSUPPORTED},
    ),
    "a global PAX header": _tar(
        tar_entry("pax", b"18 path=evil.png\n\0", tarfile.XGLTYPE), tar_entry("a.png", A), images={"a.png": A},
    ),
    "endless extended headers": _tar(
        tar_entry("a.png", A), *[pax({"comment": "x"})] * 40, tar_entry("b.png", B),
        images={"a.png": A}, rejects={"": Reason.TRUNCATED},
    ),
    "a size of eight exbibytes": _tar(
        tar_entry("a.png", A), tar_entry("b.png", B, size=2**63 - 1),
        images={"a.png": A}, rejects={"b.png": Reason.TRUNCATED, "": Reason.TRUNCATED},
    ),
    "a negative size": _tar(
        tar_entry("a.png", A), bytes(_NEGATIVE), images={"a.png": A}, rejects={"": Reason.TRUNCATED},
    ),
    "a damaged header": _tar(
        tar_entry("a.png", A), _spoiled(tar_entry("b.png", B)), tar_entry("c.png", B),
        images={"a.png": A}, rejects={"": Reason.TRUNCATED},
    ),
    "cut within a member": _tar(
        tar_entry("a.png", A), tar_entry("b.png", B)[:540], end=b"",
        images={"a.png": A}, rejects={"b.png": Reason.TRUNCATED, "": Reason.TRUNCATED},
    ),
    "cut between two members": _tar(
        tar_entry("a.png", A), end=b"", images={"a.png": A}, rejects={"": Reason.TRUNCATED},
    ),
    "two archives in one file": _tar(
        tar_entry("a.png", A), END, tar_entry("b.png", B), images={"a.png": A}, rejects={"": Reason.TRUNCATED},
    ),
    "zeros in place of its second half": _tar(
        tar_entry("a.png", A), end=bytes(2 << 20), images={"a.png": A}, rejects={"": Reason.TRUNCATED},
    ),
    "compressed as a whole": _tar(zlib.compress(b"x", wbits=31), end=b"", rejects={"": Reason.UNSUPPORTED}),
    "no archive": _tar(b"Dear reader, " * 100, end=b"", rejects={"": Reason.NOT_AN_IMAGE}),
    "no bytes": _tar(end=b"", rejects={"": Reason.NOT_AN_IMAGE}),
    "a zip archive by its content": _zip(zipped({"a.png": A, "b.png": B}), {"a.png": A, "b.png": B}),
}  # fmt: skip


# ---- zip -------------------------------------------------------------------------------------------------------------


def _patched(data: bytes, name: str, at: int, values: bytes) -> bytes:
    """Return an archive with bytes replaced in the directory entry of a member, from offset `at` of the entry on."""
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode())) + at
    return data[:place] + values + data[place + len(values) :]


def _with_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder.png/", "")
        archive.writestr("a.png", A)
    return buffer.getvalue()


def _with_duplicates() -> bytes:
    """Return an archive with two members of one name, and one whose bytes are also those of a third."""
    data = zipped({"a.png": A, "b.png": B})
    return _patched(data, "b.png", 42, struct.pack("<L", 0))  # its header is that of a.png


def _in_64_bits() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.png", "w", force_zip64=True) as member:
        member.write(A)
    return buffer.getvalue()


def _many(count: int) -> bytes:
    return zipped({f"{number}.txt": b"" for number in range(count)} | {"a.png": A}, zipfile.ZIP_STORED)


def _damaged_content() -> bytes:
    data = zipped({"a.png": A, "b.png": B})
    place = data.index(b"b.png") + 8
    return data[:place] + bytes(each ^ 0xFF for each in data[place : place + 20]) + data[place + 20 :]


_TWO = zipped({"a.png": A, "b.png": B})
_STORED = zipped({"a.png": A, "b.png": B}, zipfile.ZIP_STORED)

ZIPS: dict[str, Maker] = {
    "plain": _zip(zipped({"x/a.png": A, "b.png": B, "notes.txt": b"x"}), {"x/a.png": A, "b.png": B},
                  passed_over={".txt": 1}),
    "stored": _zip(_STORED, {"a.png": A, "b.png": B}),
    "in 64 bits": _zip(_in_64_bits(), {"a.png": A}),
    "more than 65,535 members": _zip(_many(70_000), {"a.png": A}, passed_over={".txt": 70_000}),
    "behind a program that unpacks it": _zip(b"MZ" + bytes(998) + _TWO, {"a.png": A, "b.png": B}),
    "a comment with the mark of an end": _zip(
        _TWO[:-2] + struct.pack("<H", 30) + b"PK\x05\x06" + bytes(26), {"a.png": A, "b.png": B}),
    "names that lead elsewhere": _zip(
        zipped({"../../a.png": A, "/etc/b.png": B, "c:\\d.png": A}),
        {"%2E%2E/%2E%2E/a.png": A, "etc/b.png": B, "c:%5Cd.png": A}),
    "names that are not UTF-8": _zip(zipped({"cafX.png": A}).replace(b"cafX", b"caf\xe9"), {"caf%E9.png": A}),
    "names that say UTF-8 and are none": _zip(
        zipped({"caf\u00e9.png": A, "b.png": B}).replace(b"caf\xc3\xa9", b"caf\xe9\xff"),
        {"caf%E9%FF.png": A, "b.png": B}),
    "links and folders": _zip(_with_link(), {"a.png": A}, passed_over={"link": 1}),
    "hidden files of a Mac and nested archives": _zip(
        zipped({"__MACOSX/._a.png": b"x", "inner.zip": _TWO, "a.png": A}), {"a.png": A},
        passed_over={"hidden": 1, ".zip": 1}),
    "an encrypted member": _zip(
        _patched(_TWO, "b.png", 8, b"\x01\x00"), {"a.png": A}, rejects={"b.png": Reason.UNREADABLE}),
    "a method that is not deflate": _zip(
        zipped({"a.png": A}, zipfile.ZIP_BZIP2), rejects={"a.png": Reason.UNSUPPORTED}),
    "a bomb": _zip(
        zipped({"bomb.bmp": bytes(80 << 20), "a.png": A}), {"a.png": A},
        rejects={"bomb.bmp": Reason.TOO_MANY_PIXELS}),
    "members that share bytes": _zip(
        _with_duplicates(), rejects={"a.png": Reason.UNREADABLE, "b.png": Reason.UNREADABLE}),
    "a stated size of four gigabytes": _zip(
        _patched(_TWO, "b.png", 24, b"\xfe\xff\xff\xff"), {"a.png": A}, rejects={"b.png": Reason.TOO_MANY_PIXELS}),
    "a stated size that is too small": _zip(
        _patched(_TWO, "b.png", 24, struct.pack("<L", 10)), {"a.png": A}, rejects={"b.png": Reason.TRUNCATED}),
    "a wrong checksum": _zip(
        _patched(_STORED, "b.png", 16, bytes(4)), {"a.png": A}, rejects={"b.png": Reason.TRUNCATED}),
    "damaged content": _zip(_damaged_content(), {"a.png": A}, rejects={"b.png": Reason.TRUNCATED}),
    "a header that is not where the directory says": _zip(
        _patched(_TWO, "b.png", 42, struct.pack("<L", 2**31)), {"a.png": A}, rejects={"b.png": Reason.UNREADABLE}),
    "a header that is none": _zip(
        _TWO.replace(b"PK\x03\x04", b"PK\x03\x05").replace(b"PK\x03\x05", b"PK\x03\x04", 1), {"a.png": A},
        rejects={"b.png": Reason.TRUNCATED}),
    "a damaged directory": _zip(
        _patched(_TWO, "b.png", 0, b"XX"), {"a.png": A}, rejects={"": Reason.TRUNCATED}),
    "a wrong number of members": _zip(
        _TWO[:-12] + b"\x09\x00" + _TWO[-10:], {"a.png": A, "b.png": B}, rejects={"": Reason.TRUNCATED}),
    "one volume of several": _zip(
        _TWO[:-18] + b"\x01\x00\x01\x00" + _TWO[-14:], rejects={"": Reason.UNSUPPORTED}),
    "cut at its end": _zip(_TWO[:-30], rejects={"": Reason.TRUNCATED}),
    "no archive": _zip(b"Dear reader, " * 100, rejects={"": Reason.TRUNCATED}),
}  # fmt: skip
