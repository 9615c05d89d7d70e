"""Prove that this checkout gives the results of another checkout, byte for byte.

    python benchmarks/same_results.py --base CHECKOUT [--images DIR] [--work DIR] [--keep]

The script draws small images, runs one list of commands with the code of each checkout, and compares what they leave.
Both checkouts write to the same absolute path, since URIs stand in plans and provenance; the results of the first are
renamed before the second starts. The exit code is 1 when anything differs.

Compared byte for byte: patches, images, provenance, index files and pictures. Plans are compared by their rows, rejects
by URI, stage and reason, receipts without what depends on time and process, summaries by their digests. The exit code
of every command and the digest that `verify` prints must be the same, too. `options/` is not compared. Reject messages
may differ by themselves, but the snapshot of a library and the digest of `verify` cover them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent.parent
DRAW = Path(__file__).resolve().with_name("draw_images.py")
SERVER = Path(__file__).resolve().with_name("command_server.py")
RECORDS = "records.json"  # exit codes, and digests printed by `verify`
SHOWN = 5  # differences listed for each group
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VOLATILE = ("attempt", "timings", "finished", "worker", "item_seconds")  # fields of a receipt

# Options of each library, of each index of the library `default`, and of each run with the index `levels`.
LIBRARIES = {
    "default": "",
    "sampled": "--max-patches 50 --seed 3",
    "strided": "--stride 2",
    "relu4": "--layer relu4_1",
    "tagged": "--tag winter --tag oil --license CC0-1.0",
    "units": "--unit-size 3",
}
INDEXES = {
    "default": "",
    "levels": "--max-leaf 16",
    "centred": "--match-space centred --max-leaf 16",
    "5bit": "--payload 5bit --max-leaf 16",
    "float16": "--payload float16 --max-leaf 16",
    "clusters": "--clusters 8,4",
    "unmerged": "--merge 1 --max-leaf 16",
}
RUNS = {
    "statistics": "--swap statistics",
    "top-k": "--top-k 4",
    "alpha": "--alpha 0.5",
    "query-stride": "--query-stride 2",
    "colour": "--preserve-colour",
    "certify": "--certify",
    "exact": "--searcher exact",
    "hkm": "--searcher hkm",
    "bhkm": "--searcher bhkm",
    "bhkm-1": "--searcher bhkm --bands 1",
    "scan": "--searcher scan",
    "jpg": "--format jpg --quality 90",
    "size": "--size 96",
    "units": "--unit-size 3",
}


# ---- commands --------------------------------------------------------------------------------------------------------


class Commands:
    """The command line of one checkout, in a process that ends with `close`."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.codes: list[tuple[str, int]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SERVER), str(checkout)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str | Path) -> str:
        """Run one command and return what it prints.

        Raises:
            SystemExit: The command neither succeeds nor ends with rejects.
        """
        command = [str(word) for word in words]
        text = " ".join(command)
        print(f"  kt-batch {text}", flush=True)
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the command server has no pipes")
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the command server ended with {self._process.wait()}")
        code, output, errors = json.loads(answer)
        if code not in (0, 3):
            raise SystemExit(f"kt-batch {text} ended with {code}:\n{output}{errors}")
        self.codes.append((text, code))
        return str(output)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Job:
    """The paths of drawn images, results and further images."""

    commands: Commands
    images: Path
    out: Path
    further: tuple[Path, ...]

    def extract(self, name: str, *words: str | Path) -> None:
        """Extract into the library `name`."""
        local = ("--size", "128", "--runner", "local", "--threads", "2")
        self.commands.run("extract", *words, "--library", self.out / "libraries" / name, *local)

    def index(self, name: str, options: str) -> str:
        """Index the library `name` and return the digest of the index."""
        local = ("--runner", "local", "--threads", "2", "--json")
        printed = self.commands.run("index", self.out / "libraries" / name, *options.split(), *local)
        return str(json.loads(printed)["index"])

    def translate(self, name: str, library: str, index: str, *words: str | Path) -> None:
        """Translate into the run `name`."""
        place = ("--library", self.out / "libraries" / library, "--index", index, "--out", self.out / "runs" / name)
        self.commands.run("translate", *words, *place, "--runner", "local", "--threads", "2")


