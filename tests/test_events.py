"""The log has one JSON line per event, with ids and without secrets."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tenacity

from kt_batch.errors import KtBatchError, StoppedError, StorageError, UsageError
from kt_batch.events import keep_events, log_context, log_event, repeat, set_context, write_log
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.store import s3
from kt_batch.store.images.files import image_id
from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger
from tests.cli.conftest import QUICK, Say, kt  # noqa: F401  # the fixture
from tests.support.tiny import draw_all, extracted, indexed, rows, translate_request, translated

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIASECRET", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "quiet"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def only(events: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    (found,) = [event for event in events if fields.items() <= event.items()]
    return found


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_a_rejected_image_is_followed_from_its_unit_to_its_reason_by_ids(tmp_path: Path) -> None:
    images = draw_all(tmp_path / "images", [1, 2, 3])
    bad = images / "bad.jpg"
    bad.write_bytes(b"no image")
    with write_log(str(tmp_path / "log")):
        extracted([images], tmp_path / "library")
    events = lines(tmp_path / "log")
    (unit,) = [
        u for u in Ledger(open_location(str(tmp_path / "library"))).units() if str(bad) in [i.uri for i in u.items]
    ]
    receipt = Ledger(open_location(str(tmp_path / "library"))).receipts()[unit.id]
    about_it = [event["event"] for event in events if event.get("unit") == unit.id]
    assert about_it == ["unit_started", "image_rejected", "unit_committed"]
    rejected = only(events, event="image_rejected", unit=unit.id, image=image_id(bad.read_bytes()))
    (row,) = rows(tmp_path / "library", "rejects")
    assert (rejected["uri"], rejected["reason"], rejected["message"]) == (row["uri"], row["reason"], row["message"])
    committed = only(events, event="unit_committed", unit=unit.id, attempt=receipt.attempt)
    assert (committed["worker"], committed["rejects"]) == (rejected["worker"], 1) == (receipt.worker, 1)
    assert [event["event"] for event in events].count("unit_committed") == 2


def test_every_pipeline_logs_its_units_and_its_summary(tmp_path: Path) -> None:
    images = draw_all(tmp_path / "images", [1, 2])
    with write_log(str(tmp_path / "log")):
        extracted([images], tmp_path / "library")
        index = indexed(tmp_path / "library").index
        translated([images], translate_request(tmp_path / "library", tmp_path / "run", index))
    events = lines(tmp_path / "log")
    assert [event["of"] for event in events if event["event"] == "summary"] == ["extract", "build", "translate"]
    begun = [event["unit"] for event in events if event["event"] == "unit_started"]
    assert begun == [event["unit"] for event in events if event["event"] == "unit_committed"]
    assert len(begun) > 4
    assert not any(key in event for event in events if event["event"] == "summary" for key in ("unit", "image"))


def test_the_command_appends_to_its_log_and_does_not_keep_the_option(
    kt: Say,  # noqa: F811
    tmp_path: Path,
) -> None:
    log, images = tmp_path / "log", draw_all(tmp_path / "images", [1])
    words = ["extract", images, "--library", tmp_path / "library", *QUICK, "--log-file", log]
    assert (kt(*words).code, kt(*words).code) == (0, 0)
    told = [event["event"] for event in lines(log)]
    assert told == ["run_started", "unit_started", "unit_committed", "summary", "run_started", "summary"]
    (kept,) = (tmp_path / "library/options").iterdir()
    assert "log_file" not in kept.read_text()


def test_an_error_that_ends_the_run_is_the_last_event(kt: Say, tmp_path: Path) -> None:  # noqa: F811
    library = tmp_path / "library"
    images = draw_all(tmp_path / "images", [1])
    assert kt("extract", images, "--library", library, *QUICK).code == 0
    said = kt("extract", images, "--library", library, "--threads", 1, "--size", 32, "--log-file", tmp_path / "log")
    last = lines(tmp_path / "log")[-1]
    assert (said.code, last["event"], last["level"], last["kind"]) == (1, "failed", "error", "MismatchError")
    assert last["message"] in said.err


def test_the_same_lines_can_go_to_standard_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with write_log("-"):
        log_event("something", unit="abc")
    assert json.loads(capfd.readouterr().err)["unit"] == "abc"


def test_without_a_log_nothing_is_written(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with write_log(None):
        log_event("something", "bad", 40)
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


def test_a_requested_shutdown_is_logged(tmp_path: Path) -> None:
    shutdown = GracefulShutdown()

    def worker(unit: int, beat: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return unit

    with pytest.raises(StoppedError), write_log(str(tmp_path / "log")), shutdown.on_sigterm():
        list(LocalRunner(shutdown).run(lambda: worker, [1, 2]))
    told = [event["event"] for event in lines(tmp_path / "log")]
    assert told == ["unit_started", "drain_requested", "drained", "failed"]


# ---- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['two\nlines "quoted"', "caf\udce9", "50 % of %s", "\u2028"])
def test_an_event_is_one_line_for_any_names(tmp_path: Path, name: str) -> None:
    with write_log(str(tmp_path / "log")):
        log_event("something", name, uri=name)
    (event,) = (json.loads(line) for line in (tmp_path / "log").read_text().split("\n") if line)
    assert (event["uri"], event["message"]) == (name, name)


def test_events_contain_the_fields_of_their_context(tmp_path: Path) -> None:
    with write_log(str(tmp_path / "log")):
        with log_context(unit="u", worker="w"):
            set_context(image="i")
            with log_context(object="o"):
                log_event("first")
            set_context(image="")
            log_event("second", worker="other")
        log_event("third", unit=None)
    always = ("time", "level", "event")
    plain = [{key: event[key] for key in event if key not in always} for event in lines(tmp_path / "log")]
    assert plain == [{"unit": "u", "worker": "w", "image": "i", "object": "o"}, {"unit": "u", "worker": "other"}, {}]


def test_kept_events_of_another_process_are_logged_with_their_own_time(tmp_path: Path) -> None:
    with keep_events() as kept:
        log_event("there", "as it was", unit="u", number=3)
    events = json.loads(json.dumps(kept.take()))
    events[0]["created"] = 0.25
    with write_log(str(tmp_path / "log")):
        repeat(events)
    (event,) = lines(tmp_path / "log")
    assert event == {
        "time": "1970-01-01T00:00:00.250Z", "level": "info", "event": "there", "unit": "u", "number": 3,
        "message": "as it was",
    }  # fmt: skip
    assert kept.take() == []


# ---- a log that cannot be written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "kind"), [("s3://bucket/log", UsageError), ("missing/log", StorageError)])
def test_a_log_that_cannot_be_opened_is_refused_before_the_work(
    tmp_path: Path, path: str, kind: type[KtBatchError]
) -> None:
    place = path if "://" in path else str(tmp_path / path)
    with pytest.raises(kind, match="log") as raised, write_log(place):
        raise AssertionError
    assert place in str(raised.value)


def test_a_log_that_fails_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    with write_log(str(log)):
        log_event("first")
        assert os.read(reader, 9999).count(b"\n") == 1
        os.close(reader)
        log_event("second")
        log_event("third")
    assert capsys.readouterr().err == f"kt-batch: the log '{log}' ends here: Broken pipe; the run goes on.\n"


# ---- object stores ---------------------------------------------------------------------------------------------------


@dataclass
class Busy:
    """The number of requests that a store still answers with SlowDown."""

    left: int


@contextmanager
def busy_store(busy: Busy) -> Iterator[str]:
    """Start a store that is busy for the first requests and then returns one object."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            busy.left -= 1
            body = b"<Error><Code>SlowDown</Code></Error>" if busy.left >= 0 else b"content"
            self.send_response(503 if busy.left >= 0 else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Suppress the request log of the server."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_retry_of_the_store_logs_its_purpose_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3._retrying, "wait", tenacity.wait_none())
    with busy_store(Busy(3)) as endpoint, write_log(str(tmp_path / "log")):
        for name, value in {**SECRETS, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        place = open_location("s3://bucket/prefix")

        def worker(unit: str, beat: Callable[[str], bool]) -> bytes:
            beat("0123456789abcdef")
            return place.read_bytes("a/name")

        assert list(LocalRunner().run(lambda: worker, ["some unit"])) == [b"content"]
    retries = [event for event in lines(tmp_path / "log") if event["event"] == "storage_retry"]
    assert [event["tries"] for event in retries] == [1]
    expected = {"unit": "some unit", "image": "0123456789abcdef", "object": "s3://bucket/prefix/a/name"}
    assert all(expected.items() <= event.items() for event in retries)
    assert retries[0]["message"] == "the store answered SlowDown"
    text = (tmp_path / "log").read_text()
    assert not [secret for secret in (*SECRETS.values(), endpoint) if secret in text]
