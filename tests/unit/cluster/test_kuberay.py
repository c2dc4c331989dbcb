"""KubeRay's objects: the schemas of its CRDs and of Kubernetes, pod security, what fits on a machine, who is let in."""

import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from kubernetes_validate.utils import schema_contents
from ray._private import ray_constants
from ray.scripts.scripts import start
from referencing import Registry, Resource

from tests.unit.cluster.files import KUBERAY, ROOT, Pod, document, documents, groups, pods, quantity, ray_cluster
from tests.unit.cluster.pod_security import violations

KUBERNETES = "kubernetes-json-schema/v1.37.0-local-strict"
CRDS = Path(__file__).with_name("kuberay")
GIB = 2.0**30

# What a machine has for pods when the cloud and Kubernetes have taken theirs, and what daemons of the cluster (network,
# logs, the GPU's plugin) ask for besides. Disks: as GKE reserves of 100 and 200 GB, which is more than EKS does.
MACHINES = {
    "head": {"cpu": 3.9, "memory": 13 * GIB, "ephemeral-storage": 45 * GIB},
    "worker": {"cpu": 7.9, "memory": 28 * GIB, "ephemeral-storage": 96 * GIB, "nvidia.com/gpu": 1.0},
}
DAEMONS = {"cpu": 0.3, "memory": 0.5 * GIB, "ephemeral-storage": 0.0, "nvidia.com/gpu": 0.0}


@functools.cache
def definitions() -> Any:
    """Kubernetes' schemas, read once: kubernetes_validate itself reads them for every object."""
    return (Resource.from_contents(schema_contents(f"{KUBERNETES}/_definitions.json", "")) @ Registry()).crawl()


@functools.cache
def validator(kind: str, version: str) -> Any:
    """What says whether an object is one of its kind, without a field that the kind has not."""
    crds = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
    if kind in crds:
        return jsonschema.Draft202012Validator(json.loads((CRDS / f"{crds[kind]}.json").read_text()))
    group = version.replace(".k8s.io", "").replace("/", "-")
    schema = schema_contents(f"{KUBERNETES}/{kind.lower()}-{group}.json", "")
    return jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ definitions())


def check(content: Any) -> None:
    """Raises where KubeRay or Kubernetes would refuse a document or a pod made of it, or drop a field of it."""
    validator(content["kind"], content["apiVersion"]).validate(content)
    if content["apiVersion"].startswith("ray.io/"):
        submitter = content["spec"].get("submitterPodTemplate")
        for template in [*(group["template"] for group in groups(content)), *([submitter] if submitter else [])]:
            validator("Pod", "v1").validate({"apiVersion": "v1", "kind": "Pod", **template})
        validator("Pod", "v1").validate(pods(content)[0].manifest())  # the head's, with the autoscaler


@pytest.mark.parametrize("switched_on", [False, True])
@pytest.mark.parametrize("name", [*KUBERAY, "kuberay-network.yaml"])
def test_kuberay_and_kubernetes_take_them(name: str, switched_on: bool) -> None:
    for content in documents(name, switched_on):
        check(content)


def test_lines_that_are_switched_off_are_there() -> None:
    on, off = (document("kuberay-cluster.yaml", switched_on) for switched_on in (True, False))
    assert "gcsFaultToleranceOptions" in on["spec"] and "gcsFaultToleranceOptions" not in off["spec"]
    assert "kueue.x-k8s.io/queue-name" in on["metadata"]["labels"]
    (worker,) = (pod.spec["containers"][0] for pod in pods(on) if pod.role == "worker")
    assert worker["resources"]["limits"]["vpc.amazonaws.com/efa"] == "1"
    assert "AWS_ENDPOINT_URL_S3" in {variable["name"] for variable in worker["env"]}


def mappings(content: Any) -> Iterator[Any]:
    """Every mapping of a document whose fields a schema names."""
    free = {"labels", "nodeSelector", "matchLabels", "requests", "limits", "rayStartParams", "metadata"}
    if isinstance(content, dict):
        yield content
        yield from (inner for key, value in content.items() if key not in free for inner in mappings(value))
    elif isinstance(content, list):
        yield from (inner for value in content for inner in mappings(value))


@pytest.mark.parametrize("name", KUBERAY)
def test_a_typo_is_found_wherever_it_stands(name: str) -> None:
    """Every field of every depth is misspelt once."""
    content = document(name, switched_on=True)
    count = 0
    for number, mapping in enumerate(mappings(content)):
        for key in set(mapping) - {"apiVersion", "kind"}:  # which choose the schema
            planted = copy.deepcopy(content)
            at = list(mappings(planted))[number]
            at[f"{key}s"] = at.pop(key)
            count += 1
            with pytest.raises(jsonschema.ValidationError):
                check(planted)
    assert count > 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("rayStartParams", {"num-cpus": 0}), ("template", None), ("rayStartParams", {"block": True})],
)
def test_a_value_of_another_type_is_found(field: str, value: Any) -> None:
    planted = document("kuberay-cluster.yaml")
    planted["spec"]["headGroupSpec"][field] = value
    with pytest.raises((jsonschema.ValidationError, TypeError)):
        check(planted)


@pytest.mark.parametrize("name", KUBERAY)
def test_nodes_start_with_options_that_ray_has_and_ask_for_a_token(name: str) -> None:
    content = document(name)
    options = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    for group in groups(content):
        assert set(group["rayStartParams"]) <= options
    spec = ray_cluster(content)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert spec["rayVersion"] == pinned["ray"]
    assert spec["authOptions"] == {"mode": "token"}


