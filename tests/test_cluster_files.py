"""The files in cluster/ fit the schemas of KubeRay and of the Ray cluster launcher.

A field that a schema does not name is an error here; a cluster would silently drop it.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

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
    assert policy["spec"]["policyTypes"] == ["Ingress"]
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


def test_ray_has_one_version_everywhere() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    (pinned,) = {line.split(">=")[1].split(",")[0] for line in lines if '"ray[' in line}
    for name in MANIFESTS:
        found = manifest(name)["spec"]
        assert found.get("rayClusterSpec", found)["rayVersion"].startswith(pinned)


def test_entrypoints_name_existing_jobs() -> None:
    word = manifest("rayjob.yaml")["spec"]["entrypoint"].split()[1]
    assert (ROOT / Path(word).relative_to("/app")).is_file()
