"""The Ray that a local run starts: who has its token, who can enter its folder, and what stays afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kt_batch.runners.ray.own_session import OwnSession
from tests.support.ray_local import ray_environment

REPORT = """
import json, os, sys
from pathlib import Path
import grpc
import ray
from kt_batch.runners.ray.runner import RayRunner

def answer(address, *metadata):
    # The status of the store's list of keys, the first request of everybody who joins.
    ask = grpc.insecure_channel(address).unary_unary("/ray.rpc.InternalKVGcsService/InternalKVKeys")
    try:
        ask(b"", metadata=metadata, timeout=20)
        return "answered"
    except grpc.RpcError as error:
        return error.code().name

def holders(token, folder):
    # Files of the session and command lines of this machine that hold the token.
    names = [path for path in Path(folder).rglob("*") if path.is_file()] + list(Path("/proc").glob("[0-9]*/cmdline"))
    found = []
    for name in names:
        try:
            if token.encode() in name.read_bytes():
                found.append(str(name))
        except OSError:
            pass
    return found

before, reports = dict(os.environ), []
for _ in range(2):
    runner = RayRunner(None, 1, 1)
    results = sorted(runner.run(lambda: lambda unit, beat: unit * unit, [2, 3]))
    token, address = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context().gcs_address
    folder = Path(ray._private.worker._global_node.get_temp_dir_path())
    reports.append({
        "results": results,
        "token": token,
        "mode": oct(folder.parent.stat().st_mode & 0o777),
        "sockets inside": any(folder.rglob("sockets/*")),
        "holders": holders(token, folder),
        "without": answer(address),
        "with another": answer(address, ("authorization", "Bearer " + "0" * 64)),
        "with the token": answer(address, ("authorization", "Bearer " + token)),
    })
    runner.close()
    reports[-1]["folder stays"] = folder.parent.exists()
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    reports[-1]["changed"] = sorted(changed - {"RAY_CLIENT_MODE"})  # importing ray sets it
print(json.dumps(reports))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """Run two sessions in one process, whose environment has its own settings for another cluster."""
    home = tmp_path_factory.mktemp("home")
    with ray_environment() as (settings, _):
        environment = {**os.environ, **settings, "HOME": str(home)}
        run = subprocess.run(
            [sys.executable, "-c", REPORT], env=environment, capture_output=True, text=True, timeout=180, check=False
        )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), home


def test_every_session_has_a_token_of_its_own_and_works(reports: tuple[list[dict[str, Any]], Path]) -> None:
    first, second = reports[0]
    assert first["token"] != second["token"]
    assert {len(first["token"]), len(second["token"])} == {64}
    assert first["results"] == second["results"] == [4, 9]


def test_the_token_is_in_no_file_and_in_no_command_line(reports: tuple[list[dict[str, Any]], Path]) -> None:
    found, home = reports
    assert [session["holders"] for session in found] == [[], []]
    assert list(home.rglob("*auth_token*")) == []


def test_nobody_else_can_enter_the_folder_with_the_sockets(reports: tuple[list[dict[str, Any]], Path]) -> None:
    assert [(session["mode"], session["sockets inside"]) for session in reports[0]] == [("0o700", True)] * 2


def test_a_process_without_the_token_is_refused(reports: tuple[list[dict[str, Any]], Path]) -> None:
    for session in reports[0]:
        assert session["without"] == session["with another"] == "UNAUTHENTICATED"
        assert session["with the token"] == "answered"


def test_folder_and_environment_are_as_before_afterwards(reports: tuple[list[dict[str, Any]], Path]) -> None:
    assert [(session["folder stays"], session["changed"]) for session in reports[0]] == [(False, [])] * 2


FAIL = """
import os
from kt_batch.errors import StorageError
from kt_batch.runners.ray.runner import RayRunner
import ray
before = dict(os.environ)
for address in ("127.0.0.1:1", None):
    if address is None:
        os.environ["TMPDIR"] = before["TMPDIR"] = "/nowhere"
    try:
        RayRunner(address, 1, 1)
    except StorageError as error:
        print(error)
    print(dict(os.environ) == before)
"""


def test_a_start_that_fails_leaves_the_environment_as_it_was() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, "-c", FAIL], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    joined, restored, started, restored_too = run.stdout.splitlines()
    assert joined == "The Ray cluster at '127.0.0.1:1' cannot be reached: Connection refused."
    assert started.startswith("Ray cannot be started on this machine: ")
    assert restored == restored_too == "True"


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/proc", "/dev/null"])
def test_a_folder_that_ray_cannot_use_is_named_in_one_sentence(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(
        OSError, match=rf"^it needs a folder .* '{folder}' cannot be written to .* name one with RAY_TMPDIR"
    ):
        OwnSession()
