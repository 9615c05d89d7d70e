"""A small library whose index processes share, a run of one process, and what makes another run equal to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kt_batch.config import IndexConfig, RunOptions
from kt_batch.index.served.placement import divide_shards
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger
from tests.support.tiny import draw_all, extracted, hashes, indexed


def local_run(root: Path, photographs: Sequence[int]) -> TranslateRequest:
    """Make a library of three paintings, and translate photographs in one process; return the request."""
    extracted([draw_all(root / "paintings", [1, 2, 3])], root / "library")
    indexed(root / "library", config=IndexConfig(fan_out=4, max_leaf=16))
    config, sources = choose("knowledge", {"search": {"probes": 4}}, Choice(library=str(root / "library")))
    photos = draw_all(root / "photos", photographs)
    options = RunOptions(threads=1, unit_size=1)
    request = TranslateRequest([str(photos)], str(root / "run"), config, sources, options)
    translate(request, LocalRunner(), no_progress)
    return request


def limit(request: TranslateRequest, owners: int) -> int:
    """Return an --index-memory, in bytes, that takes so many owners."""
    summary = read_index_summary(open_location(request.sources.library or ""), str(request.config.index_digest))
    assert summary is not None
    sizes = [shard.bytes for shard in summary.shards]
    every = range(max(sizes), sum(sizes) + 1000, 1000)
    return next(most for most in every if len(divide_shards(sizes, most)) == owners)


def served_words(request: TranslateRequest, owners: int, workers: int) -> list[str]:
    """Return the words of `kt-batch translate` for the same run on Ray, without --out."""
    words = ["translate", *request.images, "--library", request.sources.library or "", "--probes", "4"]
    words += ["--threads", "1", "--unit-size", "1", "--runner", "ray", "--workers", str(workers)]
    return [*words, "--index-memory", f"{limit(request, owners) / 1e6}MB", "--json"]


def assert_same_run(run: Path, request: TranslateRequest) -> None:
    """Assert that a run has the plan, pictures, tables and numerics class of the request's run."""
    local = Path(request.run)
    for folder in ("plan", "images", "provenance"):
        assert hashes(run, folder) == hashes(local, folder)
    assert (run / "run.json").read_bytes() == (local / "run.json").read_bytes()
    classes = [
        {tuple(sorted(receipt.numerics.items())) for receipt in Ledger(open_location(str(place))).receipts().values()}
        for place in (run, local)
    ]
    assert classes[0] == classes[1]
