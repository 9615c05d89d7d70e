"""No text that is shown or stored holds credentials."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

from kt_batch.errors import KtBatchError, MissingError, Reason, RejectError
from kt_batch.events import log_event, write_log
from kt_batch.redaction import has_credentials, has_user, redacted, redacted_values

# text, what is shown of it
CREDENTIALS = [
    ("s3://KEY:SECRET@bucket/a.jpg", "s3://***@bucket/a.jpg"),
    ("s3://KEY:SEC/RET+1@bucket/a.jpg", "s3://***@bucket/a.jpg"),  # keys of AWS hold slashes
    ("s3://KEY:123/RET@bucket/a.jpg", "s3://***@bucket/a.jpg"),
    ("S3A://KEY:SECRET@bucket", "S3A://***@bucket"),
    ("s3://KEY:SECRET/bucket/a.jpg", "s3://***/bucket/a.jpg"),  # the @ was forgotten
    ("s3://KEY@bucket/a.jpg", "s3://***@bucket/a.jpg"),
    ("s3:/KEY:SECRET@bucket/a.jpg", "s3:/***@bucket/a.jpg"),
    ("s3:///KEY:SECRET@bucket/a.jpg", "s3:///***@bucket/a.jpg"),
    ("https://user:pass@host/a.jpg", "https://***@host/a.jpg"),
    ("https://user:p@ss@host/a.jpg", "https://***@host/a.jpg"),
    ("https://user:@host:8443/a.jpg", "https://***@host:8443/a.jpg"),
    ("https://:token@host", "https://***@host"),
    ("ray://user:pass@host:10001", "ray://***@host:10001"),
    ("redis://:pass@host:6379/0", "redis://***@host:6379/0"),
    ("abfs://box:KEY@account.dfs/a", "abfs://***@account.dfs/a"),
    ("http+unix://a:b@c", "http+unix://***@c"),
    ("file://user:pass@host/a.jpg", "file://***@host/a.jpg"),
    ("https://h/?next=https://a:b@c/d", "https://h/?next=https://***@c/d"),
    ("https://h/a.jpg?X-Amz-Signature=00ff&size=3", "https://h/a.jpg?X-Amz-Signature=***&size=3"),
    ("https://h/a.jpg?x-amz-credential=A%2FB", "https://h/a.jpg?x-amz-credential=***"),
    ("https://h/a.jpg?X-Amz-Security-Token=A", "https://h/a.jpg?X-Amz-Security-Token=***"),
    ("https://h/a.jpg?X%2DAmz%2DSignature=00ff", "https://h/a.jpg?X%2DAmz%2DSignature=***"),
    ("https://h/a.jpg?AWSAccessKeyId=A&Signature=B", "https://h/a.jpg?AWSAccessKeyId=***&Signature=***"),
    ("https://h/a.jpg?X-Goog-Signature=00ff", "https://h/a.jpg?X-Goog-Signature=***"),
    ("https://h/a.jpg?sv=2024&sig=abc%3D", "https://h/a.jpg?sv=2024&sig=***"),
    ("https://h/a.jpg?Policy=A&Key-Pair-Id=B", "https://h/a.jpg?Policy=***&Key-Pair-Id=B"),
    ("https://h/a.jpg#access_token=A", "https://h/a.jpg#access_token=***"),
    ("https://h/a.jpg?id=1;api_key=A", "https://h/a.jpg?id=1;api_key=***"),
    ("https://h/a.jpg?rlkey=A&dl=1", "https://h/a.jpg?rlkey=***&dl=1"),
    ("https://h/a.jpg?hdnts=exp=1~hmac=A", "https://h/a.jpg?hdnts=***"),
    ("https://h/a.jpg?client_secret=A", "https://h/a.jpg?client_secret=***"),
    ("'s3://A:B@c/d' and 'https://e:f@g'", "'s3://***@c/d' and 'https://***@g'"),
    ("cannot read 'https://h/a?token=A': gone", "cannot read 'https://h/a?token=***': gone"),
]
HARMLESS = [
    "s3://bucket/a:b@c.jpg",
    "s3://bucket/a.jpg?versionId=3",
    "abfss://box@account.dfs/a.jpg",
    "s3://arn:aws:s3:us-east-1:1:accesspoint/x",
    "https://host:8443/a@b.jpg",
    "https://[::1]:8443/a@b.jpg",
    "https://host/a.jpg?width=3&id=token",
    "https://host/@user/a@2x.jpg?monkey=3&keyboard=4&author=5&tokens",
    "ray://host:10001",
    "file:///home/a@b/c:d.jpg",
    "C:/Users/a@b",
    "/photos/a=b&c.jpg",
    "two words, a=b? c: d@e",
    "",
]


@pytest.mark.parametrize(("text", "shown"), CREDENTIALS)
def test_credentials_are_hidden_and_the_rest_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert has_credentials(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_text_without_credentials_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert not has_credentials(text)
    assert not has_user(text)


@pytest.mark.parametrize("text", [text for text, _ in CREDENTIALS])
def test_no_error_repeats_credentials_not_even_through_another_process(text: str) -> None:
    for error in (KtBatchError(text), MissingError(f"nothing lies at {text}"), RejectError(Reason.UNREADABLE, text)):
        again = pickle.loads(pickle.dumps(error))
        for each in (error, again):
            assert redacted(text) in str(each)
            assert not has_credentials(str(each))
    assert not has_credentials(RejectError(Reason.UNREADABLE, text).message)


def test_a_log_holds_no_credentials_in_messages_or_fields(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with write_log(str(path)):
        log_event("tried", "s3://KEY:SECRET@b", place="https://u:SECRET@h", more=["x?token=SECRET"], n=3)
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert "SECRET" not in line
    content = json.loads(line)
    assert (content["message"], content["place"], content["more"], content["n"]) == (
        "s3://***@b", "https://***@h", ["x?token=***"], 3,
    )  # fmt: skip


def test_values_are_redacted_at_any_depth_and_keep_their_types() -> None:
    assert redacted_values({"a": ("s3://K:S@b", 1), "b": {"c": None}}) == {"a": ["s3://***@b", 1], "b": {"c": None}}


@pytest.mark.parametrize(
    "text",
    [
        "://" * 50_000,
        "?a" * 50_000,
        "a:" * 50_000,
        "x@" * 50_000,
        "?sig" * 50_000,
        "s3://a:" + "@" * 100_000,
        "=" * 99_999,
    ],
)
def test_the_work_grows_with_the_length_of_the_text_and_no_faster(text: str) -> None:
    assert steps(text[: len(text) // 2]) * 3 > steps(text)


def steps(text: str) -> int:
    """Count the lines of Python that `redacted` runs; each pattern of it matches any text in one pass."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        redacted(text)
    finally:
        sys.settrace(before)
    return count + 1
