"""Real paintings and photographs, if available, and jobs submitted to a cluster."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tenacity
import torch

from kt_batch.kernels.patches import unfold
from kt_batch.methods.features import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.store.images.files import decode, pad_to
from kt_batch.store.opening import open_run
from kt_batch.store.run import provenance_of
from kt_batch.store.schemas import from_fixed_binary
from tests.e2e.conftest import ROOT, Small, kt, run
from tests.support.ray_local import ray_environment
from tests.support.tiny import hashes, patches

DATA = ROOT.parent / "shared" / "data" / "images"
RAY = Path(sys.executable).with_name("ray")
SIZE, ROWS, PHOTOS = 256, 1000, 50

needs_images = pytest.mark.skipif(not DATA.is_dir(), reason=f"the research images are not at {DATA}")


def first(folder: str, count: int) -> list[Path]:
    found = sorted(path for path in (DATA / folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    assert len(found) >= count
    return found[:count]


# ---- photographs after paintings -------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_images
def test_photographs_after_a_painter_and_the_ncc_of_a_thousand_rows(tmp_path: Path) -> None:
    library, place = tmp_path / "library", tmp_path / "run"
    made = kt("extract", DATA / "style" / "van_gogh", "--library", library, "--size", SIZE, "--json")
    assert (made.code, made.json["images"], made.json["rejected"]) == (0, 13, 0)
    assert kt("index", library).code == 0
    photos = first("content", PHOTOS)
    ended = kt("translate", *photos, "--library", library, "--out", place, "--swap", "geometric", "--json")
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (0, PHOTOS, 0)
    assert 0.5 < ended.json["ncc_mean"] < 1
    differences = recomputed(library, place)
    assert len(differences) >= ROWS
    assert max(differences) < 0.005


def recomputed(library: Path, place: Path) -> list[float]:
    """Return the NCC error of sampled rows against images encoded again and stored vectors."""
    found, network = patches(library), load_encoder(EncoderSource()).network
    vectors = from_fixed_binary(found["vector"], "<f2", (-1,))
    where = {value: number for number, value in enumerate(found["patch_id"].to_pylist())}
    opened, differences = open_run(str(place)), []
    random = np.random.default_rng(0)
    for output in opened.outputs.values():
        pixels = pad_to(decode(Path(output.uri).read_bytes(), SIZE).pixels, 4)
        features = encode(network, to_tensor(pixels), "relu3_1")
        table = provenance_of(opened, output)
        for row in table.take(random.permutation(table.num_rows)[: ROWS // PHOTOS]).to_pylist():
            query = unfold(features, torch.tensor([row["row"]]), torch.tensor([row["col"]])).double().flatten().numpy()
            key = row["source_image_id"] + row["source_row"].to_bytes(2, "big") + row["source_col"].to_bytes(2, "big")
            source = vectors[where[key]].astype(np.float64)
            ncc = query @ source / (np.linalg.norm(query) * np.linalg.norm(source))
            differences.append(abs(float(row["ncc"]) - float(ncc)))
    return differences


# ---- jobs on a cluster -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """A cluster address and an environment with permission to submit jobs."""

    address: str
    environment: dict[str, str]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Start a head node as its users do, on its own ports."""
    with ray_environment() as (plain, folder):
        # In the environment it counts more than a file does, also more than the token of a Ray of another test.
        environment = {**plain, "RAY_AUTH_TOKEN": (folder / "token").read_text()}
        gcs, dashboard, client, agent = free_ports(4)
        command = [
            str(RAY),
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            f"--port={gcs}",
            "--dashboard-host=127.0.0.1",
        ]
        command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
        command += [
            f"--dashboard-agent-listen-port={agent}"
        ]  # with the default ports of Ray, a second Ray here never accepts a job
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        try:
            wait_for(f"http://127.0.0.1:{dashboard}/api/version")
            found = Cluster(f"http://127.0.0.1:{dashboard}", environment)
            take_a_job(found)
            yield found
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(OSError),
    wait=tenacity.wait_fixed(0.5),
    stop=tenacity.stop_after_attempt(120),
)
def wait_for(url: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=5):
            pass
    except urllib.error.HTTPError as answer:
        if answer.code not in (401, 403):  # the dashboard runs and requires the token
            raise


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(ConnectionError),
    wait=tenacity.wait_fixed(1),
    stop=tenacity.stop_after_attempt(30),
)
def take_a_job(cluster: Cluster) -> None:
    """Wait for the agent of the node, which starts jobs some seconds after the dashboard."""
    ended = run(RAY, "job", "submit", "--address", cluster.address, "--", "true", environment=cluster.environment)
    if "No available agent" in ended.err:
        raise ConnectionError(ended.err)
    assert ended.code == 0, ended.out + ended.err


@pytest.mark.slow
@pytest.mark.cluster
def test_submitted_jobs_build_a_library_and_translate(small: Small, cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(small.paintings, tmp_path / "paintings")
    (tmp_path / "paintings/bad.jpg").write_bytes(b"no image")
    library, place = tmp_path / "library", tmp_path / "run"
    submit = [RAY, "job", "submit", "--address", cluster.address, "--", sys.executable]
    common = ["--threads", "1", "--json"]
    words = [ROOT / "jobs/build_library.py", tmp_path / "paintings", "--library", library, "--size", "64"]
    built = run(*submit, *words, *common, environment=cluster.environment)
    assert built.code == 0, built.out + built.err
    assert re.search(r'"images": 3, "rejected": 1', built.out)
    assert patches(library) == patches(small.library)
    words = [ROOT / "jobs/translate.py", small.photos, "--library", library, "--out", place]
    done = run(*submit, *words, *common, environment=cluster.environment)
    assert done.code == 0, done.out + done.err
    assert re.search(r'"images": 3, "rejected": 0', done.out)
    assert kt("translate", small.photos, "--library", library, "--out", tmp_path / "here", "--threads", 1).code == 0
    assert hashes(place, "images") == hashes(tmp_path / "here", "images")
    strict = [ROOT / "jobs/build_library.py", tmp_path / "paintings", "--library", library, "--size", "64", "--strict"]
    assert run(*submit, *strict, *common, environment=cluster.environment).code != 0


@pytest.mark.slow
@pytest.mark.cluster
def test_without_the_token_no_job_is_accepted(cluster: Cluster, tmp_path: Path) -> None:
    other = {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}
    line = [RAY, "job", "submit", "--address", cluster.address, "--", "touch", tmp_path / "owned"]
    assert run(*line, environment=other).code != 0
    assert not (tmp_path / "owned").exists()
