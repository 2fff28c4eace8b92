"""Pictures of a page by headless Chromium, as Debian packages it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

from PIL import Image

from lab.errors import LabError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# How long a page may take to draw itself, on its own clock.
DRAWING_MILLISECONDS = 60_000
MOST_SECONDS = 180.0
COLORS = 256
ATTRIBUTE = re.compile(r'<html[^>]* data-cut-off="(?P<cut>[^"]*)"[^>]* data-pixels="(?P<pixels>\d+)"')


def find_chromium() -> str | None:
    """The program, None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def photograph(page: Path, width: int, theme: str, target: Path) -> list[str]:
    """Write a picture of the whole page at a screen's width, and return what does not fit into its widget there."""
    with tempfile.TemporaryDirectory() as profile:
        document = _run(page, theme, profile, [f"--window-size={width},2000", "--dump-dom"])
        found = ATTRIBUTE.search(document)
        if not found:
            raise LabError("Chromium did not draw the page.")
        height = int(found["pixels"])
        _run(page, theme, profile, [f"--window-size={width},{height}", f"--screenshot={target}"])
    with Image.open(target) as picture:
        # A third of the size, and no difference to be seen.
        picture.convert("RGB").quantize(COLORS).save(target, optimize=True)
    cut_off: list[str] = json.loads(unescape(found["cut"]))
    return cut_off


def _run(page: Path, theme: str, profile: str, arguments: list[str]) -> str:
    program = find_chromium()
    if program is None:
        raise LabError("There is no Chromium here, which takes the pictures: apt-get install chromium")
    command = [
        program,
        "--headless=new",
        # Without a sandbox of its own it also runs as root; it loads nothing but our own page.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        f"--user-data-dir={profile}",
        f"--virtual-time-budget={DRAWING_MILLISECONDS}",
        *arguments,
        f"{page.resolve().as_uri()}#{theme}",
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LabError(f"Chromium took no picture: {error}") from error
    return result.stdout
