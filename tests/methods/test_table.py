"""Method configurations form a union by name, and their digests differ by method."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
from pydantic import ValidationError

from kt_batch.config import EncoderConfig, Layer, MethodConfig, SearchConfig
from kt_batch.errors import UsageError
from kt_batch.methods.base import Need, Resources, Result
from kt_batch.methods.knowledge import KnowledgeConfig
from kt_batch.methods.table import METHODS, advised, method_named, parse_config

ENCODER = EncoderConfig(weights_sha256="0" * 64)
IDENTITY: dict[str, Any] = {"encoder": ENCODER, "decoder_sha256": "1" * 64, "index_digest": "2" * 16}


class OtherConfig(KnowledgeConfig):
    """The fields and defaults of `knowledge`, under another name."""

    method: Literal["other"] = "other"  # type: ignore[assignment]


class Other:
    """A method that only has a configuration."""

    config_type: ClassVar[type[MethodConfig]] = OtherConfig
    needs: ClassVar[frozenset[Need]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ()
    layer: ClassVar[Layer | None] = None
    stride = 1

    def __init__(self, config: Any, resources: Resources) -> None:
        pass

    def translate(self, image: Any) -> Result:
        raise AssertionError("no test translates with it")


# The digests of the version that had no field `method`.
@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        ({}, "9c89910d807e8684"),
        ({"swap": "statistics", "alpha": 0.5}, "52012ef787b7665b"),
        ({"search": SearchConfig(probes=32, top_k=4)}, "cbf2db368102fa2b"),
        (
            {
                "search": SearchConfig(searcher="bhkm", bands=1),
                "format": "jpg",
                "quality": 80,
                "preserve_colour": True,
                "query_stride": 2,
                "temperature": 0.1,
            },
            "33331bf5055e3469",
        ),
        ({"search": SearchConfig(certify=True)}, "cee4fce4636fdf48"),
    ],
)
def test_knowledge_digests_predate_the_method_field_and_are_unchanged(fields: dict[str, Any], digest: str) -> None:
    assert KnowledgeConfig(**IDENTITY, **fields).digest() == digest


@pytest.mark.parametrize("name", ["knowledge", "adain", "ift", "patch_swap"])
def test_new_jobs_keep_half_of_the_details_and_plans_without_the_setting_none(name: str) -> None:
    content = {**IDENTITY, "method": name, "styles": ("0" * 16,)} if name != "knowledge" else {**IDENTITY}
    earlier, new = parse_config(content), parse_config({**advised(method_named(name)), **content})
    assert earlier == earlier.model_copy(update={"details": 0}) != new == new.model_copy(update={"details": 0.5})
    assert earlier.digest() == parse_config({**content, "details": 0}).digest() != new.digest()


def test_equal_fields_hash_differently_for_different_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "other", Other)
    one, other = parse_config(IDENTITY), parse_config({**IDENTITY, "method": "other"})
    same = {"method"}
    assert one.model_dump(exclude=same) == other.model_dump(exclude=same)
    assert one.digest() != other.digest()


def test_a_configuration_without_a_method_is_a_knowledge_configuration() -> None:
    assert parse_config(IDENTITY) == KnowledgeConfig(**IDENTITY)


def test_a_configuration_round_trips_through_json() -> None:
    config = KnowledgeConfig(**IDENTITY, search=SearchConfig(top_k=3), swap="statistics")
    assert parse_config(config.model_dump(mode="json")) == config


def test_the_refusal_of_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="There is no method 'magic'; there are knowledge"):
        parse_config({**IDENTITY, "method": "magic"})
    with pytest.raises(UsageError, match="There is no method 'magic'"):
        method_named("magic")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="brightness"):
        parse_config({**IDENTITY, "brightness": 2})


def test_a_configuration_names_a_style_image_by_its_id_and_not_by_a_path() -> None:
    with pytest.raises(ValidationError, match="styles"):
        parse_config({**IDENTITY, "styles": ("paintings/irises.jpg",)})


@pytest.mark.parametrize("name", METHODS)
def test_the_name_in_the_configuration_selects_the_method(name: str) -> None:
    assert METHODS[name].config_type.model_fields["method"].default == name
