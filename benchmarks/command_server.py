"""Run commands of another checkout of kt_batch; `same_results.py` starts this script.

    PYTHONPATH=CHECKOUT python -P benchmarks/command_server.py CHECKOUT

Each line of standard input holds the words of one command as a JSON list. Each answer is one line of JSON with the exit
code, the standard output and the standard error of the command. The package is imported once; each command runs in a
forked process of its own. That is for results only: a process that has imported torch is tuned too late to be timed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

ENTRIES = ("kt_batch.cli.app", "kt_batch.cli")  # the present module of `main`, and its module in older checkouts


def entry_point(checkout: Path) -> Callable[[], None]:
    """Return the `main` of the command line in `checkout`.

    Raises:
        SystemExit: The package is imported from elsewhere, or has no command line.
    """
    package = Path(str(import_module("kt_batch").__file__)).resolve()
    if not package.is_relative_to(checkout.resolve()):
        raise SystemExit(f"kt_batch is imported from {package.parent}, not from {checkout}")
    for name in ENTRIES:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        entry: Callable[[], None] | None = getattr(module, "main", None)
        if entry is not None:
            return entry
    raise SystemExit(f"{checkout} has no command line in {' or '.join(ENTRIES)}")


def run_forked(entry: Callable[[], None], words: list[str]) -> tuple[int, str, str]:
    """Run one command in a forked process; return its exit code, standard output and standard error."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            run_and_exit(entry, words, output.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    return os.waitstatus_to_exitcode(status), texts[0], texts[1]


def run_and_exit(entry: Callable[[], None], words: list[str], output: int, errors: int) -> None:
    """Run one command with its output redirected to two file descriptors, and end this process."""
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (errors, 2)):
            os.dup2(source, target)
        sys.argv = ["kt-batch", *words]
        entry()
    except BaseException:  # noqa: BLE001 - a forked process must never return into the server's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)  # the entry point ends the process itself; only an error leads here


def main() -> None:
    """Answer every line of standard input."""
    entry = entry_point(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(run_forked(entry, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
