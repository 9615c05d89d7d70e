from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from kt_batch.errors import Reason, RejectError, StorageError, UnreachableError, UsageError
from kt_batch.store import inputs
from kt_batch.store.images.files import image_id
from kt_batch.store.inputs import Input, find_inputs, input_id, list_inputs, read_input
from kt_batch.store.names import is_safe_name
from kt_batch.store.output_names import plain_output
from tests.support.hostile import make_corpus


def plant(root: Path, *names: str) -> None:
    """Create files that contain their own names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))


def names_of(*arguments: Path | str) -> list[str]:
    return [item.name for item in list_inputs([str(argument) for argument in arguments])]


# ---- one argument


def test_a_file_argument_keeps_its_name_and_may_have_any_suffix(tmp_path: Path) -> None:
    plant(tmp_path, "photos/scan.dat")
    path = tmp_path / "photos/scan.dat"
    assert list_inputs([str(path)]) == [Input(uri=str(path), name="scan.dat")]


def test_images_of_a_directory_have_names_relative_to_it(tmp_path: Path) -> None:
    plant(tmp_path, "b.JPG", "a/c.png", "a/deep/er/d.tiff", "notes.txt", "a/movie.mp4", "jpg")
    assert list_inputs([str(tmp_path)]) == [
        Input(f"{tmp_path}/a/c.png", "a/c.png"),
        Input(f"{tmp_path}/a/deep/er/d.tiff", "a/deep/er/d.tiff"),
        Input(f"{tmp_path}/b.JPG", "b.JPG"),
    ]


def test_hidden_files_and_directories_are_skipped_unless_named(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "._a.jpg")
    assert names_of(tmp_path) == ["a.jpg"]
    assert names_of(tmp_path / ".cache") == ["c.jpg"]
    assert names_of(tmp_path / ".b.jpg") == [".b.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.png", ["c.png"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("[!a].jpg", ["b.jpg"]),
        ("*", ["a.jpg", "b.jpg", "c.png"]),  # notes.txt is no image, and `*` does not cross a slash
        ("**/*.jpg", ["a.jpg", "b.jpg", "x/a.jpg", "x/y/a.jpg"]),
        ("**", ["a.jpg", "b.jpg", "c.png", "x/a.jpg", "x/y/a.jpg"]),
        ("*/a.jpg", ["x/a.jpg"]),
        ("x/**/a.jpg", ["a.jpg", "y/a.jpg"]),  # relative to x, the part before the pattern
        ("x/*", ["a.jpg"]),
    ],
)
def test_files_matched_by_a_pattern_have_names_relative_to_its_fixed_prefix(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    plant(tmp_path, "a.jpg", "b.jpg", "c.png", "notes.txt", "x/a.jpg", "x/y/a.jpg", ".h/a.jpg")
    assert names_of(f"{tmp_path}/{pattern}") == expected


def test_an_existing_path_is_not_read_as_a_pattern(tmp_path: Path) -> None:
    plant(tmp_path, "[ab].jpg", "a.jpg", "2024*/c.jpg", "2024-05/d.jpg")
    assert names_of(tmp_path / "[ab].jpg") == ["[ab].jpg"]
    assert names_of(tmp_path / "2024*") == ["c.jpg"]


def test_relative_arguments_give_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "photos/a.jpg", "-rf.jpg")
    monkeypatch.chdir(tmp_path / "photos")
    expected = [Input(f"{tmp_path}/photos/a.jpg", "a.jpg")]
    for argument in (".", "a.jpg", "*.jpg", "../photos", "../photos/*.jpg", "./a.jpg", f"{tmp_path}/photos/"):
        assert list_inputs([argument]) == expected
    assert names_of("../-rf.jpg") == ["-rf.jpg"]


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    plant(tmp_path, "two words/a.jpg")
    expected = [Input(f"{tmp_path}/two words/a.jpg", "a.jpg")]
    assert list_inputs([(tmp_path / "two words").as_uri()]) == expected
    assert list_inputs([f"file://localhost{tmp_path}/two%20words/a.jpg"]) == expected
    with pytest.raises(UsageError, match="on another machine"):
        list_inputs(["file://server/photos"])


# ---- several arguments


def test_several_arguments_are_listed_under_their_own_names(tmp_path: Path) -> None:
    plant(tmp_path, "photos/a.jpg", "more/a.jpg", "single.jpg")
    assert names_of(tmp_path / "photos", f"{tmp_path}/more/*", tmp_path / "single.jpg") == [
        "more/a.jpg",
        "photos/a.jpg",
        "single.jpg",
    ]


def test_names_that_inputs_would_share_hold_a_hash_of_their_place_in_any_order(tmp_path: Path) -> None:
    plant(tmp_path, "x/photos/a.jpg", "y/photos/a.jpg", "z/photos-2/a.jpg", "x/a.jpg", "y/a.jpg")
    places = [f"{tmp_path}/{path}" for path in ("x/photos", "y/photos", "z/photos-2", "x/a.jpg", "y/a.jpg")]
    one, two, _, three, four = (hashlib.sha256(place.encode()).hexdigest()[:16] for place in places)
    expected = {
        f"photos-{one}/a.jpg": "x/photos/a.jpg",
        f"photos-{two}/a.jpg": "y/photos/a.jpg",
        "photos-2/a.jpg": "z/photos-2/a.jpg",
        f"a-{three}.jpg": "x/a.jpg",
        f"a-{four}.jpg": "y/a.jpg",
    }
    for order in permutations(places):
        found = {item.name: item.uri for item in list_inputs(order)}
        assert found == {name: f"{tmp_path}/{path}" for name, path in expected.items()}


def test_an_input_named_twice_is_listed_once(tmp_path: Path) -> None:
    plant(tmp_path, "photos/a.jpg", "photos/b.jpg")
    photos = tmp_path / "photos"
    assert names_of(photos, photos) == names_of(photos, f"{photos}/", f"{photos}/*.jpg") == ["a.jpg", "b.jpg"]
    assert names_of(photos / "a.jpg", photos) == names_of(photos, photos / "a.jpg") == ["photos/a.jpg", "photos/b.jpg"]
    assert names_of(photos / "a.jpg", photos / "a.jpg") == ["a.jpg"]


def test_files_expanded_by_a_shell_keep_their_names(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    assert names_of(tmp_path / "a.jpg", tmp_path / "b.jpg") == ["a.jpg", "b.jpg"]


# ---- libraries and runs of ours


def test_libraries_and_runs_below_a_folder_are_passed_over_whole(tmp_path: Path) -> None:
    plant(
        tmp_path, "a.jpg", "deep/b.jpg", "run/plan/000000.parquet", "run/images/a.jpg.png", "run/images/x/y.jpg.png",
        "deep/lib/plan/000000.parquet", "deep/lib/c.jpg", "plan/d.jpg", "other/plan/000000.txt", "other/e.jpg",
    )  # fmt: skip
    found = find_inputs([str(tmp_path)])
    assert [item.name for item in found.inputs] == ["a.jpg", "deep/b.jpg", "other/e.jpg", "plan/d.jpg"]
    assert found.ours == [f"{tmp_path}/deep/lib", f"{tmp_path}/run"]
    assert names_of(f"{tmp_path}/**/*.jpg") == ["a.jpg", "deep/b.jpg", "other/e.jpg", "plan/d.jpg"]


def test_outputs_that_are_named_count(tmp_path: Path) -> None:
    plant(tmp_path, "run/plan/000000.parquet", "run/images/a.jpg.png")
    for argument in ("run", "run/images", "run/images/a.jpg.png", "run/images/*.png"):
        assert names_of(tmp_path / argument)[0].endswith("a.jpg.png")


def test_a_link_to_the_outputs_of_a_run_is_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "photos/a.jpg", "run/plan/000000.parquet", "run/images/x/b.jpg.png", "plain/c.jpg")
    for name, target in (("latest", "run/images"), ("deeper", "run/images/x"), ("whole", "run"), ("other", "plain")):
        (tmp_path / "photos" / name).symlink_to(tmp_path / target)
    found = find_inputs([str(tmp_path / "photos")])
    assert [item.name for item in found.inputs] == ["a.jpg", "other/c.jpg"]
    assert found.ours == [f"{tmp_path}/photos/{name}" for name in ("deeper", "latest", "whole")]
    (tmp_path / "run/images/again").symlink_to(tmp_path / "run/images/x")
    assert names_of(tmp_path / "run/images") == ["x/b.jpg.png"]  # outputs that are named count


def test_a_run_among_the_names_that_a_shell_expanded_is_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg", "run/plan/000000.parquet", "run/images/a.jpg.png")
    found = find_inputs([str(path) for path in tmp_path.iterdir()])
    assert [item.name for item in found.inputs] == ["a.jpg", "b.jpg"]
    assert found.ours == [f"{tmp_path}/run"]
    with pytest.raises(UsageError, match="all 2 arguments are libraries or runs"):
        find_inputs([f"{tmp_path}/run", f"{tmp_path}/run"])


def test_a_folder_that_holds_nothing_but_runs_says_so(tmp_path: Path) -> None:
    plant(tmp_path, "run/plan/000000.parquet", "run/images/a.jpg.png")
    with pytest.raises(UsageError, match=f"holds no images outside of '{tmp_path}/run'"):
        list_inputs([str(tmp_path)])


# ---- links and special files


def test_links_to_files_and_directories_are_followed_and_cycles_end(tmp_path: Path) -> None:
    plant(tmp_path, "album/a.jpg", "elsewhere/b.jpg")
    album = tmp_path / "album"
    (album / "linked.jpg").symlink_to(tmp_path / "elsewhere/b.jpg")
    (album / "more").symlink_to(tmp_path / "elsewhere")
    (album / "up").symlink_to(album)
    (tmp_path / "elsewhere/back").symlink_to(album)
    assert names_of(album) == ["a.jpg", "linked.jpg", "more/b.jpg"]


def test_a_directory_is_listed_under_its_own_path_rather_than_under_a_link_to_it(tmp_path: Path) -> None:
    plant(tmp_path, "real/a.jpg")
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert names_of(tmp_path) == ["real/a.jpg"]


def test_a_dangling_link_and_a_pipe_become_rejects_without_blocking(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = list_inputs([str(tmp_path)])
    assert [item.name for item in found] == ["gone.jpg", "pipe.jpg"]
    assert [reason_for(item.uri) for item in found] == [Reason.UNREADABLE] * 2
    with pytest.raises(UsageError, match="neither a file nor a directory"):
        list_inputs([str(tmp_path / "pipe.jpg")])


def test_an_unreadable_directory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "photos/a.jpg")

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # root may list every directory
    with pytest.raises(StorageError, match=r"cannot list the directory '.*photos': Permission denied"):
        list_inputs([str(tmp_path / "photos")])


# ---- nothing to do


@pytest.mark.parametrize("argument", ["missing.jpg", "missing/*.jpg", "a\0b.jpg"])
def test_the_error_for_a_missing_argument_names_it(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="does not exist") as caught:
        list_inputs([argument])
    assert repr(argument) in str(caught.value)


@pytest.mark.parametrize("argument", ["", "*.png", "**/*.jpg"])
def test_the_error_for_a_place_without_images_names_it(argument: str, tmp_path: Path) -> None:
    plant(tmp_path, "notes.txt")
    with pytest.raises(UsageError, match="holds no images") as caught:
        list_inputs([f"{tmp_path}/{argument}"])
    assert str(tmp_path) in str(caught.value)


def test_missing_and_empty_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="no images were given"):
        list_inputs([])
    with pytest.raises(UsageError, match="an argument is empty"):
        list_inputs([""])


# ---- names


def test_every_name_of_the_hostile_corpus_is_listed_and_stays_inside_the_run(tmp_path: Path) -> None:
    cases = make_corpus(tmp_path)
    for case in cases:
        (item,) = list_inputs([str(tmp_path / case.name)])
        assert Path(item.uri) == tmp_path / case.name
        assert item.name == case.name.replace("\n", "%0A")
        assert is_safe_name(plain_output(item.name, "png"))
    suffixes = {Path(name).suffix for name in names_of(tmp_path)}
    assert suffixes >= {".jpg", ".png", ".tif", ".mpo"}
    assert not suffixes & {"", ".svg", ".eps"}


def test_composed_and_decomposed_accents_stay_distinct_names(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFD", "NFC")]
    plant(tmp_path, *names)
    assert names_of(tmp_path) == sorted(names)


def test_control_characters_are_encoded_in_the_name_and_kept_in_the_uri(tmp_path: Path) -> None:
    plant(tmp_path, "a\nb\x7f.jpg", "back\\slash.jpg")
    (first, second) = list_inputs([str(tmp_path)])
    assert (first.name, second.name) == ("a%0Ab%7F.jpg", "back%5Cslash.jpg")
    assert read_input(first.uri) == b"a\nb\x7f.jpg"


def test_names_that_encode_to_the_same_name_hold_a_hash(tmp_path: Path) -> None:
    plant(tmp_path, "a\n.jpg", "a%0A.jpg")
    hashes = [hashlib.sha256(f"{tmp_path}/{name}".encode()).hexdigest()[:16] for name in ("a\n.jpg", "a%0A.jpg")]
    assert names_of(tmp_path) == sorted(f"a%0A-{value}.jpg" for value in hashes)


def test_a_file_name_that_is_not_utf8_has_a_utf8_uri(tmp_path: Path) -> None:
    plant(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    (item,) = list_inputs([str(tmp_path)])
    assert item.name == "caf%E9.jpg"
    assert item.uri == f"file://{tmp_path}/caf%E9.jpg"
    assert read_input(item.uri) == b"caf\xe9.jpg"


# ---- bytes


def reason_for(uri: str) -> Reason:
    with pytest.raises(RejectError) as caught:
        read_input(uri)
    assert "cannot read" in caught.value.message
    return caught.value.reason


def test_an_existing_input_is_read_and_a_missing_one_is_unreadable(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg")
    assert read_input(f"{tmp_path}/a.jpg") == b"a.jpg"
    assert reason_for(f"{tmp_path}/gone.jpg") == Reason.UNREADABLE
    assert reason_for(str(tmp_path)) == Reason.UNREADABLE
    assert reason_for("a\0b") == Reason.UNREADABLE


def test_hashing_an_input_in_chunks_gives_the_id_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "CHUNK", 7)
    for size in (0, 6, 7, 8, 50):
        path = tmp_path / f"{size}.jpg"
        path.write_bytes(bytes(range(size)))
        assert [len(chunk) for chunk in inputs._chunks(str(path), 7)] == [7] * (size // 7) + [size % 7] * (size % 7 > 0)
        assert input_id(str(path)) == image_id(bytes(range(size)))
    with pytest.raises(RejectError, match="cannot read"):
        input_id(str(tmp_path / "gone.jpg"))


def test_a_virtual_file_is_read_up_to_its_stated_size() -> None:
    assert read_input("/proc/self/pagemap") == b""  # 2^47 bytes and more


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "backup.tif"
    with path.open("wb") as file:
        file.truncate(2**32 + 1)  # sparse: it takes no space
    with pytest.raises(RejectError, match="4294967297 bytes") as caught:
        read_input(str(path))
    assert caught.value.reason == Reason.TOO_MANY_PIXELS


# ---- object stores


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a bucket of the mock store with some photographs."""
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="studio")
    for key in (
        "photos/a.jpg", "photos/x/b.png", "photos/notes.txt", "photos/.hidden/c.jpg", "photos/", "photos2/d.jpg",
        "odd/a//b.jpg", "odd/../c.jpg", "odd/[d].jpg", "odd/caf\u00e9 1.jpg",
    ):  # fmt: skip
        client.put_object(Bucket="studio", Key=key, Body=key.encode())
    return "studio"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("photos", ["a.jpg", "x/b.png"]),
        ("photos/", ["a.jpg", "x/b.png"]),
        ("photos/a.jpg", ["a.jpg"]),
        ("photos/notes.txt", ["notes.txt"]),
        ("photos/*", ["a.jpg"]),
        ("photos/**/*.png", ["x/b.png"]),
        ("photos*/?.jpg", ["photos/a.jpg", "photos2/d.jpg"]),
        ("odd/[d].jpg", ["[d].jpg"]),
        ("odd/caf*", ["caf\u00e9 1.jpg"]),
    ],
)
def test_a_prefix_is_a_directory_and_an_object_a_file(bucket: str, argument: str, expected: list[str]) -> None:
    assert names_of(f"s3://{bucket}/{argument}") == expected


