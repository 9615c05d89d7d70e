"""The options that change a result, as frozen values with a digest; and those that only change how it is computed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

SMALLEST_SIZE, DEFAULT_SIZE, LARGEST_SIZE = 8, 512, 4096  # long side of the working image, in pixels

MOST_UNIT = 4096  # images of a unit

Layer = Literal["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
PAINTED: Layer = "relu4_1"  # where a method that paints with kept images looks for forms
ImageId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True, order=True)
class ScaleKey:
    """A layer of the encoder at a working size, written `layer@scale`: the key of patches, statistics and indexes.

    scale: Long side of the working image, in pixels. A smaller image is not enlarged: it is encoded as it is.
    """

    layer: Layer
    scale: int

    def __str__(self) -> str:
        return f"{self.layer}@{self.scale}"

    @classmethod
    def parse(cls, text: str) -> ScaleKey:
        """Read `relu4_1@256`. Raises ValueError."""
        found = re.fullmatch(r"(relu[0-9]_[0-9])@([1-9][0-9]{0,3})", text, re.ASCII)
        if not found or found[1] not in get_args(Layer) or not SMALLEST_SIZE <= int(found[2]) <= LARGEST_SIZE:
            raise ValueError(
                f"{text!r} is no layer@scale such as relu4_1@256; layers are {', '.join(get_args(Layer))}, and scales "
                f"{SMALLEST_SIZE} to {LARGEST_SIZE}"
            )
        return cls(cast("Layer", found[1]), int(found[2]))


KeyText = Annotated[str, AfterValidator(lambda text: str(ScaleKey.parse(text)))]


class Config(BaseModel):
    """A frozen set of options with a digest. Numbers are finite, as in the JSON of plans."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON: sorted keys, no spaces, options at their default absent.

        So an option that a later version adds leaves the digests of earlier work as they are; in return, what a default
        means may never change.
        """
        text = json.dumps(self._digested(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _digested(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)


def describe_fault(error: ValidationError) -> str:
    """Return a sentence about the first value that is not allowed, or about values that exclude each other."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "value_error" and isinstance(fault["input"], Mapping):
        return f"{fault['ctx']['error']}."
    names = [str(part) for part in fault["loc"] if isinstance(part, str)]
    return f"the option {names[-1]} got {fault['input']!r}: {fault['msg']}."


class EncoderConfig(Config):
    """The features: weights by content, layer, and size of the working images."""

    encoder: str = Field("kt-vgg", description="The encoder: kt-vgg (shipped) or vgg19 (torchvision).")
    weights_sha256: str = Field(description="SHA-256 of the encoder's weight file.")
    layer: Layer = Field("relu3_1", description="The ReLU at which the encoder is cut.")
    size: int = Field(
        DEFAULT_SIZE,
        ge=SMALLEST_SIZE,
        le=LARGEST_SIZE,
        description="Long side of the working image, in pixels; images are never enlarged.",
    )


