"""A machine whose only writable folder is one that the test names, as a container with a read-only root."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# Makes every mount but that of the folder read-only, for this process and its children alone.
ENTER = """
place=$1; shift
mount --make-rprivate / && mount --bind "$place" "$place" || exit 77
while read -r _ _ _ _ point _; do
    case $point in
        "$place" | /proc | /proc/* | /sys | /sys/* | /dev | /dev/pts) ;;
        *) mount -o remount,bind,ro "$point" ;;
    esac
done < /proc/self/mountinfo
for folder in /tmp /var/tmp /dev/shm "$HOME"; do
    [ -w "$folder" ] && exit 77
done
exec "$@"
"""


def on_read_only_root(writable: Path, *words: object) -> list[object]:
    """Return a command line that runs where nothing but a folder can be written to."""
    return ["unshare", "--mount", "sh", "-c", ENTER, "sh", writable, *words]


def skip_where_there_can_be_none(writable: Path) -> None:
    """Skip the test without root or unshare, which mounts take."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` (Debian: util-linux)")
    line = [str(word) for word in on_read_only_root(writable, "true")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the root cannot be made read-only here: {done.stderr.strip() or 'it stayed writable'}")