def test_a_whole_bucket_can_be_named(bucket: str) -> None:
    assert names_of(f"s3://{bucket}") == names_of(f"s3://{bucket}/")
    assert {"photos/a.jpg", "photos2/d.jpg"} < set(names_of(f"s3://{bucket}"))


def test_objects_are_listed_with_their_uris_and_can_be_read(bucket: str) -> None:
    found = list_inputs([f"s3://{bucket}/photos"])
    assert [item.uri for item in found] == ["s3://studio/photos/a.jpg", "s3://studio/photos/x/b.png"]
    assert [read_input(item.uri) for item in found] == [b"photos/a.jpg", b"photos/x/b.png"]
    assert b"".join(inputs._chunks(found[0].uri, 5)) == b"photos/a.jpg"
    assert input_id(found[0].uri) == image_id(b"photos/a.jpg")
    assert reason_for(f"s3://{bucket}/photos/gone.jpg") == Reason.UNREADABLE


@pytest.mark.usefixtures("bucket")
def test_an_image_whose_bucket_is_missing_is_not_rejected() -> None:
    with pytest.raises(UnreachableError, match="there is no bucket 'gone'"):
        read_input("s3://gone/photos/a.jpg")
    with pytest.raises(UnreachableError, match="there is no bucket 'gone'"):
        input_id("s3://gone/photos/a.jpg")


