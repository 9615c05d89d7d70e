"""Read options from YAML files (`--config`), and save them with the output.

A file may come from a stranger. It is bounded before it is read, and what writes, connects or uses credentials counts
only with `--trust-config`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from kt_batch.errors import DamagedError
from kt_batch.store.layout import options_path
from kt_batch.store.locations import open_location
from kt_batch.store.places import expand_home
from kt_batch.store.regular import read_regular

# Options that do not affect the output.
NOT_SAVED = (
    "config", "trust_config", "json", "dry_run", "pilot", "price", "retry_rejected", "rejects_csv", "log_file",
    "address", "anonymous", "requester_pays",
)  # fmt: skip
NOT_IN_FILES = ("config", "trust_config", "help")

MAX_BYTES = 2**20
MAX_DEPTH = 4
MAX_SCALAR = 4096  # characters; no path is longer

# Options that a file sets only with --trust-config: they write, overwrite, connect or choose credentials.
GUARDED = frozenset({
    "out", "log_file", "cache_dir", "html", "plot", "rejects_csv", "force", "address", "anonymous",
    "requester_pays", "endpoint",
})  # fmt: skip
# Options of free text that are read, never written to. Every other option of free text is guarded, also a new one.
READ = frozenset({
    "images", "before", "after", "photo", "style", "library", "index", "encoder", "encoder_weights", "decoder_weights",
    "method", "preset", "searcher", "clusters", "also", "at", "tag", "license", "attribution", "max_rejects",
    "build_memory", "index_memory", "only_tag", "only_license", "only_image", "mask", "bank", "network",
})  # fmt: skip
FREE_TEXT = (str, Path, list[str], list[Path])
CONNECTING = {("encoder", "vgg19"), ("runner", "ray")}  # values of options that are harmless otherwise


class _OptionsLoader(yaml.SafeLoader):
    """A safe loader without anchors, aliases and merge keys, with bounded depth and scalars, and unique keys."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, after a look at what begins it."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=mark)
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=mark)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise yaml.MarkedYAMLError(problem=f"a value has more than {MAX_SCALAR} characters", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a key that stands twice; merge nothing."""
        seen = set()
        key: Any
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value.replace("_", "-")
                if name in seen:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
                seen.add(name)


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options in a YAML file the defaults of this command.

    Raises:
        BadParameter: The file cannot be read, or has an option that is unknown or needs `--trust-config`.
    """
    if path is None:
        return None
    parameters = {parameter.name or "": parameter for parameter in context.command.params}
    known = {
        flag.lstrip("-").replace("_", "-"): name
        for name, parameter in parameters.items()
        if name not in NOT_IN_FILES
        for flag in (*parameter.opts, name)
    }
    defaults: dict[str, Any] = {}
    for key, value in _with_home(_load(path)).items():
        name = known.get(str(key).replace("_", "-"))
        if name is None:
            raise typer.BadParameter(f"'{path}' has the unknown option '{key}'; known are {', '.join(sorted(known))}.")
        several = parameters[name].multiple or parameters[name].nargs == -1
        shown = [value] if several and not isinstance(value, list) else value
        output = name == "library" and "out" not in parameters  # the command writes the library
        guarded = value is not None and (output or _is_guarded(name, value, _type(parameters[name])))
        # typer calls a default that is a function, and only if the command line does not give the option.
        defaults[name] = _guard(context, path, str(key), shown) if guarded else shown
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _with_home(options: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the options with `~` replaced in all texts."""

    def expanded(value: object) -> object:
        return expand_home(value) if isinstance(value, str) else value

    return {
        key: [expanded(each) for each in value] if isinstance(value, list) else expanded(value)
        for key, value in options.items()
    }


def _is_guarded(name: str, value: object, kind: object) -> bool:
    """Return whether a file may set an option only with `--trust-config`."""
    if name in GUARDED or (kind in FREE_TEXT and name not in READ):
        return True
    texts = [str(each) for each in _items(value)]
    return any((name, text) in CONNECTING for text in texts) or any(
        "://" in text and not text.startswith("file://") for text in texts
    )


def _type(parameter: Any) -> object:
    """Return the type of an option as the command declares it."""
    return parameter.type_descriptor.annotation


def _guard(context: typer.Context, path: Path, key: str, value: object) -> Callable[[], object]:
    """Return a function that returns the value if the caller trusts the file."""

    def use() -> object:
        if not context.params.get("trust_config"):
            raise typer.BadParameter(
                f"'{path}' sets '{key}', which can write, connect or use credentials; give it on the command line, or "
                "--trust-config if you trust the file."  # the value is not shown: it may hold credentials
            )
        return value

    return use


def _load(path: Path) -> dict[Any, Any]:
    """Return the options in a file. Raises BadParameter."""
    try:
        content = _OptionsLoader(_read_text(path)).get_single_data() or {}
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise typer.BadParameter(f"'{path}' cannot be read as YAML: {error.problem or error.context}{line}.") from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, a date or a number that is none
        reason = str(error).split("\n")[0]
        raise typer.BadParameter(f"'{path}' cannot be read as YAML: {reason}.") from error
    except OSError as error:
        raise typer.BadParameter(f"'{path}' cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise typer.BadParameter(f"'{path}' holds no mapping of options.")
    for key, value in content.items():
        if not all(each is None or isinstance(each, str | int | float) for each in _items(value)):
            raise typer.BadParameter(
                f"'{path}' sets '{key}' to a value that no option has; allowed are texts, numbers, true, false, and "
                "lists of them."
            )
    return content


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _read_text(path: Path) -> str:
    """Return the text of a regular file of bounded size. Raises OSError, UnicodeDecodeError, BadParameter."""
    try:
        return read_regular(path, MAX_BYTES, f"'{path}'").decode("utf-8")
    except DamagedError as error:
        raise typer.BadParameter(f"{error}; give options in a small file.") from error


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file with options of this command.", is_eager=True, callback=_read_config),
]
TrustConfig = Annotated[
    bool,
    typer.Option(
        "--trust-config",
        help="Let --config also write, connect and use credentials, as its options say.",
        is_eager=True,
    ),
]


def save_options(place: str, command: str, values: Mapping[str, object]) -> None:
    """Save the options of a command with its output, as a YAML file for --config.

    Args:
        place: The library or run.
        command: The name of the command.
        values: Option -> value; None for an option that was not given.
    """
    absent = {name for name, value in values.items() if value is None or (name == "manifest" and not value)}
    kept = {name: value for name, value in values.items() if name not in absent and name not in NOT_SAVED}
    text = yaml.safe_dump(kept, sort_keys=True, allow_unicode=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    open_location(place).put_if_absent(options_path(command, digest), text.encode())
