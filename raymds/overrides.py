"""Settings as people write them: with dots or nested, in a file or on the command line, and never a secret."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from raymds.errors import UsageError

_SECRET = re.compile(  # a word of the names of variables that hold one
    r"(?:.*(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY|ACCESSKEY)|(?:.*_)?(?:KEY|PASS)|.*_(?:PWD|PAT))"
    r"S?[0-9]*(?:_.*)?",
    re.IGNORECASE,
)
_PLACE = re.compile(r".*_(?:PATH|FILE|DIR)", re.IGNORECASE)  # of what is kept elsewhere


def dotted(given: Mapping[Any, Any], sections: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Keys with dots and their values, of what a file says so or in nested sections; UsageError where one is twice."""
    seen: set[str] = set()
    for key, value in given.items():
        name = "on" if key is True else str(key)  # YAML reads the key `on` as true
        nested = name in sections and isinstance(value, Mapping)
        for full, inner in [(f"{name}.{rest}", value[rest]) for rest in value] if nested else [(name, value)]:
            if full in seen:
                raise UsageError(f"{full}: is given twice, with a dot and in its section; leave out one")
            seen.add(full)
            yield full, inner


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """`key=value` of values by their keys with dots; as JSON, a value is read as it was written."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def is_secret(variable: str) -> bool:
    """Whether an environment variable is, by its name, a credential."""
    return bool(_SECRET.fullmatch(variable)) and not _PLACE.fullmatch(variable)


def refuse_secrets(text: str) -> None:
    """UsageError for the YAML of a config that holds a secret: it is stored with its run, and printed."""
    if "PRIVATE KEY" in text:
        raise UsageError(
            "ledger.key: names a file; a config is stored with its run, so that no key may stand in it itself: put it "
            "into a file, or into the variable RAYMDS_SIGNING_KEY"
        )
    found = next(filter(is_secret, re.findall(r"oc\.env:\s*['\"]?(\w+)", text)), None)
    if found:
        raise UsageError(
            f"${{oc.env:{found}}}: a config is stored with its run, so that no secret may stand in it; stores take "
            "theirs from the environment itself"
        )
