"""A training on the workers of a real Ray on this machine."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.train_state import TrainState
from kt_batch.models.training import Student, Synchronise, train
from kt_batch.models.weights import EncoderSource, encoder_bytes, load_decoder, load_encoder
from kt_batch.pipelines.train import Report, TrainJob, train_autoencoder
from kt_batch.runners.ray_runner import RayRunner
from kt_batch.start import make_members
from tests.ray_local import ray_runner  # noqa: F401  # the fixture
from tests.tiny import draw_all
from tests.tiny_training import SETTINGS, batch, ignore, student

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    # Ray Train makes a context of Ray Data, which warns of options of its own.
    pytest.mark.filterwarnings(r"ignore:`use_\w+` is deprecated:DeprecationWarning:ray\.data\.context"),
]

WORKERS = RunOptions(runner="ray", workers=2, threads=1)


def of_one_image(number: int) -> torch.Tensor:
    """What worker 0 sees is even, what worker 1 sees is odd."""
    return batch(number, images=1)


def keep(folder: Path, model: Student, worker: int) -> None:
    save_file({name: value.detach().contiguous() for name, value in model.trained().items()}, folder / f"{worker}")


def two_of_a_training(folder: Path, worker: int, workers: int, synchronise: Synchronise | None) -> None:
    """Four steps on images of its own, and the weights it ends with."""
    model = student(learned=())
    images = (of_one_image(workers * step + worker) for step in range(SETTINGS.steps))

    def checkpoint(step: int, state: TrainState) -> None:
        if worker == 0:
            state.save(folder / "state", model.kept(), SETTINGS)

    train(model, None, images, SETTINGS, ignore, checkpoint, synchronise=synchronise)
    keep(folder, model, worker)


def breaking(folder: Path, worker: int, workers: int, synchronise: Synchronise | None) -> None:
    (folder / f"worker {worker} was here").touch()
    raise UsageError("two is not possible")


def losing_a_worker(folder: Path, worker: int, workers: int, synchronise: Synchronise | None) -> None:
    """The process of the second worker dies, once, in its second step."""
    model = student(learned=())
    path = folder / "state"
    state = TrainState.load(path, model.kept(), SETTINGS) if (path / "state.json").exists() else None
    (folder / f"{worker} from {state.step if state else 0}").touch()
    first = state.step if state else 0
    images = (of_one_image(workers * step + worker) for step in range(first, SETTINGS.steps))

    def checkpoint(step: int, reached: TrainState) -> None:
        if worker == 0:
            reached.save(path, model.kept(), SETTINGS)
        if worker == 1 and step == 2 and state is None:
            os._exit(1)

    train(model, None, images, SETTINGS, ignore, checkpoint, state, synchronise)
    keep(folder, model, worker)


def note(path: Path) -> Report:
    """A report that can travel."""

    def report(cut: str, step: int, losses: dict[str, float]) -> None:
        with path.open("a") as file:
            file.write(f"{cut}:{step}\n")

    return report


def test_two_workers_end_with_the_weights_of_one_that_sees_the_images_of_both(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    with make_members(WORKERS, gpu=False, out=tmp_path / "out") as run_members:
        run_members(partial(two_of_a_training, tmp_path))
    first, second = load_file(tmp_path / "0"), load_file(tmp_path / "1")
    assert all(value.equal(second[name]) for name, value in first.items())

    alone = student(learned=())
    start = {name: value.detach().clone() for name, value in alone.trained().items()}
    both = (torch.cat([of_one_image(2 * step), of_one_image(2 * step + 1)]) for step in range(SETTINGS.steps))
    train(alone, None, both, SETTINGS, ignore, ignore)
    for name, value in alone.trained().items():
        moved = (value - start[name]).norm()
        assert (value - first[name]).norm() < 0.01 * moved, name

    kept = TrainState.load(tmp_path / "state", alone.kept(), SETTINGS)
    assert kept.step == SETTINGS.steps
    assert all(value.equal(first[name]) for name, value in alone.trained().items())


def test_a_worker_that_is_lost_makes_all_go_on_from_the_state(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    with make_members(WORKERS, gpu=False, out=tmp_path / "out") as run_members:
        run_members(partial(losing_a_worker, tmp_path))
    first, second = load_file(tmp_path / "0"), load_file(tmp_path / "1")
    assert all(value.equal(second[name]) for name, value in first.items())
    starts = {path.name for path in tmp_path.glob("* from *")}
    assert {"0 from 0", "1 from 0"} < starts
    again = {name.split()[-1] for name in starts} - {"0"}
    assert again in ({"1"}, {"2"})  # the first worker may or may not have kept the step in which the second was lost


def test_an_error_for_a_person_arrives_as_itself(
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811
) -> None:
    with (
        make_members(WORKERS, gpu=False, out=tmp_path / "out") as run_members,
        pytest.raises(UsageError, match=r"^two is not possible$"),
    ):
        run_members(partial(breaking, tmp_path))


def test_a_training_on_a_cluster_leaves_weight_files_that_belong_together(
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
        recipe="paper",  # of one stage, so of two steps in all
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
    decoder = load_decoder(encoder, "mine", "relu1_1", str(weights / "kt-vgg-2.relu1_1.safetensors"))
    assert decoder.network.channels == 4
