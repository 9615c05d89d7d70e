"""A contact sheet as one page.

It shows inputs, results, the sources they were made of, and how well patches matched; of edits, the tone curve, the
pairs that shaped them most, and first those with a low confidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from kt_batch.errors import RejectError, UnreachableError, UsageError
from kt_batch.report.inspect import inspect_run, own_settings
from kt_batch.report.page_files import PageFolder, Picture, page_start
from kt_batch.report.pictures import legend, ncc_map
from kt_batch.report.recorded_edits import REVIEW_BELOW
from kt_batch.report.rendering import new_environment
from kt_batch.report.session import Session
from kt_batch.report.sheet_edits import PairedSources, ShownEdit, has_edits, lowest_confidences, show_edit
from kt_batch.report.sheet_lines import draw_lines
from kt_batch.report.sources import follows
from kt_batch.report.usage import Matches, Shares, new_usage
from kt_batch.store import layout
from kt_batch.store.images.files import image_id as id_of
from kt_batch.store.inputs import read_input
from kt_batch.store.run import Output, read_output
from kt_batch.store.schemas import provenance_kind
from kt_batch.store.targets import Inputs, Target

TEMPLATE = "sheet.html.j2"
SOURCES = 6  # shown for each input
PERCENTILE = 1.0  # of NCC, where the scale of the maps starts


# Settings by content, and `search`, which has a column of its own.
NOT_SHOWN = frozenset(
    {"decoder_sha256", "decoders_sha256", "styles", "style_weights", "style_groups", "masks_sha256", "search"}
)


@dataclass(frozen=True)
class Source:
    """A source image with its share of the output.

    picture: None when the image is not at hand.
    """

    name: str
    uri: str
    share: float
    picture: Picture | None
    license: str
    attribution: str


@dataclass(frozen=True)
class Result:
    """The output of one run for an input, or what it is compared with; `picture` is None without one."""

    title: str
    picture: Picture | None


@dataclass(frozen=True)
class Origins:
    """The sources of one input's outputs, for runs with equal provenance.

    ncc_map, ncc_mean: None for provenance per source.
    """

    titles: tuple[str, ...]
    ncc_map: Picture | None
    ncc_mean: float | None
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Entry:
    """One input. origins: of runs that record no edits."""

    name: str
    uri: str
    photo: Picture | None
    results: tuple[Result, ...]
    origins: tuple[Origins, ...]
    edits: tuple[ShownEdit, ...]


@dataclass(frozen=True)
class Extras:
    """What a page shows beside its runs.

    below: Confidence below which an edit is marked and shown first; None is REVIEW_BELOW. heading: `Contact sheet` if
    empty. note: Below the heading. pictures: title -> input's name -> file that results are compared with.
    """

    below: float | None = None
    heading: str = ""
    note: str = ""
    pictures: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """Return the confidence below which an edit is doubtful."""
        return REVIEW_BELOW if self.below is None else self.below


@dataclass(frozen=True)
class _Shown:
    """A run on the page, and its outputs by the input's name."""

    title: str
    session: Session
    outputs: dict[str, Output]

    def provenance(self, name: str) -> pa.Table:
        """Return the provenance of the output for an input's name."""
        return self.session.provenance(self.outputs[name])


def write_sheet(runs: Mapping[str, str], out: Path, inputs_shown: int = 6, extras: Extras = Extras()) -> Path:
    """Write `index.html` and its pictures into a directory; return the page's path.

    The page needs no network and runs no script.

    Args:
        runs: title -> place of a run. The first run decides which inputs are shown, by name; those with doubtful edits
            come first.
        out: the directory.
        inputs_shown: most inputs on the page.
        extras: what else is shown, and which edits are doubtful.

    Raises:
        UsageError: there is nothing to show, or `extras.below` is given and no run records edits.
        MissingError: a place holds no run.
        StorageError: it cannot be written.
    """
    if inputs_shown < 1:
        raise UsageError(f"a sheet of {inputs_shown} inputs shows nothing; allowed is 1 and more")
    shown = [_open(title, place) for title, place in runs.items()]
    if not shown or not shown[0].outputs:
        raise UsageError(
            f"there is no output to show in {', '.join(repr(place) for place in runs.values()) or 'no run'}"
        )
    if extras.below is not None and not any(has_edits(each.session) for each in shown):
        named = ", ".join(repr(place) for place in runs.values())
        raise UsageError(f"--review-below has no effect on {named}: no edits are recorded there; leave it out.")
    target = sheet_target(out, list(runs.values()))
    target.check_early()
    doubtful = _doubtful(shown, extras.limit)
    names = [*doubtful, *(name for name in shown[0].outputs if name not in doubtful)][:inputs_shown]
    page = _page(shown, names, len(doubtful), out, extras)
    target.write(page.encode(errors="backslashreplace"))
    return target.path


