"""Extract one unit of images: encode each image, cut its features into patches, commit the tables."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kt_batch.config import ExtractConfig, ScaleKey
from kt_batch.errors import RejectError
from kt_batch.index.ids import hash_ids, pack_ids
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.staging import staged
from kt_batch.methods.features import encode_layers, to_tensor
from kt_batch.models.encoder import Encoder
from kt_batch.models.layers import Geometry, boxes
from kt_batch.models.weights import load_encoder
from kt_batch.pipelines.extract.plan import ExtractJob
from kt_batch.pipelines.numerics import check_numerics, device_name, fix_numerics, worker_device
from kt_batch.pipelines.reading import Reader
from kt_batch.pipelines.units import UnitLog, rejects_table
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.images.files import WorkingImage, encode_lossless, pad_to, preview
from kt_batch.store.locations import check_kernel, open_location
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt, TableRef
from kt_batch.store.schemas import IMAGES, WORKING, fixed_binary, patches_schema
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger

LARGEST_HALF = 65504.0 / 2  # a Haar band of a patch can be twice its largest cell, and is a float16 as well
STAGES = ("read", "encode", "write")


class ExtractWorker:
    """Loads the encoder once and turns units into committed tables."""

    def __init__(self, job: ExtractJob) -> None:
        self.job = job
        self.location = open_location(job.library)
        check_kernel(self.location, job.kernel)
        self.device = worker_device(job.gpus)
        self.numerics = fix_numerics(job.threads, device_name(self.device))
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)
        self.encoder = load_encoder(job.encoder).network.to(self.device)
        self.reader = Reader()
        self.ledger = Ledger(self.location)

    def __call__(self, unit: Unit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Extract one unit and commit it.

        An unusable image costs one reject row per URI. An image that another unit extracts is read all the same, so
        that a fault of its file is reported, but not extracted again.
        """
        config, log = self.job.config, UnitLog.of_stages(STAGES)
        images, working = [], []
        patches: dict[ScaleKey, list[pa.Table]] = {key: [] for key in config.keys}
        further = further_scales(config)
        for read in self.reader.images(unit, config.encoder.size, beat, self.job.other_uris, further=further):
            image = read.items[0].image_id
            log.add({"read": read.seconds})
            if isinstance(read.result, RejectError):
                log.reject(read.items, read.result)
                continue
            if (unit.id, image) in self.job.owned_by_other_unit:
                continue
            started = time.perf_counter()
            for key, table in keyed_patches(self.encoder, read.result, image, config).items():
                patches[key].append(table)
            log.add({"encode": time.perf_counter() - started})
            images.append(_image_row(read.items, read.result, config))
            if config.keep_images:
                working.append(_working_row(image, read.result))
            log.item_seconds[image] = read.seconds + time.perf_counter() - started
        beat("")
        started = time.perf_counter()
        tables = self._write(unit.id, images, patches, working, log.rejects)
        log.add({"write": time.perf_counter() - started})
        receipt = log.receipt(
            unit,
            config.digest(),
            self.numerics,
            tables,
            images=sum(len(row["uris"]) for row in images),
            patches=sum(table.num_rows for table in patches[config.base]),
        )
        return self.ledger.commit(receipt)

    def _write(
        self,
        unit: str,
        images: list[dict[str, Any]],
        patches: Mapping[ScaleKey, list[pa.Table]],
        working: list[dict[str, Any]],
        rejects: list[dict[str, str]],
    ) -> tuple[TableRef, ...]:
        location = self.location
        tables = []
        if images:
            tables.append(commit_table(location, layout.IMAGES, unit, pa.Table.from_pylist(images, schema=IMAGES)))
            for key, each in patches.items():
                kind = layout.PATCHES if key == self.job.config.base else layout.patches_kind(str(key))
                groups = [table.num_rows for table in each]
                tables.append(commit_table(location, kind, unit, pa.concat_tables(each), groups))
        if working:
            kept = pa.Table.from_pylist(working, schema=WORKING)
            tables.append(commit_table(location, layout.WORKING, unit, kept, [1] * len(working)))
        if rejects:
            tables.append(commit_table(location, layout.REJECTS, unit, rejects_table(rejects)))
        return tuple(tables)


def further_scales(config: ExtractConfig) -> list[int]:
    """Return the scales of a library's further keys, ascending, without the size of its working images."""
    return sorted({key.scale for key in config.keys} - {config.encoder.size})


