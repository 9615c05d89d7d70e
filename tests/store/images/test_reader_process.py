from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import KtBatchError, Reason, RejectError
from kt_batch.memory import memory_limit
from kt_batch.store.images import files as images
from kt_batch.store.images.reader_channel import Deadline
from kt_batch.store.images.reader_child import MAX_ADDRESS_SPACE, MAX_OPEN_FILES
from kt_batch.store.images.reader_process import ImageReaderProcess
from tests.support.hostile import Case, deep, exif, make_corpus, picture, saved, tiff

BAD = b"bad"
GOOD = saved(picture(), "PNG")
CHILD = """
import ctypes, os, signal, struct, sys, time
import numpy as np
from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import reader_child
from kt_batch.store.images.files import WorkingImage, decode as sound
def decode(data, size):
    if data == b"bad":
{bad}
    return sound(data, size)
{before}
reader_child.main(decode)
"""


def spoilt(bad: str = "pass", before: str = "") -> tuple[str, ...]:
    """Return the command of a child that works normally but runs `bad` when the file is BAD."""
    return sys.executable, "-P", "-c", CHILD.format(bad=textwrap.indent(bad, "        "), before=before)


def rejected(reader: ImageReaderProcess, data: bytes = BAD) -> RejectError:
    with pytest.raises(RejectError) as caught:
        reader.decode(data, 40)
    return caught.value


def outcome(decode: Callable[[bytes, int], images.WorkingImage], data: bytes, size: int = 40) -> tuple[object, ...]:
    try:
        found = decode(data, size)
    except RejectError as error:
        return error.reason, error.message
    assert found.pixels.flags.c_contiguous
    return found.pixels.dtype, found.pixels.shape, found.pixels.tobytes(), found.original_width, found.original_height


def pid(reader: ImageReaderProcess) -> int:
    assert reader.pid is not None
    return reader.pid


def about(reader: ImageReaderProcess, file: str) -> Path:
    return Path(f"/proc/{pid(reader)}/{file}")


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def reader() -> Iterator[ImageReaderProcess]:
    with ImageReaderProcess() as made:
        yield made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, make_corpus(folder)


# ---- results equal to those of this process


@pytest.mark.parametrize(
    "data",
    [
        saved(picture(700, 500), "PNG"),
        saved(picture(700, 500), "JPEG", quality=80),
        saved(picture(), "JPEG", exif=exif(6)),
        saved(picture(), "WEBP", quality=80),
        saved(picture().quantize(16), "GIF"),
        tiff(deep(4), photometric="rgb", extrasamples=["unassalpha"]),
        saved(picture(3000, 2), "PNG"),
    ],
    ids=["png", "jpeg", "turned", "webp", "gif", "tiff", "banner"],
)
@pytest.mark.parametrize("size", [1, 33, 512])
def test_a_child_reads_an_image_bit_for_bit_as_this_process_does(
    reader: ImageReaderProcess, data: bytes, size: int
) -> None:
    assert outcome(reader.decode, data, size) == outcome(images.decode, data, size)


@given(
    pixels=st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 4])).flatmap(
        lambda shape: arrays(np.uint8, shape)
    ),
    size=st.integers(1, 25),
)
def test_a_child_reads_any_png_bit_for_bit_as_this_process_does(
    reader: ImageReaderProcess, pixels: NDArray[np.uint8], size: int
) -> None:
    data = saved(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), "PNG")
    assert outcome(reader.decode, data, size) == outcome(images.decode, data, size)


def test_one_child_reads_the_hostile_corpus_with_the_same_outcomes_and_messages(
    corpus: tuple[Path, list[Case]], reader: ImageReaderProcess
) -> None:
    folder, cases = corpus
    reader.decode(GOOD, 40)
    before = pid(reader)
    for case in cases:
        data = (folder / case.name).read_bytes()
        assert outcome(reader.decode, data) == outcome(images.decode, data), case.name
    assert pid(reader) == before


# ---- failures that cost one image


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(3)", "code 3"),
        ("os.closerange(0, 99); time.sleep(60)", "stopped to answer"),
    ],
)
def test_an_image_that_kills_the_child_is_rejected_and_the_next_one_is_read(bad: str, says: str) -> None:
    with ImageReaderProcess(command=spoilt(bad)) as reader:
        error = rejected(reader)
        assert error.reason == Reason.DECODER_DIED
        assert says in error.message
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)


@pytest.mark.parametrize("bad", ["time.sleep(60)", "while True: pass"])
def test_an_image_that_times_out_is_rejected_and_the_next_one_is_read(bad: str) -> None:
    with ImageReaderProcess(seconds=0.5, command=spoilt(bad)) as reader:
        reader.decode(GOOD, 40)
        before = pid(reader)
        assert rejected(reader).reason == Reason.DECODER_SLOW
        assert not runs(before)
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)


def test_a_child_that_never_reads_its_request_times_out_too() -> None:
    with ImageReaderProcess(
        seconds=0.5, command=spoilt(before="reader_child._serve = lambda *_: time.sleep(60)")
    ) as reader:
        assert rejected(reader, bytes(2**23)).reason == Reason.DECODER_SLOW


