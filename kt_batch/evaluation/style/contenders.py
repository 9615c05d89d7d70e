"""Contenders, whose results are compared: our own methods, folders of finished pictures, the photograph itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from torch import Tensor

from kt_batch.config import BankShare, EncoderConfig, ExtractConfig, MethodConfig, describe_fault
from kt_batch.errors import MissingError, UsageError
from kt_batch.evaluation.style.painting_banks import PaintingBank, bank_for, load_painting_bank
from kt_batch.evaluation.style.pictures import Decode, StylePicture, in_size_of, read_picture
from kt_batch.methods.base import Method, Need, Resources, Result, Unchanged
from kt_batch.methods.features import to_tensor
from kt_batch.methods.table import method_named, parse_config
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.encoders import encoder_config
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.single import Networks, index_for, load_networks
from kt_batch.store.images.files import decode

SOURCE = EncoderSource()  # the shipped networks
IN_MEMORY = frozenset({Need.ENCODER, Need.DECODER, Need.DECODERS, Need.INDEX, Need.STYLES, Need.IMAGES, Need.BANKS})
ANY_BANK = {"network": "0" * 64, "banks": (BankShare(bank="0" * 64, weight=1.0, images=("0" * 16,)),)}
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

Translate = Callable[[StylePicture], Tensor]  # a photograph -> its result, (3, H, W) in [0, 1]


class Contender(Protocol):
    """Makes a result of a photograph after one painting.

    kind: `photograph`, `method`, `results` or `peer`. settings: for the report, as plain values.
    """

    @property
    def name(self) -> str:
        """Return the name."""

    @property
    def kind(self) -> str:
        """Return the kind."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the settings."""

    def after(self, painting: StylePicture) -> Translate:
        """Return what translates photographs after a painting; the painting is prepared once."""


class Unedited:
    """The photograph as its own result: what no method must fall below."""

    name, kind = "photograph", "photograph"
    settings: Mapping[str, Any] = {}

    def after(self, painting: StylePicture) -> Translate:  # noqa: ARG002 - as every contender
        """Return the photograph itself, whatever the painting is."""
        return lambda photograph: photograph.image


@dataclass(frozen=True)
class OwnMethod:
    """A method of ours with the shipped networks, the painting as its only style, as `kt-batch try` works.

    method: its name. values: its own settings. layer: where the encoder is cut; None takes the method's own. banks:
    Image id of a painting -> its filter bank, for a method that needs banks.
    """

    name: str
    method: str
    values: Mapping[str, object]
    layer: str | None
    size: int
    kind: str = "method"
    banks: Mapping[str, PaintingBank] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UsageError for a method that needs more than a painting, and for a setting that is not allowed."""
        if needed := lacking(self.method):
            raise UsageError(f"The method {self.method} needs {needed}, which no painting gives; leave it out.")
        encoder = EncoderConfig.model_validate({"weights_sha256": "", "layer": self._cut, "size": self.size})
        try:
            self._config({"encoder": encoder, "styles": ("0" * 16,), **(ANY_BANK if self.needs_banks else {})})
        except ValidationError as error:
            raise UsageError(f"The method '{self.name}' cannot be used: {describe_fault(error)}") from error

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the method, the layer where it has an encoder, its banks by painting, and its settings."""
        layer = {"layer": self._cut} if Need.ENCODER in method_named(self.method).needs else {}
        banks = {"banks": {image: bank.id for image, bank in self.banks.items()}} if self.needs_banks else {}
        return {"method": self.method, **layer, **self.values, **banks}

    @property
    def needs_banks(self) -> bool:
        """Return whether paintings need filter banks of their own."""
        return Need.BANKS in method_named(self.method).needs

    @property
    def _cut(self) -> str | None:
        return self.layer or method_named(self.method).layer or EncoderConfig.model_fields["layer"].default

    def with_banks_of(self, paintings: Sequence[StylePicture]) -> OwnMethod:
        """Return the method with the banks of these paintings alone; with none where it needs none."""
        ids = sorted({painting.id for painting in paintings} & self.banks.keys()) if self.needs_banks else []
        return replace(self, banks={identity: self.banks[identity] for identity in ids})

    def after(self, painting: StylePicture) -> Translate:
        """Return the method with the painting's patches, its bank, or with the painting itself.

        Raises:
            NoBankError: The method needs a bank for the painting, and has none.
        """
        ready = self.prepared(painting, self.load())
        return lambda photograph: picture_of(ready.translate(photograph.image), photograph)

    def load(self) -> Networks | None:
        """Return the networks, which every painting shares; None for a method without any."""
        method = method_named(self.method)
        return load_networks(SOURCE, method, str(self._cut), None) if Need.ENCODER in method.needs else None

    def prepared(self, painting: StylePicture, networks: Networks | None) -> Method:
        """Return the method, ready to translate photographs after a painting. Raises NoBankError as `after`."""
        method = method_named(self.method)
        content, loaded = self._resources(painting, networks)
        if Need.STYLES in method.needs:
            content["styles"], loaded["styles"] = (painting.id,), {painting.id: painting.image}
        return method(self._config(content), Resources(**loaded))

    def _config(self, resources: Mapping[str, object]) -> MethodConfig:
        """Return the configuration with the fields that name resources."""
        return parse_config({**self.values, "method": self.method, **resources})

    def _resources(self, painting: StylePicture, networks: Networks | None) -> tuple[dict[str, object], dict[str, Any]]:
        """Return the fields of the configuration that name the networks, and the resources that use them."""
        if self.needs_banks:
            named, banks = load_painting_bank(bank_for(painting, self.banks))
            return named, {"banks": banks}
        if networks is None:
            return {}, {}
        method = method_named(self.method)
        encoding = encoder_config(SOURCE, networks.encoder, str(self._cut), self.size)
        content: dict[str, object] = {"encoder": encoding, **networks.digests}
        loaded = dict(networks.resources)
        if Need.INDEX in method.needs:
            network = networks.encoder.network
            patches = image_patches(network, painting.working, painting.id, ExtractConfig(encoder=encoding))
            loaded["index"] = index_for(method, patches, network, encoding)
        if Need.IMAGES in method.needs:
            loaded["images"] = {painting.id: painting.image}
        return content, loaded


