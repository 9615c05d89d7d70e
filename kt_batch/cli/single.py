"""The command `try`: one photograph at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields, expand
from kt_batch.cli.config_file import ConfigFile, TrustConfig
from kt_batch.cli.output import print_summary
from kt_batch.cli.settings import MethodOptions, method_options
from kt_batch.config import DEFAULT_SIZE, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.methods.base import Enlarger, Method, Need
from kt_batch.methods.painting.method import Painting
from kt_batch.methods.table import METHODS as ALL_METHODS
from kt_batch.pipelines.single import Networks, SingleSummary, load_networks, translate_chosen, translate_one
from kt_batch.pipelines.translate.banks import without_weight
from kt_batch.pipelines.translate.large import larger_size
from kt_batch.pipelines.translate.masks import check_regions, mask_file
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.pipelines.translate.style_images import style_places
from kt_batch.store.passed_over import in_words
from kt_batch.store.targets import Inputs, Target

TO_CHOOSE = {Need.INDEX, Need.STYLES, Need.BANKS}  # what a caller chooses styles with
METHODS: dict[str, type[Method]] = {
    "painting": Painting,
    **{name: method for name, method in ALL_METHODS.items() if TO_CHOOSE & method.needs},
}
SETTINGS = (
    *("method", "strength", "sources", "levels", "stroke", "brushwork"),
    *("swap", "alpha", "top_k", "probes", "query_stride"),
    *("style_weight", "iterations", "optimiser", "start", "sizes", "smoothness", "updates", "rounds", "details"),
    *("content_weight", "learning_rate"),
    *("preserve_colour", "quality", "output_space"),
)
STYLE = "A painting, or a place of paintings; may be repeated, and end in a weight, as in irises.jpg=0.5."
FORMATS = {".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".png": "png"}


Out = Annotated[Path | None, typer.Option("--out", help="Where the result goes; default: PHOTO-kt.png, here.")]
Paintings = Annotated[list[str] | None, typer.Option("--style", help=STYLE)]


def add_try(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("try")(expand(try_command, settings=method_options(METHODS)))


def try_command(
    context: typer.Context,
    photo: Annotated[str, typer.Argument(help="The photograph.")],
    style: Paintings = None,
    *,
    where: options.RegionOptions,
    out: Out = None,
    settings: Annotated[MethodOptions, Fields(only=SETTINGS)],
    cut: options.CutOptions,
    weights: options.EncoderOptions,
    decoder_weights: options.DecoderWeights = None,
    banks: options.BankOptions,
    how: options.Threads,
    force: options.Force = False,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Re-render one photograph after a few paintings, at once: no Ray, no library.

    kt-batch try holiday.jpg --style starry_night.jpg

    kt-batch try holiday.jpg --style starry_night.jpg --method knowledge --swap statistics

    kt-batch try holiday.jpg --method stylebank --bank starry_night.bank.safetensors
    """
    path = out or Path(f"{Path(photo).stem}-kt.png")
    image_format = _format(path)
    files = (photo, where.mask, weights.encoder_weights, decoder_weights, config, banks.network)
    read = Inputs(images=style_places(style or ()).places, files=(*files, *map(without_weight, banks.bank)))
    target = Target("--out", path, read, force)
    target.check()
    chosen = settings.model_copy(update={"method": settings.method or next(iter(METHODS))}).resolve()
    method = _known(chosen.method)
    check_regions(chosen.method, where.mask, where.regions, bool(TO_CHOOSE & method.needs))
    values = {**chosen.values, "format": image_format}
    if Need.BANKS in method.needs:
        found = _choice(context, banks, style or (), where, (cut, weights, decoder_weights))
        translation, sources = choose(chosen.method, values, found)
        data, summary = translate_chosen(photo, translation, sources, how.threads, mask_file(where.mask))
    else:
        _check_paintings(chosen.method, style, banks)
        values["regions"] = where.regions
        wanted, cut = cut.size, _of_sources(method, _at_layer(context, chosen.method, cut, decoder_weights))
        networks, translation = _networks(method, values, (weights, cut, decoder_weights), wanted)
        of = networks, method, translation, how.threads
        data, summary = translate_one(photo, style or (), *of, mask_file(where.mask))
    target.write(data)
    print_summary({"out": str(path), **asdict(summary)}, _lines(path, summary), json)
    return 0


