"""The fine details of a photograph, of which pictures after a style keep a share."""

from __future__ import annotations

from pydantic import Field

from kt_batch.config import MethodConfig


class DetailsConfig(MethodConfig):
    """The settings of a method whose pictures keep fine details of the photograph: what features lack of its pixels.

    The default is what methods did before they had the setting; `methods.table.advised` has what new jobs do.
    """

    details: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How much of the photograph's fine details the picture keeps.",
        json_schema_extra={"advised": 0.5},
    )


def details_kept(alpha: float, details: float) -> float:
    """Return the share that a mixture keeps: `details` where the style has taken over (alpha 1), all at alpha 0."""
    return 1 - alpha * (1 - details)