def _page(shown: Sequence[_Shown], names: Sequence[str], doubtful: int, out: Path, extras: Extras) -> str:
    """Return the page, and write its pictures. doubtful: photographs with a doubtful edit, shown or not."""
    first, low, sources = shown[0], _scale_start(shown, names), PairedSources()
    edited = [each for each in shown if has_edits(each.session)]
    with PageFolder(out) as folder:
        return (
            new_environment(trim_blocks=True)
            .get_template(TEMPLATE)
            .render(
                facts=[
                    {"title": each.title, "settings": _settings(each), **inspect_run(each.session)} for each in shown
                ],
                libraries=_libraries([each for each in shown if each not in edited]),
                paired=_paired(edited, sources),
                entries=[_entry(name, shown, low, folder, sources, extras) for name in names],
                total=len(first.outputs),
                doubtful=doubtful,
                all_edits=len(edited) == len(shown),
                extras=extras,
                legend=folder.put(legend()) if low is not None else None,
                low=low,
                lines=_lines(first, names[0], folder),
                lines_of=names[0],
                lines_title=first.title,
            )
        )


def _lines(shown: _Shown, name: str, folder: PageFolder) -> list[tuple[str, Picture]]:
    """Return a heading and a picture with lines for an output; of a method with levels, for form and for texture."""
    session, output = shown.session, shown.outputs[name]
    wanted: list[tuple[str | None, str]] = [(None, "Where patches came from")]
    if session.levels:
        ends = [(session.levels[0], "Where forms came from"), (session.levels[-1], "Where textures came from")]
        wanted = [*ends[: len(session.levels)]]
    drawn = ((heading, draw_lines(session, output, folder, level)) for level, heading in wanted)
    return [(heading, picture) for heading, picture in drawn if picture is not None]


def _doubtful(shown: Sequence[_Shown], below: float) -> list[str]:
    """Return the inputs of the first run that have a doubtful edit, the lowest confidence first."""
    lowest = lowest_confidences([each.session for each in shown])
    names = [name for name in shown[0].outputs if lowest.get(name, 1.0) < below]
    return sorted(names, key=lambda name: (lowest[name], name))


def sheet_target(out: Path, runs: Sequence[str] = ()) -> Target:
    """Return the page of a directory, which replaces an earlier sheet and nothing else.

    runs: places that the page shows.
    """
    return Target("The page", out / "index.html", Inputs(places=runs), force=None, begins=page_start(TEMPLATE))


def _open(title: str, place: str) -> _Shown:
    session = Session.open(place)
    return _Shown(title, session, {output.input_name: output for output in session.run.outputs.values()})


def _settings(shown: _Shown) -> list[tuple[str, str]]:
    """Return the method's own settings as text, without those that are not set."""
    config = shown.session.run.config
    own = (key for key in own_settings(shown.session.run) if key not in NOT_SHOWN and config[key] is not None)
    return [(key, _text(config[key])) for key in own]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _scale_start(shown: Sequence[_Shown], names: Sequence[str]) -> float | None:
    """Return the NCC at which all maps of the page start; None without a map.

    It is near the lowest NCC, a multiple of 0.05 under 1.
    """
    lowest = [
        float(np.percentile(each.session.ncc_cells(each.outputs[name]), PERCENTILE))
        for each in shown
        for name in names
        if name in each.outputs and provenance_kind(each.provenance(name)) == "patches"
    ]
    return min(max(math.floor(min(lowest) * 20) / 20, 0.0), 0.95) if lowest else None


def _libraries(shown: Sequence[_Shown]) -> list[dict[str, Any]] | None:
    """Return each library at hand once; None when no run names one."""
    if all(each.session.named_library is None for each in shown):
        return None
    libraries = {library.location.uri: library for each in shown if (library := each.session.library)}
    return [
        {
            "uri": uri,
            "images": sum(table.rows for table in library.committed.parts(layout.IMAGES).values()),
            "patches": library.patches,
            "license": library.config.license,
            "attribution": library.config.attribution,
        }
        for uri, library in libraries.items()
    ]


def _paired(edited: Sequence[_Shown], sources: PairedSources) -> list[dict[str, Any]] | None:
    """Return each paired library that a run names, once; None when no run records edits."""
    places = {each.session.named_library: each.session for each in edited}
    return [
        {"uri": place, "pairs": library.pairs if library else None}
        for place, session in places.items()
        if place is not None
        for library in [sources.library(session, place)]
    ] or None


# ---- one input -------------------------------------------------------------------------------------------------------


