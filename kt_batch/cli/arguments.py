"""Turn fields of configurations into options, and options into configurations.

A command names a configuration as one parameter. On the command line each field becomes an option: its name, type,
default and description are those of the field. The command gets one validated configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.models import OptionInfo

Command = Callable[..., int]
Reader = Callable[[Any], object]


@dataclass(frozen=True)
class Fields:
    """The fields of a configuration that are options of a command, and how they differ.

    Annotates the configuration: `Annotated[RunOptions, Fields(only=("threads",))]`.

    only: The fields that become options; None takes all. The others keep their default.
    defaults: Field -> the command's own default.
    options: Field -> `Annotated[type, typer.Option(...), reader]`. The reader is optional; it turns the value of the
        option into the value of the field.
    panel: The title under which --help lists the options; None takes the main list.
    """

    only: Collection[str] | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    panel: str | None = None


@dataclass(frozen=True)
class _Option:
    """The option of one field."""

    parameter: Parameter
    reader: Reader | None


def same(model: type[BaseModel], name: str) -> Any:
    """Return default, limits and description of a field, for a field of another model."""
    return copy(model.model_fields[name])


def expand(command: Command, **models: type[BaseModel]) -> Command:
    """Return a command for typer that takes the fields of configurations as options.

    Configurations may share an option when its type and default are the same.

    Args:
        command: A function with a pydantic model as the type of some parameters.
        **models: Parameter -> the model to use in place of the annotated one, its subclass.

    Raises:
        TypeError: Two configurations have different fields of one name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type[BaseModel], dict[str, _Option]]] = {}
    parameters: dict[str, Parameter] = {}
    for name, parameter in signature(command).parameters.items():
        model, fields = _split(hints[name])
        if model is None:
            parameters[name] = parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            continue
        model = models.get(name, model)
        options = _options(model, fields)
        groups[name] = model, options
        for option in options.values():
            _add(parameters, option.parameter)

    @wraps(command)
    def run(**values: Any) -> int:
        given = {name: value for name, value in values.items() if name in hints and name not in groups}
        return command(**given, **{name: _gather(*group, values) for name, group in groups.items()})

    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    run.__signature__ = Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return run


def _split(hint: Any) -> tuple[type[BaseModel] | None, Fields]:
    """Return the model that annotates a parameter, if any, and how its fields become options."""
    kind, *extra = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    fields = next((item for item in extra if isinstance(item, Fields)), Fields())
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None, fields


def _options(model: type[BaseModel], fields: Fields) -> dict[str, _Option]:
    offered = model.model_fields if fields.only is None else fields.only
    return {name: _option(name, model.model_fields[name], fields) for name in offered}


def _option(name: str, info: FieldInfo, fields: Fields) -> _Option:
    """Return the option of one field.

    The command may define it, else the annotation of the field does, else it follows the field's name.
    """
    own = fields.options.get(name)
    kind, *extra = get_args(own) if own is not None else (info.annotation, *info.metadata)
    default = fields.defaults.get(name, info.get_default(call_default_factory=True))
    shown = copy(next((item for item in extra if isinstance(item, OptionInfo)), OptionInfo(default=...)))
    if shown.default is ...:  # typer keeps the first flag of an annotated option here
        flag = f"--{name.replace('_', '-')}"
        shown.default = f"{flag}/--no-{flag[2:]}" if default is True else flag
    shown.help = shown.help or info.description
    shown.rich_help_panel = shown.rich_help_panel or fields.panel
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    if default is None or default == ():
        kind, default = kind | None, None
    option = Parameter(
        str(shown.default).split("/")[0].lstrip("-").replace("-", "_"),
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if default is PydanticUndefined else default,
        annotation=Annotated[kind, shown],
    )
    reader = next((item for item in extra if callable(item)), None) if own is not None else None
    return _Option(option, reader)


def _add(parameters: dict[str, Parameter], option: Parameter) -> None:
    known = parameters.setdefault(option.name, option)
    if (known.default, get_args(known.annotation)[0]) != (option.default, get_args(option.annotation)[0]):
        raise TypeError(f"The option {option.name} has two types or defaults.")


def _gather(model: type[BaseModel], options: Mapping[str, _Option], values: Mapping[str, Any]) -> BaseModel:
    """Return the configuration of the options that have a value. Raises ValidationError."""
    content = {}
    for name, option in options.items():
        value = values[option.parameter.name]
        if value is not None:
            content[name] = option.reader(value) if option.reader else value
    return model.model_validate(content)
