"""A Ray of our own on this machine: a random token in the environment, and a folder that nobody else may enter.

Whoever has the token of a Ray runs code as its user, and Ray itself would write one for all readers into the home
directory and make the folder with its sockets writable for everybody (docs/decisions/0024).
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from kt_batch.runners.ray.private import default_parent_folder, forget_authentication

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray keeps its objects
_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")  # unset, Ray requires a token and takes RAY_AUTH_TOKEN


class RayEnvironment:
    """Ray's variables of this process: kept when it is made, and put back by `restore`."""

    def __init__(self) -> None:
        self._kept = _ray_variables()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

    def restore(self) -> None:
        """Put all variables back, those that Ray sets itself included. Call it when Ray has ended."""
        for name in _ray_variables().keys() - self._kept.keys():
            del os.environ[name]
        os.environ.update(self._kept)
        forget_authentication()


class OwnSession:
    """Token and folder of a Ray that this process starts.

    The token exists in memory and in the environment of this process and of Ray's processes, which the kernel shows to
    the same user alone. It never stands in a file or in a command line.

    Attributes:
        folder: The folder for Ray's sockets, logs and objects. Ray lets everybody write there; its parent is mode 0700.
    """

    def __init__(self) -> None:
        _check_shared_memory()
        self._private = _private_folder(default_parent_folder())
        self.folder = self._private / "r"  # a short name, since the length of socket paths is limited
        for name in _TOKEN_VARIABLES:
            os.environ.pop(name, None)
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        forget_authentication()

    def close(self) -> None:
        """Remove the folder. Call it when Ray has ended."""
        shutil.rmtree(self._private, ignore_errors=True)


def _private_folder(parent: str) -> Path:
    """Create a folder of mode 0700. Raises OSError with a sentence for the user."""
    try:
        return Path(tempfile.mkdtemp(prefix="kt-", dir=parent))
    except OSError as error:
        raise OSError(
            f"it needs a folder for its sockets and logs, and '{parent}' cannot be written to ({error.strerror}); "
            "name one with RAY_TMPDIR=/a/directory, or leave out --runner ray"
        ) from error


def _check_shared_memory() -> None:
    """Raise OSError where Ray would wait in vain for its object store."""
    if SHARED_MEMORY.is_dir() and not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        raise OSError(f"it needs shared memory, and '{SHARED_MEMORY}' cannot be written to; leave out --runner ray")


def _ray_variables() -> dict[str, str]:
    """Return the variables that Ray reads or sets."""
    return {name: os.environ[name] for name in os.environ if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"}
