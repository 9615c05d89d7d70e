"""The command `translate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

import typer
from pydantic import Field

from kt_batch.cli import options
from kt_batch.cli.arguments import expand, same
from kt_batch.cli.config_file import ConfigFile, TrustConfig, save_options
from kt_batch.cli.estimates import DryRun, estimate_code, estimate_here, estimate_lines
from kt_batch.cli.exit_codes import STRICT, RejectBounds
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.rejects import reject_lines, rejects_target, write_rejects
from kt_batch.cli.runner import make_runner
from kt_batch.cli.settings import MethodOptions, Settings, method_options
from kt_batch.config import Draw, Layer, RunOptions
from kt_batch.pipelines.estimate import DryRunRequest, estimate_translate
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.store.cache import DEFAULT_BYTES
from kt_batch.store.image_filters import ImageFilter
from kt_batch.store.layout import RUN_SUMMARY
from kt_batch.store.manifest_files import read_manifests
from kt_batch.store.names import in_command
from kt_batch.store.receipts import PictureSizes


class ChoiceOptions(options.BankOptions):
    """The library, the style images and the networks that a method works with."""

    library: tuple[str, ...] = Field(
        (),
        description="A library: a directory or s3://bucket/prefix. May be repeated, be a pattern such as 'libs/*', and "
        "end in a weight of its scores, as in monet.lib=0.5.",
    )
    index: str | None = Field(None, description="The digest of an index, for a library that has several.")
    only_tag: tuple[str, ...] = Field(
        (), description="Use only images of the libraries with this tag; may be repeated: any of them."
    )
    only_license: tuple[str, ...] = Field(
        (), description="Use only images of the libraries under this licence; may be repeated: any of them."
    )
    only_image: tuple[str, ...] = Field(
        (), description="Use only the image of the libraries with this id, 16 hex digits; may be repeated."
    )
    where: str | None = Field(
        None,
        description="Use only images of the libraries that fit this SQL condition over their table `images`, such as "
        "\"license = 'CC0' AND width > 400\".",
    )
    source: Draw | None = Field(
        None,
        description="Give each photograph one source image: drawn by its id (random), in turn (round-robin), or the "
        "one with the most alike statistics (nearest: run kt-batch statistics first).",
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of --source random and round-robin; default: 0.")
    style: tuple[str, ...] = Field(
        (),
        description="A style image, or a place of them; may be repeated, and end in a weight that the images of the "
        "place share, as in irises.jpg=0.5.",
    )
    mask: str | None = same(options.RegionOptions, "mask")
    regions: int | None = same(options.RegionOptions, "regions")
    encoder: str | None = Field(
        None, description="Without a library: kt-vgg (shipped, the default) or vgg19 (torchvision)."
    )
    encoder_weights: str | None = Field(None, description="A safetensors file to take the encoder from.")
    layer: Layer | None = Field(
        None, description="Without a library: the ReLU at which the encoder is cut; default: the method's."
    )
    decoder_weights: str | None = Field(None, description="A decoder trained for this encoder.")
    size: int | None = Field(
        None, description="Long side at which images are translated, in pixels; default: the library's, or 512."
    )
    cache_dir: str | None = Field(
        None, description="A folder of your own (mode 0700) where indexes from object storage are staged."
    )
    cache_size: float = Field(
        DEFAULT_BYTES / 1e9,
        ge=0,
        le=1e9,
        description="Gigabytes up to which staged indexes stay; one in use may take more.",
    )

    def choice(self) -> Choice:
        """Return what the caller chooses."""
        return Choice(
            library=self.library or None,
            index=self.index,
            only=ImageFilter(self.only_tag, self.only_license, self.only_image, self.where),
            draw=self.source,
            seed=self.seed,
            styles=self.style,
            mask=self.mask,
            regions=self.regions,
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
            decoder_weights=self.decoder_weights,
            layer=self.layer,
            size=self.size,
            cache=self.cache_dir,
            cache_bytes=int(self.cache_size * 1e9),
            banks=self.bank,
            network=self.network,
        )


SHARED = ("seed",)  # a method may have a setting of this name as well; one option then sets both
RESERVED = ChoiceOptions.model_fields.keys() - set(SHARED)


def add_translate(app: typer.Typer) -> None:
    """Give an app the command, with the options of all methods."""
    app.command("translate")(expand(translate_command, settings=method_options(reserved=RESERVED)))


def translate_command(
    context: typer.Context,
    *,
    images: options.Images = None,
    manifest: options.Manifests = None,
    out: options.RunPlace,
    settings: MethodOptions,
    chosen: ChoiceOptions,
    how: options.Run,
    shard_size: options.ShardSize = None,
    index_memory: options.IndexMemory = None,
    index_replicas: options.IndexReplicas = 1,
    dry_run: DryRun,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Re-render photographs after a library or style images, and record where every patch came from.

    kt-batch translate photos/ --library monet.lib --out run

    kt-batch translate photos/ --method adain --style irises.jpg --out run
    """
    estimate_request, resolved = dry_run.request(), settings.resolve(SHARED)
    request = translate_request(images or [], out, chosen, resolved, how)
    memory = options.parse_size("--index-memory", index_memory)
    lists = read_manifests(manifest or [])
    request = replace(request, manifests=lists, shard_size=shard_size, index_memory=memory)
    request = replace(request, index_replicas=index_replicas)
    return run_translate(request, estimate_request, {**context.params, **resolved.options}, json, STRICT)


