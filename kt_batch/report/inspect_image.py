"""What is understood of one image file, for `kt-batch inspect IMAGE`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kt_batch.errors import RejectError
from kt_batch.store.images.files import image_id
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.inputs import list_inputs, read_input
from kt_batch.store.passed_over import IMAGE_SUFFIXES
from kt_batch.store.places import clean_place, scheme_of


def image_at(place: str) -> str | None:
    """Return the URI of the image file at a place; None for a folder, and for a place that holds nothing."""
    is_local = scheme_of(place) is None
    is_file = Path(clean_place(place)).is_file() if is_local else place.lower().endswith(IMAGE_SUFFIXES)
    return list_inputs([place])[0].uri if is_file else None


def inspect_image(uri: str) -> dict[str, Any]:
    """Return what is understood of an image, as JSON-able values; `reject` holds why it is not used, if it is not.

    Its bytes are parsed in the image reader's process alone.
    """
    head: dict[str, Any] = {"kind": "image", "place": uri}
    try:
        data = read_input(uri)
        head |= {"bytes": len(data), "image_id": image_id(data)}
        with ImageReaderProcess() as reader:
            return head | reader.facts(data)
    except RejectError as error:
        return head | {"reject": {"reason": str(error.reason), "message": error.message}}


def lines_of(facts: Mapping[str, Any]) -> list[str]:
    """Return facts as lines for a person."""
    lines = [f"{facts['place']}"]
    if facts["reject"]:
        lines.append(_line("rejected", f"{facts['reject']['reason']}: {facts['reject']['message']}"))
    lines.append(
        _line(
            "file",
            f"{facts.get('format') or 'unknown format'}, {facts.get('bytes', 0)} bytes, image {facts.get('image_id')}",
        )
    )
    if "width" in facts:
        lines += _picture_lines(facts)
    if developed := facts.get("developed"):
        lines.append(_line("developed", developed))
    if profile := facts.get("profile"):
        said = profile["description"] or "without a description"
        lines.append(
            _line("profile", f"{said}, {profile['colours']}, version {profile['version']}, {profile['bytes']} bytes")
        )
    if "metadata" in facts:
        blocks = [f"{name.upper()} {size} bytes" for name, size in facts["metadata"].items()]
        lines.append(_line("metadata", ", ".join(blocks) or "none"))
    if facts.get("taken"):
        lines.append(_line("taken", facts["taken"]))
    if facts.get("gain_map"):
        lines.append(_line("gain map", "there is one; the main picture is read without it"))
    if facts.get("more_pictures"):
        lines.append(_line("pictures", "there are more; the first one is read"))
    return lines


def _picture_lines(facts: Mapping[str, Any]) -> list[str]:
    stored = f"stored as {facts['stored_width']} x {facts['stored_height']}"
    space = facts["space"]
    colours = f"{facts['colours']}, {facts['bits']} bits {facts['samples']}"
    lines = [
        _line("size", f"{facts['width']} x {facts['height']}, {stored}"),
        _line("orientation", f"{facts['orientation']}, {facts['orientation_is']}"),
        _line("samples", f"{colours}, {facts['transparency'] or 'no'} transparency"),
        _line("colours", f"{space['is']}, decided by {space['decided_by']}"),
    ]
    if space["high_dynamic_range"]:
        lines.append(_line("light", f"{space['high_dynamic_range']}, white at 203 cd/m2"))
    return lines


def _line(name: str, text: str) -> str:
    return f"  {name:<12} {text}"
