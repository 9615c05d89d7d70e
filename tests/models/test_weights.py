"""Weight files are checked, never unpickled, and refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from kt_batch.errors import KtBatchError, MismatchError, UsageError, WeightsError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.vgg19 import CAFFE, TORCHVISION
from kt_batch.models.weights import (
    DECODER_FORMAT,
    ENCODER_FORMAT,
    EncoderSource,
    decoder_bytes,
    encoder_bytes,
    load_decoder,
    load_encoder,
    shipped,
)

VGG19_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512)  # up to conv4_1; 0 is a pool


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    widths = {"conv1_1": (4,), "conv1_2": (4,), "conv2_1": (6,)}
    return Encoder(VGG19_LAYERS[:7], widths, Preprocess(order="bgr", mean=(0.1, 0.2, 0.3)))


def coded_encoder() -> Encoder:
    """Return an encoder with every kind of layer: plain, of low rank, codes, details."""
    torch.manual_seed(0)
    widths: dict[str, Widths] = {"conv1_1": (4,), "conv1_2": (3, 7), "conv2_1": (5, 9)}
    return Encoder(VGG19_LAYERS[:7], widths, Preprocess(), codes={"relu1_1": 2, "relu2_1": 6}, details={"relu2_1": 3})


def small_decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(6, ("conv:4", "res", "up", "out"), "selu")


def picture() -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def write(folder: Path, data: bytes) -> str:
    (folder / "weights").write_bytes(data)
    return str(folder / "weights")


def with_metadata(data: bytes, **changes: str | None) -> bytes:
    """Return the file with other metadata; None removes an entry."""
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"] | changes
    return save(load(data), {key: value for key, value in metadata.items() if value is not None})


def one_sentence(error: pytest.ExceptionInfo[KtBatchError]) -> bool:
    return re.fullmatch(r"[^\n]+\.", str(error.value)) is not None


# ---- shipped files ----


def test_the_shipped_files_match_their_sha256() -> None:
    folder = resources.files("kt_batch.models").joinpath("weights")
    listed = [entry for parts in shipped().values() for entry in parts.values()]
    assert len(listed) >= 2
    for entry in listed:
        assert hashlib.sha256(folder.joinpath(entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    files = {file.name for file in folder.iterdir() if file.is_file()}
    assert {entry["file"] for entry in listed} | {"weights.json"} == files


def test_the_shipped_networks_fit_each_other() -> None:
    encoder = load_encoder(EncoderSource())
    assert encoder.sha256 == shipped()["kt-vgg"]["encoder"]["sha256"]
    decoder = load_decoder(encoder, "kt-vgg", "relu3_1", None)
    features = encoder.network.encode(picture(), "relu3_1")
    assert features.shape == (1, encoder.network.channels_at("relu3_1"), 4, 4)
    restored = decoder.network.decode(features)
    assert restored.shape == (1, 3, 16, 16)
    assert restored.min() >= 0
    assert restored.max() <= 1


def test_the_output_of_the_shipped_decoder_has_the_given_details() -> None:
    encoder = load_encoder(EncoderSource())
    network, decoder = encoder.network, load_decoder(encoder, "kt-vgg", "relu3_1", None).network
    features = network.encode(picture(), "relu3_1")
    assert decoder.details == network.details["relu3_1"] > 0
    again = network.encode(decoder(features), "relu3_1")
    given, found, guessed = (
        map_[:, network.code_channels("relu3_1") :]
        for map_ in (features, again, network.encode(decoder(features, detail_weight=0), "relu3_1"))
    )
    assert (found - given).norm() < 0.01 * given.norm() < (guessed - given).norm()


def test_the_details_of_every_shipped_decoder_can_be_restored() -> None:
    encoder = load_encoder(EncoderSource())
    assert set(encoder.network.details) == {"relu3_1", "relu4_1"}
    for cut in encoder.network.details:
        load_decoder(encoder, "kt-vgg", cut, None).network.check_details(f"at {cut}")


def test_a_loaded_network_has_no_trainable_parameter() -> None:
    network = load_encoder(EncoderSource()).network
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_a_changed_shipped_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"kt-vgg": {"encoder": shipped()["kt-vgg"]["encoder"] | {"sha256": "0" * 64}}}
    monkeypatch.setattr("kt_batch.models.weights.shipped", lambda: changed)
    with pytest.raises(WeightsError, match="is damaged: its SHA-256 is not the listed one") as error:
        load_encoder(EncoderSource())
    assert one_sentence(error)


# ---- round trips ----


def test_an_encoder_round_trips_through_its_file(tmp_path: Path) -> None:
    encoder = small_encoder()
    data = encoder_bytes(encoder, "small")
    loaded = load_encoder(EncoderSource(path=write(tmp_path, data)))
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.network.preprocess == encoder.preprocess
    # Weights are kept as float16.
    torch.testing.assert_close(
        loaded.network.encode(picture(), "relu2_1"), encoder.encode(picture(), "relu2_1"), atol=5e-3, rtol=5e-3
    )
    assert encoder_bytes(loaded.network, "small") == data


def test_an_encoder_with_every_kind_of_layer_round_trips_bit_for_bit(tmp_path: Path) -> None:
    encoder = coded_encoder()
    encoder.load_state_dict({name: tensor.half().float() for name, tensor in encoder.state_dict().items()})
    data = encoder_bytes(encoder, "coded")
    network = load_encoder(EncoderSource(path=write(tmp_path, data))).network
    assert (network.layers, network.codes, network.channels) == (encoder.layers, encoder.codes, encoder.channels)
    assert network.details == encoder.details == {"relu2_1": 3}
    assert (network.padding, network.preprocess) == (encoder.padding, encoder.preprocess)
    assert {tensor.dtype for tensor in load(data).values()} == {torch.float16}
    assert set(network.state_dict()) == set(encoder.state_dict())
    assert all(tensor.equal(encoder.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert network.encode(picture(), "relu2_1").shape == (1, 6 + 3, 8, 8)
    assert encoder_bytes(network, "coded") == data


@pytest.mark.parametrize("details", [0, 3])
@pytest.mark.parametrize("direct", [False, True])
def test_a_subpixel_decoder_round_trips_through_its_file(tmp_path: Path, direct: bool, details: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(6 + 3, ("subpixel:4", "res", "conv:4", "subpixel-out"), direct=direct, details=details)
    decoder.load_state_dict({name: tensor.half().float() for name, tensor in decoder.state_dict().items()})
    if decoder.detail is not None:
        torch.nn.init.dirac_(decoder.detail.weight)  # each uses its own colour: orthogonal, of equal length
    encoder = load_encoder(EncoderSource(path=write(tmp_path, encoder_bytes(coded_encoder(), "coded"))))
    data = decoder_bytes(decoder, encoder.sha256, "relu2_1")
    loaded = load_decoder(encoder, "coded", "relu2_1", write(tmp_path, data))
    assert loaded.network.blocks == decoder.blocks
    assert (loaded.network.direct is not None) is direct
    assert loaded.network.details == details
    assert set(loaded.network.state_dict()) == set(decoder.state_dict())
    assert all(tensor.equal(decoder.state_dict()[name]) for name, tensor in loaded.network.state_dict().items())
    assert decoder_bytes(loaded.network, encoder.sha256, "relu2_1") == data


def test_a_decoder_whose_details_cannot_be_restored_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoder = Decoder(6 + 3, ("subpixel:4", "res", "conv:4", "subpixel-out"), details=3)  # directions at random
    encoder = load_encoder(EncoderSource(path=write(tmp_path, encoder_bytes(coded_encoder(), "coded"))))
    path = write(tmp_path, decoder_bytes(decoder, encoder.sha256, "relu2_1"))
    with pytest.raises(WeightsError, match=rf"^The details of '{path}' cannot be restored: "):
        load_decoder(encoder, "coded", "relu2_1", path)


def test_a_decoder_round_trips_through_its_file(tmp_path: Path) -> None:
    encoder = load_encoder(EncoderSource(path=write(tmp_path, encoder_bytes(small_encoder(), "small"))))
    data = decoder_bytes(small_decoder(), encoder.sha256, "relu2_1")
    loaded = load_decoder(encoder, "small", "relu2_1", write(tmp_path, data))
    features = encoder.network.encode(picture(), "relu2_1")
    expected = small_decoder().decode(features)
    torch.testing.assert_close(loaded.network.decode(features), expected, atol=5e-3, rtol=5e-3)
    assert decoder_bytes(loaded.network, encoder.sha256, "relu2_1") == data


def test_equal_networks_give_equal_files() -> None:
    # Files are known by their SHA-256. (safetensors alone writes metadata in another order each time.)
    assert len({encoder_bytes(small_encoder(), "small") for _ in range(10)}) == 1
    assert len({decoder_bytes(small_decoder(), "0" * 64, "relu2_1") for _ in range(10)}) == 1
    assert list(metadata_of(encoder_bytes(small_encoder(), "small"))) == sorted(metadata_of(good()))


# ---- refusals ----


def pickled() -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({"conv1_1.0.weight": torch.zeros(1)}, buffer)
    return buffer.getvalue()


def good() -> bytes:
    return encoder_bytes(small_encoder(), "small")


def short_of_a_tensor() -> bytes:
    tensors = load(good())
    del tensors["conv1_2.0.weight"]
    return save(tensors, metadata_of(good()))


def coded(**changes: Tensor | None) -> bytes:
    """Return the file of the coded encoder with other tensors; None removes one. Dots are written as `__`."""
    data = encoder_bytes(coded_encoder(), "coded")
    tensors = load(data) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return save({name: tensor for name, tensor in tensors.items() if tensor is not None}, metadata_of(data))


def metadata_of(data: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return found


def reshaped() -> bytes:
    tensors = load(good())
    return save(tensors | {"conv2_1.0.weight": torch.zeros(6, 5, 3, 3)}, metadata_of(good()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: b"", "is not a safetensors file"),
        (lambda: b"\x89PNG\r\n\x1a\n" + b"0" * 100, "is not a safetensors file"),
        (pickled, "pickled weights such as .pth are refused"),
        (lambda: good()[:-1], "is not a safetensors file"),
        (lambda: good()[:60], "is not a safetensors file"),
        (lambda: save({"a": torch.zeros(1)}), f"is neither of format {ENCODER_FORMAT} nor a VGG-19"),
        (lambda: with_metadata(good(), format="kt-batch-encoder/9"), f"is neither of format {ENCODER_FORMAT}"),
        (lambda: decoder_bytes(small_decoder(), "0" * 64, "relu2_1"), f"is neither of format {ENCODER_FORMAT}"),
        (short_of_a_tensor, "lacks the weights of conv1_2"),
        (reshaped, "does not fit its network"),
        (lambda: with_metadata(good(), format="kt-batch-encoder/1"), f"is neither of format {ENCODER_FORMAT}"),
        (lambda: coded(conv1_2__0__weight=None), "lacks the weights of conv1_2"),
        (lambda: coded(conv1_2__1__weight=None), "does not fit its network"),
        (lambda: coded(conv1_2__1__weight=torch.zeros(())), "does not describe a network"),
        (lambda: coded(code_relu1_1__weight=None), "does not fit its network"),
        (lambda: coded(code_relu1_1__weight=torch.zeros(())), "does not describe a network"),
        (lambda: coded(code_relu1_1__weight=torch.zeros(2, 5, 1, 1)), "does not fit its network"),
        (lambda: coded(code_conv1_1__weight=torch.zeros(2, 4, 1, 1)), "does not fit its network"),
        (lambda: coded(detail_relu2_1__weight=torch.zeros(())), "does not describe a network"),
        (lambda: coded(detail_relu2_1__weight=torch.zeros(3, 3, 4, 4)), "does not fit its network"),
        (lambda: coded(detail_conv1_1__weight=torch.zeros(2, 3, 1, 1)), "details at conv1_1, where there is no code"),
        (lambda: coded(code_relu2_1__weight=None), "details at relu2_1, where there is no code"),
        (lambda: with_metadata(good(), layers=None), "'layers'"),
        (lambda: with_metadata(good(), layers="conv1_1 norm1_1"), "norm"),
        (lambda: with_metadata(good(), padding=None), "'padding'"),
        (lambda: with_metadata(good(), preprocess="{"), "is not readable as JSON"),
        (lambda: with_metadata(good(), preprocess='{"mean": [0,0,0], "std": [1,1,1], "more": 1}'), "more"),
        (lambda: save({"features.3.weight": torch.zeros(1)}), "holds no VGG-19"),
        (lambda: save({"features.0.weight": torch.zeros(64, 3, 3, 3)}), "holds no VGG-19"),
        (lambda: save({"features.0.weight": torch.zeros(()), "features.0.bias": torch.zeros(1)}), "does not describe"),
        (lambda: save(vgg19_state() | {"features.2.weight": torch.zeros(64, 9, 3, 3)}), "does not fit VGG-19"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_an_encoder_is_refused_in_one_sentence(
    tmp_path: Path, data: Callable[[], bytes], message: str
) -> None:
    path = write(tmp_path, data())
    with pytest.raises(WeightsError, match=re.escape(message)) as error:
        load_encoder(EncoderSource(path=path))
    assert path in str(error.value)
    assert one_sentence(error)


def test_a_missing_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file") as error:
        load_encoder(EncoderSource(path=str(tmp_path / "absent")))
    assert one_sentence(error)


def test_an_unknown_encoder_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"no encoder 'resnet'; choose one of kt-vgg, vgg19\.$"):
        load_encoder(EncoderSource("resnet"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: b"no weights", "is not a safetensors file"),
        (good, f"has format '{ENCODER_FORMAT}', expected '{DECODER_FORMAT}'"),
        (lambda: save({"a": torch.zeros(1)}), f"has format 'None', expected '{DECODER_FORMAT}'"),
        (lambda: with_metadata(a_decoder(), encoder_sha256=None), "'encoder_sha256'"),
        (lambda: with_metadata(a_decoder(), channels="many"), "many"),
        (lambda: with_metadata(a_decoder(), channels="7"), "does not fit its network"),
        (lambda: with_metadata(a_decoder(), blocks="conv:4 res down out"), "down"),
        (lambda: with_metadata(a_decoder(), activation="exec"), "exec"),
    ],
)
def test_a_file_that_is_not_a_decoder_is_refused_in_one_sentence(
    tmp_path: Path, data: Callable[[], bytes], message: str
) -> None:
    path = write(tmp_path, data())
    with pytest.raises(WeightsError, match=re.escape(message)) as error:
        load_decoder(load_encoder(EncoderSource()), "kt-vgg", "relu3_1", path)
    assert path in str(error.value)
    assert one_sentence(error)


def a_decoder() -> bytes:
    return decoder_bytes(small_decoder(), load_encoder(EncoderSource()).sha256, "relu3_1")


def test_a_decoder_of_a_different_encoder_is_a_mismatch(tmp_path: Path) -> None:
    path = write(tmp_path, decoder_bytes(small_decoder(), "ab" * 32, "relu3_1"))
    encoder = load_encoder(EncoderSource())
    with pytest.raises(
        MismatchError, match=f"is for encoder {'ab' * 8} at relu3_1, not for {encoder.sha256[:16]}"
    ) as error:
        load_decoder(encoder, "kt-vgg", "relu3_1", path)
    assert one_sentence(error)


def test_a_decoder_of_a_different_layer_is_a_mismatch(tmp_path: Path) -> None:
    encoder = load_encoder(EncoderSource())
    path = write(tmp_path, decoder_bytes(small_decoder(), encoder.sha256, "relu2_1"))
    with pytest.raises(MismatchError, match="at relu2_1, not for"):
        load_decoder(encoder, "kt-vgg", "relu3_1", path)


def test_a_layer_without_a_shipped_decoder_requires_a_file() -> None:
    with pytest.raises(
        UsageError, match="No decoder is shipped for encoder 'kt-vgg' at relu1_2; give --decoder-weights"
    ):
        load_decoder(load_encoder(EncoderSource()), "kt-vgg", "relu1_2", None)


# ---- VGG-19 ----


def vgg19_network() -> nn.Sequential:
    """torchvision's `vgg19().features` up to relu4_1, with random weights of the true shapes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for width in VGG19_WIDTHS:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(before, width, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, nn.ReLU()]
        before = width
    return nn.Sequential(*layers)


