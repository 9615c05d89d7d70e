"""Write the picture files of a page."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kt_batch.errors import RejectError, StorageError
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.targets import Inputs, check_place, local_path, write_file

FOLDER = "sheet-files"  # next to index.html
LONG_SIDE = 768  # pixels of a picture on the page


def page_start(template: str) -> bytes:
    """Return the bytes with which every page of a template begins; they tell our pages from other files."""
    return (Path(__file__).with_name("templates") / template).read_bytes().partition(b"<style>")[0]


def refuse_input_folder(out: Path, inputs: Inputs) -> None:
    """Raise UsageError where the folder of a page is a folder of inputs: the next command would read its pictures."""
    folders = [str(each) for each in inputs.images if (path := local_path(each)) and path.is_dir()]
    check_place("--out", str(out), folders)


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its file relative to the page, and its size in pixels."""

    file: str
    width: int
    height: int


class PageFolder:
    """The pictures of one page.

    Each file is named by its content, so no input chooses a file name. Images are decoded in a child process: those of
    libraries and runs may come from strangers. Leave the context to end it.
    """

    def __init__(self, root: Path) -> None:
        """Create the folder below the page's directory `root`.

        Raises:
            StorageError: it cannot be created.
        """
        self._root = root / FOLDER
        self._reader = ImageReaderProcess()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self._root}: {error.strerror or error}") from error

    def __enter__(self) -> PageFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def put(self, image: Image.Image) -> Picture:
        """Store a drawing as PNG."""
        file = io.BytesIO()
        image.save(file, "PNG")
        return self._put(file.getvalue(), image.size, "png")

    def put_photo(self, data: bytes) -> Picture | None:
        """Decode an image file and store it as JPEG.

        Returns:
            None when the bytes cannot be decoded.
        """
        image = self.decoded(data)
        return None if image is None else self.put_jpeg(image)

    def put_jpeg(self, image: Image.Image) -> Picture:
        """Store a picture as JPEG."""
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        return self._put(file.getvalue(), image.size, "jpg")

    def decoded(self, data: bytes) -> Image.Image | None:
        """Decode an image, at most LONG_SIDE pixels a side; return None on failure."""
        try:
            pixels = self._reader.decode(data, LONG_SIDE).pixels
        except RejectError:
            return None
        return Image.fromarray((pixels * 255.0 + 0.5).astype(np.uint8))

    def _put(self, data: bytes, size: tuple[int, int], suffix: str) -> Picture:
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        write_file(self._root / name, data)
        return Picture(f"{FOLDER}/{name}", *size)
