"""Project rules of CONTRIBUTING.md and docs/architecture.md that a machine can check."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import ray.autoscaler
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "kt_batch").rglob("*.py"))
SHIPPED = PACKAGE + sorted((ROOT / "jobs").rglob("*.py"))
CLUSTER = ROOT / "cluster"

MAX_FUNCTION = 50
MAX_MODULE = 400
MAX_PARAMETERS = 9

REFUSED_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
REFUSED_CALLS = {
    "eval", "exec", "torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system",
}  # fmt: skip
LATE_MODULES = {"faiss", "torchvision", "skimage"}
MACHINE_PATH = re.compile(r"(?<![\w./:*-])/(home|root|work|Users|opt|srv|mnt)/|\b[A-Z]:\\\\")

NODE_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_grpc_keepalive_time_ms": "2000",
    "RAY_grpc_keepalive_timeout_ms": "3000",
    "RAY_grpc_client_keepalive_time_ms": "2000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_prestart_worker_first_driver": "0",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name(path))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the top-level packages that these nodes import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def run_at_import(module: ast.Module) -> Iterator[ast.AST]:
    """Return the nodes that importing a module executes: all but function bodies."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting.extend(ast.iter_child_nodes(node))


def refused(module: ast.Module) -> set[str]:
    """Return the calls of a module that could run code from data."""
    calls = {ast.unparse(node.func) for node in ast.walk(module) if isinstance(node, ast.Call)}
    unpickles = {
        "allow_pickle"
        for node in ast.walk(module)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    }
    return calls & REFUSED_CALLS | imported(ast.walk(module)) & REFUSED_MODULES | unpickles


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of the spec of a RayCluster."""
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def load(file: str) -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load((CLUSTER / file).read_text(encoding="utf-8")))


# ---- imports ----


def test_imports_run_downward_only() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def layers() -> list[str]:
    """Return the packages of kt_batch from top to bottom, as in docs/architecture.md."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^## kt_batch/(\w+):", text, flags=re.MULTILINE)


def contracts() -> dict[str, dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["id"]: contract for contract in project["tool"]["importlinter"]["contracts"]}


def test_the_contract_of_layers_is_the_layout_of_the_architecture() -> None:
    assert [layer for layer in contracts()["layers"]["layers"] if layer in layers()] == layers()
    folders = {path.parent.name for path in (ROOT / "kt_batch").glob("*/__init__.py")}
    assert set(layers()) == folders


@pytest.mark.parametrize(("contract", "at_home"), [("ray", "runners"), ("faiss", "index")])
def test_a_dependency_with_one_home_is_forbidden_in_other_packages(contract: str, at_home: str) -> None:
    modules = {path.stem for path in (ROOT / "kt_batch").glob("*.py") if path.stem != "__init__"}
    everywhere = {f"kt_batch.{module}" for module in {*layers(), *modules} - {at_home}} | {"jobs"}
    assert set(contracts()[contract]["source_modules"]) == everywhere


@pytest.mark.parametrize("path", ["runners/pool_state.py", "runners/pool_events.py"])
def test_the_state_machine_of_the_pool_imports_neither_ray_nor_a_clock(path: str) -> None:
    assert not imported(ast.walk(tree(ROOT / "kt_batch" / path))) & {"ray", "time", "datetime", "logging", "threading"}


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_heavy_and_optional_dependencies_are_imported_where_they_are_used(path: Path) -> None:
    assert not imported(run_at_import(tree(path))) & LATE_MODULES


# ---- documents ----


def test_every_module_has_its_line_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `((?:kt_batch|jobs)/[\w/]+\.py)` \| \S.{10,} \|$", text, flags=re.MULTILINE)
    assert sorted(described) == sorted(name(path) for path in SHIPPED if path.name != "__init__.py")


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    assert [text[:5] for text in names] == [f"{number:04}-" for number in range(1, len(names) + 1)]


# ---- size ----


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions(path)}
    assert {function: lines for function, lines in lengths.items() if lines > MAX_FUNCTION} == {}


@pytest.mark.parametrize("path", [path for path in PACKAGE if path.parent.name != "cli"], ids=name)
def test_signatures_have_few_parameters(path: Path) -> None:
    names = {node.name: {each.arg for each in node.args.args + node.args.kwonlyargs} for node in functions(path)}
    counts = {function: len(parameters - {"self", "cls"}) for function, parameters in names.items()}
    assert {function: count for function, count in counts.items() if count > MAX_PARAMETERS} == {}


# ---- safety ----


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_no_file_that_is_read_can_run_code(path: Path) -> None:
    assert refused(tree(path)) == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", {"pickle"}),
        ("def f():\n    from dill import loads", {"dill"}),
        ("torch.load(path, weights_only=True)", {"torch.load"}),
        ("yaml.load(text, Loader=yaml.SafeLoader)", {"yaml.load"}),
        ("eval(text)", {"eval"}),
        ("numpy.load(path, allow_pickle=True)", {"allow_pickle"}),
        ("model.eval(); yaml.safe_load(text); numpy.load(path, allow_pickle=False)", set()),
    ],
)
def test_the_check_for_running_code_finds_every_known_way(code: str, found: set[str]) -> None:
    assert refused(ast.parse(code)) == found


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_no_file_contains_a_path_of_a_particular_machine(path: Path) -> None:
    assert MACHINE_PATH.search(path.read_text(encoding="utf-8")) is None


# ---- cluster/ ----


def test_the_launcher_file_fits_rays_schema() -> None:
    launcher = load("aws.yaml")
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(launcher, schema)
    assert launcher["head_node_type"] in launcher["available_node_types"]
    assert "~/.ray/auth_token" in launcher["file_mounts"]


@pytest.mark.parametrize(("file", "kind"), [("raycluster.yaml", "RayCluster"), ("rayjob.yaml", "RayJob")])
def test_a_kuberay_file_declares_its_kind(file: str, kind: str) -> None:
    found = load(file)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
    assert found["metadata"]["name"]


def test_job_and_permanent_cluster_have_the_same_nodes() -> None:
    job = load("rayjob.yaml")["spec"]
    assert job["rayClusterSpec"] == load("raycluster.yaml")["spec"]
    assert job["entrypoint"].startswith("python /app/jobs/")
    assert (ROOT / job["entrypoint"].split()[1].removeprefix("/app/")).is_file()


def test_every_pod_requires_a_token_and_no_privileges() -> None:
    cluster = load("raycluster.yaml")["spec"]
    assert cluster["authOptions"] == {"mode": "token"}
    selector = load("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"]
    for pod in pods(cluster):
        assert selector.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            assert environment(container) == NODE_ENVIRONMENT
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_launcher_image_and_shell_set_the_same_environment_as_the_pods() -> None:
    options = load("aws.yaml")["docker"]["run_options"]
    given = dict(option.removeprefix("--env ").split("=") for option in options if option.startswith("--env "))
    assert given == NODE_ENVIRONMENT
    image = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert dict(re.findall(r"(RAY_\w+)=(\w+)", image)) == NODE_ENVIRONMENT
    by_hand = (CLUSTER / "environment.sh").read_text(encoding="utf-8")
    assert dict(re.findall(r"^export (\w+)=(\w+)$", by_hand, flags=re.MULTILINE)) == NODE_ENVIRONMENT


def test_the_ray_version_of_the_cluster_is_that_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = re.search(r'"ray\[default\]>=([\d.]+),', project)
    assert pinned is not None
    assert load("raycluster.yaml")["spec"]["rayVersion"].startswith(pinned[1] + ".")