def run_all(checkout: Path, images: Path, out: Path, further: tuple[Path, ...]) -> None:
    """Run all commands with the code of `checkout`; their results lie below `out`."""
    out.mkdir()
    with ExitStack() as stack:
        commands = Commands(checkout, out.parent)
        stack.callback(commands.close)
        job = Job(commands, images, out, further)
        run_libraries(job)
        run_indexes(job)
        run_resumed(job)
        run_rejected(job)
        painting, photo = images / "paintings/a.png", images / "photos/a.png"
        commands.run("try", photo, "--style", painting, "--size", "128", "--out", out / "try.png", "--threads", "2")
        commands.run("demo", "--runner", "local", "--threads", "2", "--out", out / "demo")
        digests = {name: commands.run("verify", out / name, "--digest").strip() for name in places(out)}
        records = {"digests": digests, "exit codes": dict(commands.codes)}
        (out / RECORDS).write_text(json.dumps(records, indent=1))


def run_libraries(job: Job) -> None:
    """Make every library, and one index and one run of each but the default one."""
    for name, options in LIBRARIES.items():
        job.extract(name, job.images / "paintings", *options.split())
        if name != "default":
            digest = job.index(name, "--max-leaf 16")
            job.translate(f"library-{name}", name, digest, job.images / "photos")


def run_indexes(job: Job) -> None:
    """Make every index of the default library with one run of each, and every other run with the index `levels`."""
    photos = job.images / "photos"
    digests = {name: job.index("default", options) for name, options in INDEXES.items()}
    for name, digest in digests.items():
        job.translate(f"index-{name}", "default", digest, photos)
    for name, options in RUNS.items():
        job.translate(name, "default", digests["levels"], photos, *options.split())


def run_resumed(job: Job) -> None:
    """Extract and translate in two goes: some images first, then all."""
    job.extract("resumed", job.images / "paintings" / "[a-c]*")
    first = job.index("resumed", "--max-leaf 16")
    job.translate("resumed", "resumed", first, job.images / "photos" / "[a-c]*")
    job.translate("resumed", "resumed", first, job.images / "photos")
    job.extract("resumed", job.images / "paintings")
    job.translate("grown", "resumed", job.index("resumed", "--max-leaf 16"), job.images / "photos")


def run_rejected(job: Job) -> None:
    """Extract and translate with a broken file, and try it again; with further images."""
    broken = job.images / "broken"
    paintings, photos = (job.images / "paintings", broken, *job.further), (job.images / "photos", broken, *job.further)
    job.extract("rejected", *paintings)
    job.extract("rejected", *paintings, "--retry-rejected")
    digest = job.index("rejected", "")
    job.translate("rejected", "rejected", digest, *photos)
    job.translate("rejected", "rejected", digest, *photos, "--retry-rejected")


# ---- comparison ------------------------------------------------------------------------------------------------------

Contents = dict[str, dict[str, str]]  # group -> what is compared -> its content, or a hash of it


def places(root: Path) -> list[str]:
    """Return the relative names of all libraries and runs below `root`: the directories with a plan."""
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in root.rglob("plan/000000.parquet"))


def read_contents(root: Path) -> Contents:
    """Return everything below `root` that must be the same in both checkouts."""
    found: Contents = defaultdict(dict)
    known = places(root)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        place = next((place for place in known if name.startswith(f"{place}/")), None)
        below = name if place is None else name.removeprefix(f"{place}/")
        if place is not None and below.startswith("options/"):
            continue
        if place is None and name == RECORDS:
            found |= read_records(path)
            continue
        group, key, content = in_place(path, name, below) if place is not None else elsewhere(path, name)
        found[group][key] = found[group].get(key, "") + content
    return dict(found)


def in_place(path: Path, name: str, below: str) -> tuple[str, str, str]:
    """Return group, key and content of one file of a library or a run; `below` is its name there."""
    group, key = PurePosixPath(below).parts[0], name
    match group:
        case "plan":
            group, content = "plans (rows)", plan_rows(path)
        case "rejects":
            group, content = "rejects (uri, stage, reason)", reject_rows(path)
            key = re.sub(r"-[0-9a-f]{16}\.parquet$", "", name)  # the hash in the name covers the messages
        case "receipts":
            content = receipt_content(path)
        case "library.json" | "run.json":
            group, content = "summaries (snapshot, config digest)", summary_digests(path)
        case "index" if path.name == "index.json":
            group = "index summaries"
            content = canonical({key: value for key, value in read_json(path).items() if key != "config"})
        case "index":
            group = "index shards" if below.startswith("index/shards/") else "index trees and members"
            content = file_hash(path)
        case _:
            content = file_hash(path)
    return group, key, content


