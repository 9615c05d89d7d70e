"""A colour map applied to photographs whose colours lie outside sRGB, through files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import RunOptions
from kt_batch.kernels.quadratic import IDENTITY
from kt_batch.methods.base import Result, SourceProvenance
from kt_batch.methods.identity import Identity
from kt_batch.methods.retouch.method import ColourMap
from kt_batch.methods.table import METHODS
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.conversion import OUTPUT_PROFILES


def edited(folder: Path, gain: float, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    """Multiply a photograph of one red of Display P3, at half its largest signal, and return a pixel of the result."""

    class Multiplied(Identity):
        """Multiplies every channel."""

        def translate(self, image: Tensor) -> Result:
            return Result(ColourMap(gain * IDENTITY), SourceProvenance({}), {})

    monkeypatch.setitem(METHODS, "identity", Multiplied)
    (folder / "in").mkdir()
    red = np.full((20, 30, 3), (32768, 0, 0), np.uint16)
    tifffile.imwrite(folder / "in/a.tif", red, photometric="rgb", iccprofile=OUTPUT_PROFILES["p3"])
    settings = {"format": "tiff", "output_space": "input"}
    config, sources = choose("identity", settings, Choice(size=48))
    request = TranslateRequest([str(folder / "in")], str(folder / "run"), config, sources, RunOptions(threads=1))
    assert translate(request, LocalRunner(), no_progress).images == 1
    made = tifffile.imread(folder / "run/images/a.tif.tiff")
    assert made.dtype == np.uint16
    assert made.shape == (20, 30, 3)
    pixel: NDArray[np.float64] = made[0, 0] / 65535
    return pixel


def test_a_map_that_changes_nothing_keeps_the_red_of_p3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert edited(tmp_path, 1.0, monkeypatch) == pytest.approx([0.5, 0, 0], abs=0.002)


def test_a_gain_keeps_the_red_of_p3_saturated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The red has a light of 0.2140 in P3, or (0.2622, -0.0090, -0.0042) in sRGB, whose signals are (0.549, -0.093,
    -0.053).

    Times 1.2 they are (0.659, -0.112, -0.064): a light of (0.392, -0.0119, -0.0053), in P3 (0.320, 0.0015, 0.0010), or
    signals of (0.601, 0.019, 0.013). With green and blue left at -0.093 and -0.053, green would be 0.054.
    """
    assert edited(tmp_path, 1.2, monkeypatch) == pytest.approx([0.601, 0.019, 0.013], abs=0.004)
