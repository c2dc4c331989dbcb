"""Settings as people write them: with dots or nested, in a file or on the command line, and never a secret."""

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast, get_args, get_origin

from omegaconf import DictConfig, Node, OmegaConf

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


def left_out(source: DictConfig, prefix: str = "") -> Iterator[str]:
    """The keys that are `???`; OmegaConf's own function resolves interpolations, which need the other sources."""
    for key in source:
        node = source._get_node(key)
        if isinstance(node, DictConfig) and isinstance(node._value(), dict):
            yield from left_out(node, f"{prefix}{key!s}.")
        elif isinstance(node, Node) and node._is_missing():
            yield f"{prefix}{key!s}"


def gives(source: DictConfig, key: str) -> bool:
    """Whether a source has the key, or what it lies in, with a value."""
    node: Any = source
    for part in key.split("."):
        if not isinstance(node, DictConfig):
            return True
        node = node._get_node(part)
        if node is None or node._is_missing():
            return False
    return True


def check_keys(given: Any, base: DictConfig, prefix: str) -> None:
    """Unknown keys, each named with the nearest valid one."""
    schema = OmegaConf.get_type(base)
    if not isinstance(given, DictConfig) or schema is None or schema is dict:
        return
    for key in map(str, given):
        if key not in base.keys():  # noqa: SIM118 - `in base` is False for a key whose value is missing
            section, dot, rest = key.partition(".")
            near = difflib.get_close_matches(key, [str(k) for k in base], n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"valid here: {', '.join(str(k) for k in base)}"
            hint = f"a file has sections: {section}: {{{rest}: …}}" if dot and section in base else hint
            raise UsageError(f"{prefix}{key}: unknown key; {hint}")
        value, below = given._get_node(key), cast(Node, base._get_node(key))
        plain = OmegaConf.to_container(OmegaConf.create({key: value}))
        _check_shape(cast(Any, plain)[key], below._metadata.ref_type, f"{prefix}{key}")
        if isinstance(below, DictConfig):
            check_keys(value, below, f"{prefix}{key}.")


def _check_shape(value: Any, kind: Any, name: str) -> None:
    """UsageError where a list, a mapping or a single value is asked for and another of them is given."""
    if kind is Any or value is None or (isinstance(value, str) and (value == "???" or "${" in value)):
        return
    of, inside = get_origin(kind), get_args(kind)
    if of is list:
        if not isinstance(value, list):
            raise UsageError(f"{name}: has to be a list: [value, value], not {value}")
        for index, item in enumerate(value):
            _check_shape(item, inside[0], f"{name}[{index}]")
    elif of is dict or dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{name}: has to be a mapping: {{key: value}}, not {value}")
        for key, item in value.items() if of is dict else ():
            _check_shape(item, inside[1], f"{name}.{key}")
    elif isinstance(value, list | dict):
        raise UsageError(f"{name}: has to be a single value, not {value}")


def first_line(error: Exception) -> str:
    """What OmegaConf says, without its details; of no value, in plain words."""
    said = str(error).strip().splitlines()[0]
    empty = "Incompatible value 'None'" in said or "is not Optional" in said
    return "has no value; give one, or leave the key out" if empty else said


def one_line(error: Exception) -> str:
    """What a reader of YAML says, on one line."""
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())