def everywhere() -> list[Any]:
    found = [(name, pod) for name in KUBERAY for pod in pods(document(name, switched_on=True))]
    return [pytest.param(pod, id=f"{name}-{pod.role}") for name, pod in found]


@pytest.mark.parametrize("pod", everywhere())
def test_pods_keep_to_the_restricted_standard(pod: Pod) -> None:
    assert violations(pod.spec) == []


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
        (lambda spec: spec.update(hostPID=True), "hostPID"),
        (lambda spec: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "volume x: hostPath"),
        (lambda spec: spec["volumes"].append({"name": "x", "nfs": {"server": "s", "path": "/"}}), "volume x: nfs"),
        (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
        (lambda spec: spec["securityContext"].update(runAsUser=0), "runAsUser"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "seccompProfile"),
        (lambda spec: spec["containers"][0].pop("securityContext"), "capabilities are not dropped"),
        (lambda spec: spec["initContainers"][0].pop("securityContext"), "wait-gcs-ready: allowPrivilegeEscalation"),
        (lambda spec: spec["containers"][0]["securityContext"].update(privileged=True), "privileged"),
        (lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]), "are added"),
        (lambda spec: spec["containers"][0].update(ports=[{"containerPort": 1, "hostPort": 1}]), "hostPort"),
    ],
)
def test_what_the_standard_forbids_is_found(plant: Callable[[Any], Any], found: str) -> None:
    (worker,) = (copy.deepcopy(pod.spec) for pod in pods(document("kuberay-cluster.yaml")) if pod.role == "worker")
    plant(worker)
    assert any(found in what for what in violations(worker))


@pytest.mark.parametrize("pod", [pod for pod in everywhere() if pod.values[0].role in MACHINES])
def test_a_pod_fits_on_its_machine(pod: Pod) -> None:
    for resource, given in MACHINES[pod.role].items():
        asked = [c["resources"]["requests"].get(resource, 0) for c in pod.spec["containers"]]
        assert sum(map(quantity, asked)) + DAEMONS[resource] <= given, resource
    for container in pod.spec["containers"]:
        needs = container["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(needs["requests"]) and needs["requests"] == needs["limits"]


@pytest.mark.parametrize("pod", everywhere())
def test_volumes_are_within_the_limits_of_their_pod(pod: Pod) -> None:
    """Those in memory count as memory of the container, the others as its disk."""
    limits = pod.spec["containers"][0]["resources"]["limits"]
    for medium, resource in (("Memory", "memory"), ("", "ephemeral-storage")):
        volumes = [volume["emptyDir"] for volume in pod.spec.get("volumes", []) if "emptyDir" in volume]
        sizes = [quantity(volume["sizeLimit"]) for volume in volumes if volume.get("medium", "") == medium]
        assert sum(sizes) < 0.8 * quantity(limits[resource])


@pytest.mark.parametrize("name", KUBERAY)
def test_the_object_store_is_smaller_than_its_memory(name: str) -> None:
    for group in groups(document(name)):
        (shm,) = (v["emptyDir"] for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
        assert shm["medium"] == "Memory"
        assert int(group["rayStartParams"]["object-store-memory"]) < quantity(shm["sizeLimit"])
        mounted = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert {"mountPath": "/dev/shm", "name": "shm"} in mounted


@pytest.mark.parametrize("pod", [pod for pod in everywhere() if pod.values[0].role in MACHINES])
def test_a_node_is_drained_before_its_pod_is_killed_and_before_a_spot_machine_goes(pod: Pod) -> None:
    environment = {entry["name"]: entry["value"] for entry in pod.spec["containers"][0]["env"]}
    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
    drained = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert drained + 10 <= pod.spec["terminationGracePeriodSeconds"] <= 120
    # It is of every service of AWS, the one that gives an account its role included.
    assert "AWS_ENDPOINT_URL" not in environment


@pytest.mark.parametrize("pod", everywhere())
def test_pods_have_the_probes_that_kuberay_gives(pod: Pod) -> None:
    for container in pod.spec["containers"]:
        assert not {"readinessProbe", "livenessProbe"} & set(container)
        assert "NVIDIA_VISIBLE_DEVICES" not in {entry["name"] for entry in container.get("env", [])}


def selected(selector: dict[str, Any], pod: Pod) -> bool:
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= pod.labels.items())


def test_the_network_policy_is_of_every_pod_and_lets_each_in() -> None:
    policy = document("kuberay-network.yaml")["spec"]
    among, *outside = (rule["from"][0] for rule in policy["ingress"])
    for name in KUBERAY:
        for pod in pods(document(name)):
            assert selected(policy["podSelector"], pod)
            assert selected(among["podSelector"], pod) and "namespaceSelector" not in among
    assert all("namespaceSelector" in rule for rule in outside)


@pytest.mark.parametrize("name", KUBERAY)
def test_the_heads_machine_alone_is_not_emptied(name: str) -> None:
    content, budget = documents(name)
    kept = [pod.role for pod in pods(content) if selected(budget["spec"]["selector"], pod)]
    assert kept == ["head"]
    assert budget["spec"]["minAvailable"] == 1


def test_an_outcome_is_no_failure_of_the_job() -> None:
    spec = document("kuberay-job.yaml")["spec"]
    assert "--accept-old" in spec["entrypoint"].split()
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    (worker,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert f"run.workers={worker['maxReplicas']}" in spec["entrypoint"].split()
    cpus = worker["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    assert f"run.cpus_per_worker={cpus}" in spec["entrypoint"].split()
