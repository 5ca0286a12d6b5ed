"""XMP packets: claims about parts of a file that are gone are taken out, and statements of other kinds put in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from xml.dom import XMLNS_NAMESPACE, minidom
from xml.parsers.expat import ExpatError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_GOOGLE = "http://ns.google.com/photos/"
_CONTAINER = _GOOGLE + "1.0/container/"
_CONTAINER_ITEM = _GOOGLE + "1.0/container/item/"

_CLAIMS = (
    ("http://ns.adobe.com/hdr-gain-map/1.0/", "", "gain map"),
    ("http://ns.apple.com/HDRGainMap/1.0/", "", "gain map"),
    (_CONTAINER, "", None),
    (_CONTAINER_ITEM, "", None),
    (_GOOGLE + "1.0/camera/", "MotionPhoto|MicroVideo", "motion photo"),
    (_GOOGLE + "1.0/depthmap/", "", "depth map"),
    (_GOOGLE + "1.0/image/", "", "embedded image"),
    (_GOOGLE + "1.0/audio/", "", "sound"),
    (_GOOGLE + "dd/1.0/device/", "", "depth map"),
    ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP", "extended XMP"),
)
"""Namespaces, beginnings of local names, and what they say lies beside the picture (None: by the items' semantics)."""

_SEMANTICS = {"GainMap": "gain map", "MotionPhoto": "motion photo", "Depth": "depth map", "RecoveryMap": "gain map"}
_EDITED_BYTES_MAX = 2**20
"""Longer packets are left as they are: parsing takes many times their size in memory."""

_PREFIXES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "exif": _EXIF,
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
}
# How XMP wants a property; all others are simple texts.
_FORMS = {"dc:title": "Alt", "dc:description": "Alt", "dc:rights": "Alt", "exif:UserComment": "Alt"} | {
    "dc:creator": "Seq", "dc:subject": "Bag",
    "photoshop:SupplementalCategories": "Bag", "Iptc4xmpCore:SubjectCode": "Bag",
}  # fmt: skip
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def upright_xmp(xmp: bytes, width: int, height: int, turned: bool) -> tuple[bytes, list[str]]:
    """The packet for an upright picture of `width` x `height` pixels that is alone in its file, and what it claimed.

    The parts that it claimed are named once each, as in `gain map`. A packet with nothing to change stays byte for
    byte, and so does one that is not well-formed.
    """
    # Browsers never turn a picture by its XMP, so it is upright now; programs that do must find nothing to turn.
    xmp = re.sub(rb'(tiff:Orientation(?:="|=\'|>))[2-8]', rb"\g<1>1", xmp)
    document = _parsed(xmp)
    if document is None:
        return xmp, []
    try:
        claimed = _without_claims(document)
        sizes = {
            (_TIFF, "ImageWidth"): width, (_TIFF, "ImageLength"): height,
            (_EXIF, "PixelXDimension"): width, (_EXIF, "PixelYDimension"): height,
        }  # fmt: skip
        changed = False
        for node in _properties(document):
            key = (node.namespaceURI, node.localName)
            if key in sizes and _text_of(node) != str(sizes[key]):
                _set_text(node, str(sizes[key]))
                changed = True
            elif turned and key == (_XMP, "Thumbnails"):
                _remove(node)
                changed = True
        if claimed is None and not changed:
            return xmp, []
        return _serialized(document), claimed or []
    # minidom writes nested elements by recursion.
    except RecursionError:
        return xmp, []


def with_properties(xmp: bytes | None, properties: dict[str, list[str]]) -> bytes | None:
    """The packet, or a new one, with properties such as `dc:title`, each a list of texts; stated ones stay.

    None if the packet cannot be added to.
    """
    empty = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta>'
    document = _parsed(xmp or empty.encode())
    if document is None:
        return None
    try:
        roots = document.getElementsByTagNameNS(_RDF, "RDF")
        if not roots:
            return None
        present = {(node.namespaceURI, node.localName) for node in _properties(document)}
        absent = {
            name: texts for name, texts in properties.items()
            if (_PREFIXES[name.split(":")[0]], name.split(":")[1]) not in present
        }  # fmt: skip
        if not absent:
            return xmp
        addition = minidom.parseString(_description(absent).encode())
        roots[0].appendChild(document.importNode(addition.documentElement, True))
        return _serialized(document)
    except RecursionError:
        return None


