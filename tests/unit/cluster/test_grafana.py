"""The dashboard shows what raymds exports, by the names that Ray gives it."""

import json
import re
from itertools import combinations

from ray._private.telemetry.open_telemetry_metric_recorder import NAMESPACE

from raymds.train.seeing import _GAUGES
from tests.unit.cluster.files import CLUSTER

DASHBOARD = json.loads((CLUSTER / "grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_shown_once_and_none_that_is_not_exported() -> None:
    exported = {f"{NAMESPACE}_raymds_{name.replace('/', '_')}" for name in _GAUGES}
    shown = [name for expression in EXPRESSIONS for name in re.findall(r"\w*raymds_\w+", expression)]
    assert sorted(shown) == sorted(exported)
    variables = json.dumps(DASHBOARD["templating"])
    assert set(re.findall(r"\w*raymds_\w+", variables)) <= exported


def test_labels_are_those_of_the_metrics_and_variables_exist() -> None:
    for panel in DASHBOARD["panels"]:
        (target,) = panel["targets"]
        (grouped,) = re.findall(r"by \(([^)]*)\)", target["expr"])
        labels = set(grouped.split(", "))
        assert labels <= {"run", "task"}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == labels
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) == known


def test_panels_lie_beside_one_another() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = []
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells.append({(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])})
        assert at["x"] + at["w"] <= 24
    assert not any(one & other for one, other in combinations(cells, 2))
