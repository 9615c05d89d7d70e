"""Pages in a real browser: Debian's Chromium, or the one that playwright brought."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# A page from disk needs none of what Chromium does in the background over a network.
ARGUMENTS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHOWN = "Array.from(document.images).filter(image => image.checkVisibility())"
BROKEN = SHOWN + ".filter(image => !image.complete || !image.naturalWidth).map(image => image.src)"


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a browser of playwright; the test skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    with playwright.sync_playwright() as started:
        program = shutil.which("chromium")
        if program is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("there is no Chromium")
        opened = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def page_of(file: Path, width: int = 1280, **options: Any) -> Iterator[Any]:
    """Yield a page opened from a file. What it complains about or asks for from elsewhere fails the test at the end."""
    with browser() as opened:
        page = opened.new_page(viewport={"width": width, "height": 800}, **options)
        faults: list[str] = []

        def dismissed(dialog: Any) -> None:
            faults.append(dialog.message)
            dialog.dismiss()

        def requested(request: Any) -> None:
            if not request.url.startswith(("file:", "data:")):
                faults.append(request.url)

        page.on("console", lambda said: faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", dismissed)
        page.on("request", requested)
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.goto(file.as_uri())
        yield page
        assert faults == []


def check_page(file: Path) -> None:
    """Check that a page shows all its pictures, loads nothing else, and fits a phone and a desk in both colours."""
    for width, scheme in ((390, "light"), (1280, "dark")):
        with page_of(file, width, color_scheme=scheme) as page:
            for picture in page.locator("img").all():  # those below are loaded when they come into view
                if picture.is_visible():
                    picture.scroll_into_view_if_needed()
            page.wait_for_load_state("networkidle")
            assert page.evaluate(BROKEN) == []
            assert page.evaluate(OVERFLOW) <= 0