def _description(properties: dict[str, list[str]]) -> str:
    """An rdf:Description element of these properties."""
    prefixes = sorted({name.split(":")[0] for name in properties})
    spaces = "".join(f' xmlns:{prefix}="{_PREFIXES[prefix]}"' for prefix in prefixes)
    body = ""
    for name, texts in properties.items():
        texts = [escape(_NOT_IN_XML.sub("", text), quote=False) for text in texts]
        form = _FORMS.get(name)
        if form is None:
            body += f"<{name}>{'; '.join(texts)}</{name}>"
            continue
        if form == "Alt":
            items = f'<rdf:li xml:lang="x-default">{"; ".join(texts)}</rdf:li>'
        else:
            items = "".join(f"<rdf:li>{text}</rdf:li>" for text in texts)
        body += f"<{name}><rdf:{form}>{items}</rdf:{form}></{name}>"
    return f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about=""{spaces}>{body}</rdf:Description>'


def _parsed(xmp: bytes) -> minidom.Document | None:
    """The packet as a document; None if it is too long, not well-formed, or brings definitions of its own."""
    if len(xmp) > _EDITED_BYTES_MAX or b"<!DOCTYPE" in xmp or b"<!ENTITY" in xmp:
        return None
    try:
        return minidom.parseString(xmp.strip(b"\0 \r\n\t"))
    except (ExpatError, ValueError, RecursionError):
        return None


def _serialized(document: minidom.Document) -> bytes:
    # Without an XML declaration, which packets have none of, but with the processing instructions around it.
    return "".join(node.toxml() for node in document.childNodes).encode()


def _properties(document: minidom.Document) -> Iterator[minidom.Element | minidom.Attr]:
    """All elements and attributes, collected before any is changed."""
    for element in list(document.getElementsByTagName("*")):
        yield element
        yield from list(element.attributes.values())


def _without_claims(document: minidom.Document) -> list[str] | None:
    """Takes out what speaks of parts of the file that are not kept: their names, or None where nothing did."""
    gone = []
    names = []
    for node in _properties(document):
        for namespace, begins, name in _CLAIMS:
            if node.namespaceURI == namespace and re.match(begins, node.localName):
                gone.append(node)
                if name is not None:
                    names.append(name)
                elif node.localName == "Semantic" and _text_of(node) != "Primary":
                    names.append(_SEMANTICS.get(_text_of(node), _text_of(node).lower()))
    # Their namespaces are declared no more, so that not even a search for their addresses finds a claim.
    whole = {namespace for namespace, begins, _ in _CLAIMS if not begins}
    declared = [node for node in _properties(document) if node.namespaceURI == XMLNS_NAMESPACE and node.value in whole]
    for node in (gone + declared) if gone else ():
        _remove(node)
    return list(dict.fromkeys(names)) if gone else None


def _text_of(node: minidom.Element | minidom.Attr) -> str:
    if isinstance(node, minidom.Attr):
        return node.value
    return "".join(child.data for child in node.childNodes if child.nodeType == child.TEXT_NODE).strip()


def _set_text(node: minidom.Element | minidom.Attr, text: str) -> None:
    if isinstance(node, minidom.Attr):
        node.value = text
        return
    for child in list(node.childNodes):
        node.removeChild(child)
    node.appendChild(node.ownerDocument.createTextNode(text))


def _remove(node: minidom.Element | minidom.Attr) -> None:
    if isinstance(node, minidom.Attr):
        if node.ownerElement is not None:
            node.ownerElement.removeAttributeNode(node)
    elif node.parentNode is not None:
        node.parentNode.removeChild(node)
