"""A training on the workers of a real local Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kt_batch.cli.runner import make_members
from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.weights import EncoderSource, encoder_bytes, load_decoder, load_encoder
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.training.autoencoder import Report, TrainJob, train_autoencoder
from kt_batch.training.loop import Synchronise, train
from kt_batch.training.state import TrainState
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.tiny import draw_all
from tests.support.tiny_training import SETTINGS, batch, copied, differing, ignore, student

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    # Ray Train creates a context of Ray Data, which warns about its own options.
    pytest.mark.filterwarnings(r"ignore:`use_\w+` is deprecated:DeprecationWarning:ray\.data\.context"),
]

WORKERS = RunOptions(runner="ray", workers=2, threads=1)


def of_one_image(step: int, worker: int) -> torch.Tensor:
    """Return even images for worker 0 and odd images for worker 1."""
    return batch(2 * step + worker, images=1)


def four_steps(
    folder: Path, worker: int, synchronise: Synchronise | None, lost: Callable[[int, TrainState | None], None]
) -> None:
    """Train on the images of one worker from any state in `folder`; save the weights.

    `lost(step, state)` is called after every step with the state that the training began with.
    """
    model, path = student(), folder / "state"
    state = TrainState.load(path, model.state_tensors(), SETTINGS) if (path / "state.json").exists() else None
    first = state.step if state else 0
    (folder / f"{worker} from {first}").touch()

    def checkpoint(step: int, reached: TrainState) -> None:
        if worker == 0:
            reached.save(path, model.state_tensors(), SETTINGS)
        lost(step, state)

    images = (of_one_image(step, worker) for step in range(first, SETTINGS.steps))
    train(model, images, SETTINGS, ignore, checkpoint, state, synchronise)
    save_file(copied(model.trained()), folder / f"{worker}")


def two_of_a_training(folder: Path, worker: int, workers: int, synchronise: Synchronise | None) -> None:
    four_steps(folder, worker, synchronise, ignore)


def breaking(folder: Path, worker: int, workers: int, synchronise: Synchronise | None) -> None:
    (folder / f"worker {worker} was here").touch()
    raise UsageError("two is not possible")


def losing_a_worker(folder: Path, worker: int, workers: int, synchronise: Synchronise | None) -> None:
    """Kill the process of the second worker once, in its second step."""

    def lost(step: int, state: TrainState | None) -> None:
        if worker == 1 and step == 2 and state is None:
            os._exit(1)

    four_steps(folder, worker, synchronise, lost)


def weights_of_both(folder: Path, member: Callable[[Path, int, int, Synchronise | None], None]) -> dict[str, Tensor]:
    """Return the final weights of two workers, which are equal."""
    with make_members(WORKERS, gpu=False, out=folder / "out") as run_members:
        run_members(partial(member, folder))
    first, second = load_file(folder / "0"), load_file(folder / "1")
    assert differing(first, second) == set()
    return first


def note(path: Path) -> Report:
    """Return a report that appends its steps to a file; this function can be pickled."""

    def report(cut: str, step: int, losses: dict[str, float]) -> None:
        with path.open("a") as file:
            file.write(f"{cut}:{step}\n")

    return report


def test_two_workers_end_with_the_weights_of_one_that_sees_the_images_of_both(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    found = weights_of_both(tmp_path, two_of_a_training)
    alone, start = student(), student().trained()
    both = (torch.cat([of_one_image(step, 0), of_one_image(step, 1)]) for step in range(SETTINGS.steps))
    train(alone, both, SETTINGS, ignore, ignore)
    for name, value in alone.trained().items():
        assert (value - found[name]).norm() < 0.01 * (value - start[name]).norm(), name

    kept = TrainState.load(tmp_path / "state", alone.state_tensors(), SETTINGS)
    assert kept.step == SETTINGS.steps
    assert differing(alone.trained(), found) == set()


def test_after_the_loss_of_a_worker_all_resume_from_the_state(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    weights_of_both(tmp_path, losing_a_worker)
    starts = {path.name for path in tmp_path.glob("* from *")}
    assert {"0 from 0", "1 from 0"} < starts
    again = {name.split()[-1] for name in starts} - {"0"}
    assert again in ({"1"}, {"2"})  # the first worker may or may not have kept the step in which the second was lost


def test_a_user_error_keeps_its_type_and_message(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    with (
        make_members(WORKERS, gpu=False, out=tmp_path / "out") as run_members,
        pytest.raises(UsageError, match=r"^two is not possible$"),
    ):
        run_members(partial(breaking, tmp_path))


def test_a_training_on_a_cluster_writes_matching_weight_files(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    torch.manual_seed(0)
    source = EncoderSource("mine", str(tmp_path / "encoder.safetensors"))
    Path(tmp_path / "encoder.safetensors").write_bytes(
        encoder_bytes(Encoder(("conv1_1", "relu1_1"), {"conv1_1": (4,)}, Preprocess()), "mine")
    )
    job = TrainJob(
        images=(str(draw_all(tmp_path / "images", range(1, 4))),),
        teacher=source,
        encoder=source,
        out=tmp_path / "out",
        recipe="paper",  # of one stage, so two steps in total
        steps={"relu1_1": 2},
        batch=1,
        threads=1,
        seed=0,
    )
    with make_members(WORKERS, gpu=False, out=job.out) as run_members:
        weights = train_autoencoder(job, note(tmp_path / "steps"), run_members)
    assert (tmp_path / "steps").read_text().split() == [
        "relu1_1/stage0:1",
        "relu1_1/stage0:2",
    ]  # the first worker's alone
    encoder = load_encoder(source)
    decoder = load_decoder(encoder, "mine", "relu1_1", str(weights / "kt-vgg-4.relu1_1.safetensors"))
    assert decoder.network.channels == 4
