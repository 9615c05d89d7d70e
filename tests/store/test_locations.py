"""Local directories, a mock of S3 and a real S3 server keep the same promises."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tenacity
from botocore import exceptions as botocore_errors

from kt_batch.errors import MissingError, StorageError, UnreachableError, UsageError
from kt_batch.store import derived, s3, s3_errors
from kt_batch.store.derived import put_derived_file
from kt_batch.store.inputs import list_inputs
from kt_batch.store.locations import LocalLocation, Location, exists, location_contains, open_location, safe_name
from tests.support.s3_server import S3Server, ceph_server, moto_server  # noqa: F401  # the fixtures

LOCAL, MOTO, CEPH = "local", "moto", pytest.param("ceph", marks=pytest.mark.s3)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """Return a new location of the parametrized kind."""
    if request.param == LOCAL:
        return open_location(str(tmp_path / "place"))
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server.new_location(monkeypatch)


everywhere = pytest.mark.parametrize("place", [LOCAL, MOTO, CEPH], indirect=True)
in_buckets = pytest.mark.parametrize("place", [MOTO, CEPH], indirect=True)
where_races_are_real = pytest.mark.parametrize("place", [LOCAL, CEPH], indirect=True)
in_moto = pytest.mark.parametrize("place", [MOTO], indirect=True)


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a", "plan/000000.parquet", "images/Straße/été 1.jpg.png", "a..b", "...", ".hidden", "at 12:30", "a/b?c#d%20e+f"],
)
def test_a_relative_path_is_a_safe_name(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\x",
        "C:/x",
        "c:x",
        "a\nb",
        "a\0b",
        "a\x7fb",
        "a/\udcff",
        "x" * 256,
        "é" * 128,
        ".tmp-1",
        "a/.tmp-x/b",
    ],
)
def test_a_name_that_could_leave_the_location_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="allowed is a relative path"):
        safe_name(name)


def test_the_longest_component_has_255_bytes() -> None:
    assert safe_name("x" * 255 + "/y") == "x" * 255 + "/y"


@everywhere
@pytest.mark.parametrize("method", ["read_bytes", "size", "open", "local_path", "delete", "list"])
def test_every_method_refuses_an_unsafe_name(place: Location, method: str) -> None:
    with pytest.raises(UsageError):
        getattr(place, method)("../outside")


# ---- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("/data/lib", "file:///data/lib"),
        ("file:///data/my%20lib", "file:///data/my%20lib"),
        ("file://localhost/data", "file:///data"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
    ],
)
def test_a_location_opens_by_path_or_uri_and_its_uri_reopens_it(text: str, uri: str) -> None:
    location = open_location(text)
    assert location.uri == uri
    assert open_location(uri) == location
    assert pickle.loads(pickle.dumps(location)) == location


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_location("lib").uri == (tmp_path / "lib").as_uri()


@pytest.mark.parametrize(
    "text",
    ["", "gs://bucket/x", "https://host/x", "s3://", "s3:///x", "s3://b/../x", "s3://b//x", "file://host/x", "file://"],
)
def test_an_invalid_location_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        open_location(text)


def test_credentials_in_a_location_are_refused_and_not_echoed() -> None:
    with pytest.raises(UsageError) as caught:
        open_location("s3://AKIAKEY:topsecret@bucket/prefix")
    assert "topsecret" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


# ---- reading and writing ---------------------------------------------------------------------------------------------


@everywhere
def test_stored_content_is_read_back(place: Location) -> None:
    assert place.put_if_absent("receipts/a b.json", b"hello world")
    assert place.read_bytes("receipts/a b.json") == b"hello world"
    assert place.size("receipts/a b.json") == 11
    assert exists(place, "receipts/a b.json")


@everywhere
def test_a_second_put_of_the_same_name_is_refused(place: Location) -> None:
    assert place.put_if_absent("x", b"first")
    assert not place.put_if_absent("x", b"second")
    assert place.read_bytes("x") == b"first"


@everywhere
def test_an_empty_object_can_be_stored(place: Location) -> None:
    assert place.put_if_absent("empty", b"")
    assert exists(place, "empty")
    assert place.read_bytes("empty") == b""
    with place.open("empty") as file:
        assert file.read() == b""


@everywhere
def test_a_range_is_read_and_ends_where_the_content_ends(place: Location) -> None:
    place.put_if_absent("x", b"0123456789")
    assert place.read_range("x", 2, 3) == b"234"
    assert place.read_range("x", 8, 5) == b"89"
    assert place.read_range("x", 10, 5) == b""
    assert place.read_range("x", 0, 0) == b""
    with pytest.raises(UsageError):
        place.read_range("x", -1, 2)


@everywhere
def test_an_absent_name_is_reported_missing(place: Location) -> None:
    place.put_if_absent("folder/x", b"1")
    for name in ("y", "folder", "folder/x/z"):
        assert not exists(place, name)
        for read in (place.read_bytes, place.size, place.open):
            with pytest.raises(MissingError, match="nothing lies at"):
                read(name)
        with pytest.raises(MissingError):
            place.read_range(name, 0, 1)


@everywhere
def test_a_listing_is_sorted_recursive_and_below_its_prefix(place: Location) -> None:
    assert place.list() == []
    for name in ("plan/b", "plan/a", "plan/deep/er", "plans/c", "top"):
        place.put_if_absent(name, b"")
    assert place.list("plan") == place.list("plan/") == ["plan/a", "plan/b", "plan/deep/er"]
    assert place.list() == ["plan/a", "plan/b", "plan/deep/er", "plans/c", "top"]
    assert place.list("nowhere") == place.list("top") == []


@everywhere
def test_a_name_put_by_another_writer_is_listed_immediately(place: Location) -> None:
    place.put_if_absent("plan/a", b"")
    assert place.list("plan") == ["plan/a"]
    assert open_location(place.uri).put_if_absent("plan/b", b"")
    assert place.list("plan") == ["plan/a", "plan/b"]


@everywhere
def test_deleting_frees_the_name_and_succeeds_for_an_absent_one(place: Location) -> None:
    place.delete("folder/x")
    place.put_if_absent("folder/x", b"1")
    place.delete("folder/x")
    assert not exists(place, "folder/x")
    assert place.put_if_absent("folder/x", b"2")


@everywhere
def test_temporary_files_are_listed_separately_and_buckets_have_none(place: Location) -> None:
    place.put_if_absent("parts/a", b"1")
    assert place.list_temporary() == {}


def test_leftovers_of_a_killed_writer_are_listed_with_sizes_and_can_be_deleted(tmp_path: Path) -> None:
    place = open_location(str(tmp_path))
    place.put_if_absent("parts/a", b"1")
    left = [f".tmp-{'0' * 24}.parquet", f"parts/.tmp-{'1' * 24}"]
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".tmp-{'2' * 24}").hardlink_to(tmp_path / "parts/a")  # killed after the link: two names of one file
    assert place.list_temporary() == {left[0]: 4, f".tmp-{'2' * 24}": 0, left[1]: 4}
    for name in place.list_temporary():
        place.delete(name)
        place.delete(name)
    assert place.list_temporary() == {}
    assert place.read_bytes("parts/a") == b"1"


@pytest.mark.parametrize(
    "name", [".tmp-1", ".tmp-notes", f"x.tmp-{'0' * 24}", f".tmp-{'0' * 24}/x", f".tmp-{'g' * 24}"]
)
def test_only_names_given_by_writers_are_temporary_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"1")
    assert open_location(str(tmp_path)).list_temporary() == {}


def test_a_link_is_not_a_temporary_file(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{'0' * 24}").symlink_to(tmp_path / "elsewhere")
    assert open_location(str(tmp_path)).list_temporary() == {}


@pytest.mark.parametrize("name", [f"../.tmp-{'0' * 24}", f"/.tmp-{'0' * 24}", f"a/../../.tmp-{'0' * 24}"])
def test_a_temporary_file_of_another_location_is_not_deleted(tmp_path: Path, name: str) -> None:
    outside = tmp_path / f".tmp-{'0' * 24}"
    outside.write_bytes(b"1")
    (tmp_path / "place/a").mkdir(parents=True)
    with pytest.raises(UsageError):
        open_location(str(tmp_path / "place")).delete(name)
    assert outside.exists()


@everywhere
def test_a_reader_seeks_from_start_position_and_end(place: Location) -> None:
    place.put_if_absent("x", b"0123456789")
    with place.open("x") as file:
        assert file.seekable()
        assert (file.seek(-4, io.SEEK_END), file.read(2)) == (6, b"67")
        assert (file.seek(-3, io.SEEK_CUR), file.read()) == (5, b"56789")
        assert (file.seek(3), file.tell(), file.read(1)) == (3, 3, b"3")
        assert (file.seek(20), file.read(1)) == (20, b"")


@everywhere
def test_arrow_reads_one_column_through_a_reader(place: Location) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}), sink)
    place.put_if_absent("t.parquet", sink.getvalue())
    with place.open("t.parquet") as file:
        assert pq.ParquetFile(file).read(["b"]).to_pydict() == {"b": ["x", "y", "z"]}


@everywhere
def test_storing_the_same_content_twice_succeeds_and_stores_it_once(place: Location, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    place.put_content("parts/c0ffee", source)
    place.put_content("parts/c0ffee", source)
    assert place.read_bytes("parts/c0ffee") == b"content"
    assert place.list() == ["parts/c0ffee"]


@everywhere
def test_an_open_file_is_stored_whole_unless_something_is_there(place: Location) -> None:
    file = io.BytesIO(os.urandom(9 << 20))
    file.seek(17)  # its position makes no difference
    assert place.put_file_if_absent("images/a", file)
    assert not place.put_file_if_absent("images/a", io.BytesIO(b"other"))
    assert place.read_bytes("images/a") == file.getvalue()
    assert place.list() == ["images/a"]


@in_buckets
def test_large_content_is_uploaded_in_parts(place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)  # the least that S3 allows
    source = tmp_path / "source"
    source.write_bytes(os.urandom(12 << 20))
    place.put_content("parts/large", source)
    assert place.read_bytes("parts/large") == source.read_bytes()


@in_buckets
def test_a_derived_file_above_the_largest_put_replaces_what_is_there_in_parts(
    place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(derived, "LARGEST_PUT", 11 << 20)
    source = tmp_path / "tree"
    for content in (os.urandom(12 << 20), os.urandom(12 << 20)):
        source.write_bytes(content)
        assert put_derived_file(place, "index/tree", source) == (hashlib.sha256(content).hexdigest(), 12 << 20)
        assert place.read_bytes("index/tree") == content


@everywhere
def test_a_scratch_file_being_stored_is_not_listed(place: Location) -> None:
    scratch = place.scratch_directory() / f".tmp-{secrets.token_hex(8)}"
    scratch.write_bytes(b"on its way")
    try:
        assert place.list() == []
        place.put_content("parts/a", scratch)
    finally:
        scratch.unlink()
    assert place.list() == ["parts/a"]
    assert place.read_bytes("parts/a") == b"on its way"


# ---- races and crashes -----------------------------------------------------------------------------------------------


@where_races_are_real
def test_exactly_one_of_16_threads_wins_a_name(place: Location) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda writer: place.put_if_absent("race", b"%d" % writer), range(16)))
    assert won.count(True) == 1
    assert place.read_bytes("race") == b"%d" % won.index(True)
    assert place.list() == ["race"]


# ---- differences between the kinds ----------------------------------------------------------------------------------


def test_a_directory_has_paths_and_free_space_and_a_bucket_has_neither(tmp_path: Path) -> None:
    local, bucket = open_location(str(tmp_path / "new" / "place")), open_location("s3://bucket/x")
    assert local.local_path("a/b") == tmp_path / "new/place/a/b"
    assert bucket.local_path("a/b") is None
    free = local.free_bytes()
    assert free is not None
    assert free > 0
    assert bucket.free_bytes() is None


# ---- buckets only ----------------------------------------------------------------------------------------------------


@in_buckets
def test_the_error_for_a_missing_bucket_names_it(place: Location) -> None:
    missing = open_location("s3://kt-no-such-bucket/lib")
    for use in (
        lambda: missing.read_bytes("x"),
        lambda: exists(missing, "x"),
        missing.list,
        lambda: missing.put_if_absent("x", b"1"),
        lambda: missing.delete("x"),
    ):
        with pytest.raises(UnreachableError, match="there is no bucket 'kt-no-such-bucket'"):
            use()


@pytest.mark.parametrize("place", [CEPH], indirect=True)
def test_wrong_credentials_raise_one_sentence_that_does_not_contain_them(
    place: Location, monkeypatch: pytest.MonkeyPatch, fresh_client: None
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONGKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongsecret")
    for use in (lambda: place.read_bytes("x"), lambda: place.size("x")):  # the answer to the latter has no code
        with pytest.raises(UnreachableError, match=r"access was denied \(InvalidAccessKeyId\)") as caught:
            use()
        for secret in ("WRONGKEY", "wrongsecret", os.environ["AWS_ENDPOINT_URL"]):
            assert secret not in str(caught.value) + repr(place)


@pytest.mark.parametrize("place", [CEPH], indirect=True)
def test_one_forbidden_object_does_not_fail_the_whole_store(
    place: Location, monkeypatch: pytest.MonkeyPatch, no_waiting: None
) -> None:
    place.put_if_absent("x", b"1")
    denied = PermissionError()
    denied.__cause__ = answered("403")
    for error, tries, words in (
        (denied, 1, r"access was denied \(403\)"),
        (answered("InternalError"), 9, "InternalError"),
    ):
        client = Flaky(s3._filesystem(), [error] * tries, after=False)
        with monkeypatch.context() as patched:
            patched.setattr(s3, "_filesystem", lambda client=client: client)
            patched.setattr(s3._retrying, "stop", tenacity.stop_after_attempt(tries))
            with pytest.raises(StorageError, match=words) as caught:
                place.size("x")
        assert client.calls == tries + 1  # the last one asked about the bucket
        assert not isinstance(caught.value, UnreachableError)


@pytest.fixture
def fresh_client() -> Iterator[None]:
    """Clear the clients cached per process before and after the test."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


