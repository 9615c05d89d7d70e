"""The settings of the methods as options: one option for each field of each method's configuration.

The table of methods decides which options there are, so a new method needs no line here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel, Field, create_model
from pydantic_core import PydanticUndefined
from typer.models import OptionInfo

from kt_batch.cli.arguments import same
from kt_batch.cli.options import Options
from kt_batch.config import (
    COMMON_SETTINGS,
    Depth,
    ImageFormat,
    MetadataPolicy,
    MethodConfig,
    OutputForm,
    OutputSpace,
    Searcher,
)
from kt_batch.errors import UsageError
from kt_batch.methods.base import Method
from kt_batch.methods.presets import PRESETS, preset_named
from kt_batch.methods.table import DEFAULT, METHODS, method_named

# Options that take more than the values of their field: an old name of a searcher is accepted too.
FLAGS = {"searcher": Annotated[str, typer.Option("--searcher", metavar=f"<{'|'.join(get_args(Searcher))}>")]}


@dataclass(frozen=True)
class Setting:
    """A field of a method's configuration.

    path: The names that lead to the field from the configuration. kind: Its type. default: PydanticUndefined where
    the field has none.
    """

    path: tuple[str, ...]
    kind: Any
    default: object
    description: str


@dataclass(frozen=True)
class Settings:
    """A method and all its settings.

    options: Option -> value, the name of the method included. values: The fields of the configuration.
    """

    method: str
    options: Mapping[str, object]
    values: Mapping[str, object]


class MethodOptions(Options):
    """A method and its settings as a caller gives them.

    A subclass has a field for each setting, which is None when the setting is not given.
    """

    method: str | None = None
    preset: str | None = None
    format: ImageFormat = same(MethodConfig, "format")
    quality: int = same(MethodConfig, "quality")
    depth: Depth | None = same(MethodConfig, "depth")
    output_space: OutputSpace | None = same(MethodConfig, "output_space")
    metadata: MetadataPolicy = same(MethodConfig, "metadata")
    output: OutputForm = same(MethodConfig, "output")

    def resolve(self, shared: Collection[str] = ()) -> Settings:
        """Return the method with all its settings.

        A setting is the given one, else that of the preset, else the default.

        Args:
            shared: Options that the command has for itself too, so that they may be given for methods without them.

        Raises:
            UsageError: There is no such method or preset, they do not belong together, or the method lacks a setting.
        """
        preset = preset_named(self.preset) if self.preset is not None else {}
        name = self.method or str(preset.get("method", DEFAULT))
        if preset and preset["method"] != name:
            raise UsageError(f"The preset {self.preset} is for the method {preset['method']}, not for {name}.")
        known = settings_of(name, method_named(name))
        given = {option: value for option, value in self if option not in MethodOptions.model_fields}
        given = {option: value for option, value in given.items() if value is not None}
        if unknown := [option for option in given if option not in known and option not in shared]:
            has = f"it has {', '.join(map(_flag, known))}" if known else "it has none"
            raise UsageError(f"The method {name} has no option {_flag(unknown[0])}; {has}.")
        options: dict[str, object] = {}
        values: dict[str, object] = {option: getattr(self, option) for option in COMMON_SETTINGS}
        for option, setting in known.items():
            value = given.get(option, _find(preset, setting.path) if preset else setting.default)
            if value is not PydanticUndefined:
                options[option] = value
                _put(values, setting.path, value)
        return Settings(name, {"method": name, **options}, values)


def method_options(
    methods: Mapping[str, type[Method]] = METHODS, reserved: Collection[str] = ()
) -> type[MethodOptions]:
    """Return a model with the settings of several methods.

    Methods may share a setting of one name and type.

    Args:
        methods: The methods by name.
        reserved: Other options of the command, which no setting may be called after.

    Raises:
        TypeError: Two methods have settings of one name and different types, or a setting has a reserved name.
    """
    owners: dict[str, dict[str, Setting]] = {}
    for name, method in methods.items():
        for option, setting in settings_of(name, method).items():
            if option in reserved:
                raise TypeError(f"The method {name} has a setting called {option}, which is another option.")
            owners.setdefault(option, {})[name] = setting
    fields: dict[str, Any] = {option: _field(option, settings) for option, settings in owners.items()}
    of_method = typer.Option("--method", show_default=False, metavar=f"<{'|'.join(methods)}>")
    of_preset = typer.Option("--preset", metavar=f"<{'|'.join(PRESETS)}>")
    fields["method"] = (
        Annotated[str | None, of_method],
        Field(None, description=f"How images are translated. Default: {DEFAULT}."),
    )
    fields["preset"] = Annotated[str | None, of_preset], Field(None, description="A method with all its settings.")
    return create_model("AllMethodOptions", __base__=MethodOptions, **fields)


def settings_of(name: str, method: type[Method]) -> dict[str, Setting]:
    """Return the settings of a method by option; those of a nested configuration are among them.

    Raises:
        TypeError: Two fields have one name.
    """
    settings: dict[str, Setting] = {}
    for option, setting in _walk(method.config_type, None, ()):
        if option in settings or option in MethodOptions.model_fields:
            raise TypeError(f"The method {name} has two settings called {option}.")
        settings[option] = setting
    return settings


def _walk(model: type[BaseModel], nested: object, path: tuple[str, ...]) -> Iterator[tuple[str, Setting]]:
    """Yield the settings of a model by option.

    Args:
        model: The configuration of a method, or one in it.
        nested: The default of the field that holds `model`; None for the method's own configuration.
        path: The names that lead to `model`.
    """
    for name, info in model.model_fields.items():
        if not path and name in MethodConfig.model_fields:
            continue
        default = getattr(nested, name) if nested is not None else info.get_default(call_default_factory=True)
        if isinstance(info.json_schema_extra, dict):
            default = info.json_schema_extra.get("advised", default)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _walk(info.annotation, default if isinstance(default, BaseModel) else None, (*path, name))
        else:
            yield name, Setting((*path, name), info.annotation, default, info.description or "")


def _field(option: str, settings: Mapping[str, Setting]) -> tuple[Any, Any]:
    """Return type and value of the field for a setting of one or several methods."""
    first = next(iter(settings.values()))
    if any(setting.kind != first.kind for setting in settings.values()):
        raise TypeError(f"The methods {', '.join(settings)} have settings of different types called {option}.")
    descriptions = {setting.description for setting in settings.values()}
    defaults = {_shown(setting.default) for setting in settings.values()}
    text = first.description
    if len(descriptions) > 1:
        text = " ".join(f"{name}: {setting.description}" for name, setting in settings.items())
    shown = "; ".join(f"{name}: {_shown(setting.default)}" for name, setting in settings.items())
    if len(defaults) == 1:
        shown = _shown(first.default)
    kind, option_info = (
        get_args(FLAGS[option]) if option in FLAGS else (first.kind, OptionInfo(default=_flags(option, first)))
    )
    option_info = typer.Option(
        option_info.default,
        metavar=option_info.metavar,
        show_default=False,
        rich_help_panel=f"Settings of {', '.join(settings)}",
    )
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    text = f"{_sentence(text)} Default: {shown}." if shown else _sentence(text)
    return Annotated[kind | None, option_info], Field(None, description=text)


def _flags(option: str, setting: Setting) -> str:
    """Return the flag of an option, with its negation for a setting that is on by default."""
    return f"{_flag(option)}/--no-{_flag(option)[2:]}" if setting.default is True else _flag(option)


def _shown(default: object) -> str:
    """Return a default for --help; an empty text for none."""
    return "" if default is PydanticUndefined or default is None or default is False else str(default)


def _sentence(text: str) -> str:
    """Return the text with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else text


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _find(content: Mapping[str, Any], path: tuple[str, ...]) -> object:
    for name in path[:-1]:
        content = content[name]
    return content[path[-1]]


def _put(content: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for name in path[:-1]:
        content = content.setdefault(name, {})
    content[path[-1]] = value
