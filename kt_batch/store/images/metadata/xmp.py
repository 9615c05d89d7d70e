"""A packet of XMP as a tree, and back.

Source: ISO 16684-1. Packets come from strangers: a document type is refused, for it is where entities are declared,
and depth and number of elements are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META, _XML = "adobe:ns:meta/", "http://www.w3.org/XML/1998/namespace"
_BEGIN, _END = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'

_MAX_DEPTH, _MAX_ELEMENTS = 64, 100_000

Element = ET.Element


@dataclass(frozen=True)
class Packet:
    """A packet: `rdf` holds descriptions, `prefixes` the prefix of each namespace."""

    rdf: Element
    prefixes: dict[str, str]

    def descriptions(self) -> list[Element]:
        """Return the elements that hold the properties of the picture."""
        return [child for child in self.rdf if child.tag == name(RDF, "Description")]


class _Builder(ET.TreeBuilder):
    """Builds a tree of bounded size, and remembers prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: dict[str, str] = {}
        self._depth = self._elements = 0

    def start_ns(self, prefix: str | None, uri: str) -> None:
        """Remember the first prefix of a namespace."""
        self.prefixes.setdefault(uri, prefix or "")

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> Element:
        """Begin an element."""
        self._depth += 1
        self._elements += 1
        if self._depth > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            raise ValueError(f"more than {_MAX_ELEMENTS} elements, or deeper than {_MAX_DEPTH}")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        """End an element."""
        self._depth -= 1
        return super().end(tag)


def name(namespace: str, local: str) -> str:
    """Return a name as the tree has it."""
    return f"{{{namespace}}}{local}"


def empty() -> Packet:
    """Return a packet without properties."""
    return Packet(Element(name(RDF, "RDF")), {RDF: "rdf"})


def parsed(packet: bytes) -> Packet | None:
    """Return a packet as a tree; None for one that is broken, too deep or too large, or has a document type."""
    try:
        text = packet.decode(_encoding(packet)).strip("\ufeff\0 \t\r\n")
        if "<!DOCTYPE" in text:
            return None
        builder = _Builder()
        parser = ET.XMLParser(target=builder)  # noqa: S314 - without a document type there are no entities
        parser.feed(text)
        root = parser.close()
    except (ValueError, ET.ParseError):
        return None
    rdf = next(root.iter(name(RDF, "RDF")), None)
    return None if rdf is None else Packet(rdf, builder.prefixes)


def written(packet: Packet) -> bytes:
    """Return a packet as bytes, with its wrapper; the same tree gives the same bytes."""
    return f'{_BEGIN}\n<x:xmpmeta xmlns:x="{_META}">\n{_rdf(packet)}\n</x:xmpmeta>\n{_END}'.encode()


def bare(packet: Packet) -> bytes:
    """Return a packet without its wrapper, as the part of a JPEG that does not fit into one segment."""
    return f'<x:xmpmeta xmlns:x="{_META}">{_rdf(packet)}</x:xmpmeta>'.encode()


def _encoding(packet: bytes) -> str:
    for mark, encoding in (
        (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
        (b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"),
    ):  # fmt: skip
        if packet.startswith(mark):
            return encoding
    return "utf-8"


def _rdf(packet: Packet) -> str:
    names = _short_names(packet)
    declared = sorted({name.partition(":")[0]: uri for uri, name in names.items()}.items())
    parts: list[str] = []
    attributes = "".join(f' xmlns:{prefix}="{_attribute(uri)}"' for prefix, uri in declared if prefix != "xml")
    _write(packet.rdf, names, attributes, parts)
    return "".join(parts)


def _short_names(packet: Packet) -> dict[str, str]:
    """Return the prefix and colon of each namespace in use; two namespaces never share one."""
    short = {_XML: "xml:"}
    taken = {"xml:", "x:"}
    number = 0
    for element in packet.rdf.iter():
        for long in (element.tag, *element.attrib):
            uri = _split(long)[0]
            if not uri or uri in short:
                continue
            prefix = packet.prefixes.get(uri, "")
            while not prefix or f"{prefix}:" in taken:
                number += 1
                prefix = f"ns{number}"
            taken.add(f"{prefix}:")
            short[uri] = f"{prefix}:"
    return short


def _split(long: str) -> tuple[str, str]:
    """Return namespace and local name."""
    uri, _, local = long.removeprefix("{").rpartition("}")
    return uri, local


def _write(element: Element, names: dict[str, str], declared: str, parts: list[str]) -> None:
    def short(long: str) -> str:
        uri, local = _split(long)
        return names.get(uri, "") + local

    tag = short(element.tag)
    attributes = "".join(f' {short(key)}="{_attribute(value)}"' for key, value in element.attrib.items())
    parts.append(f"<{tag}{declared}{attributes}")
    if len(element) == 0 and not element.text:
        parts.append("/>")
    else:
        parts.append(f">{_escaped(element.text or '')}")
        for child in element:
            _write(child, names, "", parts)
            parts.append(_escaped(child.tail or ""))
        parts.append(f"</{tag}>")


_SPECIAL = re.compile("[&<>\r]|[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_IN_ATTRIBUTES = str.maketrans({'"': "&quot;", "\n": "&#10;", "\t": "&#9;"})


def _escaped(text: str) -> str:
    """Return text for an element; what XML cannot hold becomes a replacement character."""
    return _SPECIAL.sub(lambda match: _ENTITIES.get(match[0], "\ufffd"), text)


def _attribute(text: str) -> str:
    return _escaped(text).translate(_IN_ATTRIBUTES)
