"""The options that change a result, as frozen values with a digest; and those that only change how it is computed."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SMALLEST_SIZE, DEFAULT_SIZE, LARGEST_SIZE = 8, 512, 4096  # long side of the working image, in pixels

Layer = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
ImageId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Config(BaseModel):
    """A frozen set of options with a digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON: sorted keys, no spaces, options at their default absent.

        So an option that a later version adds leaves the digests of earlier work as they are; in return, what a default
        means may never change.
        """
        text = json.dumps(self._digested(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _digested(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)


class EncoderConfig(Config):
    """Which features: the weights by content, the layer, and the size at which images are encoded."""

    encoder: str = "kt-vgg"
    weights_sha256: str = Field(description="SHA-256 of the encoder's weight file")
    layer: Layer = "relu3_1"
    size: int = Field(
        DEFAULT_SIZE, ge=SMALLEST_SIZE, le=LARGEST_SIZE, description="long side of the working image; never enlarged"
    )


class ExtractConfig(Config):
    """What a library holds."""

    encoder: EncoderConfig
    stride: int = Field(1, ge=1, le=64, description="step between library patches, in cells")
    max_patches: int | None = Field(None, ge=1, description="patches kept per image, a seeded sample; none keeps all")
    seed: int = Field(0, ge=0, lt=2**63)
    tags: tuple[str, ...] = ()
    license: str = ""
    attribution: str = ""


class IndexConfig(Config):
    """How a library is indexed."""

    match_space: Literal["raw", "centred"] = "raw"
    fan_out: int = Field(32, ge=2, le=4096, description="clusters per split")
    clusters: tuple[int, ...] = Field(
        (), description="fixed K per level (the paper's K1, K2); empty splits by max_leaf"
    )
    max_leaf: int = Field(512, ge=8, le=8192, description="a leaf that holds more is split")
    merge: float = Field(
        0.995, gt=0.5, le=1.0, description="NCC from which patches of a leaf are merged; 1 merges equals"
    )
    payload: Literal["4bit", "5bit", "float16"] = Field(
        "4bit", description="how patches are kept: 4 or 5 bits a value beside the first level, or as in the library"
    )
    iterations: int = Field(10, ge=1, le=1000)
    sample: int = Field(65536, ge=64, description="patches on which the top level is fitted")
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def bits(self) -> int | None:
        """Of a value's code; None where patches are kept as in the library."""
        return {"4bit": 4, "5bit": 5, "float16": None}[self.payload]


Searcher = Literal["ours", "exact", "hkm", "bhkm", "scan", "pq", "ivf", "hnsw"]


class SearchConfig(Config):
    """How the nearest patch is found."""

    searcher: Searcher = "ours"
    probes: int = Field(
        8, ge=1, description="leaves a query looks into; ivf: lists; hnsw: efSearch; exact, scan and pq have none"
    )
    certify: bool = Field(False, description="prove of every match that no kept patch has a larger score")
    bands: int = Field(4, ge=1, le=4, description="Haar bands read by the published bhkm")
    top_k: int = Field(1, ge=1, le=64)

    @model_validator(mode="after")
    def _certify_what_can_be(self) -> Self:
        if self.certify and self.searcher not in ("ours", "exact"):
            raise ValueError(f"certify is for the searchers ours and exact, not for {self.searcher}")
        return self


ImageFormat = Literal["png", "jpg", "webp"]


class MethodConfig(Config):
    """How images are translated: what the configurations of all methods have in common.

    Each method adds its own fields (kt_batch.methods). What a method does not use stays at its default. Weights, index
    and style images are named by content, never by path.
    """

    method: str
    encoder: EncoderConfig | None = None
    decoder_sha256: str | None = Field(None, description="SHA-256 of the decoder's weight file")
    index_digest: str | None = Field(None, description="the index, and so its library's snapshot; none: in memory")
    styles: tuple[ImageId, ...] = Field((), description="image ids of the style images")
    format: ImageFormat = Field("png", description="file format of the outputs")
    quality: int = Field(95, ge=1, le=100, description="of jpg and webp")

    @property
    def searcher(self) -> Searcher | None:
        """The searcher that looks for patches; None where the method does not search."""
        return None

    def _digested(self) -> dict[str, Any]:
        """Name the method always, except for `knowledge`, whose digests are older than the field."""
        content = super()._digested() | {"method": self.method}
        if self.method == "knowledge":
            del content["method"]
        return content


class RunOptions(Config):
    """What may differ between two runs of one job without changing its result; in no digest."""

    runner: Literal["local", "ray"] = "local"
    workers: int | None = Field(None, ge=1, description="none: as many as the machine or the cluster has room for")
    threads: int = Field(2, ge=1, le=256, description="per worker; part of the numerics class")
    unit_size: int = Field(8, ge=1, le=4096, description="images per unit, for units planned from now on")
    gpus: float = Field(0.0, description="of each Ray worker: a share of one GPU, or a whole number of GPUs")
    address: str | None = Field(None, description="of the Ray cluster; none starts a local one")
    mix_numerics: bool = False
    retry_rejected: bool = Field(False, description="try the listed inputs that were rejected once more")
    log_file: str | None = Field(None, description="where events go as lines of JSON; - is standard error")

    @field_validator("gpus")
    @classmethod
    def _gpus_as_ray_takes_them(cls, value: float) -> float:
        if value != 0 and not 0.01 <= value <= 1 and not (value > 1 and value.is_integer()):
            raise ValueError("allowed is 0, a share of one GPU from 0.01 to 1, or a whole number of GPUs per worker")
        return value
