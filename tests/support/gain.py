"""A run of an invented method without networks or library, written by the store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from kt_batch.store import layout
from kt_batch.store.images.files import encode, image_id
from kt_batch.store.locations import LocalLocation
from kt_batch.store.output_names import plain_output
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.run import Totals, write_run_summary
from kt_batch.store.schemas import SHARES
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger

SHARE_OF_FIRST = {"a.jpg": 0.75, "park/b.jpg": 0.5, "c.jpg": 0.25}  # of the two sources of each output
SIZE = (40, 32)


class Gain:
    """The configuration of the method, as a run reads it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {"method": "gain", "format": "png", "quality": 95, "gain": 1.2, **settings}

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return self.settings

    def digest(self) -> str:
        return "00000000000000aa"


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return coarse random blocks, `(height, width, 3)` in [0, 1]."""
    blocks = np.random.default_rng(seed).uniform(0, 1, (size[1] // 8, size[0] // 8, 3)).astype(np.float32)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def make_gain_run(root: Path, **settings: Any) -> Path:
    """Make the run `root/gain` of three photographs in two units, from two styles; return its path."""
    styles = [_save(root / "styles" / f"style {number}.png", picture(number)) for number in (1, 2)]
    items = [
        Item(image_id(path.read_bytes()), str(path), name)
        for number, name in enumerate(SHARE_OF_FIRST)
        for path in [_save(root / "photos" / name, picture(10 + number))]
    ]
    location = LocalLocation(root / "gain")
    ledger = Ledger(location)
    config = Gain(**settings)
    for unit in ledger.plan(items, 2, config.model_dump(mode="json"), config.digest()):
        commit_unit(location, ledger, unit, styles)
    write_run_summary(location, ledger, config, None)
    return location.root


def commit_unit(location: LocalLocation, ledger: Ledger, unit: Unit, styles: list[Path]) -> None:
    rows, outputs = [], []
    for item in unit.items:
        name, share = plain_output(item.name, "png"), SHARE_OF_FIRST[item.name]
        data = encode(picture(hash_of(item.name)), "png", 95)
        assert location.put_if_absent(name, data)
        outputs.append((hashlib.sha256(data).hexdigest(), len(data)))
        for style, part in zip(styles, (share, 1 - share), strict=True):
            source = bytes.fromhex(image_id(style.read_bytes()))
            rows.append({"output": name, "source_image_id": source, "source_uri": str(style), "share": part})
    table = pa.Table.from_pylist(rows).cast(SHARES)
    ref = commit_table(location, layout.PROVENANCE, unit.id, table, [2] * len(unit.items))
    ledger.commit(
        Receipt(
            unit=unit.id,
            attempt=new_attempt(),
            config_digest=Gain().digest(),
            tables=(ref,),
            outputs=tuple(outputs),
            images=len(outputs),
            timings={"read": 1.0, "gain": 2.0, "write": 1.0},
            finished=1000.0,
        )
    )


def summarise(run: Path) -> Totals:
    location = LocalLocation(run)
    return write_run_summary(location, Ledger(location), Gain(), None)


def hash_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _save(path: Path, pixels: np.ndarray[Any, np.dtype[np.float32]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path, "PNG")
    return path
