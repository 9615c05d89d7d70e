"""The parts of a run that can be left out: images, pairs, libraries, banks; and what its method has without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from kt_batch.config import BankShare, MethodConfig
from kt_batch.errors import DamagedError, UsageError
from kt_batch.index.collection import Collection, by_number, collected
from kt_batch.index.index import Index
from kt_batch.index.restricted import RowsOfImages, restricted
from kt_batch.kernels.patches import pixel_shares
from kt_batch.methods.base import Banks, Need, Resources
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import fit_pairs
from kt_batch.methods.styles import region_choices
from kt_batch.methods.table import method_named
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.pipelines.translate.libraries import library_weights
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.resources import load_resources
from kt_batch.report.session import Session
from kt_batch.report.sources import further_places
from kt_batch.report.usage import Shares, new_usage
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import read_fit_summary
from kt_batch.store.run import Output
from kt_batch.store.targets import local_path

By = Literal["source", "library"]
Kind = Literal["image", "pair", "library", "bank"]
Variant: TypeAlias = tuple[MethodConfig, Resources] | str  # what makes a picture, or why there is nothing to make one

LEAST_PAIRS = 2  # that are left when one is left out
MOST_ROWS = 2**16  # of cells; provenance numbers them in two bytes
ONLY = "it is the only source there is"
OF_A_REGION = "a region has no other source"


@dataclass(frozen=True)
class Part:
    """A part of a run.

    id: Of an image or a pair, the content id of a bank, or the place of a library. uri: Of its file. share: Of an
    output, as the run records it: of patches, the share of its pixels.
    """

    id: str
    uri: str
    share: float


def kind_of(session: Session, by: By) -> Kind:
    """Return what is left out of a run. Raises UsageError where nothing can be."""
    run, place = session.run, session.run.location.uri
    needs = method_named(run.header.method).needs
    if by == "library" and not run.header.further_libraries:
        raise UsageError(f"'{place}' was not made from several libraries, so --by library has none to leave out.")
    if Need.BANKS in needs:
        _check_banks(place, run.config)
        return "bank"
    if Need.PAIRS in needs:
        return "pair"
    if Need.INDEX not in needs:
        raise UsageError(
            f"'{place}' is of the method {run.header.method}, which searches no library, learns from no pairs and "
            "mixes no filter banks; influence leaves out one of these."
        )
    return "library" if by == "library" else "image"


def _check_banks(place: str, config: Mapping[str, object]) -> None:
    if config.get("region_banks"):
        raise UsageError(
            f"'{place}' gives each region a filter bank of its own, and mixes none; so no bank can be left out."
        )
    if len(cast("Sequence[object]", config.get("banks", ()))) < 2:
        raise UsageError(f"'{place}' was made with a single filter bank; without it there is no picture to compare.")


# ---- shares ----------------------------------------------------------------------------------------------------------


def parts_of(session: Session, output: Output, kind: Kind, job: TranslateJob) -> list[Part]:
    """Return the parts that an output was made from, the largest share first, ties by id."""
    if kind == "bank":
        shares = {share.bank: share.weight for share in _banks(job.config)}
        uris = {file.id: file.path for file in job.sources.banks}
    elif session.provenance_kind == "patches":
        shares, uris = _of_patches(session, output, kind, job)
    elif kind != "pair":
        raise UsageError(f"'{output.name}' was made from no patches, so nothing of a library has a share of it.")
    else:
        usage = cast("Shares", new_usage(session.provenance_kind))
        usage.add(session.provenance(output))
        total = sum(usage.weights.values()) or 1.0
        shares, uris = {image: share / total for image, share in usage.weights.items()}, usage.uris
    ranked = sorted(shares.items(), key=lambda each: (-abs(each[1]), each[0]))
    return [Part(each, uris.get(each, ""), share) for each, share in ranked]


def _of_patches(
    session: Session, output: Output, kind: Kind, job: TranslateJob
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the share and the URI of each image or library that an output has patches of."""
    if kind == "library":
        shares = _by_place(session, shares_of_pixels(session, output, "library"), job)
        return shares, {place: place for place in shares}
    shares = shares_of_pixels(session, output, "source_image_id")
    return shares, {image: found.uris[0] for image, found in session.images(list(shares)).items() if found.uris}


