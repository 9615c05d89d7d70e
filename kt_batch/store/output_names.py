"""Names of outputs: the path in a run that the picture of an input gets (decision 0022).

Nearly every path is `plain_output` of the input's name. Where that path would not do on some file system, another one
is chosen in the plan, which states it. A run can therefore be copied to any file system.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from kt_batch.errors import UsageError
from kt_batch.store import layout
from kt_batch.store.input_names import percent_code, short_hash, tagged
from kt_batch.store.names import MAX_COMPONENT_BYTES, safe_name

MAX_NAME_BYTES = 768  # of an output; object store keys have at most 1024, including a run's prefix

_REFUSED = re.compile(r'["*:<>?|]')  # by FAT, exFAT, NTFS and SMB
_DEVICE = re.compile(r"(?ai)(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])[ ]*(\.|\Z)")

Key = tuple[str, str]  # an input's name and image id


def plain_output(name: str, format: str) -> str:  # noqa: A002
    """Return the path of an input's output where its plan states none: `a.jpg` -> `images/a.jpg.png`.

    A component longer than 255 bytes is cut and ends in a hash of itself. Of a path longer than 768 bytes, the last
    component remains, and a hash of the path replaces the directories.

    Raises:
        UsageError: the name is unsafe.
    """
    *directories, last = name.split("/")
    if not last:
        raise UsageError(f"an input cannot be called {name!r}; allowed is a relative path such as 'photos/a.jpg'")
    parts = [layout.OUTPUTS, *(_shortened(part) for part in directories), _shortened(last, f".{format}")]
    if len("/".join(parts).encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        safe_name("/".join(parts))
        parts[1:-1] = [f"deep-{short_hash(name)}"]
    return safe_name("/".join(parts))


def name_outputs(
    planned: Iterable[tuple[str, str]],
    wanted: Sequence[Key],
    format: str,  # noqa: A002
) -> dict[Key, str]:
    """Return the path of the output of each new input.

    A path is portable: every common file system takes it. No two paths of a run are one path where case or Unicode
    forms make no difference, and none is a directory of another. A path follows from the input's name alone; where it
    would clash, it holds the image id, too. The order of the inputs has no effect. Inputs of one name get one path:
    their file was changed, and only one of them will have an output.

    Args:
        planned: (input's name, path) of the outputs that are planned; they keep their paths.
        wanted: Name and image id of the new inputs.
        format: Of the images.
    """
    used: dict[str, str] = {}
    for name, path in planned:
        used.setdefault(folded(path), name)
    folders = {folder for path in used for folder in _folders(path)}
    chosen: dict[Key, str] = {}
    left, attempt = set(wanted), 0
    while left:
        paths = {key: _candidate(*key, format, attempt) for key in left}
        forms = {key: folded(path) for key, path in paths.items()}
        count = Counter(form for form, _ in {(forms[key], key[0]) for key in left})
        new_folders = {folder for form in forms.values() for folder in _folders(form)}
        free = {
            key
            for key, form in forms.items()
            if used.get(form, key[0]) == key[0]
            and count[form] == 1
            and form not in folders
            and form not in new_folders
            and not any(folder in used or folder in count for folder in _folders(form))
        }
        for key in free:
            chosen[key] = paths[key]
            used[forms[key]] = key[0]
            folders.update(_folders(forms[key]))
        left -= free
        attempt += 1
    return chosen


def folded(path: str) -> str:
    """Return a key that is equal for paths that some file system takes for one.

    Case, Unicode normal and compatibility forms, and invisible characters make no difference.
    """
    if path.isascii():
        return path.lower()
    text = unicodedata.normalize("NFKD", path).upper().casefold()
    return unicodedata.normalize("NFKD", "".join(c for c in text if unicodedata.category(c) != "Cf"))


def portable_component(part: str, *, directory: bool = False) -> str:
    """Return a component as every common file system takes it; nearly all components are unchanged.

    Percent codes replace the characters `" * : < > ? |`, the first letter of a device name (CON, NUL, COM1, ...) and a
    dot or a space at the end of a directory.
    """
    text = _REFUSED.sub(lambda match: percent_code(match[0]), part)
    if _DEVICE.match(text):
        text = percent_code(text[0]) + text[1:]
    return text[:-1] + percent_code(text[-1]) if directory and text[-1:] in (".", " ") else text


def _candidate(name: str, image: str, format: str, attempt: int) -> str:  # noqa: A002
    """Return the plain path first, then one with the image id, then one in a folder of its own."""
    *directories, last = name.split("/")
    portable = "/".join([*(portable_component(part, directory=True) for part in directories), portable_component(last)])
    if attempt == 0:
        return plain_output(portable, format)
    tag = image if attempt < 3 else f"{image}-{attempt}"
    if attempt > 1:
        portable = f"deep-{short_hash(name)}/{portable_component(last)}"
    return plain_output(tagged(portable, tag), format)


def _folders(path: str) -> Iterator[str]:
    """Yield the directories of a path, without the first, which all outputs share."""
    end = path.find("/", path.find("/") + 1)
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _shortened(component: str, suffix: str = "") -> str:
    """Return `component` with `suffix`, within 255 bytes.

    Different components stay different.
    """
    if len((component + suffix).encode(errors="surrogatepass")) <= MAX_COMPONENT_BYTES:
        return component + suffix
    tail = f"-{short_hash(component)}{suffix}"
    return component.encode()[: MAX_COMPONENT_BYTES - len(tail)].decode(errors="ignore") + tail