def lacking(method: str) -> str:
    """Return the needs of a method that no painting meets, in words; an empty text where there are none."""
    needs = method_named(method).needs
    instead = {Need.STATISTICS} if Need.STYLES in needs else set()  # of a library, in place of style images
    return ", ".join(sorted(needs - IN_MEMORY - instead))


def picture_of(result: Result, photograph: StylePicture) -> Tensor:
    """Return the picture of a result, `(3, H, W)`: an edit is applied to the photograph at its working size."""
    output = result.output
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Unchanged):
        return photograph.image
    pixels = output.apply(photograph.working.pixels.copy(), 0, photograph.working.height)
    return to_tensor(pixels).clamp(0, 1)


class Finished:
    """A folder of finished pictures, `PHOTOGRAPH__PAINTING.png`: the names of both files without endings, or both ids.

    The endings .png, .jpg, .jpeg, .webp, .tif and .tiff are looked for in this order.
    """

    kind = "results"

    def __init__(self, name: str, folder: Path, size: int, decode: Decode = decode) -> None:
        """Take the folder, and what decodes its files. Raises MissingError when there is none."""
        if not folder.is_dir():
            raise MissingError(f"The folder '{folder}' of --results {name} does not exist.")
        self.name, self._folder, self._size, self._decode = name, folder, size, decode
        self.settings: Mapping[str, Any] = {"folder": str(folder)}

    def after(self, painting: StylePicture) -> Translate:
        """Return what reads the pictures after one painting.

        It raises MissingError where a picture is missing, and RejectError or UsageError where one cannot be used.
        """
        return lambda photograph: in_size_of(self._read(photograph, painting), photograph)

    def _read(self, photograph: StylePicture, painting: StylePicture) -> StylePicture:
        path = self._find(result_names(photograph, painting))
        if path is None:
            raise MissingError(f"'{self._folder}' holds no {photograph.name}__{painting.name}.png")
        return read_picture(str(path.absolute()), self._size, self._decode)

    def _find(self, names: Iterable[str]) -> Path | None:
        paths = (self._folder / f"{name}{ending}" for name in names for ending in ENDINGS)
        return next((path for path in paths if path.is_file()), None)


def result_names(photograph: StylePicture, painting: StylePicture) -> tuple[str, str]:
    """Return the names, without an ending, that a finished picture may have; ours has the first."""
    return f"{photograph.name}__{painting.name}", f"{photograph.id}__{painting.id}"


def check_names(pictures: Sequence[StylePicture], what: str) -> None:
    """Raise UsageError when two pictures of one evaluation have one name, which would stand for both results."""
    known: dict[str, StylePicture] = {}
    for picture in pictures:
        other = known.setdefault(picture.name, picture)
        if other is not picture:
            raise UsageError(
                f"Two {what} are called '{picture.name}': '{other.uri}' and '{picture.uri}'; rename one, so that names "
                "of results are unique."
            )
