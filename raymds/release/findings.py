"""What a gate found, for people (rows, Markdown) and for a CI (JUnit XML)."""

from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree

from raymds.release.gate import Finding
from raymds.release.markdown import escaped, table
from raymds.text import visible

HEADINGS = ("rule", "task", "required", "found", "")
_MOST = {"negative_flips", "tolerance", "age_days"}  # rules whose number is the most; of the others it is the least
_LISTED = 50  # failures that a table lists: a comment of a pull request has an end


def verdict(findings: Sequence[Finding]) -> str:
    """`passed: all 41 checks`, or `refused: 2 of 41 checks failed`."""
    failed = sum(not found.passed for found in findings)
    if failed:
        return f"refused: {failed} of {len(findings)} checks failed"
    return f"passed: all {len(findings)} checks"


def rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """One row for each failure, the worst first, then one for each rule with what came nearest to failing."""
    failed = [found for found in findings if not found.passed]
    listed = [_row(found, found.task, "failed") for found in failed[:_LISTED]]
    if len(failed) > _LISTED:
        listed.append(("…", f"{len(failed) - _LISTED} more", "", "", "failed"))
    passed: dict[str, list[Finding]] = {}
    for found in findings:
        if found.passed:
            passed.setdefault(found.rule, []).append(found)
    for same in passed.values():
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        listed.append(_row(same[0], _named(same[0]) + more, "passed"))
    return listed


def markdown(findings: Sequence[Finding]) -> str:
    """A short table for a pull request."""
    cells: Iterator[list[str]] = ([escaped(cell) for cell in row] for row in rows(findings))
    legend = "Of each rule that passed, the task that came nearest to failing. Shares and changes are fractions."
    return f"### raymds gate {verdict(findings)}\n\n{table(HEADINGS, cells)}\n\n{legend}\n"


def junit(findings: Sequence[Finding]) -> bytes:
    """JUnit's XML, one test case for each rule and task."""
    counts = {"tests": str(len(findings)), "failures": str(sum(not found.passed for found in findings))}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "raymds gate", **counts, "errors": "0", "skipped": "0"})
    for found in findings:
        name = {"classname": f"raymds.gate.{found.rule}", "name": _named(found), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", name)
        if not found.passed:
            _, _, required, value, _ = _row(found, "", "")
            message = f"required: {required}; found: {value}"
            ElementTree.SubElement(case, "failure", {"message": message, "type": found.rule}).text = message
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def records(findings: Iterable[Finding]) -> list[dict[str, str | float | bool]]:
    """JSON-ready."""
    keys = ("rule", "task", "required", "found", "passed")
    return [{key: getattr(found, key) for key in keys} for found in findings]


def _named(found: Finding) -> str:
    return visible(found.task) or "the certificate"


def _row(found: Finding, named: str, result: str) -> tuple[str, ...]:
    sign = "≤" if found.rule in _MOST else "≥"
    required = found.required if isinstance(found.required, str) else f"{sign} {found.required:.6g}"
    value = found.found if isinstance(found.found, str) else f"{found.found:.6g}"
    return found.rule, visible(named) or "the certificate", visible(required), visible(value), result