def test_an_image_over_the_memory_limit_is_rejected() -> None:
    with ImageReaderProcess(command=spoilt("eaten = [np.empty(2**32, np.uint8) for _ in range(1000)]")) as reader:
        reader.decode(GOOD, 40)
        before = pid(reader)
        assert rejected(reader).reason == Reason.TOO_MANY_PIXELS
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)
        assert pid(reader) == before


def test_an_unexpected_error_is_one_reject() -> None:
    with ImageReaderProcess(command=spoilt("raise KeyError('unforeseen')")) as reader:
        error = rejected(reader)
        assert (error.reason, error.message) == (
            Reason.DECODER_DIED,
            "the decoder failed with KeyError: 'unforeseen'",
        )


@pytest.mark.parametrize(
    "bad",
    [
        "return WorkingImage(np.full((30, 40, 3), np.nan, np.float32), 40, 30)",
        "return WorkingImage(np.full((30, 40, 3), 2, np.float32), 40, 30)",
        "return WorkingImage(np.zeros((30, 41, 3), np.float32), 41, 30)",
        "return WorkingImage(np.zeros((40, 40, 3), np.float32), 2**40, 2**40)",
        "return WorkingImage(np.zeros((30, 40, 3), np.float32), 0, 0)",
        "raise RejectError('no such reason', 'text')",
        "os.write(3, bytes(99)); time.sleep(60)",
        "os.write(3, reader_child.REPLY.pack(2, 2**60, 0, 0, 0)); time.sleep(60)",
        "os.write(3, reader_child.REPLY.pack(1, 2**60, 2**60, 2**60, 2**60)); time.sleep(60)",
        "os.write(3, reader_child.REPLY.pack(1, 30, 40, 30, 40) + reader_child.OWN.pack(True, 2**60)); time.sleep(60)",
    ],
)
def test_a_malformed_reply_is_not_trusted(bad: str) -> None:
    with ImageReaderProcess(command=spoilt(bad)) as reader:
        assert rejected(reader).reason == Reason.DECODER_DIED
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)


def test_output_printed_by_a_library_does_not_corrupt_the_reply() -> None:
    noise = "os.write(1, b'noise'); print('noise', flush=True)"
    with ImageReaderProcess(command=spoilt(f"{noise}; raise RejectError(Reason.EMPTY, 'one')")) as reader:
        assert rejected(reader).message == rejected(reader).message == "one"


def test_a_reject_message_may_be_any_text() -> None:
    with ImageReaderProcess(command=spoilt("raise RejectError(Reason.EMPTY, 'été\\n夏\\udcff')")) as reader:
        error = rejected(reader)
        assert (error.reason, error.message) == (Reason.EMPTY, "été\n夏\\udcff")


# ---- interruptions from outside that cost no image


def test_a_child_killed_between_two_images_is_replaced() -> None:
    with ImageReaderProcess() as reader:
        reader.decode(GOOD, 40)
        before = pid(reader)
        os.kill(before, signal.SIGKILL)
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)
        assert pid(reader) != before


def test_an_image_whose_child_is_killed_once_is_not_rejected(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    bad = (
        f"if not os.path.exists({str(mark)!r}):\n    os.mkdir({str(mark)!r})\n    os.kill(os.getpid(), signal.SIGTERM)"
    )
    with ImageReaderProcess(command=spoilt(f"{bad}\nreturn sound({GOOD!r}, size)")) as reader:
        assert reader.decode(BAD, 40).width == 40
    assert mark.exists()


def test_an_interrupt_leaves_no_partial_reply_for_the_next_image() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ImageReaderProcess(command=spoilt("time.sleep(1); raise RejectError(Reason.EMPTY, 'late')")) as reader:
            reader.decode(GOOD, 40)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                reader.decode(BAD, 40)
            assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("command", [("/no/such/program",), (sys.executable, "-c", "pass"), ("/bin/echo", "x" * 50)])
def test_a_child_that_cannot_start_does_not_reject_the_image(command: tuple[str, ...]) -> None:
    with ImageReaderProcess(command=command) as reader, pytest.raises(KtBatchError, match="does not start") as caught:
        reader.decode(GOOD, 40)
    assert not isinstance(caught.value, RejectError)


def test_a_pause_costs_an_image_one_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1000.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    reading, writing = os.pipe()
    os.write(writing, b"x")
    deadline = Deadline(5.0)
    deadline.wait(reading, 1)
    assert deadline.left == 4.0
    os.close(reading)
    os.close(writing)


# ---- the environment of the child


def test_the_child_sees_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "HF_TOKEN", "HOME", "PATH"):
        monkeypatch.setenv(name, "a secret")
    with ImageReaderProcess() as reader:
        reader.decode(GOOD, 40)
        environment = about(reader, "environ").read_bytes().decode().rstrip("\0").split("\0")
    allowed = {"PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_LIBRARY_PATH", "PYTHONHOME"}
    assert {entry.partition("=")[0] for entry in environment} <= allowed
    assert "a secret" not in "".join(environment)


