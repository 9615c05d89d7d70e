"""An evaluation of styles: networks loaded, pictures measured, one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kt_batch.errors import UsageError
from kt_batch.evaluation.style.compare import Show, compare
from kt_batch.evaluation.style.contenders import Contender, check_names
from kt_batch.evaluation.style.measures import StyleMeasures
from kt_batch.evaluation.style.network import NetworkMeasures
from kt_batch.evaluation.style.pictures import StylePicture
from kt_batch.evaluation.style.report import ImageFacts, MethodReport, StyleReport
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import Progress

TORCHVISION = "torchvision"
NO_NETWORK = "VGG-19 is not given: name its weights with --vgg-weights FILE, or torchvision's with torchvision"
LEAST_SPREAD = 0.5 / 255  # between the darkest and the lightest value of a channel


@dataclass(frozen=True)
class StylePictures:
    """The pictures that are combined: every photograph with every painting, all read at one size."""

    photographs: Sequence[StylePicture]
    paintings: Sequence[StylePicture]
    size: int

    def __post_init__(self) -> None:
        """Raise UsageError for a painting of one colour: every other picture is at an infinite distance from it."""
        for painting in self.paintings:
            lowest, highest = (extreme(painting.image, (1, 2)) for extreme in (torch.amin, torch.amax))
            if float((highest - lowest).max()) < LEAST_SPREAD:
                raise UsageError(f"'{painting.uri}' is of one colour, so the style measures have nothing to compare.")


@dataclass(frozen=True)
class StyleNetwork:
    """VGG-19 for the measures, and the file and SHA-256 of its weights; None and empty without."""

    measures: NetworkMeasures | None = None
    facts: dict[str, str] | None = None


def load_network(weights: str | None) -> StyleNetwork:
    """Load VGG-19 for the measures: from a file, from torchvision, or not at all.

    Raises:
        WeightsError: the file is damaged or ends before relu4_1, or torchvision's weights cannot be had.
    """
    if weights is None:
        return StyleNetwork()
    loaded = load_encoder(EncoderSource("vgg19", None if weights == TORCHVISION else weights))
    return StyleNetwork(NetworkMeasures(loaded.network, weights), {"weights": weights, "sha256": loaded.sha256})


def evaluate_style(
    pictures: StylePictures,
    contenders: Sequence[Contender],
    absent: Mapping[str, str],
    network: StyleNetwork,
    numerics: dict[str, str],
    show: Show,
    progress: Progress,
) -> StyleReport:
    """Measure every contender on every pair of a photograph and a painting.

    Args:
        pictures: photographs and paintings.
        contenders: those whose results are compared.
        absent: methods that cannot be compared, by name, and why.
        network: VGG-19, or nothing.
        numerics: the numerics class of this process.
        show: gets every result.
        progress: is told of every result.

    Raises:
        UsageError: there are no contenders, two have one name, or two pictures have one.
    """
    if not contenders:
        raise UsageError("There is nothing to compare; give --method, --results or --peer-weights.")
    check_names(pictures.photographs, "photographs")
    check_names(pictures.paintings, "paintings")
    measures = StyleMeasures(load_encoder(EncoderSource()).network, network.measures)
    methods, pairs = compare(pictures.photographs, pictures.paintings, contenders, measures, show, progress)
    missing = tuple(MethodReport(name, "peer", {}, name, absent=reason) for name, reason in absent.items())
    return StyleReport(
        size=pictures.size,
        network=network.facts,
        absent={} if network.measures else dict.fromkeys(("style_distance", "structure"), NO_NETWORK),
        numerics=numerics,
        photographs=tuple(map(_facts, pictures.photographs)),
        paintings=tuple(map(_facts, pictures.paintings)),
        methods=methods + missing,
        pairs=pairs,
    )


def spread_pairs(pictures: StylePictures, count: int) -> list[tuple[str, str]]:
    """Return the ids of at most `count` pairs, such that photographs and paintings all occur early.

    First comes each photograph with one painting, in turn, then each with the next painting, and so on.
    """
    photographs, paintings = pictures.photographs, pictures.paintings
    pairs = [
        (photograph.id, paintings[(number + shift) % len(paintings)].id)
        for shift in range(len(paintings))
        for number, photograph in enumerate(photographs)
    ]
    return pairs[:count]


def _facts(picture: StylePicture) -> ImageFacts:
    return ImageFacts(picture.id, picture.name, picture.uri, picture.working.width, picture.working.height)
