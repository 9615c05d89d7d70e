"""The options that change a result, as frozen values with a digest; and those that only change how it is computed."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_WORKING_SIZE = 4096

Layer = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON: sorted keys, no spaces, options at their default absent.

        So an option that a later version adds leaves the digests of earlier work as they are; in return, what a default
        means may never change.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class EncoderConfig(_Config):
    """Which features: the weights by content, the layer, and the size at which images are encoded."""

    encoder: str = "kt-vgg"
    weights_sha256: str = Field(description="SHA-256 of the encoder's weight file")
    layer: Layer = "relu3_1"
    size: int = Field(512, ge=8, le=MAX_WORKING_SIZE, description="long side of the working image; never enlarged")


class ExtractConfig(_Config):
    """What a library holds."""

    encoder: EncoderConfig
    stride: int = Field(1, ge=1, le=64, description="step between library patches, in cells")
    max_patches: int | None = Field(None, ge=1, description="patches kept per image, a seeded sample; none keeps all")
    seed: int = Field(0, ge=0, lt=2**63)
    tags: tuple[str, ...] = ()
    license: str = ""
    attribution: str = ""


class IndexConfig(_Config):
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


Searcher = Literal["tree", "exact", "hkm", "bhkm", "scan", "pq", "ivf", "hnsw"]
FORMER_SEARCHERS = {"ours": "tree"}  # names of earlier versions, accepted wherever a searcher is named


class SearchConfig(_Config):
    """How the nearest patch is found."""

    searcher: Searcher = "tree"
    probes: int = Field(
        8,
        ge=1,
        description="how far a query looks: tree, hkm and bhkm: leaves; ivf: inverted lists; hnsw: efSearch; "
        "exact, scan and pq ignore it",
    )
    certify: bool = Field(False, description="prove of every match that no kept patch has a larger score")
    bands: int = Field(4, ge=1, le=4, description="Haar bands read by the published bhkm")
    top_k: int = Field(1, ge=1, le=64)

    @field_validator("searcher", mode="before")
    @classmethod
    def _accept_former_names(cls, value: object) -> object:
        return FORMER_SEARCHERS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _certify_what_can_be(self) -> Self:
        if self.certify and self.searcher not in ("tree", "exact"):
            raise ValueError(f"certify is for the searchers tree and exact, not for {self.searcher}")
        return self


class TranslateConfig(_Config):
    """How an image is translated."""

    encoder: EncoderConfig
    decoder_sha256: str
    index_digest: str = Field(description="the index names its library's snapshot")
    search: SearchConfig = SearchConfig()
    swap: Literal["geometric", "statistics"] = "geometric"
    alpha: float = Field(1.0, ge=0.0, le=1.0, description="1 all swapped, 0 the picture through encoder and decoder")
    temperature: float = Field(0.05, gt=0.0, description="weights of the top k are softmax(NCC / temperature)")
    query_stride: int = Field(1, ge=1, le=2)
    preserve_colour: bool = False
    format: Literal["png", "jpg", "webp"] = "png"
    quality: int = Field(95, ge=1, le=100, description="of jpg and webp")


class RunOptions(_Config):
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
