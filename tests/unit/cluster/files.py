"""The files in cluster/, as data: documents, the commands of their comments, the pods that KubeRay makes of them."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
LAUNCHER = ["aws.yaml", "gcp.yaml"]
KUBERAY = ["kuberay-cluster.yaml", "kuberay-job.yaml"]

_SWITCHED_OFF = re.compile(r"^( *)#(?=\S)", re.MULTILINE)
_COMMAND = re.compile(r"^ *#     (.*)$", re.MULTILINE)


def documents(name: str, switched_on: bool = False) -> list[Any]:
    """A file's documents; `switched_on`: with the lines that begin with # and no space."""
    text = (CLUSTER / name).read_text()
    return list(yaml.safe_load_all(_SWITCHED_OFF.sub(r"\1", text) if switched_on else text))


def document(name: str, switched_on: bool = False) -> Any:
    """The first of a file's documents."""
    return documents(name, switched_on)[0]


def commands(path: Path) -> list[str]:
    """The commands in a file's comments, which are indented there."""
    return "\n".join(_COMMAND.findall(path.read_text())).replace("\\\n", "").splitlines()


def ray_cluster(content: Any) -> dict[str, Any]:
    """The cluster that a RayCluster or a RayJob describes."""
    spec = content["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def groups(content: Any) -> Iterator[Any]:
    """The groups of a cluster's nodes, the head's first."""
    spec = ray_cluster(content)
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


class Pod(NamedTuple):
    """A pod as it will be."""

    role: str
    """head, worker or submitter."""
    labels: dict[str, str]
    spec: dict[str, Any]

    def manifest(self) -> dict[str, Any]:
        """The pod as an object of Kubernetes."""
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": self.labels}, "spec": self.spec}


def pods(content: Any) -> list[Pod]:
    """The pods that KubeRay makes of a RayCluster or a RayJob, with the containers that it adds."""
    cluster = content["metadata"]["name"]
    made = []
    for group in groups(content):
        template = copy.deepcopy(group["template"])
        role, spec = "worker" if "groupName" in group else "head", template["spec"]
        own = {"ray.io/cluster": cluster, "ray.io/node-type": role}
        ray = spec["containers"][0]
        if role == "head":
            options = ray_cluster(content)["autoscalerOptions"]
            sidecar = {"name": "autoscaler", "image": ray["image"]}
            spec["containers"].append(sidecar | {key: options[key] for key in ("resources", "securityContext")})
        else:
            waiting = {"name": "wait-gcs-ready", "image": ray["image"], "securityContext": ray["securityContext"]}
            spec["initContainers"] = [waiting]
        made.append(Pod(role, {**template["metadata"]["labels"], **own}, spec))
    if "submitterPodTemplate" in content["spec"]:
        template = content["spec"]["submitterPodTemplate"]
        made.append(Pod("submitter", template["metadata"]["labels"], copy.deepcopy(template["spec"])))
    return made


_UNITS = {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "k": 1e3, "M": 1e6, "G": 1e9}


def quantity(value: str | int) -> float:
    """A quantity of Kubernetes as a number: "500m" is 0.5, "1Ki" 1024."""
    found = re.fullmatch(r"([0-9.]+)(m|[KMG]i|[kMG])?", str(value))
    assert found, value
    return float(found[1]) * _UNITS[found[2] or ""]
