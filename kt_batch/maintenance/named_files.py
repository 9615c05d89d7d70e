"""The label images and the filter banks of a run: where they are, and whether they are still the run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kt_batch.config import BankShare
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.models.banks import load_bank
from kt_batch.pipelines.translate.banks import local_bank
from kt_batch.pipelines.translate.masks import Masks, find_masks
from kt_batch.report.sources import named_files, trusted
from kt_batch.store.run import Run


@dataclass(frozen=True)
class BankFiles:
    """The files of the banks of a run, and of their network; None: it is beside the first bank."""

    banks: tuple[str, ...] = ()
    network: str | None = None


def masks_of(run: Run, given: str | None) -> Masks | None:
    """Return the label images of a run, from where it says or from a given place; None for a run without them.

    Raises:
        MissingError: They are gone, or the run does not say where they are.
        MismatchError: The place holds others, or the run was made without them.
        UsageError: They are in a store that the caller did not name.
    """
    wanted = run.config.get("masks_sha256")
    if wanted is None:
        if given is not None:
            raise MismatchError(f"'{run.location.uri}' was made without label images; leave --mask {given} out.")
        return None
    place = given or next(iter(_named(run, "masks", "label images", "--mask")))
    try:
        masks = find_masks(place)
    except (UsageError, MissingError) as error:
        raise MissingError(
            f"The label images of '{run.location.uri}' are not at '{place}'; say where they are now with --mask."
        ) from error
    if masks.sha256 != wanted:
        raise MismatchError(
            f"The label images at '{place}' are not those of '{run.location.uri}': one was changed, added or removed "
            f"(together they are {masks.sha256[:16]}, those of the run {str(wanted)[:16]})."
        )
    return masks


def banks_of(run: Run, given: Sequence[str], network: str | None) -> BankFiles:
    """Return the files of the banks of a run, from where it says or as given in any order.

    Raises:
        MissingError: A file is gone, or the run does not say where they are.
        MismatchError: A file holds another bank, or the run was made without banks.
    """
    shares = [BankShare.model_validate(each) for each in run.config.get("banks", ())]
    if not shares:
        if given or network:
            raise MismatchError(f"'{run.location.uri}' was made without filter banks; leave --bank and --network out.")
        return BankFiles()
    files = tuple(given) or _named(run, "banks", "filter banks", "--bank")
    if network is None and not given:
        network = next(iter(_named(run, "network", "the network of its filter banks", "--network")))
    wanted = {share.bank for share in shares}
    found = {file: _bank_id(run, file) for file in files}
    planned = " and ".join(each[:16] for each in sorted(wanted))
    if other := [file for file in files if found[file] not in wanted]:
        raise MismatchError(
            f"The filter bank '{other[0]}' is {found[other[0]][:16]}, and '{run.location.uri}' was made with "
            f"{planned}: the file has changed, or is another one."
        )
    if wanted - set(found.values()):
        raise MismatchError(f"'{run.location.uri}' was made with the filter banks {planned}; name all of them.")
    return BankFiles(files, network)


def _bank_id(run: Run, file: str) -> str:
    path = local_bank(file)
    if not path.is_file():
        raise MissingError(
            f"The filter bank '{file}' of '{run.location.uri}' is gone; say where the banks are now with --bank."
        )
    return load_bank(path).id


def _named(run: Run, key: str, what: str, option: str) -> tuple[str, ...]:
    """Return the places that a run names under a key. Raises MissingError when it names none."""
    found = named_files(run, key)
    if not found:
        raise MissingError(f"'{run.location.uri}' does not say where its {what} are; name them with {option}.")
    return tuple(trusted(run, each, what, option) for each in found)
