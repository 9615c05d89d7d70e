"""The path names of everything in a library, an index and a run.

A path is relative to the library or the run and separated by slashes. The functions that end in `_path` build a path;
those that begin with `parse_` read one and return None when the path is of another kind.

    LIBRARY/  plan/  receipts/  library.json  images/  patches/[<layer@scale>/]  working/  rejects/  options/  index/
    RUN/      plan/  receipts/  run.json  images/ or shards/  provenance/  rejects/  options/  series/  checkpoints/
    series/   <nnnnnn>.parquet  build/{receipts/, described/}      of a run whose photographs share edits
    statistics/  <digest>.json  <sha256>  receipts/  moments/   of a library
    fits/     <digest>.json  <sha256>              of a paired library
    index/    <digest>/{index.json, tree.safetensors, leaves.safetensors, members.parquet, parts.parquet, build/}
              shards/<sha256>
    build/    receipts/  sample/  members/  and, by SHA-256: top/  routed/  clusters/  subtrees/

`docs/formats.md` describes the files themselves.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LIBRARY_SUMMARY = "library.json"
RUN_SUMMARY = "run.json"

PLAN = "plan"
RECEIPTS = "receipts"
OPTIONS = "options"
INDEX = "index"
FITS = "fits"  # of a paired library
SERIES = "series"  # of a run
CHECKPOINTS = "checkpoints"  # of a run, within images whose units are not committed yet (store/checkpoints.py)
STATISTICS = "statistics"  # of a library

# Table kinds. The parts of a kind lie in the directory of its name.
IMAGES = "images"
PATCHES = "patches"
WORKING = "working"  # working images of the sources, where a library keeps them
REJECTS = "rejects"
PROVENANCE = "provenance"
PAIRS = "pairs"
EDITS = "edits"
LIBRARY_KINDS = frozenset({IMAGES, PATCHES, WORKING, PAIRS, REJECTS})
RUN_KINDS = frozenset({PROVENANCE, EDITS, REJECTS})

OUTPUTS = "images"  # directory of a run's output images
OUTPUT_SHARDS = "shards"  # directory of a run's outputs, where they are in shards
_FOLDERS = (
    LIBRARY_KINDS
    | RUN_KINDS
    | {PLAN, RECEIPTS, OPTIONS, INDEX, FITS, STATISTICS, OUTPUTS, OUTPUT_SHARDS, SERIES, CHECKPOINTS}
)

SHARDS = f"{INDEX}/shards"

DESCRIBED = "described"  # table kind in the build directory of the series of a run

# Inside the build directory of an index; MEMBERS is also a table kind there, as is SAMPLE.
SAMPLE = "sample"
MEMBERS = "members"

MOMENTS = "moments"  # table kind inside STATISTICS
TOP = "top"
ROUTED = "routed"
CLUSTERS = "clusters"
SUBTREES = "subtrees"

_HEX16 = "[0-9a-f]{16}"
_SHA256 = "[0-9a-f]{64}"
_KEY = "relu[1-4]_1@[1-9][0-9]{0,3}"  # layer@scale
_PART_PATTERN = rf"([a-z_]+|{PATCHES}/{_KEY})/part-({_HEX16})-{_HEX16}\.parquet"
_RECEIPT_PATTERN = rf"{RECEIPTS}/({_HEX16})\.json"

TABLE_KIND = rf"[a-z][a-z_]{{0,31}}|{PATCHES}/{_KEY}"  # a pattern

_PLAN = re.compile(rf"{PLAN}/(\d{{6}})\.parquet")
_RECEIPT = re.compile(_RECEIPT_PATTERN)
_PART = re.compile(_PART_PATTERN)
_OUTPUT_SHARD = re.compile(rf"{OUTPUT_SHARDS}/part-({_HEX16})-{_HEX16}\.(?:tar|parquet)")
_OPTIONS = re.compile(rf"{OPTIONS}/[a-z_-]+-[0-9a-f]{{8}}\.yaml")
_SHARD = re.compile(rf"{SHARDS}/({_SHA256})")
_FIT = re.compile(rf"{FITS}/({_HEX16})\.json")
_FIT_FILE = re.compile(rf"{FITS}/(?:{_HEX16}\.json|{_SHA256})")
_SERIES = re.compile(rf"{SERIES}/(\d{{6}})\.parquet")
_DESCRIBED_FILE = re.compile(rf"{SERIES}/build/(?:{_RECEIPT_PATTERN}|{DESCRIBED}/part-({_HEX16})-{_HEX16}\.parquet)")
_STATISTICS = re.compile(rf"{STATISTICS}/({_HEX16})\.json")
_STATISTICS_BLOB = re.compile(rf"{STATISTICS}/{_SHA256}")
_STATISTICS_FILE = re.compile(
    rf"{STATISTICS}/(?:{_HEX16}\.json|{_SHA256}|{_RECEIPT_PATTERN}|{MOMENTS}/part-{_HEX16}-{_HEX16}\.parquet)"
)
_IN_INDEX = re.compile(rf"{INDEX}/({_HEX16})/.+")
_INDEX_SUMMARY = re.compile(rf"{INDEX}/([^/]+)/index\.json")
_INDEX_FILE = re.compile(rf"{INDEX}/({_HEX16})/(?:index\.json|(?:tree|leaves)\.safetensors|(?:members|parts)\.parquet)")
_BUILD_FILE = re.compile(
    rf"{INDEX}/({_HEX16})/build/"
    rf"(?:{_RECEIPT_PATTERN}|{_PART_PATTERN}|(?:{TOP}|{ROUTED}|{CLUSTERS}|{SUBTREES})/{_SHA256})"
)
_BUILD_RECEIPT = re.compile(rf"{INDEX}/{_HEX16}/build/{_RECEIPT_PATTERN}")


class PartName(NamedTuple):
    """The table kind and the unit in the path of a part file."""

    kind: str
    unit: str

    @property
    def table(self) -> str:
        """Return the kind without a key: patches of every layer@scale are patches."""
        return table_of(self.kind)


# ---- libraries and runs ----------------------------------------------------------------------------------------------


def plan_path(number: int) -> str:
    """Return the path of plan file `number`, counted from 0."""
    return f"{PLAN}/{number:06d}.parquet"


def is_plan(path: str) -> bool:
    """Tell whether `path` is that of a plan file."""
    return _PLAN.fullmatch(path) is not None


def receipt_path(unit: str) -> str:
    """Return the path of a unit's receipt."""
    return f"{RECEIPTS}/{unit}.json"


