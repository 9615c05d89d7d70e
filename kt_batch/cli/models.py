"""The commands about the networks: `models` lists them, `bench models` measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.errors import UsageError
from kt_batch.evaluation.models import Figures, Pair, bench_models
from kt_batch.models.layers import CUT_POINTS
from kt_batch.models.weights import ENCODERS, EncoderSource, describe_shipped, shipped
from kt_batch.pipelines.inputs import absolute_file

HEADER = (
    f"{'':16} {'layer':8} {'ch':>4} {'PSNR':>6} {'worst':>6} {'SSIM':>6} {'encode':>8} {'decode':>8}"
    f" {'NCC of choice':>14} {'same':>6} {'R2':>6}"
)


def models_command(json: options.Json = False) -> int:
    """List the networks that come with kt_batch: files, SHA-256, layers, channels, sizes.

    kt-batch models
    """
    shipped = describe_shipped()
    lines = []
    for part in shipped:
        takes = f"  stride {part.stride}, {part.channels} channels" if part.channels else ""
        lines.append(
            f"{part.name:8} {part.part:8} {part.parameters:>10,} parameters {part.bytes / 1e6:6.2f} MB"
            f"  {part.sha256[:16]}  {part.file}{takes}"
        )
    lines.append("vgg19    encoder  torchvision's weights, downloaded by it, or --encoder-weights FILE")
    print_summary({"models": [asdict(part) for part in shipped]}, lines, json)
    return 0


def bench_models_command(
    images: Annotated[list[str], typer.Option("--images", help="Photographs; may be repeated.")],
    *,
    paintings: Annotated[
        list[str] | None, typer.Option("--paintings", help="Images whose patches are chosen from; default: --images.")
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option("--pair", help="NAME,LAYER,ENCODER,DECODER: another pair; files, or the name of an encoder."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="The encoder whose choice of patches is taken as right: vgg19 or a file."),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only images that kt-vgg was not trained on: ids beginning with 0.")
    ] = False,
    cut: Annotated[options.CutOptions, Fields(only=("size",))],
    how: options.Threads,
    json: options.Json = False,
) -> int:
    """Measure reconstruction, speed and fidelity of kt-vgg and of every --pair.

    kt-batch bench models --images photos/ --pair WCT,relu3_1,vgg19.safetensors,wct.safetensors
    """
    pairs = [Pair("kt-vgg", cut, EncoderSource(), None) for cut in CUT_POINTS if cut in shipped()["kt-vgg"]]
    pairs += [_pair(given) for given in pair or ()]
    judge = _source("vgg19", reference) if reference else None
    with ProgressDisplay() as display:
        rows = bench_models(
            images,
            paintings or images,
            pairs,
            judge,
            size=cut.size,
            held_out=held_out,
            threads=how.threads,
            progress=display,
        )
    print_summary({"size": cut.size, "threads": how.threads, "rows": [asdict(row) for row in rows]}, table(rows), json)
    return 0


def _pair(given: str) -> Pair:
    parts = given.split(",")
    if len(parts) != 4:
        raise UsageError(f"--pair got '{given}'; give NAME,LAYER,ENCODER,DECODER.")
    name, layer, encoder, decoder = parts
    if layer not in CUT_POINTS:
        raise UsageError(f"--pair {name}: the layer '{layer}' is none of {', '.join(CUT_POINTS)}.")
    return Pair(name, layer, _source(name, encoder), absolute_file(decoder))


def _source(name: str, encoder: str) -> EncoderSource:
    return EncoderSource(encoder) if encoder in ENCODERS else EncoderSource(name, absolute_file(encoder))


def table(rows: Sequence[Figures]) -> list[str]:
    """Return the figures as a table; a dash stands where there is no reference."""
    lines = [HEADER]
    for row in rows:
        line = (
            f"{row.name:16} {row.layer:8} {row.channels:>4} {row.psnr_mean:>6.2f} {row.psnr_worst:>6.2f} "
            f"{row.ssim_mean:>6.3f} {row.encode_seconds:>6.3f} s {row.decode_seconds:>6.3f} s"
        )
        if row.fidelity is None:
            lines.append(f"{line} {'-':>14} {'-':>6} {'-':>6}")
        else:
            lines.append(f"{line} {row.fidelity.ratio:>14.4f} {row.fidelity.same_patch:>6.1%} {row.fidelity.r2:>6.3f}")
    return lines
