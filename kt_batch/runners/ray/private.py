"""The private APIs of Ray that this package needs, each wrapped once; tests/runners/ray/test_private.py probes them."""

from __future__ import annotations

import json
from typing import Any

from ray._common.utils import get_default_system_temp_dir
from ray._private import worker
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get

AUTOSCALER_STATUS_KEY = "__autoscaling_status"  # where Ray's monitor stores what `ray status` shows


def head_address(address: str) -> str | None:
    """Return the `host:port` that `ray.init(address=...)` would connect to; None if it would start a Ray of its own.

    It lets us try the port first: `ray.init` retries an address without a listener for a quarter of an hour. No
    public API resolves "auto", which Ray reads from the environment or from files of the last cluster on this machine.
    """
    return canonicalize_bootstrap_address(address)


def autoscaler_status() -> dict[str, Any]:
    """Return the last status of Ray's monitor; empty if there is none or it cannot be read.

    It tells whether an autoscaler may add nodes (`autoscaler_report.active_nodes`: the number of nodes of each type).
    The public APIs list nodes and resources, but only the command `ray status` shows this report, as text.
    """
    try:
        status = json.loads(_internal_kv_get(AUTOSCALER_STATUS_KEY) or b"{}")
    except (RayError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def default_parent_folder() -> str:
    """Return the folder in which Ray creates its own: RAY_TMPDIR, else TMPDIR, else /tmp."""
    return str(get_default_system_temp_dir())


def forget_authentication() -> None:
    """Make Ray read RAY_AUTH_MODE and the token anew: it reads the mode at its import, and each token once.

    No public API does it; `ray.init` reads the mode again only if it is not set. The mode first: threads of an earlier
    session that still end must not look for a token that is gone.
    """
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def print_node_messages(enabled: bool) -> None:
    """Let Ray print what its nodes report to a driver ("Task ... failed", a lost node), as it does, or not.

    It prints them on standard output, in the middle of a summary of ours, also without `log_to_driver`. No public API
    turns that off; the pool and the keepers log what is lost.
    """
    worker._worker_logs_enabled = enabled  # noqa: SLF001
