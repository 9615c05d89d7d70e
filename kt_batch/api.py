"""Python functions for the main job: extract, index, translate, explain. `kt_batch` exports them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import fspath

from pydantic import ValidationError

from kt_batch.config import (
    DEFAULT_SIZE,
    ExtractConfig,
    IndexConfig,
    RunOptions,
    ScaleKey,
    describe_fault,
)
from kt_batch.errors import UsageError
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.encoders import new_encoder
from kt_batch.pipelines.extract import finish as extracting
from kt_batch.pipelines.extract.finish import ExtractSummary
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index import finish as indexing
from kt_batch.pipelines.index.finish import BuildSummary
from kt_batch.pipelines.inputs import Place, absolute_file, places
from kt_batch.pipelines.merge import finish as merging
from kt_batch.pipelines.merge.finish import MergeRequest, MergeSummary
from kt_batch.pipelines.progress import Progress, no_progress
from kt_batch.pipelines.translate import finish as translating
from kt_batch.pipelines.translate.finish import TranslateSummary
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.contributions import Explanation
from kt_batch.report.explain import explain
from kt_batch.runners.base import MOST_REPLICAS, Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.store import opening
from kt_batch.store.library import Library
from kt_batch.store.manifest_files import read_manifests
from kt_batch.store.run import Run

KT_VGG = EncoderSource()
DEFAULT_OPTIONS = RunOptions()
MOST_GIGABYTES = 1e9

__all__ = [
    "Explanation", "IndexMemory", "build_index", "explain", "extract", "merge", "open_library", "open_run", "translate",
]  # fmt: skip


@dataclass(frozen=True)
class IndexMemory:
    """The memory of processes that share an index.

    gigabytes: Of the index that one process may hold. replicas: Processes that hold each part of a larger index; with
    two or more, one that is lost is not waited for.
    """

    gigabytes: float
    replicas: int = 1


def extract(
    images: Place | Sequence[Place],
    library: Place,
    *,
    encoder: EncoderSource = KT_VGG,
    layer: str = "relu3_1",
    size: int = DEFAULT_SIZE,
    options: RunOptions = DEFAULT_OPTIONS,
    runner: Runner | None = None,
    progress: Progress = no_progress,
    manifest: Place | Sequence[Place] = (),
    **fields: object,
) -> ExtractSummary:
    """Extract images into a knowledge library, or continue where an earlier call stopped.

    Args:
        images: Paths, globs, archives or URIs; may be empty with a manifest.
        library: A path or an s3:// URI.
        encoder: Where the encoder comes from.
        layer: Where the encoder is cut.
        size: Long side of the working images, in pixels.
        options: How the work is run: threads, unit size, retries.
        runner: Runs the units; None runs them in this process.
        progress: Called with every step.
        manifest: Lists of further images: text, .csv, .jsonl or .parquet with a column `uri`.
        **fields: Further fields of ExtractConfig: stride, max_patches, seed, tags, license, attribution, keep_images,
            also.

    Returns:
        Counts and rates.

    Raises:
        KtBatchError: In one sentence, what was wrong (`kt_batch.errors` has the kinds).
    """
    source = EncoderSource(encoder.name, absolute_file(encoder.path))
    with _usage_errors():
        _, config = new_encoder(source, layer, size)
        extraction = ExtractConfig.model_validate({"encoder": config, **fields})
    lists = read_manifests(places(manifest))
    request = ExtractRequest(places(images), fspath(library), extraction, source, options, lists)
    return extracting.extract(request, _runner(runner, options), progress)


def build_index(
    library: Place,
    *,
    options: RunOptions = DEFAULT_OPTIONS,
    runner: Runner | None = None,
    progress: Progress = no_progress,
    at: str | None = None,
    fresh: bool = False,
    build_memory: float | None = None,
    **fields: object,
) -> BuildSummary:
    """Index the present state of a library, so that it can be searched.

    Where few images were added since the library was indexed, the index grows by them.

    Args:
        library: A path or an s3:// URI.
        options: How the work is run.
        runner: Runs the units; None runs them in this process.
        progress: Called with every step.
        at: The `layer@scale` whose patches are indexed, such as `relu4_1@256`; None for the library's base key.
        fresh: Build afresh, even where an earlier index could grow.
        build_memory: Gigabytes that no process of the build should exceed; None sets no limit.
        **fields: Fields of IndexConfig: match_space, max_leaf, merge, payload, clusters, seed. Without match_space, an
            index for paintings is centred, and others are raw.

    Returns:
        The index's digest, counts and rates.

    Raises:
        KtBatchError: In one sentence, what was wrong.
    """
    with _usage_errors():
        config = IndexConfig.model_validate(fields)
    memory = _bytes_of("build_memory", build_memory)
    return indexing.build_index(
        fspath(library), config, options, _runner(runner, options), progress, _key(at), fresh=fresh, memory=memory
    )


def merge(
    libraries: Sequence[Place],
    into: Place,
    *,
    mix_numerics: bool = False,
    progress: Progress = no_progress,
) -> MergeSummary:
    """Join libraries into a new one without encoding again, or continue where an earlier call stopped.

    Args:
        libraries: Paths or s3:// URIs, two or more; of an image in several the first one counts.
        into: The new library.
        mix_numerics: Join libraries whose patches were computed on different kinds of machines.
        progress: Called with every step.

    Returns:
        Counts of images, patches and rejects.

    Raises:
        KtBatchError: In one sentence, what was wrong.
    """
    request = MergeRequest([fspath(each) for each in libraries], fspath(into), mix_numerics)
    return merging.merge(request, progress)


def translate(
    images: Place | Sequence[Place],
    out: Place,
    choice: Choice,
    *,
    method: str = "knowledge",
    options: RunOptions = DEFAULT_OPTIONS,
    runner: Runner | None = None,
    progress: Progress = no_progress,
    manifest: Place | Sequence[Place] = (),
    index_memory: float | IndexMemory | None = None,
    **settings: object,
) -> TranslateSummary:
    """Translate images into a run, or continue where an earlier call stopped.

    Args:
        images: Paths, globs, archives or URIs; may be empty with a manifest.
        out: The run, a path or an s3:// URI.
        choice: Library, style images and weights.
        method: The method's name.
        options: How the work is run.
        runner: Runs the units; None runs them in this process.
        progress: Called with every step.
        manifest: Lists of further images, as for `extract`.
        index_memory: Gigabytes of the index that one process may hold; a Ray runner shares a larger index among
            processes, in replicas where `IndexMemory` says so. None sets no limit.
        **settings: Fields of the method's configuration, such as swap, alpha, search, format and output of
            `knowledge`. With output `tar` or `parquet`, a shard holds as many photographs as a unit of `options`.

    Returns:
        Counts and rates.

    Raises:
        KtBatchError: In one sentence, what was wrong.
    """
    config, sources = choose(method, settings, choice)
    lists = read_manifests(places(manifest))
    request = TranslateRequest(places(images), fspath(out), config, sources, options, lists)
    if index_memory is not None:
        shared = index_memory if isinstance(index_memory, IndexMemory) else IndexMemory(index_memory)
        memory = _bytes_of("index_memory", shared.gigabytes)
        request = replace(request, index_memory=memory, index_replicas=_checked_replicas(shared.replicas))
    return translating.translate(request, _runner(runner, options), progress)


def _checked_replicas(replicas: int) -> int:
    """Return a number of replicas. Raises UsageError for one that is not allowed."""
    if replicas not in range(1, MOST_REPLICAS + 1):
        raise UsageError(f"The replicas of IndexMemory are {replicas}; allowed are 1 to {MOST_REPLICAS}.")
    return int(replicas)


def _bytes_of(name: str, gigabytes: float | None) -> int | None:
    """Return gigabytes as bytes; None stays None. Raises UsageError, which names the argument."""
    if gigabytes is None:
        return None
    if not 0 < gigabytes <= MOST_GIGABYTES:
        raise UsageError(f"{name} is {gigabytes}; allowed are gigabytes above 0, up to {MOST_GIGABYTES:g}.")
    return int(gigabytes * 1e9)


def open_library(place: Place) -> Library:
    """Open a knowledge library for reading. Raises MissingError when there is none at `place`."""
    return opening.open_library(fspath(place))


def open_run(place: Place) -> Run:
    """Open a run for reading. Raises MissingError when there is none at `place`."""
    return opening.open_run(fspath(place))


def _runner(runner: Runner | None, options: RunOptions) -> Runner:
    """Return the given runner, or one in this process. Raises UsageError when the options ask for Ray without one."""
    if runner is None and options.runner == "ray":
        raise UsageError("The options ask for Ray; pass runner=RayRunner(...) of kt_batch.runners.ray.runner.")
    return runner or LocalRunner()


def _key(text: str | None) -> ScaleKey | None:
    """Read a `layer@scale`. Raises UsageError."""
    try:
        return None if text is None else ScaleKey.parse(text)
    except ValueError as error:
        raise UsageError(f"{error}.") from error


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn a value that is not allowed into a UsageError."""
    try:
        yield
    except ValidationError as error:
        raise UsageError(describe_fault(error)) from error