class ExtractConfig(Config):
    """The content of a library."""

    encoder: EncoderConfig
    stride: int = Field(1, ge=1, le=64, description="Step between library patches, in cells.")
    max_patches: int | None = Field(
        None, ge=1, description="Patches kept per image, a seeded sample; default: all of them."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random choice.")
    tags: tuple[str, ...] = Field((), description="A tag of all images of this library; may be repeated.")
    license: str = Field("", description="Licence of all images of this library, kept with each.")
    attribution: str = Field("", description="Whom to credit for all images of this library.")
    keep_images: bool = Field(
        False,
        description="Keep the working image of each source, lossless in 8 bits: methods that look at sources need it.",
        exclude_if=lambda kept: not kept,  # plans of other libraries stay as they were
    )
    also: Annotated[tuple[KeyText, ...], AfterValidator(lambda keys: tuple(sorted(keys)))] = Field(
        (),
        description="A further layer@scale whose patches are kept too, such as relu4_1@256; may be repeated.",
        exclude_if=lambda keys: not keys,
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if twice := [text for text in self.also if self.also.count(text) > 1 or text == str(self.base)]:
            raise ValueError(f"the key {twice[0]} stands twice; each layer@scale is kept once")
        return self

    @property
    def base(self) -> ScaleKey:
        """Return the key of the encoder's layer and size, whose patches lie in `patches/` itself."""
        return ScaleKey(self.encoder.layer, self.encoder.size)

    @property
    def keys(self) -> tuple[ScaleKey, ...]:
        """Return all keys: the base key, then the further ones in order."""
        return self.base, *sorted(map(ScaleKey.parse, self.also))

    @property
    def painted(self) -> ScaleKey | None:
        """Return the key whose patches stand for forms of the images that are kept; None where there is none."""
        key = ScaleKey(PAINTED, self.encoder.size)
        return key if self.keep_images and key in self.keys else None

    def at(self, key: ScaleKey) -> EncoderConfig:
        """Return the encoder cut at a key."""
        return self.encoder.model_copy(update={"layer": key.layer, "size": key.scale})


class PairsConfig(Config):
    """The content of a paired library: photographs before and after somebody's edit."""

    kind: Literal["pairs"] = "pairs"
    size: int = Field(
        DEFAULT_SIZE,
        ge=SMALLEST_SIZE,
        le=LARGEST_SIZE,
        description="Long side at which a pair is read, in pixels; images are never enlarged.",
    )
    tags: tuple[str, ...] = Field((), description="A tag of all pairs of this library; may be repeated.")
    license: str = Field("", description="Licence of all pairs of this library, kept with each.")
    attribution: str = Field("", description="Whom to credit for all pairs of this library.")
    synthetic: bool = Field(False, description="The photographs before were made from those after by a computation.")

    def _digested(self) -> dict[str, Any]:
        return super()._digested() | {"kind": self.kind}


MatchSpace = Literal["raw", "centred"]
PAINTED_SPACE: MatchSpace = "centred"  # of the index of `ExtractConfig.painted`


class IndexConfig(Config):
    """The settings of an index."""

    match_space: MatchSpace = Field(
        "raw", description="Compare raw patches (the paper), or patches with the library's mean removed."
    )
    fan_out: int = Field(32, ge=2, le=4096, description="Clusters per split.")
    clusters: tuple[int, ...] = Field(
        (), description="Fixed number of clusters per level (the paper's K1, K2); default: split by --max-leaf."
    )
    max_leaf: int = Field(512, ge=8, le=8192, description="A leaf that holds more patches is split.")
    merge: float = Field(
        0.995, gt=0.5, le=1.0, description="NCC from which patches of a leaf are merged; 1 merges equal ones only."
    )
    payload: Literal["4bit", "5bit", "float16"] = Field(
        "4bit",
        description="How the index keeps patches: 4bit (decodes alike, 0.4 of the bytes), 5bit (nearer) or float16.",
    )
    iterations: int = Field(10, ge=1, le=1000, description="Iterations of k-means.")
    sample: int = Field(65536, ge=64, description="Patches on which the top level is fitted.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random choice.")

    @property
    def bits(self) -> int | None:
        """Bits of a value's code; None where patches are kept as in the library."""
        return {"4bit": 4, "5bit": 5, "float16": None}[self.payload]


Searcher = Literal["tree", "exact", "hkm", "bhkm", "scan", "pq", "ivf", "hnsw"]
FORMER_SEARCHERS = {"ours": "tree"}  # names of earlier versions, accepted wherever a searcher is named


class SearchConfig(Config):
    """The search for the nearest patch."""

    searcher: Searcher = Field(
        "tree",
        description="How the nearest patch is found: hkm and bhkm are the published searchers; scan estimates every "
        "patch, on a GPU where there is one; pq, ivf and hnsw are faiss's.",
    )
    probes: int = Field(
        8,
        ge=1,
        description="How far each query looks: leaves (tree, hkm, bhkm), lists (ivf), efSearch (hnsw); unused by "
        "exact, scan and pq.",
    )
    certify: bool = Field(
        False, description="Prove of every match that no kept patch of the index has a larger score; slower."
    )
    bands: int = Field(4, ge=1, le=4, description="Haar bands that the searcher bhkm reads.")
    top_k: int = Field(1, ge=1, le=64, description="Blend the K nearest patches.")

    @field_validator("searcher", mode="before")
    @classmethod
    def _accept_former_names(cls, value: object) -> object:
        return FORMER_SEARCHERS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _certify_what_can_be(self) -> Self:
        if self.certify and self.searcher not in ("tree", "exact"):
            raise ValueError(f"certify is for the searchers tree and exact, not for {self.searcher}")
        return self


ImageFormat = Literal["png", "jpg", "webp", "tiff", "avif"]
Depth = Literal[8, 16]
MetadataPolicy = Literal["keep", "strip", "keep-no-gps"]
OutputSpace = Literal["input", "srgb", "p3"]
OutputForm = Literal["files", "tar", "parquet"]
Series = Literal["none", "folder", "time"]
Draw = Literal["random", "round-robin", "nearest"]
MOST_REGIONS = 16
MOST_WEIGHT = 1000.0  # of the scores of a library


def _is_absent(value: object) -> bool:
    return not value  # plans of other runs stay as they were


class FurtherLibrary(Config):
    """A library that is searched beside the first one: its index, and the weight of its scores."""

    index_digest: str
    weight: float = Field(1.0, gt=0, le=MOST_WEIGHT)


class BankShare(Config):
    """A filter bank of StyleBank by content id, its share of the mixture, and the images that it was learned from."""

    bank: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    weight: float = Field(gt=0, le=1)
    images: tuple[ImageId, ...] = Field(min_length=1)


class MethodConfig(Config):
    """The settings common to all methods.

    Each method adds its own fields (kt_batch.methods). What a method does not use stays at its default. Weights, index
    and style images are named by content, never by path.
    """

    method: str
    encoder: EncoderConfig | None = None
    decoder_sha256: str | None = Field(None, description="SHA-256 of the decoder's weight file.")
    decoders_sha256: tuple[str, ...] = Field(
        (), description="SHA-256 of the files of several decoders, one for each level.", exclude_if=_is_absent
    )
    index_digest: str | None = Field(None, description="The index, and so its library's snapshot; none: in memory.")
    fit_digest: str | None = Field(None, description="The fit of a paired library, and so the library's snapshot.")
    statistics_digest: str | None = Field(
        None, description="The statistics of a library, and so its snapshot.", exclude_if=_is_absent
    )
    library_weight: float = Field(
        1.0,
        gt=0,
        le=MOST_WEIGHT,
        description="Weight of the scores of the first library.",
        exclude_if=lambda weight: weight == 1,
    )
    further_libraries: tuple[FurtherLibrary, ...] = Field(
        (), description="Libraries that are searched beside the first one.", exclude_if=_is_absent
    )
    allowed_sha256: str | None = Field(
        None,
        description="SHA-256 of the ids of the images that a filter allows, library after library; none: all.",
        exclude_if=_is_absent,
    )
    draw: Draw | None = Field(
        None,
        description="How each photograph gets a single source; none: photographs have all sources.",
        exclude_if=_is_absent,
    )
    draw_seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draws.", exclude_if=_is_absent)
    styles: tuple[ImageId, ...] = Field((), description="Image ids of the style images.")
    # How styles are mixed, and where: weights of `styles`, or none where all count alike; for regions, images of each
    # place, or places in `banks` as the caller orders them, and the number of like regions, or the SHA-256 of all masks
    style_weights: tuple[float, ...] = Field((), exclude_if=_is_absent)
    style_groups: tuple[tuple[ImageId, ...], ...] = Field((), exclude_if=_is_absent)
    regions: int | None = Field(None, ge=1, le=MOST_REGIONS, exclude_if=_is_absent)
    masks_sha256: str | None = Field(None, exclude_if=_is_absent)
    region_banks: tuple[Annotated[int, Field(ge=0)], ...] = Field((), exclude_if=_is_absent)
    network: str | None = Field(None, description="Content id of the banks' network.", exclude_if=_is_absent)
    banks: tuple[BankShare, ...] = Field((), description="Filter banks by content id.", exclude_if=_is_absent)
    size: int | None = Field(
        None,
        ge=SMALLEST_SIZE,
        le=LARGEST_SIZE,
        description="Long side of the working image, without an encoder; with one, of pictures that are enlarged after "
        "the method has worked at the encoder's size.",
    )
    format: ImageFormat = Field("png", description="File format of the outputs.")
    quality: int = Field(95, ge=1, le=100, description="Quality of jpg, webp and avif files, 1 to 100.")
    depth: Depth | None = Field(
        None, description="Bits of a sample, 8 or 16 (png and tiff); default: 8, and those of the photograph for edits."
    )
    output_space: OutputSpace | None = Field(
        None,
        description="Colour space of the outputs, which then say so: that of the photograph, sRGB or Display P3; "
        "default: that of the photograph for edits, and for other methods sRGB, without saying so.",
    )
    metadata: MetadataPolicy = Field(
        "keep",
        description="What outputs keep of their photograph's EXIF, XMP and IPTC: all, nothing, or all but the place. "
        "Their XMP says how they were made in any case.",
    )
    output: OutputForm = Field(
        "files",
        description="One file for each output, or shards of many for training: tar (WebDataset) or parquet.",
        exclude_if=lambda form: form == "files",  # plans of runs without shards stay as they were
    )

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        if self.depth == 16 and self.format not in ("png", "tiff"):
            raise ValueError(f"depth 16 is for png and tiff, and the format is {self.format}")
        return self

    @property
    def working_size(self) -> int:
        """Long side of the working image, in pixels."""
        return self.size or (self.encoder.size if self.encoder else DEFAULT_SIZE)

    @property
    def searcher(self) -> Searcher | None:
        """The searcher that looks for patches; None where the method does not search."""
        return None

    @property
    def shares_edits(self) -> bool:
        """True where photographs of a series get one edit."""
        return False

    def _digested(self) -> dict[str, Any]:
        """Name the method always, except for `knowledge`, whose digests are older than the field."""
        content = super()._digested() | {"method": self.method}
        if self.method == "knowledge":
            del content["method"]
        return content


COMMON_SETTINGS = (
    "format",
    "quality",
    "depth",
    "output_space",
    "metadata",
    "output",
)  # those fields of MethodConfig that a caller sets


class RunOptions(Config):
    """Options that do not change the result of a run. No digest covers them."""

    runner: Literal["local", "ray"] = Field("local", description="A plain loop, or a Ray cluster.")
    workers: int | None = Field(None, ge=1, description="Ray workers at once; default: as many as fit.")
    threads: int = Field(2, ge=1, le=256, description="Threads per worker; the same number gives the same bytes.")
    unit_size: int = Field(8, ge=1, le=MOST_UNIT, description="Images per unit of work, for units planned from now on.")
    gpus: float = Field(
        0.0, description="GPUs of each worker, which computes on one: a share, such as 0.5, or a whole number; 0: none."
    )
    address: str | None = Field(None, description="Address of a Ray cluster; default: start one here.")
    mix_numerics: bool = Field(False, description="Go on with results of another kind of machine or package version.")
    retry_rejected: bool = Field(False, description="Try the listed images that were rejected earlier once more.")
    anonymous: bool = Field(False, description="Read and write s3:// without credentials: public buckets.")
    requester_pays: bool = Field(False, description="Pay for requests to buckets of s3:// that ask their reader to.")
    rejects_csv: str | None = Field(None, description="Write all rejected inputs to this file, as CSV.")
    log_file: str | None = Field(
        None, description="Append events to this file, as lines of JSON; '-' is standard error."
    )

    @field_validator("gpus")
    @classmethod
    def _gpus_as_ray_takes_them(cls, value: float) -> float:
        if value != 0 and not 0.01 <= value <= 1 and not (value > 1 and value.is_integer()):
            raise ValueError("allowed is 0, a share of one GPU from 0.01 to 1, or a whole number of GPUs per worker")
        return value