def translate_request(
    images: Sequence[str], out: str, chosen: ChoiceOptions, settings: Settings, how: RunOptions
) -> TranslateRequest:
    """Return the request to the pipeline. Raises UsageError, ValidationError."""
    config, sources = choose(settings.method, settings.values, chosen.choice())
    return TranslateRequest(images, out, config, sources, how)


def run_translate(
    request: TranslateRequest,
    estimate_request: DryRunRequest | None,
    saved: Mapping[str, object],
    json: bool,
    bounds: RejectBounds,
) -> int:
    """Translate, or estimate it, and print the summary.

    Args:
        request: What to translate.
        estimate_request: The request of a dry run; None translates.
        saved: The options that are saved with the run.
        json: Print the summary as JSON.
        bounds: How many inputs may be rejected.

    Returns:
        The exit code.
    """
    if estimate_request:
        estimate = estimate_here(partial(estimate_translate, request), estimate_request)
        print_summary(asdict(estimate), estimate_lines(estimate, request.options.runner), json)
        return estimate_code(estimate, bounds)
    target = rejects_target(request.options, request.images, request.run, request.manifests)
    with make_runner(request.options) as running, ProgressDisplay() as display:
        summary = translate(request, running, display)
    save_options(request.run, "translate", saved)
    write_rejects(target, request.run)
    print_summary(asdict(summary), translate_lines(summary), json)
    return bounds.exit_code(summary.rejected, summary.images + summary.rejected)


def translate_lines(summary: TranslateSummary) -> list[str]:
    """Return the summary for a person."""
    ncc = "" if summary.ncc_mean is None else f", mean NCC {summary.ncc_mean:.3f}"
    lines = [f"{summary.run}: {summary.images} images, {summary.rejected} rejected{ncc}"]
    if summary.new_images:
        lines.append(
            f"  {summary.new_images} images in {summary.seconds:.1f} s ({summary.images_per_second:.2f} images/s)"
        )
    elif summary.new_rejected == 0:
        lines.append("  nothing to do: everything was translated already")
    if summary.shards:
        counted = "1 shard" if summary.shards == 1 else f"{summary.shards} shards"
        lines.append(f"  {counted}, listed in {RUN_SUMMARY} as `shards`")
    lines += size_lines(summary.sizes) + reject_lines(summary.rejects, summary.rejected)
    return [*lines, f"  next: kt-batch explain {in_command(summary.run)} IMAGE --at X,Y"] if summary.images else lines


def size_lines(sizes: PictureSizes | None) -> list[str]:
    """Return the size of the pictures, with a warning where photographs came out smaller than they went in."""
    if sizes is None:
        return []
    small, large, photograph = (f"{width} x {height}" for width, height in (sizes.smallest, sizes.largest, sizes.input))
    lines = [f"  pictures of {large} pixels" if small == large else f"  pictures of {small} to {large} pixels"]
    if sizes.reduced:
        lines.append(
            f"  {sizes.reduced} are smaller than their photographs, which have up to {photograph} pixels; --size sets "
            "the long side"
        )
    return lines
