"""StyleBank as a method: mixtures of banks, what is refused, and a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from kt_batch.config import BankShare, RunOptions
from kt_batch.errors import MismatchError, MissingError, UsageError, WeightsError
from kt_batch.kernels.filter_banks import identity_bank
from kt_batch.kernels.grid import without_grid
from kt_batch.maintenance.made_with import MadeWith
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.methods.base import Banks, Resources
from kt_batch.methods.stylebank import StyleBank, StyleBankConfig
from kt_batch.models.banks import bank_bytes, load_bank, load_network
from kt_batch.models.stylebank import STRIDE, AutoEncoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.bank_files import network_name
from tests.support.banks import save_bank, save_network
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, draw_all, hashes, rows


@pytest.fixture
def banks(tmp_path: Path) -> list[str]:
    """The files of three banks of one network, the third one with filters of 7 x 7."""
    network = save_network(tmp_path / "w")
    return [str(save_bank(tmp_path / "w" / f"{seed}", network, seed, 7 if seed == 3 else 3)) for seed in (1, 2, 3)]


def configured(*given: str) -> StyleBankConfig:
    return cast("StyleBankConfig", choose("stylebank", {}, Choice(banks=given, size=SIZE))[0])


def run_of(folder: Path, given: list[str], photographs: Path, unit_size: int = 2, **where: Any) -> dict[str, str]:
    """Translate into a folder; return the hashes of the pictures."""
    config, sources = choose("stylebank", {}, Choice(banks=given, size=SIZE, **where))
    options = RunOptions(threads=1, unit_size=unit_size)
    translate(TranslateRequest([str(photographs)], str(folder), config, sources, options), LocalRunner(), no_progress)
    return hashes(folder, "images")


def test_the_regions_of_a_run_have_the_banks_of_the_command_and_these_have_no_weights(
    banks: list[str], tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    right = np.zeros((28, 36), np.uint8)
    right[:, 18:] = 1
    for name in ("11", "12"):
        Image.fromarray(right).save(tmp_path / "masks" / f"{name}.png")
    photographs = draw_all(tmp_path / "photographs", [11, 12])
    where: dict[str, Any] = {"mask": str(tmp_path / "masks")}
    first = run_of(tmp_path / "run", banks[:2], photographs, **where)
    assert len(first) == 2
    table = rows(tmp_path / "run", "provenance")
    assert {(row["source_uri"], row["share"]) for row in table} == {("1.jpg", 0.5), ("2.jpg", 0.5)}
    for name in ("11", "12"):
        Image.fromarray(1 - right).save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(MismatchError, match="masks_sha256"):
        run_of(tmp_path / "run", banks[:2], photographs, **where)
    run_of(tmp_path / "other", banks[1::-1], photographs, **where, unit_size=8)
    one, other = (
        [np.asarray(Image.open(path)) for path in sorted((tmp_path / name / "images").iterdir())]
        for name in ("run", "other")
    )
    assert all((each == again).all() for each, again in zip(one, other, strict=True))  # files differ in their XMP
    assert len(recompute(str(tmp_path / "other"), Recompute(2), no_progress).equal) == 2
    assert len(run_of(tmp_path / "like", banks, photographs, regions=3)) == 2
    with pytest.raises(UsageError, match="gives each region one --bank, so the weight of a --bank has no effect"):
        run_of(tmp_path / "no", [f"{banks[0]}=2", banks[1]], photographs, **where)


def test_a_run_with_banks_is_done_once_more_with_those_banks_alone(banks: list[str], tmp_path: Path) -> None:
    weighted = [f"{banks[0]}=3", banks[1], f"{banks[2]}=0.7"]
    run_of(tmp_path / "run", weighted, draw_all(tmp_path / "photographs", [11, 12]))

    def again(**made: Any) -> list[str]:
        return recompute(str(tmp_path / "run"), Recompute(2, made=MadeWith(**made)), no_progress).equal

    assert len(again()) == 2
    (tmp_path / "w").rename(tmp_path / "moved")
    with pytest.raises(MissingError, match=r"The filter bank '.*' of .* is gone; say where the banks are now"):
        again()
    moved = tuple(str(tmp_path / "moved" / Path(each).name) for each in reversed(banks))
    assert len(again(banks=moved)) == 2
    with pytest.raises(MismatchError, match="name all of them"):
        again(banks=moved[1:])
    save_bank(Path(moved[0]), load_bank(Path(moved[0])).header.network, 9)
    with pytest.raises(MismatchError, match="the file has changed, or is another one"):
        again(banks=moved)


# ---- mixtures ----


def test_a_bank_of_identity_filters_gives_the_reconstruction() -> None:
    torch.manual_seed(0)
    network, photo = AutoEncoder(8).eval().requires_grad_(requires_grad=False), picture(1)
    share = BankShare(bank="0" * 64, weight=1, images=("1" * 16,))
    method = StyleBank(
        StyleBankConfig(network="0" * 64, banks=(share,)), Resources(banks=Banks(network, (identity_bank(8, 7),)))
    )
    expected = without_grid(network(photo[None])[0].clamp(0, 1), STRIDE)
    torch.testing.assert_close(translated(method, photo), expected, atol=1e-5, rtol=0)


def test_a_brighter_photograph_with_less_contrast_has_the_same_reconstruction() -> None:
    torch.manual_seed(0)
    network, photo = AutoEncoder(8).eval(), picture(1)[None]
    with torch.no_grad():
        torch.testing.assert_close(network(0.4 + photo / 2), network(photo), atol=1e-3, rtol=0)


def test_weights_sum_to_one_and_neither_order_nor_repetition_changes_a_configuration(banks: list[str]) -> None:
    one, two, three = banks
    config = configured(f"{one}=1", f"{two}=2", f"{three}=5")
    assert sum(share.weight for share in config.banks) == pytest.approx(1)
    assert {share.images[0][0]: share.weight for share in config.banks} == pytest.approx(
        {"1": 1 / 8, "2": 2 / 8, "3": 5 / 8}
    )
    assert configured(f"{three}=5", f"{two}=1", f"{one}=1", f"{two}=1") == config
    assert configured(one) == configured(f"{one}=3", f"{one}=0.5")


def test_a_run_names_the_share_of_each_style_image(banks: list[str], tmp_path: Path) -> None:
    photographs = draw_all(tmp_path / "photographs", [11])
    run_of(tmp_path / "run", [f"{banks[0]}=1", f"{banks[2]}=3"], photographs)
    found = rows(tmp_path / "run", "provenance")
    assert sorted((row["source_image_id"].hex()[0], row["source_uri"], row["share"]) for row in found) == [
        ("1", "1.jpg", 0.25),
        ("3", "3.jpg", 0.75),
    ]


# ---- runs ----


def test_a_run_has_the_same_bytes_for_any_units_and_goes_on_where_it_stopped(banks: list[str], tmp_path: Path) -> None:
    photographs = draw_all(tmp_path / "photographs", [11, 12, 13])
    whole = run_of(tmp_path / "one", banks, photographs, unit_size=3)
    assert len(whole) == 3
    assert run_of(tmp_path / "other", banks[::-1], photographs, unit_size=1) == whole
    receipt = next((tmp_path / "one" / "receipts").iterdir())
    receipt.unlink()  # as if the worker had ended before it
    assert run_of(tmp_path / "one", banks, photographs, unit_size=3) == whole
    assert run_of(tmp_path / "again", banks[:1], photographs) != whole
    with pytest.raises(MismatchError, match="banks"):
        run_of(tmp_path / "one", banks[:1], photographs)


def test_a_photograph_of_one_pixel_is_translated(banks: list[str]) -> None:
    config, sources = choose("stylebank", {}, Choice(banks=banks[2:], size=SIZE))
    loaded = load_network(Path(sources.network or "")).network
    method = StyleBank(
        cast("StyleBankConfig", config), Resources(banks=Banks(loaded, (load_bank(Path(banks[2])).bank,)))
    )
    assert translated(method, torch.rand(3, 4, 4)).isfinite().all()


# ---- what is refused ----


def test_a_bank_of_another_network_is_refused_in_one_sentence(banks: list[str], tmp_path: Path) -> None:
    other = save_network(tmp_path / "w", seed=1)
    foreign = save_bank(tmp_path / "w" / "foreign", other, 4)
    for given, network in (
        (f"{banks[0]} {foreign}", None),
        (str(foreign), str(tmp_path / "w" / network_name(load_bank(Path(banks[0])).header.network))),
    ):
        with pytest.raises(MismatchError, match=f"foreign' belongs to the network {other[:16]}, and .* is "):
            choose("stylebank", {}, Choice(banks=given.split(), network=network))


def test_a_bank_with_other_channels_than_its_network_is_refused(banks: list[str], tmp_path: Path) -> None:
    header = load_bank(Path(banks[0])).header
    forged = tmp_path / "w" / "forged"
    forged.write_bytes(bank_bytes(torch.zeros(4, 4, 3, 3), header))
    with pytest.raises(MismatchError, match=r"has 4 channels, and its network .* has 8"):
        configured(str(forged))


def test_a_bank_that_changed_after_the_plan_is_noticed(banks: list[str], tmp_path: Path) -> None:
    photographs = draw_all(tmp_path / "photographs", [11])
    config, sources = choose("stylebank", {}, Choice(banks=banks[:1], size=SIZE))
    save_bank(Path(banks[0]), config.network or "", 7)
    request = TranslateRequest([str(photographs)], str(tmp_path / "run"), config, sources, RunOptions(threads=1))
    with pytest.raises(MismatchError, match="and the run was planned with"):
        translate(request, LocalRunner(), no_progress)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("{}=0", UsageError, "has the weight 0; allowed is above 0"),
        ("{}=-1", UsageError, "has the weight -1"),
        ("{}=nan", UsageError, "has the weight nan; allowed is above 0"),
        ("{}=1e400", UsageError, "has the weight 1e400; allowed is above 0"),
        ("{}.gone", WeightsError, "cannot be read: No such file"),
        ("s3://bucket/a.bank.safetensors", UsageError, "no file of this machine"),
    ],
)
def test_what_is_no_bank_with_a_weight_is_refused(
    banks: list[str], given: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        configured(given.format(banks[0]))


@pytest.mark.parametrize("which", ["bank", "network"])
def test_a_file_of_float32_is_refused_since_its_id_would_not_tell_it_from_another(
    banks: list[str], tmp_path: Path, which: str
) -> None:
    path = Path(banks[0]) if which == "bank" else next((tmp_path / "w").glob("network-*"))
    with safe_open(path, "pt") as file:
        tensors, said = {name: file.get_tensor(name).float() for name in file.keys()}, file.metadata()  # noqa: SIM118
    path.write_bytes(save(tensors, said))
    with pytest.raises(WeightsError, match="is F32; allowed is F16"):
        configured(banks[0])


def test_a_picture_of_nan_is_an_error_and_no_black_picture(banks: list[str]) -> None:
    config, sources = choose("stylebank", {}, Choice(banks=banks[:1], size=SIZE))
    loaded = load_network(Path(sources.network or "")).network
    huge = torch.full_like(load_bank(Path(banks[0])).bank, 3e38)
    method = StyleBank(cast("StyleBankConfig", config), Resources(banks=Banks(loaded, (huge,))))
    with pytest.raises(WeightsError, match="a picture holds NaN"):
        translated(method, torch.rand(3, 16, 16))


def test_a_bank_without_its_network_asks_for_it(banks: list[str], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.write_bytes(Path(banks[0]).read_bytes())
    with pytest.raises(
        WeightsError, match=r"not beside it as 'network-[0-9a-f]{16}.safetensors'; give it with --network"
    ):
        configured(str(moved))
    network = str(next((tmp_path / "w").glob("network-*")))
    assert choose("stylebank", {}, Choice(banks=[str(moved)], network=network, size=SIZE))[0] == configured(banks[0])


def test_a_file_that_is_not_a_bank_is_refused(banks: list[str], tmp_path: Path) -> None:
    network = next((tmp_path / "w").glob("network-*"))
    with pytest.raises(WeightsError, match="is no filter bank"):
        configured(str(network))
    bank = load_bank(Path(banks[0]))
    Path(banks[0]).write_bytes(bank_bytes(bank.bank * torch.nan, bank.header))
    with pytest.raises(WeightsError, match="NaN"):
        configured(banks[0])
    Path(banks[0]).write_bytes(bank_bytes(bank.bank[:, :4], replace(bank.header)))
    with pytest.raises(WeightsError, match="does not describe a filter bank"):
        configured(banks[0])