def shares_of_pixels(session: Session, output: Output, column: str) -> dict[str, float]:
    """Return the share of an output's pixels of each value of a column of its matches; together 1.

    The patches that cover a pixel share it evenly, the matches of a patch by their weights.

    Raises:
        DamagedError: There is no match, or one lies outside the output.
    """
    table = session.provenance(output)
    width, height = session.working_size(output)
    with session.naming(output):
        rows, cols = _cells(table, session.cell_shape(output))
        places, patch = np.unique(rows * MOST_ROWS + cols, return_inverse=True)
        above, left = (torch.from_numpy(each) for each in (places // MOST_ROWS, places % MOST_ROWS))
        pixels = pixel_shares(above, left, session.cells.stride, (height, width)).numpy()
    weights = table["weight"].to_numpy().astype(np.float64)
    totals = np.bincount(patch, weights)
    counted = weights * (pixels / np.where(totals > 0, totals, 1.0))[patch]
    values = table[column].combine_chunks()
    distinct, codes = np.unique(values.to_numpy(zero_copy_only=False).astype("O"), return_inverse=True)
    names = [each.hex() if isinstance(each, bytes) else str(each) for each in distinct]
    return dict(zip(names, np.bincount(codes, counted).tolist(), strict=True))


def _cells(provenance: pa.Table, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the top-left cells of the patches of each row. Raises DamagedError for cells that no output has."""
    rows, cols = (provenance[name].to_numpy().astype(np.int64) for name in ("row", "col"))
    if not len(rows):
        raise DamagedError("it holds no match")
    if rows.max() + 2 > shape[0] or cols.max() + 2 > shape[1]:
        raise DamagedError(f"it names the patch at cell {rows.max()}, {cols.max()} of {shape[0]} x {shape[1]} cells")
    return rows, cols


def _places(job: TranslateJob) -> tuple[str, ...]:
    return tuple(str(local_path(place) or place) for place in (job.sources.library or "", *job.sources.further))


def _by_place(session: Session, shares: Mapping[str, float], job: TranslateJob) -> dict[str, float]:
    """Return shares by where the libraries are now, of shares by their names in the run."""
    names = (session.named_library or "", *further_places(session.run))
    if unknown := sorted(shares.keys() - set(names)):
        raise DamagedError(f"'{session.run.location.uri}' has matches of '{unknown[0]}', which it does not name.")
    return {place: shares[name] for name, place in zip(names, _places(job), strict=True) if name in shares}


# ---- without a part --------------------------------------------------------------------------------------------------


def variants(job: TranslateJob, kind: Kind, ids: Sequence[str]) -> Iterator[Variant]:
    """Yield what makes a picture with all parts, then without each of those with these ids."""
    resources = load_resources(job.config, job.sources)
    if kind == "pair":
        yield job.config, resources
        yield from _without_pairs(job, resources, ids)
    elif kind == "bank":
        yield job.config, resources
        for bank in ids:
            yield without_bank(job.config, resources, bank)
    else:
        yield from _without_patches(job, resources, kind, ids)


def without_bank(config: MethodConfig, resources: Resources, bank: str) -> tuple[MethodConfig, Resources]:
    """Return what `stylebank` has without one of several banks: weights are divided by the sum of those that stay."""
    banks = cast("Banks", resources.banks)
    kept = [pair for pair in zip(_banks(config), banks.banks, strict=True) if pair[0].bank != bank]
    total = sum(share.weight for share, _ in kept)
    shares = tuple(share.model_copy(update={"weight": share.weight / total}) for share, _ in kept)
    left = replace(banks, banks=tuple(filters for _, filters in kept))
    return config.model_copy(update={"banks": shares}), replace(resources, banks=left)


def _banks(config: MethodConfig) -> tuple[BankShare, ...]:
    return cast("tuple[BankShare, ...]", getattr(config, "banks", ()))


def _without_patches(job: TranslateJob, resources: Resources, kind: Kind, ids: Sequence[str]) -> Iterator[Variant]:
    """Yield the resources with all patches in memory, then without those of each image or library, in all indexes."""
    weights = library_weights(job.config)
    indexes = cast("dict[int, Index]", by_number(cast("Index | Collection", resources.index)))
    rows = {number: RowsOfImages(index) for number, index in indexes.items()} if kind == "image" else {}

    def searching(made: Mapping[int, Index]) -> Variant:
        if not made:
            return ONLY
        if len(made) < len(indexes) and region_choices(job.config):
            return OF_A_REGION
        index = collected([made.get(number) for number in range(len(weights))], weights)
        return job.config, replace(resources, index=index)

    whole = {number: restricted(index, torch.arange(index.count)) for number, index in indexes.items()}
    yield searching(whole)
    for left in ids:
        if kind == "library":
            gone = _places(job).index(left)
            yield searching({number: index for number, index in whole.items() if number != gone})
            continue
        made = dict(whole)
        for number, index in indexes.items():
            kept = torch.ones(index.count, dtype=torch.bool)
            kept[rows[number].of_image(left)] = False
            if not kept.any():
                del made[number]
            elif not kept.all():
                made[number] = restricted(index, kept.nonzero()[:, 0])
        yield searching(made)


def _without_pairs(job: TranslateJob, resources: Resources, ids: Sequence[str]) -> Iterator[Variant]:
    """Yield the resources of `retouch`, fitted again without each pair; pairs that came after the fit have no part."""
    library = open_paired(job.sources.library or "")
    config = FitConfig.model_validate(read_fit_summary(library.location, job.config.fit_digest or "").config)
    table, fitted = pair_table(library), frozenset(resources.fit.ids if resources.fit else ())
    for left in ids:
        others = [place for place, pair in enumerate(table.ids) if pair in fitted and pair != left]
        enough = len(others) >= LEAST_PAIRS
        yield (job.config, replace(resources, fit=fit_pairs(table.take(others), config))) if enough else ONLY
