"""What is corrected in XMP, what is removed from it, and what is added: what was done to the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kt_batch import __version__
from kt_batch.store.images.metadata import xmp
from kt_batch.store.images.metadata.xmp import RDF, Element, Packet, name

NAMESPACE = "urn:uuid:4f6a4a3e-7d0c-5b61-9a55-6b742d626174#"  # of Method, Library and Config; it never changes

_TIFF, _EXIF, _XMP = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/xap/1.0/"
_MM, _EVENT = "http://ns.adobe.com/xap/1.0/mm/", "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_NOTE, _PHOTOSHOP = "http://ns.adobe.com/xmp/note/", "http://ns.adobe.com/photoshop/1.0/"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_PREFIXES = {NAMESPACE: "kt", _MM: "xmpMM", _EVENT: "stEvt", _NOTE: "xmpNote", _IPTC_EXT: "Iptc4xmpExt", RDF: "rdf"}

# Statements about further pictures in the same file: gain maps, depth, moving pictures. An output has none of them.
_OF_OTHER_PARTS = (
    "http://ns.adobe.com/hdr-gain-map/",
    "http://ns.apple.com/HDRGainMap/",
    "http://ns.google.com/photos/1.0/audio/",
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/dd/1.0/",
)
_PLACES = ("http://www.w3.org/2003/01/geo/wgs84_pos#", "http://www.georss.org/georss")
_COORDINATES = ("latitude", "longitude", "longtitude", "altitude")  # the third is how a maker of drones writes it

_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# Terms that stay although the picture was only edited: generated pictures do not become photographs.
_STAY = frozenset(
    {"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "composite"}
    | {"algorithmicMedia", "dataDrivenMedia", "digitalArt", "digitalCreation", "virtualRecording", "softwareImage"}
)


class SourceType(StrEnum):
    """What kind of picture an output is, as a term of IPTC's vocabulary of digital source types."""

    EDIT = "algorithmicallyEnhanced"
    TRANSFER = "compositeWithTrainedAlgorithmicMedia"


@dataclass(frozen=True)
class Made:
    """How an output was made.

    method: its name. library: a digest of its content, empty without one. source: the kind of picture; None where
    nothing was done to it.
    """

    method: str
    library: str
    source: SourceType | None

    @property
    def properties(self) -> dict[str, str]:
        """Return the properties of our namespace."""
        every = {"Method": self.method, "Library": self.library}
        return {local: value for local, value in every.items() if value}


def corrected(packet: Packet, width: int, height: int, stays: bool, gps: bool) -> None:
    """Correct what a packet says about the pixels; remove thumbnails, other parts of the file and, if asked, places.

    Args:
        packet: Changed in place.
        width: Of the output.
        height: Of the output.
        stays: Whether the output stays in the colour space of the input.
        gps: Whether places are kept.
    """
    values = {name(_TIFF, "Orientation"): "1"}
    values |= {name(_TIFF, "ImageWidth"): str(width), name(_TIFF, "ImageLength"): str(height)}
    values |= {name(_EXIF, "PixelXDimension"): str(width), name(_EXIF, "PixelYDimension"): str(height)}
    removed = {name(_XMP, "Thumbnails"), name(_NOTE, "HasExtendedXMP")}
    if not stays:
        removed |= {name(_EXIF, "ColorSpace"), name(_PHOTOSHOP, "ICCProfile")}
    for description in packet.descriptions():
        _set(description, values)

    def unwanted(long: str) -> bool:
        return long in removed or long[1:].startswith(_OF_OTHER_PARTS) or (not gps and _is_place(long))

    _remove(packet.rdf, unwanted)


def add_what_was_done(packet: Packet, made: Made) -> None:
    """Add our properties, one event of the history and the kind of picture; older ones of ours are replaced."""
    _remove(packet.rdf, lambda long: long.startswith(name(NAMESPACE, "")))
    packet.prefixes.update(_PREFIXES)
    ours = Element(name(RDF, "Description"), {name(RDF, "about"): _about(packet)})
    for local, value in made.properties.items():
        ours.set(name(NAMESPACE, local), value)
    if made.source is not None:
        term = name(_IPTC_EXT, "DigitalSourceType")
        kept = [value for value in _texts(packet, term) if made.source == SourceType.EDIT and _stays(value)]
        _remove(packet.rdf, lambda long: long == term)
        ours.set(term, kept[0] if kept else _VOCABULARY + made.source)
    _append(_history(packet, ours), made)
    packet.rdf.append(ours)


