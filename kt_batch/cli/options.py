"""The options of commands and jobs, each written once, and the YAML file that can hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
import yaml

from kt_batch.config import FORMER_SEARCHERS, Layer, Searcher

Paths = Annotated[list[str], typer.Argument(help="Paths, directories, globs or URIs (s3://bucket/prefix).")]
LibraryOut = Annotated[str, typer.Option("--library", help="The library: a directory or s3://bucket/prefix.")]
Encoder = Annotated[str, typer.Option("--encoder", help="kt-vgg (shipped) or vgg19 (torchvision).")]
EncoderWeights = Annotated[
    str | None, typer.Option("--encoder-weights", help="A safetensors file to take the encoder from.")
]
DecoderWeights = Annotated[str | None, typer.Option("--decoder-weights", help="A decoder trained for this encoder.")]
LayerName = Annotated[Layer, typer.Option("--layer", help="The ReLU at which the encoder is cut.")]
Size = Annotated[int, typer.Option("--size", help="Long side of the working image; images are never enlarged.")]
OutputSize = Annotated[
    int | None, typer.Option("--size", help="Long side at which images are translated; default: the library's.")
]
Stride = Annotated[int, typer.Option("--stride", help="Step between library patches, in cells.")]
MaxPatches = Annotated[int | None, typer.Option("--max-patches", help="Keep a seeded sample of N patches per image.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every choice made by chance; the same number, the same choice.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag of all images of this library; may be repeated.")]
License = Annotated[str, typer.Option("--license", help="Licence of all images of this library, kept with each.")]
Attribution = Annotated[str, typer.Option("--attribution", help="Whom to credit for all images of this library.")]

MatchSpace = Annotated[
    Literal["raw", "centred"], typer.Option("--match-space", help="raw (the paper), or with the library mean removed.")
]
Clusters = Annotated[
    str | None, typer.Option("--clusters", help="Fixed K per level, such as 64,16; without it, split by --max-leaf.")
]
MaxLeaf = Annotated[int, typer.Option("--max-leaf", help="A leaf that holds more patches is split.")]
Merge = Annotated[
    float, typer.Option("--merge", help="NCC from which patches of a leaf are merged; 1: only equal ones.")
]
Payload = Annotated[
    str,
    typer.Option(
        "--payload", help="How an index keeps patches: 4bit (decodes alike, .4 of the bytes), 5bit (nearer) or float16."
    ),
]
IndexDigest = Annotated[str | None, typer.Option("--index", help="Which index, where a library has several.")]

RunOut = Annotated[str, typer.Option("--out", help="The run: a directory or s3://bucket/prefix.")]
Swap = Annotated[
    Literal["geometric", "statistics"],
    typer.Option(
        "--swap", help="Replace patches (paintings), or transfer their local mean and deviation (photographs)."
    ),
]
Alpha = Annotated[float, typer.Option("--alpha", help="1: all swapped; 0: the picture through encoder and decoder.")]
TopK = Annotated[int, typer.Option("--top-k", help="Blend the K nearest patches.")]
Probes = Annotated[
    int, typer.Option("--probes", help="Leaves that each query looks into; lists of --searcher ivf, efSearch of hnsw.")
]
Certify = Annotated[
    bool, typer.Option("--certify", help="Prove of every match that no kept patch of the index is nearer; slower.")
]
Bands = Annotated[int, typer.Option("--bands", help="Haar bands read by --searcher bhkm.")]


def _parse_searcher(name: str) -> str:
    """Return the searcher called `name` now; names of earlier versions are accepted."""
    name = FORMER_SEARCHERS.get(name, name)
    if name not in get_args(Searcher):
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(map(repr, get_args(Searcher)))}.")
    return name


SearcherName = Annotated[
    str,
    typer.Option(
        "--searcher",
        parser=_parse_searcher,
        metavar=f"[{'|'.join(get_args(Searcher))}]",
        autocompletion=lambda: list(get_args(Searcher)),
        help="How the nearest patch is found; hkm and bhkm are the published ones; scan estimates every patch, on a "
        "GPU where there is one; pq, ivf and hnsw are faiss's.",
    ),
]
QueryStride = Annotated[int, typer.Option("--query-stride", help="Step between query patches, in cells: 1 or 2.")]
PreserveColour = Annotated[bool, typer.Option("--preserve-colour", help="Keep the photograph's own colours.")]
Format = Annotated[Literal["png", "jpg", "webp"], typer.Option("--format", help="File format of the outputs.")]
Quality = Annotated[int, typer.Option("--quality", help="1 to 100, for jpg and webp.")]
CacheDir = Annotated[str | None, typer.Option("--cache-dir", help="Where indexes from s3:// are staged.")]

RunnerName = Annotated[Literal["local", "ray"], typer.Option("--runner", help="A plain loop, or a Ray cluster.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Ray workers at once; default: as many as fit.")]
Threads = Annotated[int, typer.Option("--threads", help="Per worker; the same number gives the same bytes.")]
UnitSize = Annotated[int, typer.Option("--unit-size", help="Images per unit of work.")]
Gpus = Annotated[
    float, typer.Option("--gpus", help="Of each Ray worker: a share of one GPU, such as 0.5, or a whole number.")
]
Address = Annotated[str | None, typer.Option("--address", help="Of a Ray cluster; default: start one here.")]
MixNumerics = Annotated[
    bool, typer.Option("--mix-numerics", help="Go on with results of another machine kind or package version.")
]
RetryRejected = Annotated[
    bool, typer.Option("--retry-rejected", help="Try the listed images that were rejected earlier once more.")
]
LogFile = Annotated[
    str | None, typer.Option("--log-file", help="Append what happens, as lines of JSON; '-': to standard error.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what is done, what is to do, how large.")]
Pilot = Annotated[
    int | None,
    typer.Option(
        "--pilot",
        help="With --dry-run: really do N of the images still to do, in a temporary directory that is removed, and "
        "estimate the rest.",
    ),
]
Price = Annotated[
    float | None,
    typer.Option(
        "--price", help="With --pilot: of one node per hour; the cost is worker-hours x price, one worker per node."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable summary.")]
MaxRejects = Annotated[str, typer.Option("--max-rejects", help="Succeed while no more inputs are rejected: N or P%.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 when any input was rejected.")]


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options in a YAML file the defaults of this command. Unknown names are refused."""
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"'{path}' cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise typer.BadParameter(f"'{path}' holds no mapping of options.")
    known: dict[str, str] = {}
    for parameter in context.command.params:
        if parameter.name in ("config", "help"):
            continue
        for flag in [*parameter.opts, parameter.name or ""]:
            known[flag.lstrip("-").replace("_", "-")] = parameter.name or ""
    unknown = [key for key in content if str(key).replace("_", "-") not in known]
    if unknown:
        raise typer.BadParameter(
            f"'{path}' has the unknown option '{unknown[0]}'; known are {', '.join(sorted(known))}."
        )
    defaults: dict[str, Any] = {known[str(key).replace("_", "-")]: value for key, value in content.items()}
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file with options of this command.", is_eager=True, callback=_read_config),
]