def _format(path: Path) -> str:
    """Return the format of a picture by its ending. Raises UsageError."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"--out '{path}' must end in .png, .jpg or .webp.")
    return found


def _networks(
    method: type[Method],
    values: Mapping[str, object],
    of: tuple[options.EncoderOptions, options.CutOptions, str | None],
    wanted: int,
) -> tuple[Networks, MethodConfig]:
    """Return the networks of a method that follows paintings, and its configuration.

    Args:
        method: The method.
        values: Its settings.
        of: The encoder, its cut, and a file for the decoder.
        wanted: Long side of the picture, in pixels.
    """
    weights, cut, decoder_weights = of
    source, encoder = options.new_encoder(weights, cut)
    networks = load_networks(source, method, cut.layer, decoder_weights)
    styles = {"styles": ("0" * 16,)} if Need.STYLES in method.needs else {}  # the paintings are read later
    larger = larger_size(method, encoder, wanted)
    fields = {**values, "encoder": encoder, **networks.digests, **larger, **styles}
    return networks, method.config_type.model_validate(fields)


def _choice(
    context: typer.Context,
    banks: options.BankOptions,
    style: Sequence[str],
    where: options.RegionOptions,
    networks: tuple[options.CutOptions, options.EncoderOptions, str | None],
) -> Choice:
    """Return what is given for a method with banks; it refuses what it does not use."""
    cut, weights, decoder_weights = networks
    return Choice(
        banks=banks.bank,
        network=banks.network,
        styles=style,
        mask=where.mask,
        regions=where.regions,
        size=cut.size,
        encoder=None if options.is_default(context, "encoder") else weights.encoder,
        encoder_weights=weights.encoder_weights,
        layer=None if options.is_default(context, "layer") else cut.layer,
        decoder_weights=decoder_weights,
    )


def _check_paintings(name: str, style: list[str] | None, banks: options.BankOptions) -> None:
    """Raise UsageError where paintings are missing, or banks are given to a method without them."""
    if banks.bank or banks.network:
        raise UsageError(f"The method {name} does not use --{'bank' if banks.bank else 'network'}; leave it out.")
    if not style:
        raise UsageError(f"The method {name} needs --style.")


def _known(name: str) -> type[Method]:
    """Return a method. Raises UsageError for one that does not follow paintings."""
    if name not in METHODS:
        raise UsageError(f"`try` follows paintings, and {name} does not; it takes {', '.join(METHODS)}.")
    return METHODS[name]


def _of_sources(method: type[Method], cut: options.CutOptions) -> options.CutOptions:
    """Return the cut at the size at which paintings are read: at most the default, where a method enlarges pictures."""
    size = min(cut.size, DEFAULT_SIZE) if issubclass(method, Enlarger) else cut.size
    return cut.model_copy(update={"size": size})


def _at_layer(
    context: typer.Context, name: str, cut: options.CutOptions, decoder_weights: str | None
) -> options.CutOptions:
    """Return the cut at the layer of a method. Raises UsageError for options that it has no use for."""
    method, given = METHODS[name], not options.is_default(context, "layer")
    if method.levels and decoder_weights is not None:
        raise UsageError(f"--decoder-weights has no effect with {name}, which takes one decoder per level.")
    if method.levels and given:
        raise UsageError(f"--layer {cut.layer} has no effect with {name}, which has levels of its own.")
    return cut if given else cut.model_copy(update={"layer": method.layer})


def _lines(path: Path, summary: SingleSummary) -> list[str]:
    """Return the summary for a person."""
    matched = f"mean NCC {summary.ncc_mean:.3f}, " if summary.ncc_mean is not None else ""
    lines = [f"{path}: {matched if summary.shares else 'unchanged, '}{summary.seconds:.1f} s"]
    lines += [f"  {share:6.1%} from {uri}" for uri, share in summary.shares.items()]
    lines += [f"Passed over, as libraries and runs are no paintings: '{place}'" for place in summary.passed_over]
    lines += [f"Passed over: {in_words(summary.passed_over_files)}"] if summary.passed_over_files else []
    return lines
