"""The training loop: it runs, stops, and goes on where it stopped."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kt_batch.errors import DamagedError, MismatchError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.training import (
    Student,
    TrainSettings,
    TrainState,
    affinity_loss,
    distillation_loss,
    learning_rate_at,
    train,
)

LAYERS = VGG19_LAYERS[:7]  # up to relu2_1
SETTINGS = TrainSettings(steps=4, warmup_steps=2, patch_sample=32)


def encoder(width: int) -> Encoder:
    return Encoder(LAYERS, {"conv1_1": width, "conv1_2": width, "conv2_1": 2 * width}, Preprocess())


def teacher() -> Encoder:
    torch.manual_seed(1)
    return encoder(6).requires_grad_(False)


def student() -> Student:
    torch.manual_seed(2)
    return Student(encoder(4), Decoder(8, ("conv:6", "res", "up", "out")), {"relu1_1": 6, "relu2_1": 12})


def batches(first: int = 0) -> Iterator[Tensor]:
    for number in itertools.count(first):
        yield torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(number))


def ignore(step: int, what: object) -> None:
    """For a report or a checkpoint that nobody wants."""


def run(steps: int, model: Student, state: TrainState | None = None) -> TrainState:
    """Up to `steps` of the 4 steps; each step has its own batch."""
    first = state.step if state else 0
    return train(model, teacher(), itertools.islice(batches(first), steps - first), SETTINGS, ignore, ignore, state)


def test_every_step_reports_its_losses_and_offers_a_checkpoint() -> None:
    reported: list[tuple[int, dict[str, float]]] = []
    offered: list[tuple[int, int]] = []
    model, before = student(), student().state_dict()
    state = train(
        model,
        teacher(),
        batches(),
        SETTINGS,
        lambda step, losses: reported.append((step, losses)),
        lambda step, state: offered.append((step, state.step)),
    )
    assert [step for step, _ in reported] == [1, 2, 3, 4]
    assert offered == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert state.step == 4
    assert set(reported[0][1]) == {"reconstruction", "distillation", "affinity", "r2"}
    assert all(torch.tensor(list(losses.values())).isfinite().all() for _, losses in reported)
    assert all(not tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_the_average_follows_the_weights_more_slowly() -> None:
    model, start = student(), student().state_dict()
    state = run(4, model)
    for name, value in model.state_dict().items():
        assert set(state.average) == set(start)
        assert (state.average[name] - start[name]).norm() < (value - start[name]).norm()
        assert not state.average[name].equal(start[name])


def test_a_training_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = student()
    expected = run(4, whole)

    first = student()
    run(2, first).save(tmp_path, first, SETTINGS)
    torch.manual_seed(3)
    resumed = Student(encoder(4), Decoder(8, ("conv:6", "res", "up", "out")), {"relu1_1": 6, "relu2_1": 12})
    state = TrainState.load(tmp_path, resumed, SETTINGS)
    assert state.step == 2
    found = run(4, resumed, state)

    assert found.step == expected.step == 4
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)
        torch.testing.assert_close(found.average[name], expected.average[name])
    assert found.generator.get_state().equal(expected.generator.get_state())


def test_a_checkpoint_is_safetensors_and_json_and_says_what_it_is(tmp_path: Path) -> None:
    model = student()
    run(2, model).save(tmp_path, model, SETTINGS)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"weights-2.safetensors", "average-2.safetensors", "optimizer-2.safetensors", "state.json"}
    assert json.loads((tmp_path / "state.json").read_text()) == {"step": 2, "settings": asdict(SETTINGS)}
    for path in tmp_path.glob("*.safetensors"):
        assert path.read_bytes()[8:9] == b"{"  # a header of JSON, not a pickle


def test_a_later_checkpoint_replaces_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kt-vgg-1.encoder.safetensors").write_bytes(b"somebody else's")
    model = student()
    state = run(1, model)
    state.save(tmp_path, model, SETTINGS)
    run(2, model, state).save(tmp_path, model, SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights-2.safetensors",
        "average-2.safetensors",
        "optimizer-2.safetensors",
        "state.json",
        "kt-vgg-1.encoder.safetensors",
    }


def test_a_training_that_is_done_does_nothing_more() -> None:
    model = student()
    state = run(4, model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert train(model, teacher(), batches(), SETTINGS, ignore, ignore, state) is state
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())


def test_the_learning_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    settings = TrainSettings(steps=300, warmup_steps=100, learning_rate=1.0)
    rates = [learning_rate_at(step, settings) for step in (0, 49, 99, 100, 200, 300)]
    # 0.01 + 0.99 * (1 + cos)/2: 1 at the top, 0.505 half way, 0.01 at the end
    assert rates == pytest.approx([0.01, 0.5, 1, 1, 0.505, 0.01])


def test_distillation_is_one_less_the_share_of_variance_explained(generator: torch.Generator) -> None:
    target = torch.rand(2, 3, 4, 4, generator=generator)
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    assert distillation_loss(target, target).item() == 0
    assert distillation_loss(mean, target).item() == pytest.approx(1)
    assert distillation_loss((target + mean) / 2, target).item() == pytest.approx(0.25)


def test_affinity_compares_which_patches_are_alike_and_not_their_features(generator: torch.Generator) -> None:
    features = torch.rand(1, 3, 5, 5, generator=generator)
    index = torch.tensor([0, 3, 7, 12])
    turned = features.flip(1) * 2  # other channels and brightness, the same neighbours
    assert affinity_loss(features, features, index).item() == 0
    assert affinity_loss(turned, features, index).item() == pytest.approx(0, abs=1e-10)
    assert affinity_loss(torch.rand(1, 3, 5, 5, generator=generator), features, index).item() > 1e-4


def test_going_on_with_another_setting_is_refused_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"step": 2, "settings": asdict(TrainSettings(affinity=1.0))}))
    with pytest.raises(MismatchError, match=r"affinity \(1.0 there, 3.0 here\)"):
        TrainState.load(tmp_path, student(), TrainSettings())


def test_a_state_file_that_is_none_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(DamagedError, match=r"state\.json"):
        TrainState.load(tmp_path, student(), TrainSettings())
