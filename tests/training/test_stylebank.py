"""Trainings of filter banks: the two branches, resuming, banks that are added, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kt_batch.errors import KtBatchError, MismatchError, UsageError
from kt_batch.models.banks import load_bank, load_network
from kt_batch.models.stylebank import AutoEncoder
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.store.images.files import image_id
from kt_batch.training.stylebank import added as added_module
from kt_batch.training.stylebank import job as job_module
from kt_batch.training.stylebank.added import PreparedBatches, added_rate_at
from kt_batch.training.stylebank.batches import Batches
from kt_batch.training.stylebank.job import BankJob, train_banks
from kt_batch.training.stylebank.loop import BankState, Trainee, length, scale_to, stylising_loss, train
from kt_batch.training.stylebank.losses import PRINTED, Perceptual, loss_layers
from kt_batch.training.stylebank.settings import BankSettings, learning_rate_at
from tests.support.banks import SETTINGS, alone, files, ignore, job_in, network_in, trained
from tests.support.tiny import draw_all
from tests.support.tiny_training import copied, differing


def batch_at(step: int) -> tuple[Tensor, list[int]]:
    """Return two images and their styles, 0 and 1, or 0 alone in the first two steps."""
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return images, [0, 0 if step < 2 else 1]


def run(
    trainee: Trainee, settings: BankSettings, state: BankState | None = None
) -> tuple[list[dict[str, float]], BankState]:
    """Train on `batch_at`; return the losses of every step."""
    reported: list[dict[str, float]] = []
    done = train(
        trainee, two_styles(), batch_at, settings, lambda _, losses: reported.append(losses), lambda *_: None, state
    )
    return reported, done


def trainee(*, frozen: bool = False) -> Trainee:
    torch.manual_seed(0)
    return Trainee(AutoEncoder(8), ["one", "two"], SETTINGS, frozen=frozen)


def two_styles() -> Perceptual:
    style = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(99))
    return Perceptual(load_encoder(EncoderSource()).network, [style, style.flip(0)])


# ---- the two branches ----


def test_a_training_that_diverges_ends_in_one_sentence_and_writes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(KtBatchError, match=r"^The training diverged: at step 1 its loss is inf; begin again"):
        trained(job_in(tmp_path, variation=1e300))
    with pytest.raises(KtBatchError, match=r"diverged in its last step, and nothing of it can be kept"):
        trained(job_in(tmp_path, "last", steps=1, learning_rate=1e6))
    assert not list(tmp_path.rglob("*.safetensors.tmp")) + list(tmp_path.rglob("*.bank.safetensors"))


def test_the_gradient_of_the_auto_encoder_gets_the_length_of_the_stylising_one() -> None:
    # |(3, 4)| and |12| are 5 and 12, together 13; wanted is 26: every number is doubled.
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]
    assert length(gradients) == 13
    scale_to(gradients, torch.tensor(26.0))
    assert [gradient.flatten().tolist() for gradient in gradients] == [[6, 8], [24]]
    nothing = [torch.zeros(2)]
    scale_to(nothing, torch.tensor(5.0))
    assert nothing[0].tolist() == [0, 0]


@pytest.mark.parametrize("balance", [1.0, 0.25])
def test_the_balance_is_that_of_the_last_stylising_step(balance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    model, settings = trainee(), replace(SETTINGS, steps=3, balance=balance)
    step = torch.optim.Adam.step

    def note(adam: torch.optim.Adam) -> None:
        lengths.append(
            float(length([value.grad for value in model.autoencoder.parameters() if value.grad is not None]))
        )
        step(adam)

    monkeypatch.setattr(torch.optim.Adam, "step", note)
    run(model, settings)
    assert lengths[2] == pytest.approx(balance * lengths[1], rel=1e-5)
    assert lengths[0] != pytest.approx(lengths[1], rel=1e-3)


def test_two_steps_of_stylising_come_before_each_one_of_the_auto_encoder() -> None:
    losses, _ = run(trainee(), replace(SETTINGS, steps=6))
    changed = [
        ("style" if now["style"] != before["style"] else "identity")
        for before, now in zip([dict.fromkeys(losses[0], 0.0), *losses], losses, strict=False)
    ]
    assert changed == ["style", "style", "identity"] * 2


def test_a_training_without_a_weight_of_the_style_has_both_branches() -> None:
    losses, _ = run(trainee(), replace(SETTINGS, style=0.0, steps=3))
    assert losses[2]["identity"] > 0


def test_a_step_changes_no_bank_that_was_not_drawn_and_none_where_the_auto_encoder_is_trained() -> None:
    model = trainee()
    before = copied(model.state_dict())
    run(model, replace(SETTINGS, steps=2))  # draws the first style alone
    changed = differing(before, model.state_dict())
    assert "banks.one" in changed
    assert "banks.two" not in changed
    banks = copied(dict(model.banks.items()))
    _, state = run(model, replace(SETTINGS, steps=3), at(model, 2))
    assert state.step == 3
    assert differing(banks, copied(dict(model.banks.items()))) == set()


def at(model: Trainee, step: int) -> BankState:
    state = BankState.fresh(model.trained(), SETTINGS)
    state.step = step
    return state


def test_workers_draw_other_crops_of_the_same_styles_and_any_step_again(tmp_path: Path) -> None:
    uris = [str(path) for path in draw_all(tmp_path, [1, 2, 3]).iterdir()]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    one, other = (Batches([*uris, str(tmp_path / "broken.png")], 16, 4, 5, 7, worker) for worker in (0, 1))
    found = [(one(step), other(step)) for step in (0, 1)]
    for (crops, styles), (others, same) in found:
        assert styles == same
        assert not crops.equal(others)
    again = one(0)
    assert again[0].equal(found[0][0][0])
    assert again[1] == found[0][0][1]
    assert not found[1][0][0].equal(again[0])


def test_the_learning_rate_falls_to_four_fifths_after_each_tenth() -> None:
    settings = BankSettings(steps=300_000, learning_rate=0.01)
    rates = [learning_rate_at(step, settings) for step in (0, 29_999, 30_000, 299_999)]
    assert rates == pytest.approx([0.01, 0.01, 0.008, 0.01 * 0.8**9])


def test_losses_are_compared_at_the_printed_layers_or_the_first_of_their_block() -> None:
    network = load_encoder(EncoderSource()).network
    assert loss_layers(network) == (*PRINTED[:3], "relu4_1")
    style = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(1))
    losses = Perceptual(network, [style])(style[None], style[None], [0])
    assert float(losses.content) == 0
    assert float(losses.styles) == pytest.approx(0, abs=1e-9)


# ---- banks that are added ----


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_prepared_crops_have_the_losses_of_the_crops_themselves(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added_module, "CROPS", 4)
    monkeypatch.setattr(added_module, "KEPT_BYTES", kept)
    model, perceptual, drawn = trainee(frozen=True), two_styles(), []

    def crops_at(number: int) -> Tensor:
        drawn.append(number)
        return batch_at(number)[0]

    prepared = PreparedBatches(model, perceptual, crops_at, 2)
    for step in range(4):
        batch, images = prepared(step), batch_at(step % 2)[0]
        terms, _ = stylising_loss(perceptual, model.decoded(batch.features, [1, 0]), batch.contents, [1, 0], SETTINGS)
        losses = perceptual(model.stylised(images, [1, 0]), images, [1, 0])
        assert (terms["style"], terms["content"]) == (
            float(losses.styles.detach().mean()),
            float(losses.content.detach()),
        )
    assert drawn == ([0, 1] if kept else [0, 1, 0, 1])


def test_the_rate_of_an_added_bank_warms_up_and_falls_to_nothing() -> None:
    settings = BankSettings(steps=1000, learning_rate=0.01)
    rates = [added_rate_at(step, settings) for step in (0, 99, 500, 1000)]
    assert rates == pytest.approx([0.0001, 0.009758, 0.005, 0], rel=1e-3, abs=1e-12)
    assert max(added_rate_at(step, settings) for step in range(1000)) <= 0.01


def test_an_added_training_that_was_stopped_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "SAVE_EVERY", 2)
    network = str(network_in(trained(job_in(tmp_path, steps=1))))

    def job(out: str) -> BankJob:
        return replace(job_in(tmp_path, out, (3, 4), steps=5), add_to=network)

    def stop(name: str, step: int, losses: dict[str, float]) -> None:
        if step == 4:
            raise ZeroDivisionError

    whole = files(trained(job("whole")))
    with pytest.raises(ZeroDivisionError):
        train_banks(job("stopped"), stop, alone)
    assert files(trained(job("stopped"))) == whole


# ---- files ----


def test_a_training_writes_a_network_a_bank_for_each_style_and_samples(tmp_path: Path) -> None:
    weights = trained(job := job_in(tmp_path))
    network = load_network(network_in(weights))
    banks = {path.name: load_bank(path) for path in weights.glob("*.bank.safetensors")}
    assert network.network.channels == 8
    assert {
        name: (bank.header.network, bank.header.kernel, bank.header.steps) for name, bank in banks.items()
    } == dict.fromkeys(("1.bank.safetensors", "2.bank.safetensors"), (network.id, 3, 4))
    painting = tmp_path / "paintings" / "1.png"
    assert banks["1.bank.safetensors"].header.images == {image_id(painting.read_bytes()): "1.png"}
    with Image.open(job.out / "samples" / "000004.png") as sheet:
        assert sheet.size == (4 * 16, 2 * 16)  # photograph, reconstruction, two styles; two photographs
    losses = json.loads((job.out / "samples" / "000004.json").read_text())["losses"]
    written = banks["1.bank.safetensors"].header.losses
    assert written == pytest.approx(losses[image_id(painting.read_bytes())], abs=1e-5)


def test_a_training_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "SAVE_EVERY", 2)
    whole = files(trained(job_in(tmp_path, "whole", steps=5)))

    def stop(name: str, step: int, losses: dict[str, float]) -> None:
        if step == 4:
            raise ZeroDivisionError

    job = job_in(tmp_path, "stopped", steps=5)  # saved after step 2, in the middle of the three steps of a round
    with pytest.raises(ZeroDivisionError):
        train_banks(job, stop, alone)
    assert files(trained(job)) == whole
    with pytest.raises(MismatchError, match=r"kernel \(3 there, 5 here\)"):
        trained(job_in(tmp_path, "stopped", steps=5, kernel=5))


def test_an_added_bank_leaves_the_network_and_its_reconstructions_as_they_are(tmp_path: Path) -> None:
    first = trained(job_in(tmp_path))
    network = network_in(first)
    before = network.read_bytes()
    photograph = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    restored = load_network(network).network(photograph)
    job = replace(job_in(tmp_path, "added", (3,), kernel=5), add_to=str(network))
    added = trained(job)
    assert network_in(added).read_bytes() == network.read_bytes() == before
    assert load_network(network_in(added)).network(photograph).equal(restored)
    bank = load_bank(added / "3.bank.safetensors")
    assert (bank.header.network, bank.header.added, bank.header.kernel) == (load_network(network).id, True, 5)
    start = job_module.new_trainee(job, job_module.data_of(job)).banks
    assert not start[next(iter(bank.header.images))].equal(bank.bank)


def test_an_input_inside_the_folder_of_the_training_is_refused(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    with pytest.raises(UsageError, match="--out"):
        train_banks(replace(job, out=tmp_path), ignore, alone)