def vgg19_state() -> dict[str, Tensor]:
    return {f"features.{name}": tensor for name, tensor in vgg19_network().state_dict().items()}


def test_vgg19_is_read_under_the_names_of_torchvision(tmp_path: Path) -> None:
    loaded = load_encoder(EncoderSource("vgg19", write(tmp_path, save(vgg19_state())))).network
    assert loaded.layers == VGG19_LAYERS
    assert [loaded.channels_at(cut) for cut in ("relu1_1", "relu2_1", "relu3_1", "relu4_1")] == [64, 128, 256, 512]
    image = picture()
    mean, std = torch.tensor(TORCHVISION.mean).view(3, 1, 1), torch.tensor(TORCHVISION.std).view(3, 1, 1)
    with torch.no_grad():
        expected = vgg19_network()((image - mean) / std)
    torch.testing.assert_close(loaded.encode(image, "relu4_1"), expected, atol=1e-3, rtol=1e-3)


def test_vgg19_up_to_relu3_1_suffices_for_relu3_1(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in vgg19_state().items() if int(name.split(".")[1]) <= 10}
    loaded = load_encoder(EncoderSource("vgg19", write(tmp_path, save(state)))).network
    assert loaded.layers[-1] == "relu3_1"


def test_the_pixel_range_in_the_metadata_of_a_file_is_used(tmp_path: Path) -> None:
    metadata = {"preprocess": "caffe: BGR * 255 - mean", "padding": "reflection"}
    state = {name: tensor for name, tensor in vgg19_state().items() if int(name.split(".")[1]) == 0}
    loaded = load_encoder(EncoderSource("vgg19", write(tmp_path, save(state, metadata)))).network
    assert loaded.preprocess == CAFFE
    assert loaded.padding == "reflect"
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    expected = torch.tensor([255 - 103.939, -116.779, -123.68]).view(1, 3, 1, 1)
    torch.testing.assert_close(loaded.preprocess(blue), expected)


