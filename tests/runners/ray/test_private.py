"""Probes that fail when a new Ray changes the private APIs in runners/ray/private.py."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import time

import pytest
import ray
from ray._private.worker import print_to_stdstream

from kt_batch.runners.ray.private import print_node_messages
from tests.support.ray_local import ray_here  # noqa: F401  # the fixture

ADVICE = "adapt kt_batch/runners/ray/private.py to this version of Ray, or find a public API"


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        ("ray._private.services", "canonicalize_bootstrap_address", ["127.0.0.1:6379"]),
        ("ray._common.utils", "get_default_system_temp_dir", []),
        ("ray.experimental.internal_kv", "_internal_kv_get", ["__autoscaling_status"]),
    ],
)
def test_ray_still_has_its_private_functions(module: str, function: str, arguments: list[str]) -> None:
    try:
        found = getattr(importlib.import_module(module), function)
        inspect.signature(found).bind(*arguments)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.fail(f"{module}.{function}({arguments}) of Ray {ray.__version__} is gone: {error}; {ADVICE}")


def test_what_nodes_report_is_not_printed_among_our_output(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for enabled, message in ((False, "a node is lost"), (True, "a task has failed")):  # Ray prints a line once
        print_node_messages(enabled)
        print_to_stdstream({"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False)
        said.append(message in capsys.readouterr().out)
    assert said == [False, True], f"Ray {ray.__version__} prints otherwise; {ADVICE}"


def test_ray_still_reads_its_token_anew() -> None:
    code = (
        "import os; from kt_batch.runners.ray.private import forget_authentication as forget;"
        "from ray._raylet import AuthenticationTokenLoader; loader = AuthenticationTokenLoader.instance();"
        "os.environ['RAY_AUTH_TOKEN'] = 'one'; forget(); first = loader.has_token(ignore_auth_mode=True);"
        "del os.environ['RAY_AUTH_TOKEN']; forget(); print(first, loader.has_token(ignore_auth_mode=True))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = "/nowhere"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "True False\n", ADVICE


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.1:6379", "10.0.0.1:6379"), ("[fd00::1]:6379", "[fd00::1]:6379"), ("local", None)],
)
def test_the_address_of_a_head_is_host_and_port(address: str, expected: str | None) -> None:
    from kt_batch.runners.ray.private import head_address

    assert head_address(address) == expected, f"Ray resolves '{address}' to another shape of answer; {ADVICE}"


def test_auto_selects_the_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from kt_batch.runners.ray.private import head_address

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert head_address("auto") == "10.0.0.1:6379", f"Ray no longer resolves 'auto' by RAY_ADDRESS; {ADVICE}"


def test_the_monitor_of_ray_reports_the_types_of_the_nodes(ray_here: None) -> None:  # noqa: F811
    from kt_batch.runners.ray.private import autoscaler_status

    give_up = time.monotonic() + 60  # the monitor writes its first whole report some seconds after the start
    while "autoscaler_report" not in autoscaler_status() and time.monotonic() < give_up:
        time.sleep(0.2)
    status = autoscaler_status()
    assert isinstance(status.get("autoscaler_report"), dict), f"Ray's monitor reports {status!r}; {ADVICE}"
    types = status["autoscaler_report"].get("active_nodes")
    (node,) = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    assert types == {f"node_{node}": 1}, f"Ray's monitor names the types of nodes {types!r}; {ADVICE}"
