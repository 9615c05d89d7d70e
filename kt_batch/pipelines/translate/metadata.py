"""The metadata of outputs: what is carried over from the photograph, and what was done to it."""

from __future__ import annotations

from kt_batch.config import MethodConfig
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.carry import Space, carried
from kt_batch.store.images.metadata.xmp_edit import Made, SourceType


def of_picture(
    blocks: Blocks, config: MethodConfig, width: int, height: int, space: Space, library: str = ""
) -> Blocks:
    """Return the metadata of a picture that a method made after a photograph.

    Args:
        blocks: Of the photograph.
        config: What was done.
        width: Of the picture.
        height: Of the picture.
        space: Of the picture: `input` where it is that of the photograph.
        library: Names the library by its content; empty without one.
    """
    made = Made(config.method, library, SourceType.TRANSFER)
    return carried(blocks, config.metadata, width, height, made, space)


def of_edit(
    blocks: Blocks, config: MethodConfig, width: int, height: int, space: Space, unchanged: bool, library: str = ""
) -> Blocks:
    """Return the metadata of a photograph at its full size, edited or unchanged.

    Args:
        blocks: Of the photograph.
        config: What was done.
        width: Of the output.
        height: Of the output.
        space: Of the output: `input` where the samples are those of the photograph.
        unchanged: Whether nothing was edited.
        library: Names the library by its content; empty without one.
    """
    made = Made(config.method, library, None if unchanged else SourceType.EDIT)
    return carried(blocks, config.metadata, width, height, made, space)


def space_of_profile(config: MethodConfig, profile: bytes) -> Space:
    """Return the colour space of an output by its profile."""
    if profile == OUTPUT_PROFILES["srgb"]:
        return "srgb"
    return "other" if config.output_space == "p3" else "input"
