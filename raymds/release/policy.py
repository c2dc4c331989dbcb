"""What a release has to show: a policy file, checked key by key.

A pattern is one of `fnmatch` (`*`, `?`, `[ab]`) for names of tasks, or such a name itself. Of several that match a task
the most specific one holds: its own name, else the one with most characters that are no wildcards, and of two alike the
stricter.
"""

import difflib
import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymds.errors import UsageError
from raymds.ledger.signature import PublicKey, public_key
from raymds.method.verdict import VERDICTS
from raymds.method.wear import SEEN
from raymds.store import uri as storage

_FRACTION = (lambda v: 0 <= v < 1, "has to be a fraction, 0 or more and below 1, like 0.02 for 2 in 100")
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "negative_flips": _FRACTION,
    "tolerance": _FRACTION,
    "gain": (lambda v: 0 < v < 1, "has to be a fraction above 0 and below 1, like 0.1 for 10 points"),
    "gain_lower": _FRACTION,
    "confidence": (lambda v: 0 < v < 1, "has to lie between 0 and 1, both excluded, like 0.95"),
    "age_days": (lambda v: 0 < v < math.inf, "has to be a number of days above 0"),
}
_REQUIRED = VERDICTS[:0:-1]  # a proven loss is never enough
_PER_TASK = ("verdict", "negative_flips", "tolerance")
_KEYS = ("verdict", *_NUMBERS, "protect", "split", "signature")
_LISTED = 20  # tasks that a message lists


@dataclass(frozen=True)
class Policy:
    """What is asked for; None and empty where nothing is."""

    where: str
    """What the policy was read from, for messages."""
    verdict: Mapping[str, str] = field(default_factory=dict)
    """Pattern → the least verdict of a protected task."""
    negative_flips: Mapping[str, float] = field(default_factory=dict)
    """Pattern → the largest share of a task's images that were right and are wrong now; of the target's, too."""
    tolerance: Mapping[str, float] = field(default_factory=dict)
    """Pattern → the largest tolerance that a protected task's verdict may have been made with; where there is none: 0.

    A certificate brings its own tolerance, and with one that is large enough no loss is proven.
    """
    gain: float | None = None
    """The least change of the target's accuracy, a fraction."""
    gain_lower: float | None = None
    """The least lower bound of it."""
    confidence: float | None = None
    """The least confidence of the certificate's bounds."""
    age_days: float | None = None
    """How old the data set may be."""
    protect: Sequence[str] = ()
    """Attributes and tasks that the certificate has to have."""
    split: str = "test"
    """The split that it has to be measured on."""
    signature: Sequence[PublicKey] = ()
    """Keys of which one has to have signed it."""

    def required(self, task: str) -> str:
        """The verdict that a task has to have; a proven loss passes under no policy."""
        return _of(self.verdict, task, VERDICTS.index) or "undecided"

    def most(self, key: str, task: str) -> float | None:
        """What a task may have at most by `key`, negative_flips or tolerance; None where nothing is asked for."""
        found: float | None = _of(getattr(self, key), task, lambda limit: -limit)
        return 0.0 if found is None and key == "tolerance" else found

    def check(self, tasks: Sequence[str]) -> None:
        """UsageError for a pattern that matches no task: mistyped, it would guard nothing."""
        for key in _PER_TASK:
            for pattern in getattr(self, key):
                if not any(matches(pattern, task) for task in tasks):
                    valid = dict.fromkeys([*tasks, *(f"{task.partition(':')[0]}:*" for task in tasks)])
                    near = difflib.get_close_matches(pattern, valid, n=1)
                    more = f" and {len(tasks) - _LISTED} more" if len(tasks) > _LISTED else ""
                    hint = f"did you mean {near[0]!r}? " if near else ""
                    raise UsageError(
                        f"{self.where}: {key}: {pattern!r} matches no task of the certificate, so it guards nothing; "
                        f"{hint}its tasks are {', '.join(tasks[:_LISTED])}{more}"
                    )


def matches(pattern: str, task: str) -> bool:
    """Whether a pattern is for a task; a name may have brackets of its own."""
    return pattern == task or fnmatch.fnmatchcase(task, pattern)


def load(uri: str) -> Policy:
    """The policy in a YAML file; UsageError naming the key of what is wrong, and where nothing is asked for."""
    content = storage.read(uri)
    try:
        # Its reader refuses a key that stands twice, of which YAML by itself takes the last.
        given: Any = OmegaConf.to_container(OmegaConf.create(content.decode()))
    except AssertionError:  # what it says to a file that holds one number
        given = None
    except RecursionError:
        raise UsageError(f"{uri}: not valid YAML, nested too deeply") from None
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{uri}: not valid YAML (a pattern that begins with * stands in quotes): {said}") from None
    if not isinstance(given, dict):
        raise UsageError(f"{uri}: has to be a mapping of keys to what is asked for; valid here: {', '.join(_KEYS)}")
    if not given:
        raise UsageError(f"{uri}: is empty, and would pass whatever it is given; valid here: {', '.join(_KEYS)}")
    return Policy(uri, **{str(key): _value(f"{uri}: ", str(key), value) for key, value in given.items()})


def _value(where: str, key: str, value: Any) -> Any:
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid here: {', '.join(_KEYS)}"
        raise UsageError(f"{where}{key}: unknown key; {hint}")
    if key == "signature":
        return _keys(where, value)
    if key == "split":
        if not isinstance(value, str) or not value or value in SEEN:
            raise UsageError(
                f"{where}split={value}: has to name a split that no model is made or chosen with, like test"
            )
        return value
    if key == "protect":
        if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
            raise UsageError(f"{where}protect={value}: has to list attributes or tasks, like [weather, 'scene:tunnel']")
        return tuple(value)
    if key not in _PER_TASK:
        return _limit(where, key, key, value)
    if not isinstance(value, dict):
        return {"*": _limit(where, key, key, value)}
    if not value:
        raise UsageError(f"{where}{key}: has no pattern, and so guards nothing; give one, or leave it out")
    for pattern in value:
        if not isinstance(pattern, str):
            raise UsageError(f"{where}{key}.{pattern}: a pattern is a text, like 'weather:*'; put it in quotes")
    return {pattern: _limit(where, key, f"{key}.{pattern}", limit) for pattern, limit in value.items()}


def _keys(where: str, value: Any) -> tuple[PublicKey, ...]:
    """The public keys that `signature` names."""
    given: Any = value["key"] if isinstance(value, dict) and set(value) == {"key"} else None
    files: list[Any] = given if isinstance(given, list) else [given]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise UsageError(f"{where}signature={value}: has to be {{key: FILE}}, a public key, or {{key: [FILE, FILE]}}")
    return tuple(public_key(file, f"{where}signature.key=") for file in files)


def _limit(where: str, key: str, named: str, value: Any) -> Any:
    """One verdict or number; it is what it is called."""
    if key == "verdict":
        if value not in _REQUIRED:
            raise UsageError(f"{where}{named}={value}: has to be one of {', '.join(_REQUIRED)}")
        return value
    holds, rule = _NUMBERS[key]
    if type(value) not in {int, float} or not holds(value):
        raise UsageError(f"{where}{named}={value}: {rule}")
    return value


def _of(limits: Mapping[str, Any], task: str, strictness: Callable[[Any], float]) -> Any:
    """What the most specific pattern says of a task, None where none matches."""
    found = [pattern for pattern in limits if matches(pattern, task)]
    if not found:
        return None
    return limits[max(found, key=lambda p: (p == task, len(re.sub(r"\[.+?\]|[*?]", "", p)), strictness(limits[p])))]
