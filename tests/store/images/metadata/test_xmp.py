"""XMP that is carried over, and what is added to it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from kt_batch import __version__
from kt_batch.store.images.metadata import xmp_edit
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.carry import Policy, Space, carried
from kt_batch.store.images.metadata.xmp_edit import Made, SourceType
from tests.support.metadata import IPTC, NAMESPACES, Exif, xmp

MADE = Made("transfer", "0123456789abcdef", SourceType.TRANSFER)
EDIT = Made("grade", "", SourceType.EDIT)
TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
KT = xmp_edit.NAMESPACE


def key(prefixed: str) -> str:
    prefix, _, local = prefixed.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


def after(packet: bytes | None, policy: Policy = "keep", made: Made = MADE, space: Space = "srgb") -> ET.Element:
    """Return the RDF of what an output gets for a packet."""
    written = carried(Blocks(xmp=packet), policy, 640, 480, made, space).xmp
    assert written is not None
    rdf = ET.fromstring(written.decode().strip()).find(key("rdf:RDF"))
    assert rdf is not None
    return rdf


def value(rdf: ET.Element, name: str) -> str | None:
    """Return the value of a property, as attribute or element."""
    for description in rdf:
        if name in description.attrib:
            return description.get(name)
        if (element := description.find(name)) is not None:
            return element.text
    return None


AS_ATTRIBUTES = xmp(
    'tiff:Orientation="6" tiff:ImageWidth="4000" tiff:ImageLength="3000" exif:PixelXDimension="4000" '
    'exif:PixelYDimension="3000" crs:Exposure2012="+0.50"'
)
AS_ELEMENTS = xmp(
    elements="<tiff:Orientation>6</tiff:Orientation><tiff:ImageWidth>4000</tiff:ImageWidth>"
    "<tiff:ImageLength>3000</tiff:ImageLength><exif:PixelXDimension>4000</exif:PixelXDimension>"
    "<exif:PixelYDimension>3000</exif:PixelYDimension><crs:Exposure2012>+0.50</crs:Exposure2012>"
)


@pytest.mark.parametrize("packet", [AS_ATTRIBUTES, AS_ELEMENTS], ids=["attributes", "elements"])
def test_orientation_and_size_are_those_of_the_output_and_edits_stay(packet: bytes) -> None:
    rdf = after(packet)
    assert value(rdf, key("tiff:Orientation")) == "1"
    assert value(rdf, key("tiff:ImageWidth")) == value(rdf, key("exif:PixelXDimension")) == "640"
    assert value(rdf, key("tiff:ImageLength")) == value(rdf, key("exif:PixelYDimension")) == "480"
    assert value(rdf, key("crs:Exposure2012")) == "+0.50"


def test_a_size_that_was_not_there_is_not_added() -> None:
    assert value(after(xmp()), key("tiff:ImageWidth")) is None


def test_thumbnails_and_statements_about_other_pictures_in_the_file_are_removed() -> None:
    rdf = after(
        xmp(
            'hdrgm:Version="1.0" hdrgm:GainMapMax="2" dc:format="image/jpeg"',
            "<xmp:Thumbnails><rdf:Alt><rdf:li>R0lGODlh</rdf:li></rdf:Alt></xmp:Thumbnails>",
        )
    )
    names = {name for element in rdf.iter() for name in (element.tag, *element.attrib)}
    assert key("xmp:Thumbnails") not in names
    assert not any("hdr-gain-map" in name for name in names)
    assert value(rdf, key("dc:format")) == "image/jpeg"


GPS = (
    (
        'exif:GPSLatitude="48,51.5N" exif:GPSLongitude="2,17.7E" exif:GPSVersionID="2.3.0.0" drone:GpsLongtitude="2" '
        'drone:AbsoluteAltitude="+35"'
    ),
    (
        "<ext:LocationCreated><rdf:Bag><rdf:li rdf:parseType='Resource'><ext:City>Paris</ext:City>"
        "<exif:GPSLatitude>48,51.5N</exif:GPSLatitude></rdf:li></rdf:Bag></ext:LocationCreated>"
        "<exif:GPSTimeStamp>2019-08-07T04:05:04Z</exif:GPSTimeStamp>"
    ),
)


def test_coordinates_go_wherever_they_stand_and_names_of_places_stay() -> None:
    rdf = after(xmp(*GPS), "keep-no-gps")
    text = ET.tostring(rdf, "unicode")
    assert "GPS" not in text.upper()
    assert "48,51" not in text
    assert "Altitude" not in text
    assert "Paris" in text


def test_coordinates_go_whatever_their_prefix_is() -> None:
    packet = xmp(*GPS).replace(b"exif:", b"e:").replace(b"xmlns:exif", b"xmlns:e")
    assert "GPS" not in ET.tostring(after(packet, "keep-no-gps"), "unicode").upper()


def test_coordinates_stay_when_they_are_wanted() -> None:
    assert value(after(xmp(*GPS)), key("exif:GPSLatitude")) == "48,51.5N"


def test_a_conversion_removes_what_xmp_says_about_colour() -> None:
    packet = xmp('exif:ColorSpace="65535" photoshop:ICCProfile="Adobe RGB (1998)"')
    assert value(after(packet), key("exif:ColorSpace")) is None
    assert value(after(packet), key("photoshop:ICCProfile")) is None
    assert value(after(packet, space="input"), key("photoshop:ICCProfile")) == "Adobe RGB (1998)"


@pytest.mark.parametrize(
    "packet",
    [
        None,
        b"",
        b"<x:xmpmeta",
        b"no XML",
        b"\xff\xfe\0",
        xmp().replace(b"<rdf:RDF", b'<!DOCTYPE d [<!ENTITY a "b">]><rdf:RDF'),
        b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + xmp(elements="<dc:title>&b;</dc:title>"),
        xmp(elements="<dc:a>" * 1000 + "</dc:a>" * 1000),
        xmp(elements="<dc:a/>" * 100_001),
    ],
    ids=["none", "empty", "cut", "text", "bytes", "type inside", "entities", "deep", "many"],
)
def test_a_packet_that_is_broken_is_replaced_by_ours(packet: bytes | None) -> None:
    assert carried(Blocks(xmp=packet), "keep", 1, 1, MADE).xmp == carried(Blocks(), "strip", 1, 1, MADE).xmp


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_packet_may_have_any_encoding_of_unicode(encoding: str) -> None:
    packet = xmp(elements="<dc:source>Zürich 漢</dc:source>").decode().removeprefix("\ufeff")
    text = packet[packet.index("<x:") :]
    assert value(after(text.encode(encoding)), key("dc:source")) == "Zürich 漢"


def test_a_document_type_is_refused_in_every_encoding() -> None:
    text = '<!DOCTYPE d [<!ENTITY a "b">]>' + AS_ELEMENTS.decode()
    rdf = after(text.encode("utf-16"))
    assert value(rdf, key("tiff:Orientation")) is None


def test_xmp_says_what_was_done() -> None:
    rdf = after(xmp('xmp:CreatorTool="Camera 1.0"'))
    assert value(rdf, f"{{{KT}}}Method") == "transfer"
    assert value(rdf, f"{{{KT}}}Library") == "0123456789abcdef"
    assert value(rdf, key("xmp:CreatorTool")) == "Camera 1.0"


def test_a_property_without_value_is_left_out() -> None:
    assert value(after(xmp(), made=EDIT), f"{{{KT}}}Library") is None


def events(rdf: ET.Element) -> list[dict[str, str | None]]:
    found = [event for seq in rdf.iter(key("rdf:Seq")) for event in seq]
    return [
        {child.tag.rpartition("}")[2]: child.text for child in event}
        | {name.rpartition("}")[2]: text for name, text in event.attrib.items() if "ResourceEvent" in name}
        for event in found
    ]


OURS = {
    "action": "edited",
    "softwareAgent": f"kt_batch {__version__}",
    "parameters": "method transfer; library 0123456789abcdef",
}


def test_the_history_gets_one_event_without_a_time() -> None:
    assert events(after(xmp())) == [OURS]


def test_the_event_stands_behind_those_of_others() -> None:
    history = '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved" stEvt:when="2020-01-01"/></rdf:Seq></xmpMM:History>'
    assert events(after(xmp(elements=history))) == [{"action": "saved", "when": "2020-01-01"}, OURS]


def test_a_history_that_is_no_list_is_replaced() -> None:
    assert events(after(xmp(elements="<xmpMM:History>text</xmpMM:History>"))) == [OURS]


def test_an_output_that_becomes_an_input_says_what_was_done_last_and_keeps_both_events() -> None:
    first = carried(Blocks(xmp=xmp()), "keep", 1, 1, MADE).xmp
    rdf = after(first, made=EDIT)
    assert value(rdf, f"{{{KT}}}Method") == "grade"
    assert [event["parameters"] for event in events(rdf)] == [
        OURS["parameters"],
        "method grade",
    ]


@pytest.mark.parametrize(
    ("before", "source", "expected"),
    [
        (None, SourceType.EDIT, "algorithmicallyEnhanced"),
        (None, SourceType.TRANSFER, "compositeWithTrainedAlgorithmicMedia"),
        (None, None, None),
        ("digitalCapture", None, "digitalCapture"),
        ("digitalCapture", SourceType.EDIT, "algorithmicallyEnhanced"),
        ("trainedAlgorithmicMedia", SourceType.EDIT, "trainedAlgorithmicMedia"),
        ("compositeSynthetic", SourceType.EDIT, "compositeSynthetic"),
        ("digitalCapture", SourceType.TRANSFER, "compositeWithTrainedAlgorithmicMedia"),
    ],
)
@pytest.mark.parametrize("form", ["attribute", "element", "resource"])
def test_the_kind_of_picture_is_a_term_of_iptc(
    before: str | None, source: SourceType | None, expected: str | None, form: str
) -> None:
    packet = {
        "attribute": xmp(f'ext:DigitalSourceType="{TERMS}{before}"'),
        "element": xmp(elements=f"<ext:DigitalSourceType>{TERMS}{before}</ext:DigitalSourceType>"),
        "resource": xmp(elements=f'<ext:DigitalSourceType rdf:resource="{TERMS}{before}"/>'),
    }[form]
    rdf = after(packet if before else xmp(), made=Made("m", "", source))
    name = key("ext:DigitalSourceType")
    found = value(rdf, name)
    if found is None and form == "resource":
        found = next((child.get(key("rdf:resource")) for each in rdf for child in each.findall(name)), None)
    assert found == (TERMS + expected if expected else None)


def test_the_same_input_gives_the_same_bytes() -> None:
    assert carried(Blocks(xmp=AS_ATTRIBUTES), "keep", 1, 1, MADE) == carried(
        Blocks(xmp=AS_ATTRIBUTES), "keep", 1, 1, MADE
    )


def test_text_that_xml_must_escape_comes_back() -> None:
    text = "&lt;a&gt; &amp; \"b\" 'c' &#9;&#10;&#13; ü"
    packet = xmp(f"dc:source='{text.replace(chr(39), '&apos;')}'", f"<dc:rights>{text}</dc:rights>")
    rdf = after(packet)
    assert value(rdf, key("dc:source")) == value(rdf, key("dc:rights")) == "<a> & \"b\" 'c' \t\n\r ü"


def test_two_namespaces_with_one_prefix_stay_apart() -> None:
    one, two = '<a:p xmlns:a="urn:one">1</a:p>', '<a:p xmlns:a="urn:two">2</a:p>'
    rdf = after(xmp(elements=one + two))
    assert (value(rdf, "{urn:one}p"), value(rdf, "{urn:two}p")) == ("1", "2")


def test_very_many_namespaces_with_one_prefix_stay_apart() -> None:
    rdf = after(xmp(elements="".join(f'<a:p xmlns:a="urn:{number}">{number}</a:p>' for number in range(50_000))))
    assert value(rdf, "{urn:49999}p") == "49999"


def test_our_description_speaks_of_the_same_resource() -> None:
    assert {description.get(key("rdf:about")) for description in after(xmp(about="uuid:7"))} == {"uuid:7"}


def test_strip_keeps_nothing_but_a_profile_that_still_holds() -> None:
    blocks = Blocks(Exif().block(), AS_ATTRIBUTES, IPTC, b"profile")
    assert carried(blocks, "strip", 1, 1, MADE, "input") == Blocks(
        xmp=carried(Blocks(), "keep", 1, 1, MADE).xmp, icc=b"profile"
    )
    assert carried(blocks, "strip", 1, 1, MADE, "srgb").icc is None


def test_keep_carries_every_block() -> None:
    blocks = carried(Blocks(Exif().block(), AS_ATTRIBUTES, IPTC, b"profile"), "keep", 640, 480, MADE, "input")
    assert (blocks.iptc, blocks.icc) == (IPTC, b"profile")
    assert blocks.exif is not None
    assert blocks.capture_time == "2019-08-07T06:05:04.120+02:00"


def test_coordinates_go_from_a_packet_with_very_many() -> None:
    assert after(xmp(elements="<exif:GPSa/>" * 99_000), "keep-no-gps").find(f".//{key('exif:GPSa')}") is None
