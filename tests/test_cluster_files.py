"""The files in cluster/ fit the schemas of KubeRay and of the Ray cluster launcher.

A field that a schema does not name is an error here; a cluster would silently drop it.
"""

from __future__ import annotations

import copy
import gzip
import ipaddress
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "cluster"
KUBERAY = Path(__file__).parent / "vendor/kuberay"
MANIFESTS = {"raycluster.yaml": "ray.io_rayclusters", "rayjob.yaml": "ray.io_rayjobs"}
GUARDED = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}

Json = dict[str, Any]


def strict(schema: Any) -> Any:
    """Return a schema that forbids unnamed fields, unless it explicitly allows any."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    open_ = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    return closed if open_ or "properties" not in schema else {**closed, "additionalProperties": False}


def manifest(name: str) -> Json:
    """Return the single Ray object of a file."""
    (found,) = [each for each in yaml.safe_load_all((CLUSTER / name).read_text()) if each["apiVersion"] == "ray.io/v1"]
    loaded: Json = found
    return loaded


def check(name: str, found: Json) -> None:
    """Raise ValidationError when KubeRay would refuse a manifest or drop a part of it."""
    schema = strict(json.loads(gzip.decompress((KUBERAY / f"{MANIFESTS[name]}.v1.json.gz").read_bytes())))
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    jsonschema.validate(found, schema, jsonschema.Draft202012Validator)


def pods(found: Json) -> Iterator[Json]:
    """Return the pod templates of a manifest."""
    spec = found["spec"].get("rayClusterSpec", found["spec"])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        yield group["template"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_accepts_the_manifest_and_drops_nothing_of_it(name: str) -> None:
    check(name, manifest(name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_misspelt_field_is_refused(name: str) -> None:
    wrong = copy.deepcopy(manifest(name))
    container = next(pods(wrong))["spec"]["containers"][0]
    container["securityContexts"] = container.pop("securityContext")
    with pytest.raises(jsonschema.ValidationError, match="'securityContexts' was unexpected"):
        check(name, wrong)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_pod_requires_a_token_reports_to_nobody_and_has_no_privileges(name: str) -> None:
    for pod in pods(manifest(name)):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            environment = {entry["name"]: entry.get("value") for entry in container["env"]}
            assert environment.items() >= GUARDED.items()
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_the_network_policy_selects_the_pods_of_both_manifests() -> None:
    policy = yaml.safe_load((CLUSTER / "networkpolicy.yaml").read_text())
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for name in MANIFESTS:
        for pod in pods(manifest(name)):
            assert pod["metadata"]["labels"].items() >= wanted.items()


def test_the_cluster_launcher_accepts_its_file() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    found = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**found, "max_worker": 4}, schema)


def test_the_containers_of_the_launcher_require_a_token_and_report_to_nobody() -> None:
    options = yaml.safe_load((CLUSTER / "aws.yaml").read_text())["docker"]["run_options"]
    assert {f"--env {name}={value}" for name, value in GUARDED.items()} <= set(options)


# ---- what the pods may reach -----------------------------------------------------------------------------------------


def rules_for(address: str, port: int) -> list[Json]:
    """Return the rules of egress that allow a connection to an address outside the cluster."""
    policy = yaml.safe_load((CLUSTER / "networkpolicy.yaml").read_text())
    place = ipaddress.ip_address(address)
    return [
        rule
        for rule in policy["spec"]["egress"]
        for block in (each["ipBlock"] for each in rule["to"] if "ipBlock" in each)
        if place in ipaddress.ip_network(block["cidr"])
        and not any(place in ipaddress.ip_network(left_out) for left_out in block.get("except", []))
        and port in [each["port"] for each in rule["ports"]]
    ]


@pytest.mark.parametrize(
    ("address", "port", "reached"),
    [
        ("52.218.0.1", 443, True),  # an object store
        ("52.218.0.1", 80, False),
        ("52.218.0.1", 22, False),
        ("169.254.169.254", 80, False),  # metadata of a machine
        ("169.254.169.254", 443, False),
        ("169.254.170.2", 443, False),  # credentials of a container
        ("10.0.0.1", 443, False),  # the API server, and everything else in a private network
        ("172.20.0.1", 443, False),
        ("192.168.1.1", 443, False),
        ("100.100.100.200", 443, False),  # metadata of another cloud
        ("fd00:ec2::254", 443, False),  # metadata by IPv6
    ],
)
def test_a_pod_reaches_servers_outside_by_https_alone(address: str, port: int, reached: bool) -> None:
    assert bool(rules_for(address, port)) is reached


def test_every_rule_of_egress_names_its_target() -> None:
    policy = yaml.safe_load((CLUSTER / "networkpolicy.yaml").read_text())
    for rule in policy["spec"]["egress"]:
        assert rule["to"]
        assert rule.get("ports") or rule["to"] == [{"podSelector": policy["spec"]["podSelector"]}]


def test_machines_hand_out_credentials_to_the_host_alone() -> None:
    text = (CLUSTER / "aws.yaml").read_text()
    nodes = yaml.safe_load(text)["available_node_types"].values()
    assert [node["node_config"]["MetadataOptions"] for node in nodes] == [
        {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    ] * len(nodes)
    assert text.count("MetadataOptions") == text.count("HttpPutResponseHopLimit: 1}") == 3  # a comment has one too


# ---- images and packages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aws.yaml", *MANIFESTS])
def test_every_image_is_named_by_its_digest(name: str) -> None:
    images = re.findall(r"\bimage: (\S+)", (CLUSTER / name).read_text())
    assert images
    assert all(re.fullmatch(r"\S+@sha256:(DIGEST|GPU_DIGEST|[0-9a-f]{64})", image) for image in images), images


def test_the_image_is_built_from_a_digest_and_from_hashes() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM python:3.12-slim@${PYTHON_DIGEST}"]
    assert "ARG PYTHON_DIGEST" in lines  # without a default: without a digest the build stops
    assert not [line for line in lines if line.startswith("# syntax")]  # it would fetch another image
    installs = [line for line in lines if line.startswith("RUN pip install")]
    assert len(installs) == 2
    assert "--require-hashes --only-binary :all: -r requirements.txt" in installs[0]
    assert "--no-deps --no-index --no-build-isolation" in installs[1]


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Return package -> version and number of hashes of a lock file; its format is checked line by line."""
    packages: dict[str, tuple[str, int]] = {}
    for line in (CLUSTER / name).read_text().replace("\\\n", "").splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9.-]+)==([^ ;]+)((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert match, line
        packages[match[1]] = match[2], match[3].count("--hash")
    return packages


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_lock_file_holds_every_requirement_with_a_hash(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"][extra]]
    packages = locked(f"requirements-{extra}.txt")
    for requirement in map(Requirement, [*wanted, *project["build-system"]["requires"]]):
        version, hashes = packages[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
        assert hashes > 0


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_made_as_the_readme_says_is_for_its_user_alone(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (CLUSTER / "README.md").read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "get-auth-token --generate" in block]
    folder = Path(sys.executable).parent
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{folder}:{os.environ['PATH']}"}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    subprocess.run(["bash", "-c", f"umask 022\n{block}"], env=environment, check=True, timeout=60, capture_output=True)
    token = tmp_path / ".ray/auth_token"
    assert oct(token.stat().st_mode & 0o777) == "0o600"
    assert oct(token.parent.stat().st_mode & 0o777) == "0o700"


def test_the_environment_of_nodes_keeps_others_out() -> None:
    command = ["bash", "-c", f"umask 022; . {CLUSTER / 'environment.sh'}; umask"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "0077"


def test_ray_has_one_version_everywhere() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    (pinned,) = {line.split(">=")[1].split(",")[0] for line in lines if '"ray[' in line}
    for name in MANIFESTS:
        found = manifest(name)["spec"]
        assert found.get("rayClusterSpec", found)["rayVersion"].startswith(pinned)


def test_entrypoints_name_existing_jobs() -> None:
    word = manifest("rayjob.yaml")["spec"]["entrypoint"].split()[1]
    assert (ROOT / Path(word).relative_to("/app")).is_file()
