"""An image that kills or stops every worker costs one reject row and not the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.images.files import image_id
from tests.e2e.conftest import Small
from tests.support.ray_local import ray_here  # noqa: F401  # the fixture
from tests.support.tiny import extracted, patches, rows, translate_request, translated

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_here")]

Heartbeat = Callable[[str], bool]


def poisoned(
    factory: Callable[[], Callable[[Any, Heartbeat], Any]], image: str, harm: str
) -> Callable[[Any, Heartbeat], Any]:
    """Return the worker of the pipeline; its process dies or stops when it begins this image."""
    worker = factory()

    def careless(unit: Any, beat: Heartbeat) -> Any:
        def beat_and_suffer(part: str) -> bool:
            isolated = beat(part)
            if part == image and image not in unit.quarantined and harm != "dies of its output":
                os._exit(1) if harm == "dies" else time.sleep(3600)
            return isolated

        return worker(unit, beat_and_suffer)

    def die(*_: Any) -> None:
        time.sleep(1)  # time for a worker without isolation to name the next image
        os._exit(1)

    def submit_and_suffer(name: str, work: Any, *args: Any) -> Any:
        return submit(name, die if name == image else work, *args)

    if harm == "dies of its output":
        submit, worker.background.submit = worker.background.submit, submit_and_suffer  # type: ignore[attr-defined]

    return careless


class PoisonRunner(RayRunner):
    """A Ray runner whose worker processes fail on one image."""

    def __init__(self, image: Path, harm: str) -> None:
        super().__init__(None, None, 1, deadline=3.0)
        self.poison = partial(poisoned, image=image_id(image.read_bytes()), harm=harm)

    def run(self, factory: Any, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        yield from super().run(partial(self.poison, factory), units, quarantine)


@pytest.mark.parametrize(("harm", "said"), [("dies", "it died ("), ("hangs", "it was silent for 3 s")])
def test_a_poisonous_painting_is_rejected_and_all_others_are_extracted(
    small: Small, tmp_path: Path, harm: str, said: str
) -> None:
    poison, *others = sorted(small.paintings.iterdir())
    runner = PoisonRunner(poison, harm)
    summary = extracted([small.paintings], tmp_path / "library", runner)
    runner.close()
    (reject,) = rows(tmp_path / "library", "rejects")
    assert (summary.images, summary.rejected) == (len(others), 1)
    assert (reject["uri"], reject["reason"]) == (str(poison), "fatal")
    assert said in reject["message"]
    extracted(others, tmp_path / "without-it")
    assert patches(tmp_path / "library") == patches(tmp_path / "without-it")


@pytest.mark.parametrize("harm", ["dies", "dies of its output"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_poisonous_photograph_costs_only_its_own_output(small: Small, tmp_path: Path, harm: str, place: int) -> None:
    """The three are in id order: first and last of a unit of two, and alone in the next."""
    photos = sorted(small.photos.iterdir(), key=lambda path: image_id(path.read_bytes()))
    poison = photos.pop(place)
    others = photos
    runner = PoisonRunner(poison, harm)
    summary = translated([small.photos], translate_request(small.library, tmp_path / "run", small.index), runner)
    runner.close()
    assert (summary.images, summary.rejected) == (len(others), 1)
    made = {path.name for path in (tmp_path / "run/images").iterdir()}
    assert made == {f"{path.name}.png" for path in others}
