from __future__ import annotations

import hashlib
import random
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.store import byte_ranges
from kt_batch.store.inputs import Found, find_inputs, input_id, input_size, read_input
from kt_batch.store.members import FAULTS, Member, parse_member
from kt_batch.store.names import is_safe_name
from kt_batch.store.objects import object_range
from tests.support.hostile_archives import END, TARS, ZIPS, A, B, Verdict, picture, tar_entry, zipped
from tests.support.s3_server import S3Server, ceph_server, moto_server  # noqa: F401  # the fixtures

CORPUS = [
    pytest.param(f"shard.{form}", make, id=f"{form}: {name}")
    for form, makers in (("tar", TARS), ("zip", ZIPS))
    for name, make in makers.items()
]


def found_in(*places: Path | str) -> Found:
    return find_images([str(place) for place in places], (), no_progress)


def reason_of(uri: str) -> Reason | None:
    try:
        read_input(uri)
    except RejectError as error:
        return error.reason
    return None


def verdict_of(archive: Path) -> Verdict:
    """Return what becomes of an archive: each input is read through its URI alone, as a worker reads it."""
    found = found_in(archive)
    images, rejects = {}, {}
    for source in found.inputs:
        name = source.name.removeprefix(archive.name).removeprefix("/")
        reason = reason_of(source.uri)
        if reason is None:
            images[name] = read_input(source.uri)
            assert source.image_id == input_id(source.uri) == hashlib.sha256(images[name]).hexdigest()[:16]
            assert input_size(source.uri) == len(images[name])
        else:
            rejects[name] = reason
            assert source.image_id == ""
            assert input_size(source.uri) is None
        assert is_safe_name(source.name) or len(source.name) > 255
        assert source.uri.encode().isascii()
    return Verdict(images, rejects, found.passed_over)


# ---- verdicts


@pytest.mark.parametrize(("name", "make"), CORPUS)
def test_an_archive_gets_its_verdict_member_by_member(tmp_path: Path, name: str, make: object) -> None:
    assert callable(make)
    expected = make(tmp_path / name)
    if not expected.images and not expected.rejects:
        pytest.fail("a case needs images or rejects")
    assert verdict_of(tmp_path / name) == expected


def test_every_fault_has_a_sentence_that_names_archive_place_and_reason() -> None:
    for fault, (reason, sentence) in FAULTS.items():
        error = Member("/data/000.tar", "tar", "a.png", at=512, fault=fault).rejected()
        assert error.reason == reason
        assert str(error) == f"cannot read the member 'a.png' of '/data/000.tar' at byte 512: {sentence}"


def test_members_of_one_name_are_two_images_whose_names_hold_a_hash(tmp_path: Path) -> None:
    (tmp_path / "twice.tar").write_bytes(tar_entry("a.png", A) + tar_entry("a.png", B) + END)
    first, second = found_in(tmp_path / "twice.tar").inputs
    assert {read_input(first.uri), read_input(second.uri)} == {A, B}
    for source in (first, second):
        assert source.name == f"twice.tar/a-{hashlib.sha256(source.uri.encode()).hexdigest()[:16]}.png"


def test_a_compressed_tar_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b whatever")
    (source,) = found_in(tmp_path / "a.tar.gz").inputs
    with pytest.raises(RejectError, match="the archive is compressed as a whole; allowed are plain tar and zip"):
        read_input(source.uri)


def test_an_archive_that_is_not_there_costs_one_reject_and_its_neighbour_is_read(tmp_path: Path) -> None:
    (tmp_path / "000.tar").write_bytes(tar_entry("a.png", A) + END)
    (tmp_path / "001.tar").symlink_to(tmp_path / "gone")
    good, gone = found_in(tmp_path / "*.tar").inputs
    assert (good.name, gone.name) == ("000.tar/a.png", "001.tar")
    with pytest.raises(RejectError, match=r"No such file or directory: .*001\.tar"):
        read_input(gone.uri)


def test_a_member_that_changed_on_disk_is_not_what_its_image_id_says(tmp_path: Path) -> None:
    path = tmp_path / "000.tar"
    path.write_bytes(tar_entry("a.png", A) + END)
    (source,) = found_in(path).inputs
    path.write_bytes(tar_entry("a.png", B) + END)
    assert input_id(source.uri) != source.image_id
    path.write_bytes(b"short")
    with pytest.raises(RejectError, match="its bytes are not all there"):
        read_input(source.uri)


