"""Whether a certificate has what a policy asks for: pure logic from two files to a list of findings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raymds.data.shards import TIME
from raymds.errors import UsageError
from raymds.ledger.facts import weights_of
from raymds.ledger.signature import PublicKey, key_id
from raymds.method.verdict import NOT_CERTIFIABLE, VERDICTS, below, not_certifiable
from raymds.release.attest import unsigned
from raymds.release.consistency import Certificate, check, contradictions
from raymds.release.policy import Policy
from raymds.store import uri as storage

RULES = (
    "outcome", "weights", "signature", "split", "numbers", "protect", "verdict", "negative_flips", "gain",
    "gain_lower", "tolerance", "confidence", "age_days",
)  # fmt: skip
_DAY = 86400.0
_NEW = "a new model"
_SIGNED = "signed"
_DIGITS = 16  # of a digest that is shown


@dataclass(frozen=True)
class Finding:
    """One rule of one task, or with an empty task of the whole certificate."""

    rule: str
    task: str
    required: str | float
    found: str | float
    passed: bool
    margin: float = 0.0
    """How far `found` is on the good side, in the rule's own unit: what a rule's findings are ordered by."""


@dataclass(frozen=True)
class Candidate:
    """What is asked to be released."""

    certificate: Certificate | None
    kept: str | None
    """Why its run delivers no new model, None where it does or nothing is known of a run."""
    weights: str | None = None
    """SHA-256 of the new model of its run, or why it can't be read; None where nothing is known of a run."""
    signature: str = "not looked at"
    """That it is signed with one of the policy's keys, or why it is not."""


def find(uri: str, keys: Sequence[PublicKey] = ()) -> Candidate:
    """The certificate of a file or of a run directory; UsageError where it is neither, or can't be read.

    The outcome of the run is read with a file called certificate.json, too, where it lies beside it. With `keys` its
    signature is looked at.
    """
    if storage.exists(uri):
        folder, _, name = storage.absolute(uri).rpartition("/")
        outcome = storage.read_json(storage.join(folder, "outcome.json")) if name == "certificate.json" else None
        where = uri
    else:
        folder, where = uri, storage.join(uri, "certificate.json")
        outcome = storage.read_json(storage.join(uri, "outcome.json"))
        if outcome is None:
            raise UsageError(
                f"{uri}: no such file, and no directory of a finished run (it has no outcome.json); give a certificate "
                "or a run"
            )
    certificate, kept, weights = storage.read_json(where), None, None
    if outcome is not None:
        if "outcome" not in outcome and isinstance(outcome.get("weights"), dict):
            raise UsageError(f"{uri}: is a pretraining, which develops nothing; give the run of a cycle")
        if outcome.get("outcome") not in ("new", "old"):
            raise UsageError(f"{uri}: outcome={outcome.get('outcome')!r} in its outcome.json: has to be new or old")
        kept = f"the old model: {outcome.get('reason')}" if outcome["outcome"] == "old" else None
    if certificate is None and kept is None:
        raise UsageError(f"{where}: no such file: the run measured nothing on test; make one with raymds certify")
    signature = Candidate.signature
    if certificate is not None:
        check(certificate, where)
        weights = _weights(folder, outcome) if outcome is not None and kept is None else None
        signature = (unsigned(where, certificate, keys) or _SIGNED) if keys else signature
    return Candidate(certificate, kept, weights, signature)


def _weights(run: str, outcome: Mapping[str, Any]) -> str:
    """SHA-256 of what a run delivers, or why it can't be read."""
    if not isinstance(outcome.get("weights"), str):
        return "its outcome.json names no file of weights"
    try:
        return storage.sha256(storage.read(weights_of(run, outcome)))
    except UsageError as error:
        return str(error)


def judge(candidate: Candidate, policy: Policy, now: datetime) -> list[Finding]:
    """Every rule of every task; the candidate is released where all have passed.

    UsageError where the policy has a pattern that matches no task. Whatever the policy asks for, there has to be a new
    model, that of its run, measured on the policy's split; its numbers have to agree, a task has to be protected, no
    loss may be proven, and the target has to gain.
    """
    certificate = candidate.certificate
    if certificate is None:
        return [Finding("outcome", "", _NEW, candidate.kept or "", False)]
    policy.check([*(task["task"] for task in certificate["tasks"]), certificate["target"]["task"]])
    parts = (
        _outcome(candidate, certificate), _origin(candidate, certificate, policy), _numbers(certificate),
        _protect(certificate, policy), _tasks(certificate, policy), _target(certificate["target"], policy),
        _whole(certificate, policy, now),
    )  # fmt: skip
    return sorted((found for part in parts for found in part), key=lambda f: (f.passed, RULES.index(f.rule), f.margin))