def elsewhere(path: Path, name: str) -> tuple[str, str, str]:
    """Return group, key and content of a file of no library and no run; of pages only the name counts."""
    if path.suffix.lower() in PICTURES:
        return "pictures of `try` and `demo`", name, file_hash(path)
    return "further files (names)", name, ""


def read_records(path: Path) -> Contents:
    """Return exit codes and verify digests, each a group of its own."""
    records = read_json(path)
    return {kind: {key: str(value) for key, value in entries.items()} for kind, entries in records.items()}


def plan_rows(path: Path) -> str:
    """Return unit, image id, URI and name of every item of a plan, in plan order."""
    rows = pq.read_table(path, columns=["unit", "image_id", "uri", "name"]).to_pylist()
    return canonical([[row["unit"].hex(), row["image_id"].hex(), row["uri"], row["name"]] for row in rows])


def reject_rows(path: Path) -> str:
    """Return the rows of a reject table without their messages, sorted."""
    columns = ["uri", "stage", "reason"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    return canonical(sorted([row[column] for column in columns] for row in rows))


def receipt_content(path: Path) -> str:
    """Return a receipt without its volatile fields, and without size and hash of reject tables."""
    content = {key: value for key, value in read_json(path).items() if key not in VOLATILE}
    for table in content["tables"]:
        if table["kind"] == "rejects":
            del table["sha256"], table["bytes"]
    return canonical(content)


def summary_digests(path: Path) -> str:
    """Return the digests of a library's or a run's summary."""
    content = read_json(path)
    return canonical({key: content[key] for key in ("snapshot", "config_digest")})


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def canonical(content: object) -> str:
    """Return JSON text with sorted keys."""
    return json.dumps(content, sort_keys=True)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(base: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return one line for each key that is on one side only, or whose contents differ."""
    found = []
    for key in sorted(base.keys() | new.keys()):
        if key not in new:
            found.append(f"{key}: in the base only")
        elif key not in base:
            found.append(f"{key}: not in the base")
        elif base[key] != new[key]:
            found.append(f"{key}: differs")
    return found


def compare(base: Contents, new: Contents) -> list[str]:
    """Print one line and the first differences for each group; return all differences.

    Raises:
        SystemExit: The base has nothing to compare.
    """
    if not base:
        raise SystemExit("the base checkout left no results")
    found = []
    for group in sorted(base.keys() | new.keys()):
        here, there = base.get(group, {}), new.get(group, {})
        different = differences(here, there)
        state = f"{len(different)} DIFFERENT" if different else "equal"
        print(f"{group:<36} {len(here.keys() | there.keys()):>5}  {state}")
        for line in different[:SHOWN]:
            print(f"    {line}")
        found += [f"{group}: {line}" for line in different]
    return found


# ---- script ----------------------------------------------------------------------------------------------------------


def run_both(base: Path, work: Path, further: tuple[Path, ...]) -> list[str]:
    """Run all commands with both checkouts below the empty directory `work` and return the differences."""
    subprocess.run([sys.executable, str(DRAW), str(work / "images")], check=True)
    current = work / "current"
    for name, checkout in (("base", base), ("new", HERE)):
        print(f"{name}: {checkout}", flush=True)
        run_all(checkout, work / "images", current, further)
        current.rename(work / name)
    return compare(read_contents(work / "base"), read_contents(work / "new"))


def main() -> None:
    """Read the options, run, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the checkout whose results are right")
    parser.add_argument("--images", type=Path, help="a directory of further images for the library with rejects")
    parser.add_argument("--work", type=Path, help="an empty directory, removed at the end; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the results of both checkouts in the directory")
    options = parser.parse_args()
    work = options.work.resolve() if options.work else Path(tempfile.mkdtemp(prefix="same-results-"))
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        raise SystemExit(f"{work} is not empty")
    further = (options.images.resolve(),) if options.images else ()
    try:
        found = run_both(options.base.resolve(), work, further)
    finally:
        if options.keep:
            print(f"results: {work}")
        else:
            shutil.rmtree(work)
    if found:
        raise SystemExit(f"{len(found)} differences; the first {SHOWN} of each group are listed")
    print("no difference")


if __name__ == "__main__":
    main()
