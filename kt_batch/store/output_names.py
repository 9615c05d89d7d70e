"""Names of outputs: the path in a run that the picture of an input gets (decision 0022).

Nearly every path is `plain_output` of the input's name. Where that path would not do on some file system, another one
is chosen in the plan, which states it. A run can therefore be copied to any file system.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from kt_batch.errors import UsageError
from kt_batch.store import layout
from kt_batch.store.input_names import percent_code, short_hash, tagged
from kt_batch.store.names import MAX_COMPONENT_BYTES, safe_name

MAX_NAME_BYTES = 768  # of an output; object store keys have at most 1024, including a run's prefix

_REFUSED = re.compile(r'["*:<>?|]')  # by FAT, exFAT, NTFS and SMB
_DEVICE = re.compile(r"(?ai)(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])[ ]*(\.|\Z)")

Key = tuple[str, str]  # an input's name and image id


def plain_output(name: str, format: str, limit: int = MAX_COMPONENT_BYTES) -> str:  # noqa: A002
    """Return the path of an input's output where its plan states none: `a.jpg` -> `images/a.jpg.png`.

    A component longer than `limit` bytes is cut and ends in a hash of itself. Of a path longer than 768 bytes, the last
    component remains, and a hash of the path replaces the directories.

    Raises:
        UsageError: the name is unsafe.
    """
    *directories, last = name.split("/")
    if not last:
        raise UsageError(f"an input cannot be called {name!r}; allowed is a relative path such as 'photos/a.jpg'")
    parts = [
        layout.OUTPUTS, *(_shortened(part, limit) for part in directories), _shortened(last, limit, f".{format}")
    ]  # fmt: skip
    if len("/".join(parts).encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        safe_name("/".join(parts))
        parts[1:-1] = [f"deep-{short_hash(name)}"]
    return safe_name("/".join(parts))


def name_outputs(
    planned: Iterable[tuple[str, str]],
    wanted: Sequence[Key],
    format: str,  # noqa: A002
    limit: int = MAX_COMPONENT_BYTES,
) -> dict[Key, str]:
    """Return the path of the output of each new input.

    A path is portable: every common file system takes it. No two paths of a run are one path where case or Unicode
    forms make no difference, none is a directory of another, and no directory is spelled in two ways. A path follows
    from the input's name alone; where it would clash, it holds the image id, too, or its directory a hash of its name.
    The order of the inputs has no effect. Inputs of one name get one path: their file was changed, and only one of them
    will have an output.

    Args:
        planned: (input's name, path) of the outputs that are planned; they keep their paths.
        wanted: Name and image id of the new inputs.
        format: Of the images.
        limit: Most bytes of a component.
    """
    planned = list(planned)
    directories = _name_directories(planned, {_directory(name) for name, _ in wanted}, limit)
    used: dict[str, str] = {}
    for name, path in planned:
        used.setdefault(folded(path), name)
    folders = {folder for path in used for folder in _folders(path)}
    chosen: dict[Key, str] = {}
    left, attempt = set(wanted), 0
    while left:
        paths = {key: _candidate(key, directories, format, limit, attempt) for key in left}
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


def _candidate(key: Key, directories: Mapping[str, str], format: str, limit: int, attempt: int) -> str:  # noqa: A002
    """Return the plain path first, then one with the image id, then one in a folder of its own."""
    name, image = key
    last = portable_component(name.rpartition("/")[2])
    portable = "/".join(filter(None, (directories[_directory(name)], last)))
    if attempt == 0:
        return plain_output(portable, format, limit)
    tag = image if attempt < 3 else f"{image}-{attempt}"
    if attempt > 1:
        portable = f"deep-{short_hash(name)}/{last}"
    return plain_output(tagged(portable, tag), format, limit)


def _name_directories(planned: Sequence[tuple[str, str]], wanted: Collection[str], limit: int) -> dict[str, str]:
    """Return the portable path of each wanted directory of names: no two are one path on any file system.

    A directory keeps the path that it has in planned outputs. Of new ones that would be one path where case or Unicode
    forms make no difference, each gets a hash of its name.

    Args:
        planned: As of `name_outputs`.
        wanted: Directories without a slash at the end; empty for none.
        limit: Most bytes of a component.
    """
    chosen, spelled = {"": ""}, dict[str, str]()
    for name, path in sorted(planned):
        directory, above = _directory(name), _directory(path.partition("/")[2])
        for spelling in _prefixes(above):
            spelled.setdefault(folded(spelling), spelling)
        if above.count("/") == directory.count("/") and _is_portable(above):
            for each, spelling in zip(_prefixes(directory), _prefixes(above), strict=True):
                chosen.setdefault(each, spelling)
    new = {each for directory in wanted for each in _prefixes(directory)} - chosen.keys()
    for _, level in groupby(sorted(new, key=_by_depth), key=lambda each: each.count("/")):
        plain = {each: _below(each, chosen, limit) for each in level}
        count = Counter(folded(path) for path in plain.values())
        for each, wished in plain.items():
            path = wished
            if count[folded(path)] > 1 or spelled.get(folded(path), path) != path:
                path = _below(each, chosen, limit, f"-{short_hash(each)}")
            spelled.setdefault(folded(path), path)
            chosen[each] = path
    return chosen


def _below(directory: str, chosen: Mapping[str, str], limit: int, tag: str = "") -> str:
    above, _, last = directory.rpartition("/")
    component = _shortened(portable_component(last, directory=True), limit, tag)
    return f"{chosen[above]}/{component}" if above else component


def _is_portable(directory: str) -> bool:
    """Tell whether more outputs may go to a planned directory: it is not one of an earlier version that some refuse."""
    parts = directory.split("/")
    return not directory.startswith("deep-") and all(portable_component(part, directory=True) == part for part in parts)


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


def _prefixes(directory: str) -> Iterator[str]:
    """Yield a directory and all above it, the highest first."""
    return accumulate(directory.split("/"), "{}/{}".format) if directory else iter(())


def _by_depth(directory: str) -> tuple[int, str]:
    return directory.count("/"), directory


def _folders(path: str) -> Iterator[str]:
    """Yield the directories of a path, without the first, which all outputs share."""
    end = path.find("/", path.find("/") + 1)
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _shortened(component: str, limit: int, suffix: str = "") -> str:
    """Return `component` with `suffix`, within `limit` bytes.

    Different components stay different.
    """
    if len((component + suffix).encode(errors="surrogatepass")) <= limit:
        return component + suffix
    tail = f"-{short_hash(component)}{suffix}"
    return component.encode()[: limit - len(tail)].decode(errors="ignore") + tail
