"""The settings of a fit."""

from __future__ import annotations

from pydantic import Field

from kt_batch.config import Config


class FitConfig(Config):
    """The settings of a fit."""

    landmarks: int = Field(
        128,
        ge=1,
        le=512,
        description="Pairs to which photographs are compared; where there are more pairs, all still count in the fit.",
    )
