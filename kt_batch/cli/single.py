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
from kt_batch.config import IndexConfig
from kt_batch.errors import UsageError
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.models.weights import load_decoder, load_encoder
from kt_batch.pipelines.single import translate_one
from kt_batch.store.passed_over import in_words
from kt_batch.store.targets import Inputs, Target

FORMATS = {".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".png": "png"}


def add_try(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("try")(expand(try_command, settings=method_options({"knowledge": KnowledgeTransfer})))


def try_command(
    photo: Annotated[str, typer.Argument(help="The photograph.")],
    style: Annotated[list[str], typer.Option("--style", help="A painting, or a place of paintings; may be repeated.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the result goes; default: PHOTO-kt.png, here.")
    ] = None,
    settings: Annotated[
        MethodOptions,
        Fields(only=("swap", "alpha", "top_k", "probes", "query_stride", "preserve_colour", "quality", "output_space")),
    ],
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
    """
    path = out or Path(f"{Path(photo).stem}-kt.png")
    image_format = FORMATS.get(path.suffix.lower())
    if image_format is None:
        raise UsageError(f"--out '{path}' must end in .png, .jpg or .webp.")
    read = Inputs(images=style, files=(photo, weights.encoder_weights, decoder_weights, config))
    target = Target("--out", path, read, force)
    target.check()
    source, encoder = options.new_encoder(weights, cut)
    loaded = load_encoder(source)
    decoder = load_decoder(loaded, source.name, cut.layer, decoder_weights)
    chosen = {"encoder": encoder, "decoder_sha256": decoder.sha256, "format": image_format}
    translation = KnowledgeConfig.model_validate({**settings.resolve().values, **chosen})
    data, summary = translate_one(photo, style, loaded, decoder, translation, IndexConfig(), how.threads)
    target.write(data)
    lines = [f"{path}: mean NCC {summary.ncc_mean:.3f}, {summary.seconds:.1f} s"]
    lines += [f"  {share:6.1%} from {uri}" for uri, share in summary.shares.items()]
    lines += [f"Passed over, as libraries and runs are no paintings: '{place}'" for place in summary.passed_over]
    lines += [f"Passed over: {in_words(summary.passed_over_files)}"] if summary.passed_over_files else []
    print_summary({"out": str(path), **asdict(summary)}, lines, json)
    return 0
