"""The photograph as it is: decoded, not edited, encoded. It shows what reading and writing alone do."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from kt_batch.config import Layer, MethodConfig
from kt_batch.methods.base import UNCHANGED, Need, Resources, Result, SourceProvenance


class IdentityConfig(MethodConfig):
    """The settings of `identity`."""

    method: Literal["identity"] = "identity"


class Identity:
    """Leaves photographs as they are, at their full size."""

    config_type: ClassVar[type[MethodConfig]] = IdentityConfig
    needs: ClassVar[frozenset[Need]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ()
    layer: ClassVar[Layer | None] = None
    levels: ClassVar[tuple[Layer, ...]] = ()
    stride = 1

    def __init__(self, config: IdentityConfig, resources: Resources) -> None:  # noqa: ARG002 - it needs none
        self.config = config

    def translate(self, image: Tensor) -> Result:  # noqa: ARG002 - the photograph itself is written
        """Return an edit that changes nothing; the photograph itself is its only source."""
        return Result(UNCHANGED, SourceProvenance({}), {})
