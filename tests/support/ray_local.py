"""A local Ray for tests, started by our runner; its files and token are removed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray._private.state
from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]  # made at run time

from kt_batch.runners.ray.runner import RayRunner


@contextmanager
def ray_environment() -> Iterator[tuple[dict[str, str], Path]]:
    """Set the environment of a local Ray and create its folder.

    The folder has a short name, since the length of socket paths is limited.
    """
    folder = Path(tempfile.mkdtemp(prefix="kt-ray-"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    try:
        yield (
            {
                "RAY_TMPDIR": str(folder),
                "RAY_AUTH_MODE": "token",  # otherwise Ray writes a token into the home directory
                "RAY_AUTH_TOKEN_PATH": str(token),
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            folder,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def actor_names() -> Counter[str]:
    """Count the actors of the Ray of this process, also those that have ended, by their names in its dashboard."""
    accessor = ray._private.state.state._connect_and_get_accessor()
    return Counter(ActorTableData.FromString(actor).repr_name for actor in accessor.get_actor_table(None, None))


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Start one Ray in this process for all tests."""
    with pytest.MonkeyPatch.context() as patch, ray_environment() as (environment, _):
        for name, value in {**environment, "RAY_ADDRESS": ""}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS")
        patch.delenv("RAY_AUTH_MODE")  # Ray has read it at its import; unset, it looks for a token and finds ours
        runner = RayRunner(None, None, 1)
        yield
        runner.close()


@pytest.fixture
def ray_runner(ray_here: None) -> Iterator[RayRunner]:
    """Create a runner with one worker per processor; stop them after the test."""
    runner = RayRunner(None, None, 1)
    yield runner
    runner.close()