# ---- listing


def test_a_folder_says_what_it_passes_over_and_leaves_archives_closed(tmp_path: Path) -> None:
    for name in ("a.png", "b.txt", "c.TXT", "d.mp4", "e.zip", "README", ".DS_Store", "odd.suffix that is long"):
        (tmp_path / name).write_bytes(A)
    (tmp_path / ".cache").mkdir()
    found = found_in(tmp_path)
    assert [source.name for source in found.inputs] == ["a.png"]
    assert found.passed_over == {".txt": 2, "hidden": 2, "without suffix": 2, ".mp4": 1, ".zip": 1}


def test_a_folder_of_archives_alone_says_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "000.tar").write_bytes(tar_entry("a.png", A) + END)
    message = r"holds no images; it holds 1 \.tar \(name archives themselves, such as 'data/\*\.tar'\); looked for"
    with pytest.raises(UsageError, match=message):
        found_in(tmp_path)
    assert [source.name for source in found_in(tmp_path / "*.tar").inputs] == ["000.tar/a.png"]


def test_a_pattern_counts_only_what_it_matches(tmp_path: Path) -> None:
    for name in ("a.png", "a.txt", "b.txt"):
        (tmp_path / name).write_bytes(A)
    assert found_in(tmp_path / "a.*").passed_over == {".txt": 1}
    assert found_in(tmp_path / "*.png").passed_over == {}


def test_archives_without_images_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"x", "b.txt": b"y"}))
    with pytest.raises(UsageError, match=r"^what was named holds no images; it holds 2 \.txt; looked for"):
        found_in(tmp_path / "a.zip")


def test_an_archive_beside_a_folder_goes_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(A)
    (tmp_path / "more.zip").write_bytes(zipped({"a.png": B}))
    assert [source.name for source in found_in(tmp_path / "photos", tmp_path / "more.zip").inputs] == [
        "more.zip/a.png",
        "photos/a.png",
    ]


def test_listing_alone_does_not_open_archives(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"anything")
    assert [source.uri for source in find_inputs([str(tmp_path / "a.zip")]).inputs] == [str(tmp_path / "a.zip")]


# ---- URIs


@pytest.mark.parametrize(
    ("archive", "uri"),
    [
        ("/data/000.tar", "tar+file:///data/000.tar#at=512&bytes=7&member=a%23b.png"),
        ("/data/#1 100%.tar", "tar+file:///data/%231%20100%25.tar#at=512&bytes=7&member=a%23b.png"),
        ("/data/caf\udce9.tar", "tar+file:///data/caf%E9.tar#at=512&bytes=7&member=a%23b.png"),
        ("s3://bucket/x/000.tar", "tar+s3://bucket/x/000.tar#at=512&bytes=7&member=a%23b.png"),
        ("s3://bucket/50%#é.tar", "tar+s3://bucket/50%25%23%C3%A9.tar#at=512&bytes=7&member=a%23b.png"),
    ],
)
def test_the_uri_of_a_member_names_archive_offset_and_size_and_is_read_back(archive: str, uri: str) -> None:
    member = Member(archive, "tar", "a#b.png", at=512, size=7)
    assert member.uri == uri
    assert parse_member(uri) == member


def test_the_uri_of_a_deflated_member_has_both_sizes() -> None:
    member = Member("/p.zip", "zip", "a.png", at=35, size=70, packed=60)
    assert member.uri == "zip+file:///p.zip#at=35&bytes=70&deflate=60&member=a.png"
    assert parse_member(member.uri) == member


