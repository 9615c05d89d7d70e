"""The training loop: its reports, its updates and its result."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kt_batch.errors import WeightsError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.weights import decoder_bytes, parse
from kt_batch.training.loop import MIN_DEVIATION, Student, learning_rate_at, train
from kt_batch.training.settings import TrainSettings
from kt_batch.training.state import TrainState
from tests.support.tiny_training import SETTINGS, batch, batches, copied, differing, ignore, student


def reported(settings: TrainSettings) -> dict[str, float]:
    """Return the losses of one step."""
    steps: list[dict[str, float]] = []
    train(student(), batches(), replace(settings, steps=1), lambda step, losses: steps.append(losses), ignore)
    (losses,) = steps
    return losses


# ---- the loop ----


def test_every_step_is_reported_and_offered_as_a_checkpoint() -> None:
    reports: list[tuple[int, dict[str, float]]] = []
    offered: list[tuple[int, int]] = []
    state = train(
        student(),
        batches(),
        SETTINGS,
        lambda step, losses: reports.append((step, losses)),
        lambda step, state: offered.append((step, state.step)),
    )
    assert [step for step, _ in reports] == [1, 2, 3, 4]
    assert offered == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert state.step == 4
    assert all(torch.tensor(list(losses.values())).isfinite().all() for _, losses in reports)


def test_no_batch_is_drawn_after_the_last_step() -> None:
    drawn = itertools.count()
    train(student(), (batch(next(drawn)) for _ in range(9)), SETTINGS, ignore, ignore)
    assert next(drawn) == 4


def test_a_finished_training_does_nothing() -> None:
    model = student()
    state = train(model, batches(), SETTINGS, ignore, ignore)
    before = copied(model.state_dict())
    assert train(model, batches(), SETTINGS, ignore, ignore, state) is state
    assert differing(model.state_dict(), before) == set()


def test_equal_seeds_and_batches_give_equal_weights() -> None:
    first, second = student(), student()
    for model in (first, second):
        train(model, batches(), SETTINGS, ignore, ignore)
    assert differing(first.state_dict(), second.state_dict()) == set()


def test_training_reduces_the_decoding_error() -> None:
    losses: list[float] = []
    settings = TrainSettings(steps=30, warmup_steps=2, learning_rate=0.02)
    same = itertools.repeat(batch(0))
    train(student(), same, settings, lambda step, terms: losses.append(terms["reconstruction"]), ignore)
    assert losses[-1] < 0.8 * losses[0]


def test_the_average_follows_the_weights_more_slowly() -> None:
    model, start = student(), student().trained()
    state = train(model, batches(), SETTINGS, ignore, ignore)
    assert set(state.average) == set(model.trained())
    for name, value in model.trained().items():
        assert 0 < (state.average[name] - start[name]).norm() < (value - start[name]).norm()


def test_the_learning_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    settings = TrainSettings(steps=300, warmup_steps=100, learning_rate=1.0)
    rates = [learning_rate_at(step, settings) for step in (0, 49, 99, 100, 200, 300)]
    # 0.01 + 0.99 * (1 + cos)/2: 1 at the top, 0.505 half way, 0.01 at the end
    assert rates == pytest.approx([0.01, 0.5, 1, 1, 0.505, 0.01])


def test_fitted_parameters_learn_at_a_fraction_of_the_rate() -> None:
    settings, model = replace(SETTINGS, fitted_rate=0.25), student()
    state = train(model, batches(), settings, ignore, ignore)
    fitted, others = state.optimizer.param_groups
    assert others["lr"] == learning_rate_at(3, settings)
    assert fitted["lr"] == 0.25 * others["lr"]
    names = {id(value): name for name, value in model.trained().items()}
    assert {names[id(value)].split(".")[1] for value in fitted["params"]} == {"direct"}
    assert {names[id(value)].split(".")[1] for value in others["params"]} == {"block0", "block1", "block2", "block3"}


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, swapped=1.0)])
def test_bfloat16_runs_the_networks_and_leaves_the_weights_float32(settings: TrainSettings) -> None:
    model, before = student(), student().state_dict()
    losses: list[float] = []
    state = train(
        model,
        batches(),
        replace(settings, steps=1),
        lambda step, terms: losses.extend(terms.values()),
        ignore,
        bfloat16=True,
    )
    assert torch.tensor(losses).isfinite().all()
    assert differing(model.state_dict(), before) == set(model.trained())
    assert {value.dtype for value in (*model.trained().values(), *state.average.values())} == {torch.float32}


# ---- trained parameters and loss terms ----


def test_every_weight_of_the_decoder_and_none_of_the_encoder_changes() -> None:
    model, before = student(), student().state_dict()
    train(model, batches(), SETTINGS, ignore, ignore)
    of_the_decoder = {name for name in before if name.startswith("decoder.")}
    assert differing(model.state_dict(), before) == set(model.trained()) == of_the_decoder


def test_swapped_latents_are_computed_only_with_a_weight() -> None:
    without = reported(SETTINGS)
    with_term = reported(replace(SETTINGS, swapped=0.5))
    assert (set(without), set(with_term)) == ({"reconstruction"}, {"reconstruction", "swapped"})
    assert with_term["reconstruction"] == without["reconstruction"]
    assert with_term["swapped"] > 0


def test_the_lattice_is_computed_only_with_a_weight_and_includes_swapped_latents() -> None:
    alone = reported(replace(SETTINGS, lattice=1.0))
    beside = reported(replace(SETTINGS, lattice=1.0, swapped=0.5))
    assert set(alone) == {"reconstruction", "lattice"}
    assert beside["lattice"] > alone["lattice"] > 0


def test_the_swapped_term_changes_the_trained_weights() -> None:
    plain, other = student(), student()
    train(plain, batches(), SETTINGS, ignore, ignore)
    train(other, batches(), replace(SETTINGS, swapped=0.5), ignore, ignore)
    assert differing(other.trained(), plain.trained()) == set(other.trained())


# ---- several workers ----


def test_synchronise_receives_the_gradient_of_every_trained_parameter_in_every_step() -> None:
    given: list[list[torch.Size]] = []
    model = student()
    train(
        model,
        batches(),
        SETTINGS,
        ignore,
        ignore,
        synchronise=lambda gradients: given.append([gradient.shape for gradient in gradients]),
    )
    assert given == [[value.shape for value in model.trained().values()]] * 4


def test_the_step_uses_the_synchronised_gradients() -> None:
    def nothing(gradients: list[Tensor]) -> None:
        for gradient in gradients:
            gradient.zero_()

    model, before = student(), student().state_dict()
    train(model, batches(), SETTINGS, ignore, ignore, synchronise=nothing)
    assert differing(model.state_dict(), before) == set()


# ---- codes to and from standard size ----


def standardised() -> Student:
    """Return a student whose decoder has nonzero biases, as a trained one has."""
    model = student()
    model.standardise(batch(7, images=8))
    return model


def test_the_decoder_receives_codes_of_mean_0_and_deviation_1() -> None:
    model = standardised()
    code = model.encoder.encode_code(batch(7, images=8), "relu2_1").detach()
    standard = (code - model.mean) / model.deviation
    torch.testing.assert_close(standard.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(dim=(0, 2, 3)), torch.ones(8), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_shipped_decoder_accepts_unscaled_features() -> None:
    model = standardised()
    before = copied(model.state_dict())
    features, code = model.encoder.encode(batch(9), "relu2_1"), model.encoder.encode_code(batch(9), "relu2_1")
    torch.testing.assert_close(
        model.shipped_decoder()(features, detail_weight=0), model.decode(code), atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(model.decoder(code), model.decode(code), atol=1e-2)
    assert differing(model.state_dict(), before) == set()


@torch.no_grad()
def test_the_shipped_decoder_restores_the_details_of_the_encoder() -> None:
    model = standardised()
    features, shipped = model.encoder.encode(batch(9), "relu2_1"), model.shipped_decoder()
    assert (shipped.channels, shipped.details) == (10, 2)
    again = model.encoder.encode(shipped(features), "relu2_1")
    torch.testing.assert_close(again[:, 8:], features[:, 8:], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("harm", [lambda rows: rows[1].mul_(1.05), lambda rows: rows[1].add_(0.05 * rows[0])])
def test_an_encoder_whose_details_cannot_be_restored_gets_no_decoder(harm: Callable[[Tensor], Tensor]) -> None:
    model = standardised()
    harm(model.encoder.get_parameter("detail_relu2_1.weight"))
    with pytest.raises(WeightsError, match=r"^The details at relu2_1 cannot be restored: "):
        model.shipped_decoder()


@torch.no_grad()
def test_the_details_of_an_encoder_saved_in_float16_can_be_restored() -> None:
    model = standardised()
    weight = model.encoder.get_parameter("detail_relu2_1.weight")
    exact = weight.clone()
    weight.copy_(weight.half())
    assert not weight.equal(exact)
    assert model.shipped_decoder().details == 2


@torch.no_grad()
def test_the_shipped_decoder_of_an_encoder_without_details_has_none() -> None:
    model = with_a_silent_channel()
    code = model.encoder.encode(batch(1), "relu1_1")
    assert model.shipped_decoder().details == 0
    torch.testing.assert_close(model.shipped_decoder()(code), model.decode(code), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_direct_convolution_is_fitted_to_the_pixels() -> None:
    # If the blocks return 0, a code that holds the whole image is decoded to it.
    encoder = Encoder(("conv1_1", "relu1_1"), {"conv1_1": (3,)}, Preprocess(mean=(0, 0, 0), std=(1, 1, 1)))
    encoder.get_parameter("conv1_1.0.weight").zero_()[:, :, 1, 1] = torch.eye(3).roll(1, 0)
    encoder.get_parameter("conv1_1.0.bias").zero_()
    model = Student(encoder, Decoder(3, ("conv:4", "out"), direct=True), "relu1_1")
    model.load_state_dict(
        {name: torch.zeros_like(v) for name, v in model.state_dict().items() if "block1" in name}, False
    )
    model.standardise(batch(0))
    model.fit_direct([batch(number) for number in range(4)])
    torch.testing.assert_close(model.decode(encoder.encode(batch(9), "relu1_1")), batch(9), atol=1e-3, rtol=0)


@torch.no_grad()
def with_a_silent_channel() -> Student:
    """Return a student whose third channel never fires. VGG-19 has such channels."""
    torch.manual_seed(0)
    encoder = Encoder(("conv1_1", "relu1_1"), {"conv1_1": (4,)}, Preprocess())
    encoder.get_parameter("conv1_1.0.bias")[2] = -100
    model = Student(encoder, Decoder(4, ("conv:4", "out")), "relu1_1")
    model.standardise(batch(0))
    return model


@torch.no_grad()
def test_deviations_have_a_lower_bound_relative_to_the_largest() -> None:
    model = with_a_silent_channel()
    expected = model.encoder.encode(batch(0), "relu1_1").std(dim=(0, 2, 3))
    assert expected[2] == 0
    expected[2] = MIN_DEVIATION * expected.max()
    torch.testing.assert_close(model.deviation.flatten(), expected)


@torch.no_grad()
def test_a_channel_that_never_fires_does_not_break_the_shipped_decoder() -> None:
    # Weight files are float16, in which nothing is larger than 65504.
    model = with_a_silent_channel()
    code = model.encoder.encode(batch(1), "relu1_1")
    assert code[:, 2].count_nonzero() == 0
    tensors, _ = parse(decoder_bytes(model.shipped_decoder(), "0" * 64, "relu1_1"), None, "memory")
    loaded = Decoder(4, ("conv:4", "out"))
    loaded.load_state_dict(tensors)
    torch.testing.assert_close(loaded(code), model.decode(code), atol=1e-2, rtol=1e-2)


def test_mean_and_deviation_are_saved_but_never_trained() -> None:
    model = standardised()
    assert not {"mean", "deviation"} & set(model.trained())
    assert list(model.state_tensors()) == [*model.trained(), "mean", "deviation"]
    assert differing(model.state_tensors(), {name: model.state_dict()[name] for name in model.state_tensors()}) == set()
    assert set(TrainState.fresh(model.trained(), SETTINGS).average) == set(model.trained())
