"""The training state is saved atomically in small files, for equal settings only."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kt_batch.errors import DamagedError, MismatchError
from kt_batch.training import state as train_state
from kt_batch.training.loop import Student, train
from kt_batch.training.settings import TrainSettings
from kt_batch.training.state import FILE_BYTES, TrainState
from tests.support.tiny_training import SETTINGS, batch, batches, copied, differing, ignore, student


def run(steps: int, model: Student, state: TrainState | None = None) -> TrainState:
    """Train up to `steps` of the 4 steps; each step has its own batch."""
    first = state.step if state else 0
    return train(model, itertools.islice(batches(first), steps - first), SETTINGS, ignore, ignore, state)


def saved(folder: Path, steps: int = 2) -> Student:
    """Train a model for `steps` steps and save its state in `folder`."""
    model = student()
    run(steps, model).save(folder, model.state_tensors(), SETTINGS)
    return model


def momentum(state: TrainState, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: state.optimizer.state[parameter]["momentum"] for name, parameter in trained.items()}


def files(folder: Path) -> dict[str, list[str]]:
    """Return the tensors of a state, by kind."""
    listed: list[str] = json.loads((folder / "state.json").read_text())["files"]
    return {kind: [name for name in listed if name.startswith(kind)] for kind in train_state.KINDS}


# ---- resuming ----


def test_an_interrupted_training_resumes_at_its_last_step(tmp_path: Path) -> None:
    whole = student()
    expected = run(4, whole)

    saved(tmp_path, steps=2)
    resumed = student(seed=3)
    state = TrainState.load(tmp_path, resumed.state_tensors(), SETTINGS)
    assert state.step == 2
    # Untrained tensors are in the encoder's file, not in the state.
    resumed.load_state_dict(
        {k: v for k, v in student().state_dict().items() if k not in resumed.state_tensors()}, strict=False
    )
    found = run(4, resumed, state)

    assert found.step == expected.step == 4
    assert differing(resumed.trained(), whole.trained()) == set()
    assert differing(found.average, expected.average) == set()
    assert found.generator.get_state().equal(expected.generator.get_state())


def test_a_training_can_be_extended(tmp_path: Path) -> None:
    saved(tmp_path)
    assert TrainState.load(tmp_path, student().state_tensors(), replace(SETTINGS, steps=9)).step == 2


def test_momentum_is_restored_to_its_own_parameter(tmp_path: Path) -> None:
    model = student()
    state = run(2, model)
    state.save(tmp_path, model.state_tensors(), SETTINGS)
    other = student(seed=3)
    loaded = TrainState.load(tmp_path, other.state_tensors(), SETTINGS)
    assert differing(momentum(loaded, other.trained()), momentum(state, model.trained())) == set()


def test_momentum_is_named_after_its_parameter_in_any_order(tmp_path: Path) -> None:
    # The optimizer has fitted parameters first; here they come last.
    weights = {name: nn.Parameter(torch.zeros(2)) for name in ("decoder.block0.bias", "decoder.direct.bias")}
    state = TrainState.fresh(weights, SETTINGS)
    for number, value in enumerate(weights.values(), start=1):
        value.grad = torch.full((2,), float(number))
    state.optimizer.step()
    expected = {"decoder.block0.bias": torch.ones(2), "decoder.direct.bias": 2 * torch.ones(2)}
    assert differing(momentum(state, weights), expected) == set()

    state.save(tmp_path, weights, SETTINGS)
    written = load_file(tmp_path / "optimizer-0-0.safetensors")
    assert differing({name: written[f"{name}/momentum"] for name in weights}, expected) == set()
    turned = dict(reversed(weights.items()))
    assert differing(momentum(TrainState.load(tmp_path, turned, SETTINGS), turned), expected) == set()


def test_mean_and_deviation_are_restored_with_the_weights(tmp_path: Path) -> None:
    model = student()
    model.standardise(batch(7))
    state = run(2, model)
    state.save(tmp_path, model.state_tensors(), SETTINGS)
    other = student(seed=3)
    loaded = TrainState.load(tmp_path, other.state_tensors(), SETTINGS)
    assert other.mean.equal(model.mean)
    assert other.deviation.equal(model.deviation)
    assert not model.mean.equal(student().mean)
    assert set(loaded.average) == set(state.average) == set(model.trained())  # they are no weights to average


# ---- the average ----


def test_the_average_gives_first_steps_more_weight_and_later_steps_the_decay() -> None:
    weights = {"decoder.a": nn.Parameter(torch.zeros(1))}
    state = TrainState.fresh(weights, SETTINGS)
    weights["decoder.a"].data += 11
    state.step = 1
    state.update_average(weights, decay=0.995)  # keeps (1 + 1) / (10 + 1)
    assert state.average["decoder.a"].item() == pytest.approx(9)
    state.step = 10**6
    state.update_average(weights, decay=0.5)
    assert state.average["decoder.a"].item() == pytest.approx(10)


# ---- the files ----


def test_a_state_is_safetensors_and_json_with_its_format(tmp_path: Path) -> None:
    saved(tmp_path)
    names = ["weights-2-0.safetensors", "average-2-0.safetensors", "optimizer-2-0.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "state.json"}
    assert json.loads((tmp_path / "state.json").read_text()) == {
        "step": 2,
        "settings": asdict(SETTINGS),
        "files": names,
    }
    for name in names:
        assert (tmp_path / name).read_bytes()[8:9] == b"{"  # a header of JSON, not a pickle


def test_large_weights_are_saved_in_files_of_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FILE_BYTES < 16 << 20  # the rest is for the header
    limit = 2200  # the largest tensor, 16 x 4 x 3 x 3 float32, is 2304 bytes and stands alone
    monkeypatch.setattr(train_state, "FILE_BYTES", limit)
    model = saved(tmp_path)
    for kind, names in files(tmp_path).items():
        parts = [load_file(tmp_path / name) for name in names]
        assert len(parts) > 1, kind
        for part in parts:
            assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= limit
    loaded = student(seed=3)
    assert TrainState.load(tmp_path, loaded.state_tensors(), SETTINGS).step == 2
    assert differing(loaded.trained(), model.trained()) == set()


def test_a_later_state_replaces_only_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("somebody else's")
    model = student()
    state = run(1, model)
    state.save(tmp_path, model.state_tensors(), SETTINGS)
    run(2, model, state).save(tmp_path, model.state_tensors(), SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights-2-0.safetensors",
        "average-2-0.safetensors",
        "optimizer-2-0.safetensors",
        "state.json",
        "metrics.csv",
    }


def test_an_interrupted_save_leaves_the_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student()
    state = run(1, model)
    state.save(tmp_path, model.state_tensors(), SETTINGS)
    first = copied(model.trained())

    def no_space(path: Path, target: Path) -> Path:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no_space)
        run(2, model, state)
        with pytest.raises(OSError, match="no space"):
            state.save(tmp_path, model.state_tensors(), SETTINGS)
    loaded = student(seed=3)
    assert TrainState.load(tmp_path, loaded.state_tensors(), SETTINGS).step == 1
    assert differing(loaded.trained(), first) == set()


# ---- refusals ----


def test_resuming_with_another_setting_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(MismatchError, match=r"swapped \(0.0 there, 3.0 here\)\.$"):
        TrainState.load(tmp_path, student().state_tensors(), replace(SETTINGS, swapped=3.0))


def test_resuming_with_another_subject_is_refused(tmp_path: Path) -> None:
    model = student()
    run(1, model).save(tmp_path, model.state_tensors(), replace(SETTINGS, subject="relu2_1 of one encoder"))
    with pytest.raises(MismatchError, match=r"subject \(relu2_1 of one encoder there, relu2_1 of another here\)\.$"):
        TrainState.load(tmp_path, student().state_tensors(), replace(SETTINGS, subject="relu2_1 of another"))


def test_a_setting_missing_from_the_state_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    kept = json.loads((tmp_path / "state.json").read_text())
    del kept["settings"]["swapped"]
    (tmp_path / "state.json").write_text(json.dumps(kept))
    with pytest.raises(MismatchError, match=r"swapped \(None there, 0.0 here\)"):
        TrainState.load(tmp_path, student().state_tensors(), SETTINGS)


def test_an_obsolete_setting_is_ignored(tmp_path: Path) -> None:
    saved(tmp_path)
    kept = json.loads((tmp_path / "state.json").read_text())
    kept["settings"]["affinity"] = 1.0
    (tmp_path / "state.json").write_text(json.dumps(kept))
    assert TrainState.load(tmp_path, student().state_tensors(), SETTINGS).step == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"step": 2}',
        '{"step": "two", "settings": {}, "files": []}',
        '{"step": null, "settings": {}, "files": []}',
        '{"step": 2, "settings": null, "files": []}',
        '{"step": 2, "settings": {}, "files": 3}',
    ],
)
def test_an_invalid_state_file_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DamagedError, match=r"state\.json"):
        TrainState.load(tmp_path, student().state_tensors(), TrainSettings())


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_its_last_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.popitem()
    save_file(tensors, path)


def of_other_shapes(path: Path) -> None:
    save_file({name: torch.zeros(7) for name in load_file(path)}, path)


def test_a_state_without_the_momentum_of_its_parameters_is_damaged(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "optimizer-2-0.safetensors"
    save_file({"generator": load_file(path)["generator"]}, path)
    with pytest.raises(DamagedError, match=rf"moments of 0 parameters instead of {len(student().trained())}\.$"):
        TrainState.load(tmp_path, student().state_tensors(), SETTINGS)


@pytest.mark.parametrize("kind", train_state.KINDS)
@pytest.mark.parametrize("harm", [Path.unlink, cut_in_half, without_its_last_tensor, of_other_shapes])
def test_a_damaged_state_is_one_sentence(tmp_path: Path, kind: str, harm: Callable[[Path], None]) -> None:
    saved(tmp_path)
    harm(tmp_path / f"{kind}-2-0.safetensors")
    with pytest.raises(DamagedError) as raised:
        TrainState.load(tmp_path, student().state_tensors(), SETTINGS)
    assert str(tmp_path) in str(raised.value)
    assert re.fullmatch(r"[^\n]+\.", str(raised.value))
