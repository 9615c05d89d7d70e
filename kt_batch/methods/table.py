"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping

from kt_batch.config import MethodConfig
from kt_batch.errors import UsageError
from kt_batch.methods.adain import Adain
from kt_batch.methods.base import Method
from kt_batch.methods.gatys import Gatys
from kt_batch.methods.gatys_refined import GatysRefined
from kt_batch.methods.identity import Identity
from kt_batch.methods.ift import Ift
from kt_batch.methods.knowledge import KnowledgeTransfer
from kt_batch.methods.painting.method import Painting
from kt_batch.methods.patch_swap import PatchSwap
from kt_batch.methods.retouch.method import Retouch
from kt_batch.methods.stylebank import StyleBank
from kt_batch.methods.wct import Wct

DEFAULT = "knowledge"
METHODS: dict[str, type[Method]] = {
    "knowledge": KnowledgeTransfer,
    "adain": Adain,
    "identity": Identity,
    "retouch": Retouch,
    "painting": Painting,
    "patch_swap": PatchSwap,
    "wct": Wct,
    "gatys": Gatys,
    "gatys_refined": GatysRefined,
    "ift": Ift,
    "stylebank": StyleBank,
}


def method_named(name: str) -> type[Method]:
    """Return the method called `name`. Raises UsageError when there is none."""
    if name not in METHODS:
        raise UsageError(f"There is no method '{name}'; there are {', '.join(METHODS)}.")
    return METHODS[name]


def advised(method: type[Method]) -> dict[str, object]:
    """Return the settings of new jobs that differ from the defaults of a method's configuration.

    Such a default is what jobs did before the setting existed, so that their digests and their pictures stay.
    """
    extras = {name: info.json_schema_extra for name, info in method.config_type.model_fields.items()}
    return {name: extra["advised"] for name, extra in extras.items() if isinstance(extra, dict) and "advised" in extra}


def parse_config(content: Mapping[str, object]) -> MethodConfig:
    """Return the configuration of the method that `content` names: a union discriminated by `method`.

    Args:
        content: Field values by name. Without `method` they are those of `knowledge`.

    Raises:
        UsageError: There is no such method.
        ValidationError: A value is not allowed.
    """
    method = method_named(str(content.get("method", DEFAULT)))
    return method.config_type.model_validate(content)
