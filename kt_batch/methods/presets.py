"""Presets: names for complete sets of option values.

The default of a configuration field never changes from here on, because digests leave defaults out. What becomes a
better choice later gets a preset or a new field.
"""

from __future__ import annotations

from collections.abc import Mapping

from kt_batch.errors import UsageError

_TREE: Mapping[str, object] = {"searcher": "tree", "bands": 4, "probes": 8, "top_k": 1, "certify": False}
_PAINTING: Mapping[str, object] = {
    "method": "painting",
    "search": _TREE,
    "strength": 1.0,
    "sources": 4,
    "levels": 3,
    "stroke": 1.0,
    "brushwork": True,
    "preserve_colour": False,
}
PRESETS: dict[str, Mapping[str, object]] = {
    # Section 3.4 of the paper for the search. The layer and the size are the library's.
    "paper": {
        "method": "knowledge",
        "search": {"searcher": "bhkm", "bands": 1, "probes": 1, "top_k": 1, "certify": False},
        "swap": "geometric",
        "alpha": 1.0,
        "temperature": 0.05,
        "query_stride": 1,
        "details": 0.0,
        "preserve_colour": False,
        "full_size": False,
    },
    # From coarse forms to fine strokes, in full; in about two thirds of the time; and as the ink of a comic over the
    # photograph's own colours.
    "painting": _PAINTING,
    "fast": {**_PAINTING, "sources": 2, "levels": 1},
    "comic": {**_PAINTING, "brushwork": False, "preserve_colour": True},
    # Photographs in the colours of another season, or of any library.
    "season": {
        "method": "knowledge",
        "search": _TREE,
        "swap": "statistics",
        "alpha": 1.0,
        "temperature": 0.05,
        "query_stride": 1,
        "details": 0.0,
        "preserve_colour": False,
        "full_size": True,
    },
    # Edits learned from a photographer's pairs, in full.
    "hdr": {"method": "retouch", "strength": 1.0, "series": "none"},
}


def preset_named(name: str) -> Mapping[str, object]:
    """Return the method and every setting of the preset called `name`. Raises UsageError when there is none."""
    if name not in PRESETS:
        raise UsageError(f"There is no preset '{name}'; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