def parse_receipt_path(path: str) -> str | None:
    """Return the unit id in the path of a receipt."""
    match = _RECEIPT.fullmatch(path)
    return match[1] if match else None


def patches_kind(key: str) -> str:
    """Return the table kind of the patches of a further `layer@scale`; those of the base key are of kind PATCHES."""
    return f"{PATCHES}/{key}"


def table_of(kind: str) -> str:
    """Return a table kind without its key."""
    return kind.partition("/")[0]


def part_path(kind: str, unit: str, sha256: str) -> str:
    """Return the path of a part file.

    It holds the first 16 hex digits of the file's SHA-256.
    """
    return f"{kind}/part-{unit}-{sha256[:16]}.parquet"


def parse_part_path(path: str) -> PartName | None:
    """Return the table kind and the unit in the path of a part file."""
    match = _PART.fullmatch(path)
    return PartName(match[1], match[2]) if match else None


def output_path(relative: str) -> str:
    """Return the path of an output image, given its path below `images/`."""
    return f"{OUTPUTS}/{relative}"


def relative_output(path: str) -> str:
    """Return the path of an output image below `images/`."""
    return path.removeprefix(f"{OUTPUTS}/")


def is_output(path: str) -> bool:
    """Tell whether a path is that of an output image."""
    return path.startswith(f"{OUTPUTS}/")


def output_shard_path(unit: str, sha256: str, form: str) -> str:
    """Return the path of the shard that holds the output images of a unit.

    Args:
        unit: Its id.
        sha256: Of the shard; the path holds its first 16 hex digits.
        form: `tar` or `parquet`.
    """
    return f"{OUTPUT_SHARDS}/part-{unit}-{sha256[:16]}.{form}"


def parse_output_shard_path(path: str) -> str | None:
    """Return the unit id in the path of a shard of output images."""
    match = _OUTPUT_SHARD.fullmatch(path)
    return match[1] if match else None


def options_path(command: str, digest: str) -> str:
    """Return the path of the saved options of a command.

    digest: 8 hex digits of the SHA-256 of the options.
    """
    return f"{OPTIONS}/{command}-{digest}.yaml"


def is_options(path: str) -> bool:
    """Tell whether `path` is that of saved options."""
    return _OPTIONS.fullmatch(path) is not None


def is_reserved(path: str) -> bool:
    """Tell whether a path is one where a library or a run keeps its own files, or may keep them."""
    return path in (LIBRARY_SUMMARY, RUN_SUMMARY) or path.partition("/")[0] in _FOLDERS


# ---- fits of a paired library ----------------------------------------------------------------------------------------


def fit_path(digest: str) -> str:
    """Return the path of the summary of a fit, whose presence commits the fit."""
    return f"{FITS}/{digest}.json"


def parse_fit_path(path: str) -> str | None:
    """Return the digest in the path of the summary of a fit."""
    match = _FIT.fullmatch(path)
    return match[1] if match else None