# ---- files of strangers ----------------------------------------------------------------------------------------------


def test_no_file_starts_a_download_of_vgg19(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"not on this machine, .* give them with --encoder-weights FILE"):
        load_encoder(EncoderSource("vgg19", download=False))
    assert list(tmp_path.iterdir()) == []


def test_another_file_under_the_name_of_vgg19_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub/checkpoints/vgg19-dcbb9e9d.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # a pickle that runs a command
    for download in (True, False):
        with pytest.raises(WeightsError, match="which should begin with dcbb9e9d; remove it"):
            load_encoder(EncoderSource("vgg19", download=download))


def test_a_weight_file_that_is_a_device_is_refused_at_once() -> None:
    with pytest.raises(WeightsError, match="'/dev/zero' cannot be read: /dev/zero is a device") as error:
        load_encoder(EncoderSource(path="/dev/zero"))
    assert one_sentence(error)


def test_a_weight_file_without_blocks_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hole.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(WeightsError, match="claims 1073741824 bytes, and nearly all of them are a hole"):
        load_encoder(EncoderSource(path=str(path)))


def test_a_shape_without_values_allocates_nothing(tmp_path: Path) -> None:
    data = save({"features.0.weight": torch.zeros(10**6, 0, 3, 3), "features.0.bias": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"holds the tensor 'features\.0\.weight' without a value"):
        load_encoder(EncoderSource(path=write(tmp_path, data)))
