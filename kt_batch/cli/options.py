"""Options that several commands share: single ones, and groups.

A command gets a group as one object. A group that repeats fields of a configuration takes their defaults, limits and
descriptions from there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field

from kt_batch.cli.arguments import Fields, same
from kt_batch.config import (
    MOST_REGIONS,
    MOST_UNIT,
    EncoderConfig,
    ExtractConfig,
    IndexConfig,
    Layer,
    MatchSpace,
    RunOptions,
    ScaleKey,
)
from kt_batch.errors import UsageError
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines import encoders
from kt_batch.pipelines.extract.presets import EXTRACT_PRESETS, extract_preset
from kt_batch.pipelines.inputs import absolute_file
from kt_batch.report.recorded_edits import REVIEW_BELOW
from kt_batch.runners.base import MOST_REPLICAS
from kt_batch.store.places import ANONYMOUS, REQUESTER_PAYS

RUN_PANEL = "How the work is run"
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(GB|MB)?")

Images = Annotated[
    list[str] | None,
    typer.Argument(help="Paths, directories, globs, archives (.tar, .zip) or URIs (s3://bucket/prefix)."),
]
Manifests = Annotated[
    list[str] | None,
    typer.Option(
        "--manifest",
        help="A list of images: text with one place per line, or .csv, .jsonl or .parquet with a column `uri`, whose "
        "other columns become tags; - reads lines of standard input. May be repeated.",
    ),
]
Place = Annotated[str, typer.Argument(help="A library or a run: a directory or s3://bucket/prefix.")]
Library = Annotated[str, typer.Option("--library", help="The library: a directory or s3://bucket/prefix.")]
MovedLibraries = Annotated[
    list[str] | None,
    typer.Option(
        "--library",
        help="Where the run's library is now, if it moved; of several, one for each in the order of the run.",
    ),
]
RunPlace = Annotated[str, typer.Option("--out", help="The run: a directory or s3://bucket/prefix.")]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        min=1,
        max=MOST_UNIT,
        help="Photographs per shard of --output tar or parquet, which is one unit of work; default: --unit-size.",
        rich_help_panel=RUN_PANEL,
    ),
]
DecoderWeights = Annotated[str | None, typer.Option("--decoder-weights", help="A decoder trained for this encoder.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a file that exists and is not known to be ours; never an input.")
]
ReviewBelow = Annotated[
    float | None,
    typer.Option(
        "--review-below",
        min=0,
        max=1,
        help=f"Confidence below which an edit is marked as one to look at; default: {REVIEW_BELOW}.",
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="<layer@scale>", help="The patches of this key, such as relu4_1@256; default: the base key."
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Build the index afresh, even where an earlier one could grow by the new images."),
]
BuildMemory = Annotated[
    str | None,
    typer.Option(
        "--build-memory",
        metavar="<GB>",
        help="Gigabytes that no process of the build should exceed, such as 1.5; it changes nothing in the index.",
        rich_help_panel=RUN_PANEL,
    ),
]
IndexMemory = Annotated[
    str | None,
    typer.Option(
        "--index-memory",
        metavar="<GB>",
        help="Gigabytes of the index that one process may hold, such as 8; a larger index is shared among as many "
        "processes of --runner ray as it takes. It changes nothing in the pictures.",
        rich_help_panel=RUN_PANEL,
    ),
]
IndexReplicas = Annotated[
    int,
    typer.Option(
        "--index-replicas",
        min=1,
        max=MOST_REPLICAS,
        help="Processes that hold each part of an index that --index-memory shares; with 2 or more, a lost one is not "
        "waited for. It changes nothing in the pictures.",
        rich_help_panel=RUN_PANEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable summary.")]


def _switch_on(variable: str) -> Callable[[bool], bool]:
    """Return a callback that sets a variable of the environment, for the clients of object stores in all processes."""

    def switch(value: bool) -> bool:
        if value:
            os.environ[variable] = "1"
        return value

    return switch


SWITCHES = {
    "anonymous": Annotated[bool, typer.Option("--anonymous", callback=_switch_on(ANONYMOUS))],
    "requester_pays": Annotated[bool, typer.Option("--requester-pays", callback=_switch_on(REQUESTER_PAYS))],
}
Run = Annotated[RunOptions, Fields(panel=RUN_PANEL, options=SWITCHES)]
JobRun = Annotated[RunOptions, Fields(defaults={"runner": "ray"}, panel=RUN_PANEL, options=SWITCHES)]
Threads = Annotated[RunOptions, Fields(only=("threads",))]


class Options(BaseModel):
    """Options of a command, by their names on the command line."""

    model_config = ConfigDict(frozen=True)


class EncoderOptions(Options):
    """The origin of an encoder."""

    encoder: str = same(EncoderConfig, "encoder")
    encoder_weights: str | None = Field(None, description="A safetensors file to take the encoder from.")

    def source(self) -> EncoderSource:
        """Return where the encoder comes from, in a form that every worker understands."""
        return EncoderSource(self.encoder, absolute_file(self.encoder_weights))


class CutOptions(Options):
    """The cut of an encoder, and the size of the images it sees."""

    layer: Layer = same(EncoderConfig, "layer")
    size: int = same(EncoderConfig, "size")


class RegionOptions(Options):
    """Options of where styles, libraries or banks hold in a photograph: by a label image, or in like regions."""

    mask: str | None = Field(
        None,
        description="A label image, grey or palette PNG, or a place of them that are called as the photographs: value "
        "n takes the n-th --style, --library or --bank, from 0.",
    )
    regions: int | None = Field(
        None,
        ge=1,
        le=MOST_REGIONS,
        description="Divide each photograph into so many regions of like features; the largest takes the first "
        "--style, --library or --bank, and so on in turn.",
    )


class BankOptions(Options):
    """Filter banks and their network."""

    bank: tuple[str, ...] = Field(
        (),
        description="A filter bank of the method stylebank, or one of the shipped ones by its name (kt-batch banks); "
        "also FILE=WEIGHT. May be repeated, which mixes the banks.",
    )
    network: str | None = Field(None, description="The network of the banks; default: the one beside the first bank.")


class ExtractOptions(Options):
    """The content options of a library, without its encoder."""

    stride: int = same(ExtractConfig, "stride")
    max_patches: int | None = same(ExtractConfig, "max_patches")
    seed: int = same(ExtractConfig, "seed")
    tag: tuple[str, ...] = same(ExtractConfig, "tags")
    license: str = same(ExtractConfig, "license")
    attribution: str = same(ExtractConfig, "attribution")
    keep_images: bool = same(ExtractConfig, "keep_images")
    also: tuple[str, ...] = same(ExtractConfig, "also")

    def config(self, encoder: EncoderConfig) -> ExtractConfig:
        """Return the configuration of a library."""
        return ExtractConfig(encoder=encoder, tags=self.tag, **self.model_dump(exclude={"tag"}))


Content = Annotated[
    ExtractOptions,
    Fields(options={"keep_images": Annotated[bool, typer.Option("--keep-images/--no-keep-images")]}),
]
ExtractPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar=f"<{'|'.join(EXTRACT_PRESETS)}>",
        help="What the library is for; options given beside it win.",
    ),
]


def with_preset(
    context: typer.Context, preset: str | None, cut: CutOptions, content: ExtractOptions
) -> tuple[CutOptions, ExtractOptions, dict[str, object]]:
    """Return the options of a library after a preset, and those of them that it sets.

    Raises:
        UsageError: There is no such preset.
    """
    named = extract_preset(preset) if preset else {}
    chosen = {name: value for name, value in named.items() if is_default(context, name)}
    sides = [{name: chosen[name] for name in chosen if name in type(group).model_fields} for group in (cut, content)]
    return cut.model_copy(update=sides[0]), content.model_copy(update=sides[1]), chosen


def is_default(context: typer.Context, option: str) -> bool:
    """Tell whether neither the command line nor a file gives an option."""
    source = context.get_parameter_source(option)
    return source is None or source.name == "DEFAULT"


def parse_key(text: str | None) -> ScaleKey | None:
    """Read `relu4_1@256`; None stays None. Raises UsageError."""
    try:
        return None if text is None else ScaleKey.parse(text)
    except ValueError as error:
        raise UsageError(f"--at: {error}.") from error


def parse_size(option: str, text: str | None) -> int | None:
    """Return the bytes of `1.5` or `1.5GB`, in gigabytes, or of `800MB`; None stays None. Raises UsageError."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{option} is a number of gigabytes above 0 such as 1.5, 1.5GB or 800MB, not '{text}'.")
    return int(float(found[1]) * (1e6 if found[2] == "MB" else 1e9))


def parse_clusters(text: str) -> tuple[int, ...]:
    """Read `64,16` as (64, 16). Raises UsageError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--clusters is a list of numbers such as 64,16, not '{text}'.")
    return tuple(int(part) for part in parts)


Building = Annotated[
    IndexConfig,
    Fields(
        only=("match_space", "clusters", "max_leaf", "merge", "payload", "seed"),
        defaults={"match_space": None},
        options={
            "clusters": Annotated[str, typer.Option("--clusters", metavar="<K1,K2>"), parse_clusters],
            "match_space": Annotated[
                MatchSpace,
                typer.Option(
                    "--match-space",
                    help="Compare raw patches (the paper), or patches with the library's mean removed; default: "
                    "centred for a library made with --preset painting, else raw.",
                ),
            ],
        },
    ),
]


def new_encoder(weights: EncoderOptions, cut: CutOptions) -> tuple[EncoderSource, EncoderConfig]:
    """Return where an encoder comes from, and its configuration for a new library."""
    source = weights.source()
    return source, encoders.new_encoder(source, cut.layer, cut.size)[1]