def test_a_store_that_does_not_answer_raises_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    no_waiting: None,
    moto_server: S3Server,  # noqa: F811
) -> None:
    moto_server.new_location(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3._retrying, "stop", tenacity.stop_after_attempt(2))
    with pytest.raises(UnreachableError) as caught:
        open_location("s3://bucket/lib").read_bytes("x")
    assert str(caught.value) == "cannot use s3://bucket/lib/x: the request failed with EndpointConnectionError"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3._retrying, "wait", tenacity.wait_none())


class Flaky:
    """A client whose calls first raise the given errors, before or after they take effect."""

    def __init__(self, client: Any, errors: list[BaseException], *, after: bool) -> None:
        self.client, self.errors, self.after, self.calls = client, errors, after, 0

    def call_s3(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.after or not self.errors:
            answer = self.client.call_s3(*args, **kwargs)
        if self.errors:
            raise self.errors.pop()
        return answer


def cut() -> BaseException:
    return cast(BaseException, botocore_errors.ConnectionClosedError(endpoint_url="http://x"))


def answered(code: str) -> BaseException:
    return cast(BaseException, botocore_errors.ClientError({"Error": {"Code": code, "Message": "m"}}, "PutObject"))


@in_moto
@pytest.mark.parametrize("errors", [[cut(), cut()], [answered("SlowDown")], [answered("ConditionalRequestConflict")]])
def test_a_transient_failure_is_retried(
    place: Location, monkeypatch: pytest.MonkeyPatch, no_waiting: None, errors: list[BaseException]
) -> None:
    client = Flaky(s3._filesystem(), list(errors), after=False)
    monkeypatch.setattr(s3, "_filesystem", lambda: client)
    assert place.put_if_absent("x", b"1")
    assert client.calls == len(errors) + 1


@in_moto
def test_any_other_failure_is_not_retried(place: Location, monkeypatch: pytest.MonkeyPatch, no_waiting: None) -> None:
    client = Flaky(s3._filesystem(), [answered("EntityTooLarge")], after=False)
    monkeypatch.setattr(s3, "_filesystem", lambda: client)
    with pytest.raises(StorageError, match="the store answered EntityTooLarge"):
        place.put_if_absent("x", b"1")
    assert client.calls == 1


@in_moto
def test_a_put_whose_reply_was_lost_is_refused_and_then_read_back(
    place: Location, monkeypatch: pytest.MonkeyPatch, no_waiting: None
) -> None:
    client = Flaky(s3._filesystem(), [cut()], after=True)
    with monkeypatch.context() as patched:
        patched.setattr(s3, "_filesystem", lambda: client)
        assert not place.put_if_absent("x", b"mine")
    assert place.read_bytes("x") == b"mine"


@pytest.mark.parametrize(
    ("error", "transient", "unreachable"),
    [
        (ConnectionResetError(), True, True),
        (TimeoutError(), True, True),
        (botocore_errors.EndpointConnectionError(endpoint_url="http://x"), True, True),
        (botocore_errors.ReadTimeoutError(endpoint_url="http://x"), True, True),
        (answered("SlowDown"), True, True),
        (answered("InternalError"), True, True),
        (answered("503"), True, True),
        (answered("PreconditionFailed"), False, False),
        (answered("NoSuchBucket"), False, True),
        (answered("ExpiredToken"), False, True),
        (answered("AccessDenied"), False, False),
        (botocore_errors.SSLError(endpoint_url="https://x", error="certificate"), False, True),
        (botocore_errors.NoCredentialsError(), False, True),
        (FileNotFoundError(), False, False),
        (ValueError(), False, False),
    ],
)
def test_only_named_failures_are_transient_and_only_they_and_denied_access_blame_the_store(
    error: BaseException, transient: bool, unreachable: bool
) -> None:
    assert (s3_errors.is_transient(error), s3_errors.is_unreachable(error)) == (transient, unreachable)


# ---- containment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["run", "my run", "Straße/été", "100%", "a%20b", "a#b?c", "it's [1]*"])
def test_an_input_in_a_directory_is_inside_it_for_any_directory_name(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    for location in (open_location(str(root)), open_location(root.as_uri()), open_location(f"{root}/x/..")):
        assert location_contains(location, f"{root}/images/a.jpg.png")
        assert location_contains(location, (root / "images/a b.png").as_uri())
        assert not location_contains(location, f"{root}2/a.jpg")
        assert not location_contains(location, f"{tmp_path}/a.jpg")
        assert not location_contains(location, str(root))
        assert not location_contains(location, f"{root}/../a.jpg")
        assert not location_contains(location, "s3://bucket/a.jpg")
        assert not location_contains(location, f"file://elsewhere{root}/a.jpg")


def test_a_path_that_is_not_utf8_is_inside_its_directory(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    location = LocalLocation(root)
    assert location_contains(location, (root / "a.jpg").as_uri())
    assert not location_contains(location, (tmp_path / "run" / "a.jpg").as_uri())


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_path_that_is_not_utf8_is_no_place(tmp_path: Path, as_uri: bool) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    with pytest.raises(UsageError, match="has bytes that are not UTF-8"):
        open_location(root.as_uri() if as_uri else str(root))


def test_a_listed_input_is_inside_a_run_only_where_its_path_is(tmp_path: Path) -> None:
    run = tmp_path / "photos" / "été, my run"
    for path in (run / "images" / "a.jpg.png", tmp_path / "photos" / "a.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    inputs = list_inputs([str(tmp_path / "photos")])
    assert [location_contains(open_location(str(run)), item.uri) for item in inputs] == [False, True]


@pytest.mark.parametrize(
    ("place", "uri", "inside"),
    [
        ("s3://bucket/my run", "s3://bucket/my run/images/a b.png", True),
        ("s3://bucket/été", "s3://bucket/été/a.png", True),
        ("s3://bucket/run/", "s3://bucket/run/a.png", True),
        ("s3://bucket", "s3://bucket/a.png", True),
        ("s3://bucket/run", "s3://bucket/run2/a.png", False),
        ("s3://bucket/run", "s3://bucket/run", False),
        ("s3://bucket/run", "s3://other/run/a.png", False),
        ("s3://bucket/run", "/run/a.png", False),
    ],
)
def test_an_input_inside_a_buckets_prefix_is_inside(place: str, uri: str, inside: bool) -> None:
    assert location_contains(open_location(place), uri) is inside
