"""The child process that makes the pictures of one method. It imports torch after the settings of a process."""

from __future__ import annotations

import os
import sys

from kt_batch.process import tune_process


def main() -> None:
    """Read a request from standard input, and answer with lines of JSON on standard output."""
    tune_process()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    from kt_batch.evaluation.style.one_method import make_pictures, read_request

    def answer(line: str) -> None:
        try:
            answers.write(f"{line}\n")
            answers.flush()
        except BrokenPipeError:  # the comparison has ended
            os._exit(1)

    make_pictures(read_request(sys.stdin.read()), answer)


if __name__ == "__main__":
    main()
