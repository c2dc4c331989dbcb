"""A gate's findings as Markdown and as JUnit XML, whatever the names of tasks hold."""

from xml.etree import ElementTree

import pytest

from raymds.release.findings import junit, markdown, records, rows, verdict
from raymds.release.gate import Finding

ODD = ["a:|`x`", "a:<b>&\"'", "a:\x00\x1b[31m", "a:\ud800", "a:\ufffe\u202e", "a:]]>", "a:new\nline", "a:**b** [c](d)"]


def failed(task: str) -> Finding:
    return Finding("negative_flips", task, 0.02, 0.0342, False, -0.0142)


def passed(task: str) -> Finding:
    return Finding("verdict", task, "retained", "certified", True, 1)


def test_failures_are_listed_and_what_passed_is_one_row_a_rule() -> None:
    findings = [failed("a:b"), Finding("age_days", "", 30, 41.5, False), passed("a:b"), passed("a:c"), passed("a:d")]
    assert verdict(findings) == "refused: 2 of 5 checks failed"
    assert verdict(findings[2:]) == "passed: all 3 checks"
    assert rows(findings) == [
        ("negative_flips", "a:b", "≤ 0.02", "0.0342", "failed"),
        ("age_days", "the certificate", "≤ 30", "41.5", "failed"),
        ("verdict", "a:b and 2 more", "retained", "certified", "passed"),
    ]
    assert records(findings)[0] == {
        "rule": "negative_flips", "task": "a:b", "required": 0.02, "found": 0.0342, "passed": False,
    }  # fmt: skip


def test_many_failures_are_counted() -> None:
    listed = rows([failed(f"a:{i}") for i in range(364)])
    assert len(listed) == 51
    assert listed[-1][1] == "314 more"


@pytest.mark.parametrize("task", ODD)
def test_a_table_keeps_its_cells_whatever_a_name_holds(task: str) -> None:
    lines = markdown([failed(task)]).splitlines()
    row = lines[4]
    cells = row.replace("\\\\", "").replace("\\|", "").count("|")
    assert (len(lines), cells) == (7, 6)
    assert row.replace("\\`", "").count("`") == row.replace("\\<", "").count("<") == 0
    assert row.isprintable()


@pytest.mark.parametrize("task", ODD)
def test_xml_is_well_formed_whatever_a_name_holds(task: str) -> None:
    root = ElementTree.fromstring(junit([failed(task), passed(task)]))
    (suite,) = root
    assert (root.tag, root.attrib) == ("testsuites", {"tests": "2", "failures": "1"})
    assert (suite.tag, suite.attrib) == (
        "testsuite", {"name": "raymds gate", "tests": "2", "failures": "1", "errors": "0", "skipped": "0"},
    )  # fmt: skip
    first, second = suite
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in task)
    assert first.attrib == {"classname": "raymds.gate.negative_flips", "name": plain, "time": "0"}
    (failure,) = first
    assert failure.attrib == {"message": "required: ≤ 0.02; found: 0.0342", "type": "negative_flips"}
    assert (second.attrib["classname"], list(second)) == ("raymds.gate.verdict", [])


def test_every_finding_is_a_case_of_its_own_name() -> None:
    findings = [passed("a:b"), passed("a:c"), Finding("outcome", "", "a new model", "a new model", True)]
    cases = [(case.get("classname"), case.get("name")) for case in ElementTree.fromstring(junit(findings))[0]]
    assert cases == [
        ("raymds.gate.verdict", "a:b"), ("raymds.gate.verdict", "a:c"), ("raymds.gate.outcome", "the certificate"),
    ]  # fmt: skip
