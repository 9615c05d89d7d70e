"""Presets are complete and valid for their methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from kt_batch.config import EncoderConfig, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.methods.presets import PRESETS, preset_named
from kt_batch.methods.table import method_named, parse_config


def names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of nested mappings, with None at the leaves."""
    return {key: names(value) if isinstance(value, Mapping) else None for key, value in content.items()}


def settings(model: type[BaseModel]) -> dict[str, Any]:
    """Return the nested fields of a configuration, with None at the leaves."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found[name] = settings(field.annotation) if nested else None  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_every_setting_of_its_method(name: str) -> None:
    preset = preset_named(name)
    every = settings(method_named(str(preset["method"])).config_type)
    common = MethodConfig.model_fields.keys() - {"method"}
    assert names(preset) == {key: below for key, below in every.items() if key not in common}


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_is_allowed(name: str) -> None:
    preset = preset_named(name)
    layer: Layer = "relu4_1" if preset["method"] == "painting" else "relu3_1"
    config = parse_config({**preset, "encoder": EncoderConfig(weights_sha256="0" * 64, layer=layer)})
    values = {name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in config}
    assert {name: values[name] for name in preset} == dict(preset)


def test_an_unknown_preset_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"^There is no preset 'nonsense'; there are paper"):
        preset_named("nonsense")


def test_the_digest_of_the_papers_preset_stays_as_it_was() -> None:
    preset = preset_named("paper")
    config = parse_config({**preset, "encoder": EncoderConfig(weights_sha256="0" * 64)})
    assert config.digest() == "0027d2943c16bef9"
    assert "full_size" not in config.model_dump(mode="json")