def merged(packet: Packet, extension: Packet) -> None:
    """Add the properties of an extended packet to the main one."""
    packet.rdf.extend(extension.descriptions())
    for uri, prefix in extension.prefixes.items():
        packet.prefixes.setdefault(uri, prefix)
    _remove(packet.rdf, lambda long: long == name(_NOTE, "HasExtendedXMP"))


def extended_by(packet: Packet) -> str | None:
    """Return the digest that names the extension of a packet; None without one."""
    return next(iter(_texts(packet, name(_NOTE, "HasExtendedXMP"))), None)


def split(data: bytes, limit: int) -> tuple[bytes, bytes, str]:
    """Divide a packet that is longer than `limit` into a main one and an extension with its digest.

    The longest properties go into the extension until the rest is short enough. Ours stay.
    """
    packet = xmp.parsed(data)
    if packet is None:
        return b"", b"", ""
    extension = Packet(Element(name(RDF, "RDF")), packet.prefixes)
    about = {name(RDF, "about"): _about(packet)}
    moved = Element(name(RDF, "Description"), about)
    extension.rdf.append(moved)
    excess = len(xmp.written(packet)) - limit + 1024  # room for the digest and for namespaces
    taken: set[Element] = set()
    for size, description, key in sorted(_sizes(packet), key=lambda found: -found[0]):
        if excess <= 0:
            break
        if isinstance(key, str):
            moved.set(key, description.attrib.pop(key))
        else:
            taken.add(key)
            moved.append(key)
        excess -= size
    for description in packet.descriptions():
        description[:] = [child for child in description if child not in taken]
    rest = xmp.bare(extension)
    digest = hashlib.md5(rest, usedforsecurity=False).hexdigest().upper()
    packet.prefixes[_NOTE] = "xmpNote"
    packet.rdf.append(Element(name(RDF, "Description"), about | {name(_NOTE, "HasExtendedXMP"): digest}))
    main = xmp.written(packet)
    return (main, rest, digest) if len(main) <= limit else (b"", b"", "")


def _sizes(packet: Packet) -> Iterator[tuple[int, Element, str | Element]]:
    """Yield how many bytes each property takes at least, with its description and its key."""
    about = name(RDF, "about")
    for description in packet.descriptions():
        if any(key.startswith(name(NAMESPACE, "")) for key in description.attrib):
            continue
        for key, value in description.attrib.items():
            if key != about:
                yield len(value.encode()), description, key
        for child in description:
            yield sum(len((part.text or "").encode()) + len(_local(part)) for part in child.iter()), description, child


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _about(packet: Packet) -> str:
    """Return what the descriptions say they are about; all of a packet say the same."""
    return next((description.get(name(RDF, "about"), "") for description in packet.descriptions()), "")


def _set(description: Element, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        if key in description.attrib:
            description.set(key, value)
        for child in description.findall(key):
            tail = child.tail
            child.clear()
            child.text, child.tail = value, tail


def _remove(element: Element, unwanted: Callable[[str], bool]) -> None:
    for key in [key for key in element.attrib if unwanted(key)]:
        del element.attrib[key]
    element[:] = [child for child in element if not unwanted(str(child.tag))]
    for child in element:
        _remove(child, unwanted)


def _is_place(long: str) -> bool:
    uri, _, local = long[1:].rpartition("}")
    plain = local.casefold()
    return uri.startswith(_PLACES) or plain.startswith("gps") or any(word in plain for word in _COORDINATES)


def _texts(packet: Packet, key: str) -> list[str]:
    """Return the values of a simple property, as attribute, as text or as resource."""
    found = []
    for description in packet.descriptions():
        found += [description.get(key, "")]
        found += [child.get(name(RDF, "resource"), child.text or "") for child in description.findall(key)]
    return [text.strip() for text in found if text.strip()]


def _stays(value: str) -> bool:
    return value.rpartition("/")[2] in _STAY


def _history(packet: Packet, ours: Element) -> Element:
    """Return the list of events; a new one where there is none."""
    key = name(_MM, "History")
    for description in packet.descriptions():
        for history in description.findall(key):
            if (events := history.find(name(RDF, "Seq"))) is not None:
                return events
            description.remove(history)
    return _child(_child(ours, key), name(RDF, "Seq"))


def _append(events: Element, made: Made) -> None:
    parameters = "; ".join(f"{local.lower()} {value}" for local, value in made.properties.items())
    event = _child(events, name(RDF, "li"))
    event.set(name(RDF, "parseType"), "Resource")
    for local, value in (
        ("action", "edited" if made.source else "converted"),
        ("softwareAgent", f"kt_batch {__version__}"),
        ("parameters", parameters),
    ):
        _child(event, name(_EVENT, local)).text = value


def _child(parent: Element, tag: str) -> Element:
    child = Element(tag)
    parent.append(child)
    return child
