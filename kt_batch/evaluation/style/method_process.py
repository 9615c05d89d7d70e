"""One method in a process of its own: neither its memory nor its end is mixed with another's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

from kt_batch.errors import KtBatchError
from kt_batch.evaluation.style.one_method import Request

COMMAND = (sys.executable, "-P", "-m", "kt_batch.evaluation.style.picture_child")  # no modules of the current folder

Pair = tuple[str, str]  # ids of photograph and painting


@dataclass
class Made:
    """The facts about the pictures of one method.

    seconds, processor_seconds, explains, failures: By pair; a failure is a reason. prepared, processor_prepared:
    Painting id -> seconds.
    loaded: Seconds of loading the networks. peak: Most bytes resident, up to the last answer. failed: Why nothing more
    was made after the last picture; None where all was tried.
    """

    seconds: dict[Pair, float] = field(default_factory=dict)
    processor_seconds: dict[Pair, float] = field(default_factory=dict)
    explains: dict[Pair, str] = field(default_factory=dict)
    failures: dict[Pair, str] = field(default_factory=dict)
    prepared: dict[str, float] = field(default_factory=dict)
    processor_prepared: dict[str, float] = field(default_factory=dict)
    loaded: float | None = None
    peak: int | None = None
    failed: str | None = None


def run_method(request: Request, each: Callable[[int], None], command: Sequence[str] = COMMAND) -> Made:
    """Make all pictures of a method in a child process, which ends with this call.

    Args:
        request: The method and the pictures.
        each: Is told how many pictures are done, after each.
        command: The program to start, for tests.

    Returns:
        What is known of every picture: a pair has seconds or a failure, whatever happens to the process.

    Raises:
        KtBatchError: No process can be started, which is no fault of the method.
    """
    made = Made()
    try:
        child = subprocess.Popen(  # noqa: S603 - our own module and interpreter
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            process_group=0,  # Ctrl-C is for this process, which ends the child
        )
    except OSError as error:
        raise KtBatchError(f"No process can be started for {request.name}: {error.strerror}.") from error
    try:
        for answer in _answers(child, request):
            _keep(made, answer, request)
            each(len(made.seconds) + len(made.failures))
        code = child.wait()
    finally:
        child.kill()
        child.wait()
    if code:
        made.failed = made.failed or ending(code)
    _fill(made, request)
    each(len(made.failures) + len(made.seconds))
    return made


def _answers(child: subprocess.Popen[str], request: Request) -> Iterator[dict[str, Any]]:
    """Send the request and yield the answers until the child ends; a line cut by its end is no answer."""
    to, back = cast("IO[str]", child.stdin), cast("IO[str]", child.stdout)
    try:
        with to:
            to.write(request.written())
    except BrokenPipeError:  # it ended before it read
        return
    with back:
        for line in back:
            if line.endswith("\n"):
                yield json.loads(line)


def _keep(made: Made, answer: dict[str, Any], request: Request) -> None:
    """Take over one answer."""
    made.peak = max(made.peak or 0, answer["peak"])
    match answer:
        case {"loaded": seconds}:
            made.loaded = seconds
        case {"prepared": True, "painting": painting}:
            made.prepared[painting] = answer["seconds"]
            made.processor_prepared[painting] = answer["processor_seconds"]
        case {"failed": reason, "photograph": photograph, "painting": painting}:
            made.failures[photograph, painting] = reason
        case {"failed": reason, "painting": painting}:
            made.failures |= {(photograph, painting): reason for photograph in request.photographs}
        case {"failed": reason}:
            made.failed = reason
        case {"photograph": photograph, "painting": painting}:
            pair = photograph, painting
            made.seconds[pair], made.processor_seconds[pair] = answer["seconds"], answer["processor_seconds"]
            made.explains[pair] = answer["explains"]


def _fill(made: Made, request: Request) -> None:
    """Give every pair that is left the reason for which the process went no further."""
    reason = made.failed or "its process ended without it"
    for painting in request.paintings:
        for photograph in request.photographs:
            if (photograph, painting) not in made.seconds:
                made.failures.setdefault((photograph, painting), reason)


def ending(code: int) -> str:
    """Return in words how a process ended. code: Its exit code; a signal as a negative number."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as when memory is short" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"
