"""Inputs in object stores and on web servers: odd keys, anonymous readers, readers who pay."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.files import image_id
from kt_batch.store.inputs import input_id, input_size, list_inputs, read_input
from kt_batch.store.locations import open_location
from tests.support.s3_server import S3Server, ceph_server, moto_server  # noqa: F401

ODD_KEYS = [
    "odd//a.jpg", "odd/a//b.jpg", "odd/b.jpg?versionId=7", "odd/c#1.jpg", "odd/d%2Fe.jpg", "odd/f+g h.jpg",
    "odd/../i.jpg", "odd/./j.jpg", "odd/k\\l.jpg", "odd/m:n.jpg", "odd/caf\u00e9.jpg", "odd/caf\u0065\u0301.jpg",
    "odd/p?X.jpg", "odd/q&r=s.jpg", "odd/v~w.jpg",
]  # fmt: skip


@pytest.fixture(params=[pytest.param("ceph_server", marks=pytest.mark.s3), "moto_server"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an empty bucket of a real server, and of a mock."""
    server: S3Server = request.getfixturevalue(request.param)
    return server.new_location(monkeypatch).uri.split("/")[2]


def put(bucket: str, key: str, content: bytes, **options: Any) -> None:
    from kt_batch.store.s3 import _filesystem

    _filesystem().call_s3("put_object", Bucket=bucket, Key=key, Body=content, **options)


def test_a_key_is_listed_and_read_exactly_as_it_is(bucket: str) -> None:
    for key in ODD_KEYS:
        put(bucket, key, key.encode())
    found = list_inputs([f"s3://{bucket}/odd"])
    assert {item.uri for item in found} == {f"s3://{bucket}/{key}" for key in ODD_KEYS if key.endswith(".jpg")}
    for key in ODD_KEYS:
        uri = f"s3://{bucket}/{key}"
        assert read_input(uri) == key.encode()
        assert input_id(uri) == image_id(key.encode())
        assert input_size(uri) == len(key.encode())
        assert [item.uri for item in list_inputs([uri])] == [uri]


def test_the_spelling_of_the_scheme_does_not_matter(bucket: str) -> None:
    put(bucket, "a.jpg", b"1")
    for scheme in ("S3", "s3a", "S3n"):
        assert [item.uri for item in list_inputs([f"{scheme}://{bucket}/a.jpg"])] == [f"s3://{bucket}/a.jpg"]


@pytest.mark.s3
def test_a_public_bucket_is_read_without_credentials(
    ceph_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = ceph_server.new_location(monkeypatch).uri.split("/")[2]
    put(name, "open.jpg", b"1", ACL="public-read")
    put(name, "closed.jpg", b"2")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert read_input(f"s3://{name}/open.jpg") == b"1"
    with pytest.raises(RejectError, match="access was denied"):
        read_input(f"s3://{name}/closed.jpg")


class Recording(BaseHTTPRequestHandler):
    """Answers every request with one byte, and keeps its headers."""

    seen: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        self.answer(b"1")

    def do_HEAD(self) -> None:
        self.answer(b"")

    def answer(self, body: bytes) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    Recording.seen.clear()
    with serving(Recording) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield Recording.seen


class serving:
    """Serve on a free port of this machine; yields the address."""

    def __init__(self, handler: Any) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_requests_say_that_the_reader_pays_only_if_the_environment_does(
    recording: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_input("s3://bucket/a.jpg")
    assert all("x-amz-request-payer" not in headers for headers in recording)
    recording.clear()
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    read_input("s3://bucket/a.jpg")
    assert len(recording) == 2  # its size, then its bytes
    assert all(headers["x-amz-request-payer"] == "requester" for headers in recording)


def test_requests_without_credentials_are_not_signed(
    recording: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "1")
    read_input("s3://bucket/a.jpg")
    assert recording
    assert all("authorization" not in headers for headers in recording)


# ---- a web server ----------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve a folder with one photograph."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, directory=str(tmp_path), **options)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    file = io.BytesIO()
    Image.new("RGB", (5, 4), (200, 40, 40)).save(file, "PNG")
    (tmp_path / "a b.png").write_bytes(file.getvalue())
    with serving(Handler) as address:
        yield address


def test_an_image_on_a_web_server_is_an_input(web: str, tmp_path: Path) -> None:
    uri = f"{web}/a%20b.png?width=7"
    (item,) = list_inputs([uri])
    assert (item.uri, item.name) == (uri, "a%20b.png")
    assert read_input(uri) == (tmp_path / "a b.png").read_bytes()
    assert input_id(uri) == image_id((tmp_path / "a b.png").read_bytes())


def test_what_a_web_server_does_not_have_is_a_reject(web: str) -> None:
    with pytest.raises(RejectError, match=r"nothing lies at http://127.0.0.1:\d+/gone.png") as caught:
        read_input(f"{web}/gone.png?page=1")
    assert caught.value.reason == Reason.UNREADABLE


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with serving(Elsewhere) as address, pytest.raises(RejectError, match=r"sends us on to 169\.254\.169\.254"):
        read_input(f"{address}/a.png")


def test_a_web_server_that_does_not_answer_is_a_reject() -> None:
    with pytest.raises(RejectError, match=r"cannot use http://127.0.0.1:9/a.png: the request failed"):
        read_input("http://127.0.0.1:9/a.png")


def test_reading_a_location_uses_the_same_requests(bucket: str) -> None:
    location = open_location(f"s3://{bucket}/place")
    location.put_if_absent("x", b"0123456789")
    assert location.read_bytes("x") == b"0123456789"
    assert location.read_range("x", 3, 4) == b"3456"
    assert location.read_range("x", 8, 9) == b"89"
    assert location.read_range("x", 10, 1) == b""