@pytest.mark.parametrize(
    "uri",
    [
        "tar+file:///x.tar",
        "tar+file:///x.tar#",
        "tar+file:///x.tar#member=a.png",
        "tar+file:///x.tar#at=-1&bytes=5&member=a.png",
        "tar+file:///x.tar#at=0&bytes=99999999999999999999&member=a.png",
        "tar+file:///x.tar#at=0&bytes=5",
        "tar+file:///x.tar#at=0&fault=nonsense",
        "tar+file://elsewhere/x.tar#at=0&bytes=5&member=a.png",
        "rar+file:///x.rar#at=0&bytes=5&member=a.png",
        f"zip+file:///x.zip#at=0&bytes={2**40}&member=a.png",
        f"zip+file:///x.zip#at=0&bytes={2**40}&deflate=9&member=a.png",
    ],
)
def test_a_malformed_or_absurd_uri_is_a_reject(tmp_path: Path, uri: str) -> None:
    for name in ("x.tar", "x.zip"):
        (tmp_path / name).write_bytes(bytes(1000))
    with pytest.raises(RejectError):
        read_input(uri.replace("file:///", f"file://{tmp_path}/"))


def test_a_member_uri_of_a_stranger_cannot_unpack_to_more_than_it_states(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(zipped({"a.bmp": bytes(50 << 20)}))
    (source,) = found_in(tmp_path / "bomb.zip").inputs
    forged = source.uri.replace(f"bytes={50 << 20}", "bytes=1000")
    with pytest.raises(RejectError, match="its bytes are not all there"):
        read_input(forged)


# ---- object storage


@pytest.fixture(params=["moto_server", pytest.param("ceph_server", marks=[pytest.mark.s3, pytest.mark.slow])])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server: S3Server = request.getfixturevalue(request.param)
    return server.new_location(monkeypatch).uri


def test_an_archive_on_a_web_server_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_entry("a.png", A) + END)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (source,) = found_in(f"http://127.0.0.1:{server.server_port}/a.tar").inputs
        with pytest.raises(RejectError, match="is not read in parts; copy the archive to a file or to object storage"):
            read_input(source.uri)
        server.shutdown()


def put(place: str, name: str, data: bytes) -> None:
    from kt_batch.store.locations import open_location

    assert open_location(place).put_if_absent(name, data)


def test_shards_in_a_bucket_are_read_by_ranges_once_for_all_and_once_for_each_member(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [picture(number, 64) for number in range(20)]
    entries = [tar_entry(f"{n:03}.png", data) + tar_entry(f"{n:03}.cls", b"7") for n, data in enumerate(pictures)]
    put(place, "shards/000.tar", b"".join(entries[:10]) + END)
    put(place, "shards/001.tar", b"".join(entries[10:])[:-100])  # its end is lost
    put(place, "photos #1.zip", zipped({"é.png": B}))
    requests: list[tuple[int, int]] = []
    real = object_range

    def counted(uri: str, start: int, length: int) -> bytes:
        requests.append((start, length))
        return real(uri, start, length)

    monkeypatch.setattr(byte_ranges, "object_range", counted)
    found = found_in(f"{place}/shards/*.tar", f"{place}/photos #1.zip")
    assert len(requests) <= 5  # one for each tar; the zip's end, its directory, its members
    assert found.passed_over == {".cls": 20}
    requests.clear()
    read = {source.name: read_input(source.uri) for source in found.inputs if reason_of(source.uri) is None}
    assert set(read.values()) == {*pictures, B}
    assert len(requests) == 2 * 21 + 1  # twice, for the reason and for the bytes; and a look at the damaged shard
    assert max(length for _, length in requests) < 2 * max(map(len, pictures))
    rejected = [source for source in found.inputs if source.name not in read]
    assert [(source.name, reason_of(source.uri)) for source in rejected] == [("shards/001.tar", Reason.TRUNCATED)]
    assert all(source.uri.startswith(("tar+s3://", "zip+s3://")) for source in found.inputs)


# ---- laws


def test_zip_and_tar_of_random_pictures_give_back_every_byte(tmp_path: Path) -> None:
    maker = random.Random(7)
    contents = {f"{n}/{maker.randrange(10**6)}.png": maker.randbytes(maker.randrange(400_000)) for n in range(12)}
    contents["large.png"] = maker.randbytes(9 << 20) + bytes(9 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    (tmp_path / "a.tar").write_bytes(b"".join(tar_entry(name, data) for name, data in contents.items()) + END)
    for form in ("zip", "tar"):
        found = found_in(tmp_path / f"a.{form}")
        assert {each.name.removeprefix(f"a.{form}/"): read_input(each.uri) for each in found.inputs} == contents
