"""Makes the schemas beside it from those of KubeRay's CRDs (Apache-2.0, KubeRay's authors).

    python tests/unit/cluster/kuberay/prune.py FOLDER

FOLDER has rayclusters-VERSION.json and rayjobs-VERSION.json, the openAPIV3Schema of each. What Kubernetes itself
defines (pods, containers, environments) is left out: its own schemas say it better. An unknown field is an error in the
result.
"""

import json
import sys
from pathlib import Path
from typing import Any

# Kubernetes' own, wherever they stand in a CRD.
KUBERNETES = {"metadata", "template", "submitterPodTemplate", "env", "envFrom", "resources", "securityContext"} | {
    "volumeMounts", "headService", "ingressOptions", "networkPolicy", "historyServerOptions", "storage"
}  # fmt: skip
KEPT = ("type", "enum", "required", "minimum", "minItems")


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema in the form of JSON Schema, with fields that it does not name as errors."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {key: schema[key] for key in KEPT if key in schema}
    if "items" in schema:
        kept["items"] = strict(schema["items"])
    if "properties" in schema:
        fields = schema["properties"].items()
        kept["properties"] = {name: {} if name in KUBERNETES else strict(field) for name, field in fields}
        kept["additionalProperties"] = False
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = strict(schema["additionalProperties"])
    return kept


if __name__ == "__main__":
    for crd in ("rayclusters", "rayjobs"):
        (source,) = Path(sys.argv[1]).glob(f"{crd}-*.json")
        text = json.dumps(strict(json.loads(source.read_text())), sort_keys=True, separators=(",", ":"))
        Path(__file__).with_name(f"{crd}.json").write_text(text + "\n")
