"""Write finished networks as weight files with their manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kt_batch.models.decoder import Decoder
from kt_batch.models.weights import LoadedEncoder, decoder_bytes, encoder_bytes
from kt_batch.store.targets import write_file
from kt_batch.training.recipes import NAME, VERSION


def export(encoder: LoadedEncoder, decoders: dict[str, Decoder], folder: Path) -> Path:
    """Write one file for each network, and `weights.json` with their SHA-256; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"encoder": encoder_bytes(encoder.network, NAME)}
    parts |= {cut: decoder_bytes(decoder, encoder.sha256, cut) for cut, decoder in sorted(decoders.items())}
    manifest = {}
    for part, data in parts.items():
        name = f"{VERSION}.{part}.safetensors"
        write_file(folder / name, data)
        manifest[part] = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}
    write_file(folder / "weights.json", (json.dumps({NAME: manifest}, indent=1) + "\n").encode())
    return folder