def test_the_child_inherits_three_descriptors_and_no_folder(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, ImageReaderProcess() as reader:
        os.set_inheritable(file.fileno(), True)
        reader.decode(GOOD, 40)
        links = sorted(link.readlink().as_posix().partition(":")[0] for link in about(reader, "fd").iterdir())
        assert links == ["/dev/null", "/dev/null", "pipe", "socket"]  # the pipe was its standard output
        assert about(reader, "cwd").readlink() == Path("/")


def test_the_child_has_its_limits(reader: ImageReaderProcess) -> None:
    reader.decode(GOOD, 40)
    lines = about(reader, "limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    now, most = map(int, found["Max address space"])
    assert most <= min(MAX_ADDRESS_SPACE, memory_limit())
    assert now < 2 << 30  # what a small image may take; a larger one gets more
    for kind in ("Max core file size", "Max file size"):
        assert found[kind] == ["0", "0"]
    assert found["Max open files"] == [str(MAX_OPEN_FILES)] * 2


@pytest.mark.parametrize(
    "attempt", ["os.fork()", "os.posix_spawn('/bin/true', ['true'], {})", "os.execv('/bin/true', ['true'])"]
)
def test_the_child_starts_no_process_and_becomes_no_program(attempt: str) -> None:
    with ImageReaderProcess(command=spoilt(attempt)) as reader:
        assert "PermissionError" in rejected(reader).message


def test_the_child_may_start_threads_which_a_decoder_of_heic_needs() -> None:
    attempt = "threading.Thread(target=lambda: None).start()\nraise RejectError(Reason.EMPTY, 'started')"
    with ImageReaderProcess(command=spoilt(attempt, before="import threading")) as reader:
        assert rejected(reader).message == "started"


def test_where_the_kernel_filters_no_system_calls_the_child_may_start_nothing() -> None:
    refused = "from kt_batch.store.images import seccomp\nseccomp._CALLS.clear()"
    with ImageReaderProcess(command=spoilt(before=refused)) as reader:
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)
        limits = about(reader, "limits").read_text()
        assert re.search(r"Max processes +0 +0 ", limits)


def test_the_child_cannot_write_to_a_file(tmp_path: Path) -> None:
    with ImageReaderProcess(command=spoilt(f"open({str(tmp_path / 'x')!r}, 'wb', 0).write(b'x')")) as reader:
        assert "OSError: [Errno 27]" in rejected(reader).message
    assert (tmp_path / "x").stat().st_size == 0


def test_the_child_imports_no_heavy_library() -> None:
    with ImageReaderProcess(command=spoilt("raise RejectError(Reason.EMPTY, ' '.join(sys.modules))")) as reader:
        modules = {name.partition(".")[0] for name in rejected(reader).message.split()}
    assert {"numpy", "PIL", "tifffile"} <= modules
    assert not modules & {"torch", "pyarrow", "ray", "s3fs", "pydantic", "duckdb"}


UNSHARE = """
def unshare(flags):
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError("refused")
os.unshare, os.CLONE_NEWUSER, os.CLONE_NEWNET = unshare, 0x10000000, 0x40000000
"""
REFUSED = """
def unshare(flags):
    raise OSError("refused")
os.unshare, os.CLONE_NEWUSER, os.CLONE_NEWNET = unshare, 0x10000000, 0x40000000
"""


def test_the_child_has_no_network_where_the_system_can_isolate_it() -> None:
    done = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("the kernel grants no namespaces here")
    with ImageReaderProcess(command=spoilt(before=UNSHARE)) as reader:
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)
        assert about(reader, "ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        interfaces = about(reader, "net/dev").read_text().splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in interfaces] in ([], ["lo"])


def test_the_child_works_where_the_system_cannot_isolate_it() -> None:
    with ImageReaderProcess(command=spoilt(before=REFUSED)) as reader:
        assert outcome(reader.decode, GOOD) == outcome(images.decode, GOOD)


# ---- no child is left


def test_no_child_runs_before_the_first_image_or_after_close() -> None:
    reader = ImageReaderProcess()
    assert reader.pid is None
    reader.decode(GOOD, 40)
    child = pid(reader)
    assert runs(child)
    reader.close()
    reader.close()
    assert not runs(child)
    assert reader.pid is None
    reader.decode(GOOD, 40)
    reader.close()


def test_the_child_ends_with_the_last_reference() -> None:
    reader = ImageReaderProcess()
    reader.decode(GOOD, 40)
    child = pid(reader)
    del reader
    gc.collect()
    assert not runs(child)


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_child_ends_with_this_process_even_if_it_is_killed(end: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from kt_batch.store.images.reader_process import ImageReaderProcess\n"
        "reader = ImageReaderProcess()\n"
        "reader.decode(bytes.fromhex(sys.argv[1]), 40)\n"
        "print(reader.pid, flush=True)\n" + end
    )
    done = subprocess.run([sys.executable, "-c", code, GOOD.hex()], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    child = int(done.stdout)
    until = time.monotonic() + 30
    while runs(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not runs(child)
