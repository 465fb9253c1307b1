"""The deployment files: against Kubernetes' and Ray's own schemas, against KubeRay's where they can be had, and against the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.placement import needed_resources
from cluster.planning.hardware import read_cluster
from cluster.planning.plan import Question, make_plan
from cluster.planning.sizes import named_shape
from cluster.planning.workload import read_workload
from configs.load import load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
KUBERAY = DEPLOY / "kuberay"
KUBERNETES = "1.34"
CRDS = os.environ.get("STEELYARD_KUBERAY_CRDS", "")
"""Folder of KubeRay's ray.io_rayclusters.yaml and ray.io_rayjobs.yaml, of release 1.5.1 or later; none: they are fetched."""
CRDS_URL = "https://raw.githubusercontent.com/ray-project/kuberay/v1.5.1/helm-chart/kuberay-operator/crds"
FETCH_SECONDS = 5.0
CORE = ("namespace.yaml", "storage.yaml", "network_policy.yaml")
PARTS = {"app.kubernetes.io/part-of": "steelyard"}


def load(name: str) -> Any:
    return yaml.safe_load((KUBERAY / name).read_text())


def cluster_specs() -> dict[str, Any]:
    return {"cluster": load("cluster.yaml")["spec"], "job": load("job.yaml")["spec"]["rayClusterSpec"]}


def groups(spec: Any) -> list[Any]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def lock_version(package: str) -> str:
    lock = (DEPLOY / "images" / "gpu.lock").read_text()
    found = re.search(rf"^{package}==(\S+)", lock, re.M)
    assert found
    return found[1]


@pytest.mark.parametrize("name", CORE)
def test_core_kinds_are_what_kubernetes_takes(name: str) -> None:
    kubernetes_validate.validate(load(name), KUBERNETES, strict=True)


@pytest.mark.parametrize("which", ["cluster", "job"])
def test_every_pod_template_is_a_pod(which: str) -> None:
    for group in groups(cluster_specs()[which]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        pod["metadata"] = {"name": "one", **pod["metadata"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert pod["metadata"]["labels"] == PARTS


def test_a_planted_fault_is_found() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": {"containers": [{"nam": "x"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def kuberays(file: str) -> Any:
    """One of KubeRay's definitions; the test is skipped where neither a folder nor the network has it."""
    if CRDS:
        return yaml.safe_load((Path(CRDS) / file).read_text())
    try:
        answer = httpx.get(f"{CRDS_URL}/{file}", timeout=FETCH_SECONDS, follow_redirects=True).raise_for_status()
    except httpx.HTTPError as error:
        pytest.skip(
            f"KubeRay's schemas cannot be fetched ({type(error).__name__}): give their folder in STEELYARD_KUBERAY_CRDS"
        )
    return yaml.safe_load(answer.text)


@pytest.mark.parametrize(
    ("name", "file"), [("cluster.yaml", "ray.io_rayclusters.yaml"), ("job.yaml", "ray.io_rayjobs.yaml")]
)
def test_manifests_against_kuberays_own_schemas(name: str, file: str) -> None:
    crd = kuberays(file)
    version = next(one for one in crd["spec"]["versions"] if one["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    jsonschema.validate(load(name), schema)
    wrong = load(name)
    wrong["spec"]["notAKey"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def closed(schema: Any) -> Any:
    """No key but the schema's: the API server would drop it in silence."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def test_the_jobs_cluster_is_the_cluster() -> None:
    specs = cluster_specs()
    assert specs["job"] == specs["cluster"]
    assert load("job.yaml")["spec"]["entrypoint"].startswith("python -m cluster.job ")
    load_settings(load("job.yaml")["spec"]["entrypoint"].split()[3])


def test_the_cluster_runs_the_locked_ray_with_a_token_and_holds_no_secret() -> None:
    spec = load("cluster.yaml")["spec"]
    assert spec["rayVersion"] == lock_version("ray") == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    for path in DEPLOY.rglob("*.y*ml"):
        assert "kind: Secret" not in path.read_text()
    for name in ("aws", "onprem"):
        assert (DEPLOY / "launcher" / f"{name}.yaml").read_text().count("RAY_AUTH_MODE=token ") == 2


def test_network_policy_and_monitor_meet_the_pods() -> None:
    policy, monitor = load("network_policy.yaml"), load("monitoring.yaml")
    assert policy["spec"]["podSelector"]["matchLabels"] == PARTS
    assert monitor["spec"]["selector"]["matchLabels"] == PARTS
    ports = {
        port["name"]: port["containerPort"]
        for group in groups(load("cluster.yaml")["spec"])
        for container in group["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    scraped = {ports[one["port"]] for one in monitor["spec"]["podMetricsEndpoints"]}
    assert scraped == {port["port"] for port in policy["spec"]["ingress"][2]["ports"]}


def test_the_gpu_workers_hold_the_preset_that_the_job_runs() -> None:
    settings = load_settings("beaver_7b")
    group = next(one for one in load("cluster.yaml")["spec"]["workerGroupSpecs"] if one["groupName"] == "gpu")
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    memory = int(limits["memory"].removesuffix("Gi")) * 2**30
    machine = read_cluster(f"h100:{limits['nvidia.com/gpu']}", group["replicas"], host_memory=memory)
    plan = make_plan(Question(settings.resources, named_shape("7b"), read_workload(settings), machine))
    assert plan.fits, [one.describe() for one in plan.shortages]
    needed = needed_resources(settings.resources)
    assert needed["GPU"] <= int(limits["nvidia.com/gpu"]) and needed["CPU"] <= int(limits["cpu"])


@pytest.mark.parametrize("name", ["aws", "onprem"])
def test_launcher_files_are_what_ray_takes(name: str) -> None:
    document = yaml.safe_load((DEPLOY / "launcher" / f"{name}.yaml").read_text())
    validate_config(prepare_config(document))
    document["worker_start_command"] = "ray start"
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(document))


def test_the_slurm_script_is_clean_shell() -> None:
    script = DEPLOY / "slurm" / "steelyard.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    asked = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert asked.returncode == 2 and asked.stderr.startswith("usage: ")
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not here: the script was only parsed")
    subprocess.run(["shellcheck", str(script)], check=True)


@pytest.mark.parametrize("edition", ["cpu", "gpu"])
def test_dockerfiles_install_the_lock_and_copy_what_is_there(edition: str) -> None:
    text = (DEPLOY / "docker" / f"Dockerfile.{edition}").read_text()
    assert f"images/{edition}.lock" in text
    assert "USER steelyard" in text
    ignored = (ROOT / ".dockerignore").read_text()
    copied = [words[2:-1] for words in map(str.split, text.splitlines()) if words[:1] == ["COPY"]]
    for source in (one for sources in copied for one in sources):
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in ignored.splitlines(), source
