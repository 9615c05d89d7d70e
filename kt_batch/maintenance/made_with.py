"""Put together again what a run was made with, so that its images can be done once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from kt_batch.config import COMMON_SETTINGS, MethodConfig
from kt_batch.errors import MismatchError
from kt_batch.maintenance.named_files import banks_of, masks_of
from kt_batch.pipelines.translate.draws import positions
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.sources import further_libraries, library_of, named_library, trusted_library
from kt_batch.store import layout
from kt_batch.store.image_filters import EVERY_IMAGE, ImageFilter
from kt_batch.store.run import Run
from kt_batch.store.tables import read_table


@dataclass(frozen=True)
class MadeWith:
    """The facts of how a library or a run was made that it does not say, or where they are now.

    libraries: Of a run, in its order, if they moved. only: The filter of the run. styles: The style images of the run,
    where its provenance does not name all of them. encoder_weights, decoder_weights: Files. mask: The place of its
    label images, if they moved. banks, network: Its filter banks in any order, and their network, if they moved.
    """

    libraries: tuple[str, ...] = ()
    only: ImageFilter = EVERY_IMAGE
    styles: tuple[str, ...] = ()
    encoder_weights: str | None = None
    decoder_weights: str | None = None
    mask: str | None = None
    banks: tuple[str, ...] = ()
    network: str | None = None


AS_RECORDED = MadeWith()
# Fields of a run that say how its style images or banks are mixed, and where.
MIXED = ("style_weights", "style_groups", "regions", "masks_sha256", "region_banks", "banks")


def job_of(run: Run, given: MadeWith, folder: str, threads: int) -> TranslateJob:
    """Return the job that made a run, with the results in `folder`.

    Raises:
        MismatchError: What is given or there would make another run.
        MissingError, UsageError: As `library_of`; label images or filter banks are gone.
    """
    config, resources = run.config, MethodConfig.model_fields.keys() - set(COMMON_SETTINGS)
    masks = masks_of(run, given.mask)
    settings = {name: value for name, value in config.items() if name not in resources}
    made, sources = choose(run.header.method, settings, _choice_of(run, given))
    mixed = {name: config[name] for name in MIXED if config.get(name)}
    made = type(made).model_validate({**made.model_dump(mode="json"), **mixed})
    planned = run.committed.ledger.config()
    if planned is None or made.digest() != planned[1]:
        raise MismatchError(
            f"What made '{run.location.uri}' cannot be put together again: the configuration here has the digest "
            f"{made.digest()}, that of the run {planned and planned[1]}; give what it was made with: "
            f"{_what_may_lack(config)}."
        )
    first = next(iter(given.libraries), None) or named_library(run)
    return TranslateJob(
        run=folder,
        config=made,
        sources=replace(sources, library=first or sources.library, masks=masks),
        threads=threads,
        series=run.location.uri if made.shares_edits else None,
        positions=positions(plan.units for plan in run.committed.ledger.plans()) if made.draw == "round-robin" else {},
    )


def _choice_of(run: Run, given: MadeWith) -> Choice:
    """Return the resources of a run as a caller chooses them."""
    config, encoder, fit = run.config, run.header.encoder, run.config.get("fit_digest")
    named, indexes = _named_libraries(run, given)
    files = banks_of(run, given.banks, given.network)
    return Choice(
        library=named or None,
        index=indexes,
        only=_filter_of(run, given),
        draw=config.get("draw"),
        seed=config.get("draw_seed", 0) if config.get("draw") in ("random", "round-robin") else None,
        statistics=config.get("statistics_digest"),
        styles=(given.styles or sorted(_style_places(run))) if config.get("styles") else [],
        encoder=encoder.encoder if encoder and not named else None,
        layer=encoder.layer if encoder and not named else None,
        encoder_weights=given.encoder_weights,
        decoder_weights=given.decoder_weights,
        size=None if fit else config.get("size") or (encoder.size if encoder else None),
        fit=fit,
        banks=files.banks,
        network=files.network,
    )


def _named_libraries(run: Run, given: MadeWith) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the libraries of a run, each with its weight, as a caller names them, and the index of each."""
    if run.config.get("fit_digest"):
        place = given.libraries[0] if given.libraries else trusted_library(run)
        return [f"{place}=1"], None  # so that the end of a name is no weight
    if run.header.index_digest is None and not run.config.get("statistics_digest"):
        return [], None
    further = run.header.further_libraries
    weights = [run.header.library_weight, *(each.weight for each in further)]
    first = library_of(run, next(iter(given.libraries), None))
    found = zip([first, *further_libraries(run, given.libraries)], weights, strict=True)
    named = [f"{library.location.uri}={Decimal(repr(weight)):f}" for library, weight in found]
    digest = run.header.index_digest
    return named, None if digest is None else (digest, *(each.index_digest for each in further))


def _filter_of(run: Run, given: MadeWith) -> ImageFilter:
    """Return the filter of a run, as it is given once more. Raises MismatchError where it is not."""
    if bool(run.config.get("allowed_sha256")) != bool(given.only):
        raise MismatchError(
            f"'{run.location.uri}' was made with all images of its libraries; leave the filter out."
            if given.only
            else f"'{run.location.uri}' was made with a filter, and keeps only a hash of the images that it allowed; "
            "give the same --only-tag, --only-license, --only-image and --where."
        )
    return given.only


def _what_may_lack(config: Mapping[str, Any]) -> str:
    """Return what a caller may have to name, so that a run can be done once more."""
    styles = ["the style images (--style)"] if config.get("styles") else []
    filters = ["the filter"] if config.get("allowed_sha256") else []
    return " and ".join([*filters, *styles, "the weights"])


def _style_places(run: Run) -> set[str]:
    """Return where the style images of a run are, as its provenance says."""
    return {
        str(uri)
        for part in run.committed.parts(layout.PROVENANCE).values()
        for uri in read_table(run.location, part, ["source_uri"])["source_uri"].unique().to_pylist()
    }