def _entry(
    name: str, shown: Sequence[_Shown], low: float | None, folder: PageFolder, sources: PairedSources, extras: Extras
) -> Entry:
    output = shown[0].outputs[name]
    edits = {
        each.title: show_edit(each.title, each.session, each.outputs[name], extras.limit, sources, folder)
        for each in shown
        if name in each.outputs
    }
    others = [each for each in shown if edits.get(each.title) is None]
    compared = ((title, files.get(name)) for title, files in extras.pictures.items())
    return Entry(
        name=name,
        uri=output.uri,
        photo=_photo(shown[0].session, output.uri, output.image_id, folder),
        results=(
            *(Result(each.title, _result(each, name, folder)) for each in shown),
            *(Result(title, folder.put_photo(file.read_bytes()) if file else None) for title, file in compared),
        ),
        origins=tuple(_origins(group, name, low, folder) for group in _equal_provenance(name, others)),
        edits=tuple(edit for edit in edits.values() if edit is not None),
    )


def _equal_provenance(name: str, shown: Sequence[_Shown]) -> list[list[_Shown]]:
    """Group the runs by the provenance of their output for this input.

    The runs of a group share a map and their sources.
    """
    groups: list[tuple[tuple[Any, ...], list[_Shown]]] = []
    for each in shown:
        if name not in each.outputs:
            continue
        key = (each.session.run.header.encoder, _decoded_columns(each.provenance(name)))
        group = next((members for known, members in groups if known == key), None)
        if group is None:
            groups.append((key, [each]))
        else:
            group.append(each)
    return [members for _, members in groups]


def _decoded_columns(table: pa.Table) -> list[Any]:
    """Return all columns but the output's name, without dictionaries.

    Dictionaries depend on the other outputs of a part.
    """
    return [_in_order_of_use(table[column]) for column in table.column_names if column != "output"]


def _in_order_of_use(column: pa.ChunkedArray) -> Any:
    """Return a column so that equal values compare equal: those of a dictionary once, and which row has which."""
    if not pa.types.is_dictionary(column.type):
        return column
    chunk = column.combine_chunks()
    chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    used, first, where = np.unique(chunk.indices.to_numpy(), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    return chunk.dictionary.take(pa.array(used[order])).to_pylist(), np.argsort(order)[where].tolist()


def _photo(session: Session, uri: str, identity: str, folder: PageFolder) -> Picture | None:
    """Return the image at a URI that the run recorded.

    None when it is not there any more, when other bytes are there, so that no plan shows a file whose content its
    writer did not have, or when it is in a store that the caller did not name.
    """
    if not follows(session.run.location, uri):
        return None
    try:
        data = read_input(uri)
    except (RejectError, UnreachableError):
        return None
    return folder.put_photo(data) if id_of(data) == identity else None


def _result(shown: _Shown, name: str, folder: PageFolder) -> Picture | None:
    """Return the output for an input's name; None when the run has none."""
    if name not in shown.outputs:
        return None
    return folder.put_photo(read_output(shown.session.run, shown.outputs[name]))


def _origins(group: Sequence[_Shown], name: str, low: float | None, folder: PageFolder) -> Origins:
    first, table = group[0], group[0].provenance(name)
    usage = new_usage(provenance_kind(table))
    usage.add(table)
    matched = isinstance(usage, Matches) and low is not None
    return Origins(
        titles=tuple(each.title for each in group),
        ncc_map=_map(first, name, low, folder) if low is not None and matched else None,
        ncc_mean=(usage.ncc_mean or 0.0) if isinstance(usage, Matches) else None,
        sources=tuple(_sources(first.session, usage, folder)),
    )


def _map(shown: _Shown, name: str, low: float, folder: PageFolder) -> Picture:
    session, output = shown.session, shown.outputs[name]
    return folder.put(ncc_map(session.ncc_cells(output), session.cells.stride, session.working_size(output), low))


def _sources(session: Session, usage: Matches | Shares, folder: PageFolder) -> list[Source]:
    """Return the sources used most.

    They come from the library, or from where provenance per source says.
    """
    top = usage.top(SOURCES)
    images = session.images([image_id for image_id, _ in top], previews=True)
    sources = []
    for image_id, share in top:
        image = images.get(image_id)
        uri = usage.uris[image_id] if isinstance(usage, Shares) else next(iter(image.uris), "") if image else ""
        name = PurePosixPath(uri).name or f"image {image_id}"
        if image is not None:
            sources.append(Source(name, uri, share, folder.put_photo(image.preview), image.license, image.attribution))
        else:
            picture = _photo(session, uri, image_id, folder) if uri else None
            sources.append(Source(name, uri, share, picture, "", ""))
    return sources
