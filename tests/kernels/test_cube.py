"""Colour maps as `.cube` text."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.kernels.cube import cube
from kt_batch.kernels.quadratic import IDENTITY, apply_map

FFMPEG = shutil.which("ffmpeg")


def test_the_text_has_a_title_a_size_and_red_changing_fastest() -> None:
    lines = cube(IDENTITY, 17, 'Anna\'s "hand"\nLUT_3D_SIZE 2').splitlines()
    assert lines[0] == "TITLE \"Anna's 'hand' LUT_3D_SIZE 2\""
    assert lines[1] == "LUT_3D_SIZE 17"
    table = lines[4:]
    assert len(table) == 17**3
    assert table[0] == "0.0000000 0.0000000 0.0000000"
    assert table[1] == "0.0625000 0.0000000 0.0000000"
    assert table[17] == "0.0000000 0.0625000 0.0000000"
    assert table[17 * 17] == "0.0000000 0.0000000 0.0625000"
    assert table[-1] == "1.0000000 1.0000000 1.0000000"


def test_values_are_clipped() -> None:
    brighter = IDENTITY * 3
    brighter[0] = -0.5
    values = np.array([line.split() for line in cube(brighter, 17).splitlines()[4:]], float)
    assert (values.min(), values.max()) == (0, 1)


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("interpolation", ["tetrahedral", "trilinear"])
def test_ffmpeg_gives_the_same_picture_with_the_largest_cube(tmp_path: Path, interpolation: str) -> None:
    coefficients = IDENTITY.copy()
    coefficients[1:4] *= 1.5
    coefficients[4:7] = np.diag([-0.5, -0.45, -0.55])
    coefficients[7, 2], coefficients[0] = 0.08, [0.02, 0, 0.04]
    rows, columns = np.mgrid[0:256, 0:384]
    chart = np.stack([columns * 255 // 383, rows, (rows + columns) * 255 // 638], axis=-1).astype(np.uint8)
    Image.fromarray(chart).save(tmp_path / "chart.png")
    (tmp_path / "hand.cube").write_text(cube(coefficients, 65), encoding="ascii")
    look_up = f"format=gbrp,lut3d=hand.cube:interp={interpolation}"
    command = [str(FFMPEG), "-loglevel", "error", "-i", "chart.png", "-vf", look_up, "-pix_fmt", "rgb24", "out.png"]
    subprocess.run(command, cwd=tmp_path, check=True)
    theirs = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"), int)
    ours = np.rint(apply_map(chart.astype(np.float32) / 255, coefficients) * 255).astype(int)
    difference = np.abs(ours - theirs)
    assert difference.mean() <= 1
    assert difference.max() <= 3
