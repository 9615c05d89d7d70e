"""Contenders, whose results are compared: our own methods, folders of finished pictures, the photograph itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import ValidationError
from torch import Tensor

from kt_batch.config import EncoderConfig, ExtractConfig, MethodConfig, describe_fault
from kt_batch.errors import MissingError, UsageError
from kt_batch.evaluation.style.pictures import Decode, StylePicture, in_size_of, read_picture
from kt_batch.methods.base import UNCHANGED, Need, Resources
from kt_batch.methods.table import method_named, parse_config
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.encoders import new_encoder
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.single import index_for, load_networks
from kt_batch.store.images.files import decode

IN_MEMORY = frozenset({Need.ENCODER, Need.DECODER, Need.DECODERS, Need.INDEX, Need.STYLES, Need.IMAGES})
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

    method: its name. values: its own settings. layer: where the encoder is cut; None takes the method's own.
    """

    name: str
    method: str
    values: Mapping[str, object]
    layer: str | None
    size: int
    kind: str = "method"

    def __post_init__(self) -> None:
        """Raise UsageError for a method that follows no painting, and for a setting that is not allowed."""
        needs = method_named(self.method).needs
        instead = {Need.STATISTICS} if Need.STYLES in needs else set()  # of a library, in place of style images
        if unmet := needs - IN_MEMORY - instead:
            needed = ", ".join(sorted(unmet))
            raise UsageError(f"The method {self.method} needs {needed}, and follows no painting; leave it out.")
        encoder = EncoderConfig.model_validate({"weights_sha256": "", "layer": self._cut, "size": self.size})
        try:
            self._config({"encoder": encoder, "styles": ("0" * 16,)})
        except ValidationError as error:
            raise UsageError(f"The method '{self.name}' cannot be used: {describe_fault(error)}") from error

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return method, layer and settings."""
        return {"method": self.method, "layer": self._cut, **self.values}

    @property
    def _cut(self) -> str | None:
        return self.layer or method_named(self.method).layer or EncoderConfig.model_fields["layer"].default

    def after(self, painting: StylePicture) -> Translate:
        """Return the method with the painting's patches, or with the painting itself."""
        method = method_named(self.method)
        content, loaded = self._networks(painting, method.needs)
        if Need.STYLES in method.needs:
            content["styles"], loaded["styles"] = (painting.id,), {painting.id: painting.image}
        ready = method(self._config(content), Resources(**loaded))

        def translate(photograph: StylePicture) -> Tensor:
            output = ready.translate(photograph.image).output
            return photograph.image if output is UNCHANGED else cast("Tensor", output)

        return translate

    def _config(self, resources: Mapping[str, object]) -> MethodConfig:
        """Return the configuration with the fields that name resources."""
        return parse_config({**self.values, "method": self.method, **resources})

    def _networks(self, painting: StylePicture, needs: Collection[Need]) -> tuple[dict[str, object], dict[str, Any]]:
        """Return the fields of the configuration that name the networks, and the resources that use them."""
        content: dict[str, object] = {}
        loaded: dict[str, Any] = {}
        if Need.ENCODER in needs:
            source = EncoderSource()
            _, content["encoder"] = new_encoder(source, str(self._cut), self.size)
            networks = load_networks(source, method_named(self.method), str(self._cut), None)
            content |= networks.digests
            loaded |= networks.resources
            if Need.INDEX in needs:
                encoding = cast("EncoderConfig", content["encoder"])
                patches = image_patches(
                    networks.encoder.network, painting.working, painting.id, ExtractConfig(encoder=encoding)
                )
                loaded["index"] = index_for(method_named(self.method), patches, networks.encoder.network, encoding)
            if Need.IMAGES in needs:
                loaded["images"] = {painting.id: painting.image}
        return content, loaded


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