def image_patches(encoder: Encoder, working: WorkingImage, identity: str, config: ExtractConfig) -> pa.Table:
    """Return the patches table of one image at the base key, by ascending patch id.

    Args:
        encoder: The network.
        working: The image.
        identity: Its image id, 16 hex digits.
        config: The layer, the stride, and how many patches to keep.
    """
    return _scale_patches(encoder, working, identity, config, [config.base])[config.base]


def keyed_patches(
    encoder: Encoder, working: WorkingImage, identity: str, config: ExtractConfig
) -> dict[ScaleKey, pa.Table]:
    """Return the patches table of one image at each key; its `further` images are those of `further_scales`."""
    scales = dict(zip([config.encoder.size, *further_scales(config)], [working, *working.further], strict=True))
    tables: dict[ScaleKey, pa.Table] = {}
    for scale, image in scales.items():
        keys = [key for key in config.keys if key.scale == scale]
        tables |= _scale_patches(encoder, image, identity, config, keys)
    return tables


def _scale_patches(
    encoder: Encoder, working: WorkingImage, identity: str, config: ExtractConfig, keys: Sequence[ScaleKey]
) -> dict[ScaleKey, pa.Table]:
    """Return the patches of one image at keys of one scale: one pass for all layers that pad the image alike.

    Each table is therefore that of a library whose base key it is. The image is encoded on the encoder's device.
    """
    device = next(encoder.parameters()).device
    padded: defaultdict[tuple[int, ...], dict[ScaleKey, Tensor]] = defaultdict(dict)
    for key in keys:
        image = to_tensor(pad_to(working.pixels, encoder.geometry(key.layer).stride))
        padded[tuple(image.shape)][key] = image
    tables = {}
    for images in padded.values():
        with torch.no_grad():
            image = staged(next(iter(images.values())), device)
            features = encode_layers(encoder, image, tuple(key.layer for key in images))
        for key in images:
            tables[key] = _table(features[key.layer], encoder.geometry(key.layer), working, identity, config)
    return tables


def _table(
    features: Tensor, geometry: Geometry, working: WorkingImage, identity: str, config: ExtractConfig
) -> pa.Table:
    """Return the patches table of one feature map `(C, h, w)`."""
    rows, cols = positions(features.shape[1], features.shape[2], config.stride, cover=False)
    ids = pack_ids(identity, rows.numpy(), cols.numpy())
    if config.max_patches is not None and len(ids) > config.max_patches:
        chosen = np.sort(np.argsort(hash_ids(ids, config.seed), kind="stable")[: config.max_patches])
        rows, cols, ids = rows[chosen], cols[chosen], ids[chosen]
    halves = features.clamp(-LARGEST_HALF, LARGEST_HALF).half()
    vectors = unfold(halves, rows.to(halves.device), cols.to(halves.device)).cpu().numpy()
    x0, x1 = boxes(cols.numpy(), geometry, working.width)
    y0, y1 = boxes(rows.numpy(), geometry, working.height)
    columns = [
        fixed_binary(ids),
        fixed_binary(np.ascontiguousarray(ids[:, :8])),
        pa.array(rows.numpy().astype(np.uint16)),
        pa.array(cols.numpy().astype(np.uint16)),
        *(pa.array(edge.astype(np.int32)) for edge in (x0, y0, x1, y1)),
        fixed_binary(vectors.astype("<f2", copy=False)),
    ]
    return pa.Table.from_arrays(columns, schema=patches_schema(features.shape[0]))


def _image_row(items: Sequence[Item], working: WorkingImage, config: ExtractConfig) -> dict[str, Any]:
    return {
        "image_id": bytes.fromhex(items[0].image_id),
        "uris": [item.uri for item in items],
        "original_width": working.original_width,
        "original_height": working.original_height,
        "width": working.width,
        "height": working.height,
        "tags": [*config.tags, *sorted({tag for item in items for tag in item.tags} - set(config.tags))],
        "license": config.license,
        "attribution": config.attribution,
        "preview": preview(working.pixels),
    }


def _working_row(identity: str, working: WorkingImage) -> dict[str, Any]:
    return {
        "image_id": bytes.fromhex(identity),
        "width": working.width,
        "height": working.height,
        "pixels": encode_lossless(working.pixels),
    }