def _outcome(candidate: Candidate, certificate: Certificate) -> Iterator[Finding]:
    digests = certificate["digests"]
    same = "the old model: the certificate compares a file with itself"
    kept = candidate.kept or (same if digests["parent"] == digests["weights"] else None)
    yield Finding("outcome", "", _NEW, kept or _NEW, kept is None)


def _origin(candidate: Candidate, certificate: Certificate, policy: Policy) -> Iterator[Finding]:
    """That the certificate is of this model, of this split, and of who may sign it."""
    if candidate.weights is not None:
        same = candidate.weights == certificate["digests"]["weights"]
        found = candidate.weights if " " in candidate.weights else candidate.weights[:_DIGITS]
        yield Finding("weights", "", certificate["digests"]["weights"][:_DIGITS], found, same)
    split = certificate.get("measured", {}).get("split", "not said: make the certificate again")
    yield Finding("split", "", policy.split, str(split), split == policy.split)
    if policy.signature:
        names = " or ".join(key_id(key)[:_DIGITS] for key in policy.signature)
        signed = candidate.signature == _SIGNED
        yield Finding("signature", "", f"signed with {names}", candidate.signature, signed)


def _numbers(certificate: Certificate) -> Iterator[Finding]:
    differs = dict(contradictions(certificate))
    for name in ("", certificate["target"]["task"], *(task["task"] for task in certificate["tasks"])):
        yield Finding("numbers", name, "agree", differs.get(name, "agree"), name not in differs)


def _protect(certificate: Certificate, policy: Policy) -> Iterator[Finding]:
    """That nothing is left out; the target, which has to gain, is not."""
    names, without = {task["task"] for task in certificate["tasks"]}, not_certifiable(certificate)
    if not names:
        yield Finding("protect", "", "a protected task", "none", False)

    def said(task: str) -> str:
        return f"{task} ({NOT_CERTIFIABLE})" if task in without else task

    for name in policy.protect:
        wanted = {name} if ":" in name else _classes(name, certificate)
        missing = wanted - names - {certificate["target"]["task"]}
        found = (
            f"without {', '.join(map(said, sorted(missing)))}" if missing else "protected" if wanted else "not in it"
        )
        yield Finding("protect", name, "protected", found, found == "protected")
    for name in without:
        # Not asked for, and said all the same: first among what has passed.
        if not {name, name.partition(":")[0]} & set(policy.protect):
            yield Finding("protect", name, "not asked for", NOT_CERTIFIABLE, True, -1.0)


def _classes(attribute: str, certificate: Certificate) -> set[str]:
    """The tasks of all classes that the models could answer with, none where it is no attribute of the certificate."""
    label_sets = certificate.get("measured", {}).get("label_sets")
    listed = label_sets.get(attribute) if isinstance(label_sets, dict) else None
    return {f"{attribute}:{label}" for label in listed} if isinstance(listed, dict) else set()


def _tasks(certificate: Certificate, policy: Policy) -> Iterator[Finding]:
    for task in certificate["tasks"]:
        name, verdict, required = task["task"], task["verdict"], policy.required(task["task"])
        margin = VERDICTS.index(verdict) - VERDICTS.index(required)
        yield Finding("verdict", name, required, verdict, not below(verdict, required), margin)
        yield from _at_most("tolerance", name, policy, task["tolerance"])
        yield from _at_most("negative_flips", name, policy, task["negative_flips"] / task["n"])


def _target(target: Mapping[str, Any], policy: Policy) -> Iterator[Finding]:
    name, gain = target["task"], target["delta"]
    required = "above 0" if policy.gain is None else policy.gain
    least = policy.gain or 0.0
    yield Finding("gain", name, required, gain, gain > 0 and gain >= least, gain - least)
    yield from _at_most("negative_flips", name, policy, target["negative_flips"] / target["n"])
    if policy.gain_lower is not None:
        yield _at_least("gain_lower", name, policy.gain_lower, target["lower"])


def _whole(certificate: Certificate, policy: Policy, now: datetime) -> Iterator[Finding]:
    if policy.confidence is not None:
        yield _at_least("confidence", "", policy.confidence, certificate["confidence"])
    if policy.age_days is None:
        return
    created = certificate.get("data", {}).get("created")
    if created is None:
        none = "no date, as of older versions: make the data set in a new directory, and then the certificate"
        yield Finding("age_days", "", policy.age_days, none, False)
        return
    age = (now - datetime.strptime(created, TIME).replace(tzinfo=UTC)).total_seconds() / _DAY
    # Clocks differ by less than a day; a date of next year would be young for a year.
    yield Finding("age_days", "", policy.age_days, age, -1 <= age <= policy.age_days, policy.age_days - age)


def _at_most(rule: str, task: str, policy: Policy, found: float) -> Iterator[Finding]:
    most = policy.most(rule, task)
    if most is not None:
        yield Finding(rule, task, most, found, found <= most, most - found)


def _at_least(rule: str, task: str, least: float, found: float) -> Finding:
    return Finding(rule, task, least, found, found >= least, found - least)