def test_keys_that_would_leave_the_run_get_safe_names(bucket: str) -> None:
    found = {item.uri: item.name for item in list_inputs([f"s3://{bucket}/odd"])}
    assert found["s3://studio/odd/a//b.jpg"] == "a/b.jpg"
    assert found["s3://studio/odd/../c.jpg"] == "%2E%2E/c.jpg"


def test_buckets_and_directories_can_be_combined(bucket: str, tmp_path: Path) -> None:
    plant(tmp_path, "photos/a.jpg")
    here, there = (
        hashlib.sha256(place.encode()).hexdigest()[:16] for place in (f"{tmp_path}/photos", f"s3://{bucket}/photos")
    )
    assert names_of(f"s3://{bucket}/photos", tmp_path / "photos") == sorted(
        [f"photos-{there}/a.jpg", f"photos-{there}/x/b.png", f"photos-{here}/a.jpg"]
    )


@pytest.mark.parametrize("argument", ["s3://studio/empty", "s3://studio/photos/*.gif"])
def test_the_error_for_a_prefix_without_images_names_it(bucket: str, argument: str) -> None:
    with pytest.raises(UsageError, match="holds no images") as caught:
        list_inputs([argument])
    assert repr(argument) in str(caught.value)


def test_libraries_and_runs_below_a_prefix_are_passed_over(bucket: str, endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    for key in ("mixed/a.jpg", "mixed/run/plan/000000.parquet", "mixed/run/images/a.jpg.png", "mixed/running/b.jpg"):
        client.put_object(Bucket="studio", Key=key, Body=b"")
    found = find_inputs([f"s3://{bucket}/mixed"])
    assert [item.name for item in found.inputs] == ["a.jpg", "running/b.jpg"]
    assert found.ours == [f"s3://{bucket}/mixed/run"]
    assert names_of(f"s3://{bucket}/mixed/run/images") == ["a.jpg.png"]


def test_a_missing_bucket_is_reported(bucket: str) -> None:
    with pytest.raises(StorageError, match="no bucket 'elsewhere'"):
        list_inputs(["s3://elsewhere/photos"])
    with pytest.raises(UsageError, match="names no bucket"):
        list_inputs(["s3://"])