def is_fit_file(path: str) -> bool:
    """Tell whether `path` is that of a file of a fit."""
    return _FIT_FILE.fullmatch(path) is not None


# ---- series of a run -------------------------------------------------------------------------------------------------


def series_path(number: int) -> str:
    """Return the path of the series of the photographs in plan file `number`."""
    return f"{SERIES}/{number:06d}.parquet"


def parse_series_path(path: str) -> int | None:
    """Return the number of the plan file in the path of its series."""
    match = _SERIES.fullmatch(path)
    return int(match[1]) if match else None


def series_build_folder() -> str:
    """Return the directory where the photographs of a run are described; it has receipts of its own."""
    return f"{SERIES}/build"


def described_path(relative: str) -> str:
    """Return the path in a run of a file in the directory where its photographs are described."""
    return f"{series_build_folder()}/{relative}"


def parse_described_file(path: str) -> str | None:
    """Return the unit id in the path of a receipt or a table of described photographs, below the run."""
    match = _DESCRIBED_FILE.fullmatch(path)
    return (match[1] or match[2]) if match else None


# ---- statistics of a library ----------------------------------------------------------------------------------------


def statistics_path(digest: str) -> str:
    """Return the path of the summary of statistics, whose presence commits them."""
    return f"{STATISTICS}/{digest}.json"


def parse_statistics_path(path: str) -> str | None:
    """Return the digest in the path of the summary of statistics."""
    match = _STATISTICS.fullmatch(path)
    return match[1] if match else None


def is_statistics_blob(path: str) -> bool:
    """Tell whether `path` is that of the moments of a library, named by their SHA-256."""
    return _STATISTICS_BLOB.fullmatch(path) is not None


def is_statistics_part(path: str) -> bool:
    """Tell whether `path` is that of a part with the moments of images."""
    return is_statistics_file(path) and path.startswith(f"{STATISTICS}/{MOMENTS}/")


def is_statistics_file(path: str) -> bool:
    """Tell whether `path` is that of a file of statistics."""
    return _STATISTICS_FILE.fullmatch(path) is not None


# ---- indexes ---------------------------------------------------------------------------------------------------------


def index_folder(digest: str) -> str:
    """Return the directory of one index."""
    return f"{INDEX}/{digest}"


def index_summary_path(digest: str) -> str:
    """Return the path of `index.json`, whose presence commits the index."""
    return f"{INDEX}/{digest}/index.json"


def tree_path(digest: str) -> str:
    """Return the path of an index's tree."""
    return f"{INDEX}/{digest}/tree.safetensors"


def leaves_path(digest: str) -> str:
    """Return the path of the statistics of an index's leaves."""
    return f"{INDEX}/{digest}/leaves.safetensors"


def members_path(digest: str) -> str:
    """Return the path of the table that maps merged patches to kept ones."""
    return f"{INDEX}/{digest}/members.parquet"


def covered_parts_path(digest: str) -> str:
    """Return the path of the list of the parts that a fresh index covers."""
    return f"{INDEX}/{digest}/parts.parquet"


def build_folder(digest: str) -> str:
    """Return the directory of an index's unfinished build."""
    return f"{INDEX}/{digest}/build"


def blob_path(folder: str, sha256: str) -> str:
    """Return the path of a file that is named by its SHA-256."""
    return f"{folder}/{sha256}"


def shard_path(sha256: str) -> str:
    """Return the path of a shard, which several indexes of one library may share."""
    return blob_path(SHARDS, sha256)


def index_files(digest: str) -> tuple[str, ...]:
    """Return the paths that a finished index may have, without its shards: not each has leaves, or lists its parts."""
    paths = (index_summary_path, tree_path, leaves_path, members_path, covered_parts_path)
    return tuple(path(digest) for path in paths)


def parse_index_summary_path(path: str) -> str | None:
    """Return the digest in the path of an `index.json`."""
    match = _INDEX_SUMMARY.fullmatch(path)
    return match[1] if match else None


def parse_index_file(path: str) -> str | None:
    """Return the digest in the path of one of the `index_files`."""
    match = _INDEX_FILE.fullmatch(path)
    return match[1] if match else None


def parse_in_index(path: str) -> str | None:
    """Return the digest in the path of anything inside the directory of an index."""
    match = _IN_INDEX.fullmatch(path)
    return match[1] if match else None


def parse_build_file(path: str) -> str | None:
    """Return the digest in the path of a file that an index build writes."""
    match = _BUILD_FILE.fullmatch(path)
    return match[1] if match else None


def is_build_receipt(path: str) -> bool:
    """Tell whether `path` is that of a receipt of an index build."""
    return _BUILD_RECEIPT.fullmatch(path) is not None


def is_shard(path: str) -> bool:
    """Tell whether `path` is that of a shard."""
    return _SHARD.fullmatch(path) is not None
