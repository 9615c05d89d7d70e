"""The command `try`: one photograph at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields, expand
from kt_batch.cli.config_file import ConfigFile, TrustConfig
from kt_batch.cli.output import print_summary
from kt_batch.cli.settings import MethodOptions, method_options
from kt_batch.config import DEFAULT_SIZE
from kt_batch.errors import UsageError
from kt_batch.methods.base import Enlarger, Method, Need
from kt_batch.methods.painting.method import Painting
from kt_batch.methods.table import METHODS as ALL_METHODS
from kt_batch.pipelines.single import SingleSummary, load_networks, translate_one
from kt_batch.pipelines.translate.large import larger_size
from kt_batch.store.passed_over import in_words
from kt_batch.store.targets import Inputs, Target

METHODS: dict[str, type[Method]] = {
    "painting": Painting,
    **{name: method for name, method in ALL_METHODS.items() if {Need.INDEX, Need.STYLES} & method.needs},
}
SETTINGS = (
    *("method", "strength", "sources", "levels", "stroke", "brushwork"),
    *("swap", "alpha", "top_k", "probes", "query_stride"),
    *("style_weight", "iterations", "optimiser", "start", "sizes", "smoothness", "updates", "rounds"),
    *("preserve_colour", "quality", "output_space"),
)
FORMATS = {".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".png": "png"}


def add_try(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("try")(expand(try_command, settings=method_options(METHODS)))


def try_command(
    context: typer.Context,
    photo: Annotated[str, typer.Argument(help="The photograph.")],
    style: Annotated[list[str], typer.Option("--style", help="A painting, or a place of paintings; may be repeated.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the result goes; default: PHOTO-kt.png, here.")
    ] = None,
    settings: Annotated[MethodOptions, Fields(only=SETTINGS)],
    cut: options.CutOptions,
    weights: options.EncoderOptions,
    decoder_weights: options.DecoderWeights = None,
    how: options.Threads,
    force: options.Force = False,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Re-render one photograph after a few paintings, at once: no Ray, no library.

    kt-batch try holiday.jpg --style starry_night.jpg

    kt-batch try holiday.jpg --style starry_night.jpg --method knowledge --swap statistics

    kt-batch try holiday.jpg --style starry_night.jpg --method gatys --size 256
    """
    path = out or Path(f"{Path(photo).stem}-kt.png")
    image_format = FORMATS.get(path.suffix.lower())
    if image_format is None:
        raise UsageError(f"--out '{path}' must end in .png, .jpg or .webp.")
    read = Inputs(images=style, files=(photo, weights.encoder_weights, decoder_weights, config))
    target = Target("--out", path, read, force)
    target.check()
    chosen = settings.model_copy(update={"method": settings.method or next(iter(METHODS))}).resolve()
    method = _known(chosen.method)
    wanted, cut = cut.size, _of_sources(method, _at_layer(context, chosen.method, cut, decoder_weights))
    source, encoder = options.new_encoder(weights, cut)
    networks = load_networks(source, method, cut.layer, decoder_weights)
    larger = larger_size(method, encoder, wanted)
    styles = {"styles": ("0" * 16,)} if Need.STYLES in method.needs else {}  # the paintings are read later
    fields = {"encoder": encoder, "format": image_format, **networks.digests, **larger, **styles}
    translation = method.config_type.model_validate({**chosen.values, **fields})
    data, summary = translate_one(photo, style, networks, method, translation, how.threads)
    target.write(data)
    print_summary({"out": str(path), **asdict(summary)}, _lines(path, summary), json)
    return 0


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
