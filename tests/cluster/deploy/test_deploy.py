"""The deployment files: against Kubernetes' and Ray's own schemas, against KubeRay's where they can be had, and against the code."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.observability.monitoring.files import COMMITTED as MONITORING
from cluster.observability.monitoring.scrape import prometheus_config
from cluster.resources.placement import needed_resources
from cluster.resources.planning.hardware import read_cluster
from cluster.resources.planning.plan import Question, make_plan
from cluster.resources.planning.sizes import named_shape
from cluster.resources.planning.workload import read_workload
from cluster.resources.stopping import CHECKPOINT_GRACE_SECONDS, GRACE_VARIABLE
from configs.load import load_settings
from tests.paths import ROOT

DEPLOY = ROOT / "cluster" / "deploy"
KUBERAY = DEPLOY / "kuberay"
KUBERNETES = "1.34"
CRDS = os.environ.get("STEELYARD_KUBERAY_CRDS", "")
"""Folder of KubeRay's ray.io_rayclusters.yaml and ray.io_rayjobs.yaml, of release 1.5.1 or later; none: they are fetched."""
CRDS_URL = "https://raw.githubusercontent.com/ray-project/kuberay/v1.5.1/helm-chart/kuberay-operator/crds"
FETCH_SECONDS = 5.0
CORE = ("namespace.yaml", "storage.yaml", "network_policy.yaml")
PARTS = {"app.kubernetes.io/part-of": "steelyard"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
"""What KubeRay's chart labels the operator's pods with."""


def load(name: str) -> Any:
    return yaml.safe_load((KUBERAY / name).read_text())


def cluster_specs() -> dict[str, Any]:
    return {"cluster": load("cluster.yaml")["spec"], "job": load("job.yaml")["spec"]["rayClusterSpec"]}


def groups(spec: Any) -> list[Any]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def group_named(spec: Any, name: str) -> Any:
    return next(one for one in spec["workerGroupSpecs"] if one["groupName"] == name)


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


def may_reach(labels: Mapping[str, str], port: int, *, same_namespace: bool) -> bool:
    """Whether the network policy lets a pod with these labels through to a port."""
    return any(
        source.get("namespaceSelector", {} if same_namespace else None) == {}
        and source.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()
        and ("ports" not in rule or port in [one["port"] for one in rule["ports"]])
        for rule in load("network_policy.yaml")["spec"]["ingress"]
        for source in rule["from"]
    )


def test_whoever_submits_the_job_reaches_the_dashboard() -> None:
    job = load("job.yaml")["spec"]
    # KubeRay's submitter pods: without labels unless a template gives some, and a broken log stream ends the run with them.
    assert not may_reach({}, 8265, same_namespace=True)
    assert job["submissionMode"] == "HTTPMode" and "submitterPodTemplate" not in job
    assert may_reach(OPERATOR, 8265, same_namespace=False)
    assert not may_reach(OPERATOR, 6379, same_namespace=False)
    assert may_reach(PARTS, 6379, same_namespace=True) and not may_reach(PARTS, 6379, same_namespace=False)
    assert "activeDeadlineSeconds" not in job, "it would limit the run"


def test_the_driver_has_a_place_and_sizes_are_what_they_say() -> None:
    spec, cpus = load("cluster.yaml")["spec"], load("job.yaml")["spec"]["entrypointNumCpus"]
    assert not spec.get("enableInTreeAutoscaling")
    for group in spec["workerGroupSpecs"]:  # without an autoscaler a range says nothing
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"], group["groupName"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    limits = group_named(spec, "cpu")["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in limits and cpus <= int(limits["cpu"])
    # Where a job asks for nothing its driver is on the head: as large as what another asks for, with room for Ray itself.
    assert int(spec["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) >= 2 * cpus
    asking = [
        one for one in commands("ray job submit") + commands("steelyard submit") if "--entrypoint-num-cpus" in one
    ]
    assert len(asking) == 2 and all(f"--entrypoint-num-cpus {cpus} " in one for one in asking)


def commands(start: str) -> list[str]:
    """Of docs/deploy.md, from the blocks of shell."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(start)]


def test_no_documented_submission_uploads_over_the_image() -> None:
    submitted = [
        words for one in commands("steelyard submit") if "--stop" not in (words := shlex.split(one, comments=True))
    ]
    assert len(submitted) == 4
    assert all("--image" in words for words in submitted)


def test_every_way_leaves_a_stopped_run_the_time_for_a_checkpoint() -> None:
    for spec in cluster_specs().values():
        for group in groups(spec):
            environment = {one["name"]: one["value"] for one in group["template"]["spec"]["containers"][0]["env"]}
            assert int(environment[GRACE_VARIABLE]) >= CHECKPOINT_GRACE_SECONDS
    for name in ("launcher/aws.yaml", "launcher/onprem.yaml", "slurm/steelyard.sh"):
        (grace,) = re.findall(rf"{GRACE_VARIABLE}=(\d+)", (DEPLOY / name).read_text())
        assert int(grace) >= CHECKPOINT_GRACE_SECONDS
    (before,) = re.findall(r"--signal=B:TERM@(\d+)", (DEPLOY / "slurm" / "steelyard.sh").read_text())
    assert int(before) > int(grace)


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
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    assert {ports[one["port"]] for one in endpoints} == {port["port"] for port in policy["spec"]["ingress"][2]["ports"]}
    # Names and job are those of prometheus.yml, which rules and dashboards ask for.
    (scrape,) = [one for one in prometheus_config()["scrape_configs"] if one["job_name"] == "ray"]
    for endpoint in endpoints:
        assert [snake_case(one) for one in endpoint["metricRelabelings"]] == scrape["metric_relabel_configs"]
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": scrape["job_name"]}]


def snake_case(relabelling: Mapping[str, Any]) -> dict[str, Any]:
    """From the operator's keys to Prometheus's."""
    return {
        re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", key): value
        for key, value in relabelling.items()
    }


def test_the_operators_rules_are_the_rules_and_find_the_monitors_job() -> None:
    manifest = yaml.safe_load((MONITORING / "prometheus_rule.yaml").read_text())
    monitor = load("monitoring.yaml")
    assert manifest["kind"] == "PrometheusRule" and manifest["apiVersion"] == monitor["apiVersion"]
    assert manifest["metadata"] == monitor["metadata"]
    files = [yaml.safe_load((MONITORING / "rules" / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    expected = [group for file in files for group in file["groups"]]
    found = manifest["spec"]["groups"]
    assert [group["name"] for group in found] == [group["name"] for group in expected]
    assert [group["rules"] for group in found] == [group["rules"] for group in expected]
    (down,) = [rule for group in found for rule in group["rules"] if rule.get("alert") == "SteelyardTargetDown"]
    (jobs,) = re.findall(r'job=~"([^"]+)"', down["expr"])
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert re.fullmatch(jobs, endpoint["relabelings"][0]["replacement"])


def test_the_gpu_workers_hold_the_preset_that_the_job_runs() -> None:
    settings = load_settings("beaver_7b")
    group = group_named(load("cluster.yaml")["spec"], "gpu")
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


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
case "$*" in
    hostname*) echo 127.0.0.1 ;;
    "ray start"*) exec sleep 60 ;;
    *cluster.job*)
        trap 'exit 5' TERM
        sleep 0.5  # the script has set its own trap by then
        touch "$READY"
        while :; do sleep 0.02; done
        ;;
    *) cat >/dev/null ;;
esac
"""


def test_the_slurm_scripts_code_is_the_runs_even_if_it_ends_while_the_signal_is_handled(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho one\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    ready = tmp_path / "ready"
    environment = {
        "PATH": f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "READY": str(ready),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "HOME": str(tmp_path),
        # After the signal was passed on the run is over before the script looks for it.
        "BASH_FUNC_kill%%": '() { builtin kill "$@" || return; if [ "$1" = -TERM ]; then sleep 0.5; fi; }',
    }
    script = subprocess.Popen(
        ["bash", str(DEPLOY / "slurm" / "steelyard.sh"), "demo"], env=environment, cwd=tmp_path, start_new_session=True
    )
    try:
        until = time.monotonic() + 30
        while not ready.exists() and script.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        script.send_signal(signal.SIGTERM)
        assert script.wait(30) == 5
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)


@pytest.mark.parametrize("edition", ["cpu", "gpu"])
def test_images_hold_what_rays_launcher_runs_in_them(edition: str) -> None:
    text = (DEPLOY / "docker" / f"Dockerfile.{edition}").read_text()
    (installed,) = re.findall(r"apt-get install --yes --no-install-recommends (.*?) \\\n", text)
    # Ray copies into the container with rsync, and its head starts the workers by ssh and rsync from inside its own.
    assert {"rsync", "openssh-client"} <= set(installed.split())
    # Ray's provider of aws.yaml imports boto3 on the head.
    assert "install --no-cache-dir --no-deps -r cluster/deploy/images/aws.txt" in text
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (DEPLOY / "images" / "aws.txt").read_text(), re.M))
    assert {"boto3", "botocore", "s3transfer"} <= set(pins) and pins["boto3"] == pins["botocore"]
    lock = (DEPLOY / "images" / f"{edition}.lock").read_text()
    assert all(re.search(rf"^{name}==", lock, re.M) for name in ("jmespath", "urllib3", "six")), "--no-deps: the lock's"


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
