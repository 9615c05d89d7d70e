"""Write pictures for a blind look at two or more folders of results, and their key apart.

    python benchmarks/blind_pairs.py --photographs DIR --paintings DIR --results ours=DIR --results theirs=DIR
        --out NEW_FOLDER --key key.csv

A folder of results holds PHOTOGRAPH__PAINTING.png for every photograph and painting, as `kt-batch evaluate style
--pictures` writes them. Give viewers NEW_FOLDER alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kt_batch.cli.contenders import read_results
from kt_batch.evaluation.style.blind import key_text, write_looks
from kt_batch.evaluation.style.pictures import read_pictures
from kt_batch.store.images.reader_process import ImageReaderProcess


def main() -> None:
    """Write the pictures and the key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", nargs="+", required=True)
    parser.add_argument("--paintings", nargs="+", required=True)
    parser.add_argument("--results", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--both-orders", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    given = parser.parse_args()
    if given.key.exists() or given.out.resolve() in given.key.resolve().parents:
        parser.error(f"--key '{given.key}' exists already or lies among the pictures; name another file.")
    with ImageReaderProcess() as reader:
        key = write_looks(
            read_pictures(given.photographs, given.size, "photographs", reader.decode),
            read_pictures(given.paintings, given.size, "paintings", reader.decode),
            [read_results(text, given.size, reader.decode) for text in given.results],
            given.out,
            seed=given.seed,
            both_orders=given.both_orders,
        )
    given.key.write_text(key_text(key))
    print(f"{len(key)} pictures in {given.out}; their key is {given.key}.")


if __name__ == "__main__":
    main()
