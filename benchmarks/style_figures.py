"""Measure styles on a fixed choice of pairs, and print the ids of the chosen images.

    python benchmarks/style_figures.py PHOTOGRAPHS PAINTINGS -- --method knowledge --peer-weights DIR --vgg-weights FILE

PHOTOGRAPHS and PAINTINGS are folders. Chosen are the images whose id begins with 0: the first 12 photographs and the
first 8 paintings in the order of ids. Options after -- are those of `kt-batch evaluate style`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from kt_batch.store.images.files import image_id
from kt_batch.store.inputs import list_inputs, read_input

PREFIX = "0"


def choose(folder: Path, count: int) -> dict[str, str]:
    """Return the first `count` images of a folder whose id begins with PREFIX, in the order of ids: id -> path."""
    found = {image_id(read_input(source.uri)): source.uri for source in reversed(list_inputs([str(folder)]))}
    chosen = [identity for identity in sorted(found) if identity.startswith(PREFIX)][:count]
    return {identity: found[identity] for identity in chosen}


def main() -> None:
    """Choose, print and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("paintings", type=Path)
    parser.add_argument("--most-photographs", type=int, default=12)
    parser.add_argument("--most-paintings", type=int, default=8)
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given = parser.parse_args(arguments[:cut])
    photographs = choose(given.photographs, given.most_photographs)
    paintings = choose(given.paintings, given.most_paintings)
    for title, chosen in (("photographs", photographs), ("paintings", paintings)):
        print(f"{len(chosen)} {title}")
        for identity, path in chosen.items():
            print(f"  {identity}  {Path(path).name}")
    sys.stdout.flush()
    style = [word for path in paintings.values() for word in ("--style", path)]
    command = [sys.executable, "-m", "kt_batch", "evaluate", "style", *photographs.values(), *style]
    sys.exit(subprocess.run([*command, *arguments[cut + 1 :]], check=False).returncode)


if __name__ == "__main__":
    main()
