"""Read options from YAML files (`--config`), and save them with the output."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from kt_batch.store.layout import options_path
from kt_batch.store.locations import open_location

# Options that do not affect the output.
NOT_SAVED = ("config", "json", "dry_run", "pilot", "price", "retry_rejected", "log_file")


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options in a YAML file the defaults of this command. Raises BadParameter for an unknown option."""
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"'{path}' cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise typer.BadParameter(f"'{path}' holds no mapping of options.")
    known: dict[str, str] = {}
    for parameter in context.command.params:
        if parameter.name in ("config", "help"):
            continue
        for flag in [*parameter.opts, parameter.name or ""]:
            known[flag.lstrip("-").replace("_", "-")] = parameter.name or ""
    unknown = [key for key in content if str(key).replace("_", "-") not in known]
    if unknown:
        raise typer.BadParameter(
            f"'{path}' has the unknown option '{unknown[0]}'; known are {', '.join(sorted(known))}."
        )
    several = {parameter.name for parameter in context.command.params if parameter.multiple or parameter.nargs == -1}
    defaults: dict[str, Any] = {known[str(key).replace("_", "-")]: value for key, value in content.items()}
    defaults = {
        name: [value] if name in several and not isinstance(value, list) else value for name, value in defaults.items()
    }
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file with options of this command.", is_eager=True, callback=_read_config),
]


def save_options(place: str, command: str, values: Mapping[str, object]) -> None:
    """Save the options of a command with its output, as a YAML file for --config.

    Args:
        place: The library or run.
        command: The name of the command.
        values: Option -> value; None for an option that was not given.
    """
    kept = {name: value for name, value in values.items() if value is not None and name not in NOT_SAVED}
    text = yaml.safe_dump(kept, sort_keys=True, allow_unicode=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    open_location(place).put_if_absent(options_path(command, digest), text.encode())
