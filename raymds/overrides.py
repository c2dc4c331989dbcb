"""Settings as people write them: with dots or nested, in a file or on the command line, and never a secret."""

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast, get_args, get_origin

import yaml
from omegaconf import DictConfig, Node, OmegaConf

from raymds.errors import UsageError

_SECRET = re.compile(  # a word of the names of variables that hold one
    r"(?:.*(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY|ACCESSKEY)|(?:.*_)?(?:KEY|PASS)|.*_(?:PWD|PAT))"
    r"S?[0-9]*(?:_.*)?",
    re.IGNORECASE,
)
_OCTAL = re.compile(r"[-+]?0[0-7]+")  # to YAML, and to nobody else
_TRUTHS = {"true", "false", "yes", "no", "on", "off", "y", "n", "1", "0"}
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


def written(content: str) -> Any:
    """YAML with every value as the text that stands there; None where it is none, which other readers say."""
    try:
        return yaml.load(content, Loader=yaml.BaseLoader)  # which makes texts, lists and mappings alone
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def check_keys(given: Any, base: DictConfig, prefix: str, texts: Any = None) -> None:
    """Unknown keys, each named with the nearest valid one, and values of another shape.

    What YAML takes for a number or a truth is the text that stands there (`texts`, of `written`) where text is asked
    for: `run.uri=0127` is no 87, and a class `on` is not called True. Nor is `run.workers=010` 8.
    """
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
        plain = cast(Any, OmegaConf.to_container(OmegaConf.create({key: value})))[key]
        text, kind = texts.get(key) if isinstance(texts, dict) else None, below._metadata.ref_type
        _check_shape(plain, kind, f"{prefix}{key}")
        if (kept := _as_written(plain, text, kind)) != plain:
            given[key] = kept
        if isinstance(below, DictConfig):
            check_keys(value, below, f"{prefix}{key}.", text)


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
    elif kind is bool and str(value).lower() not in _TRUTHS:
        raise UsageError(f"{name}: has to be true or false, not {value}")


def _as_written(value: Any, text: Any, kind: Any) -> Any:
    """A value of this shape as it is written, where YAML read something else than is asked for."""
    of, inside = get_origin(kind), get_args(kind)
    if of is list and isinstance(value, list) and isinstance(text, list) and len(value) == len(text):
        return [_as_written(*pair, inside[0]) for pair in zip(value, text, strict=True)]
    if of is dict and isinstance(value, dict) and isinstance(text, dict) and len(value) == len(text):
        pairs = zip(value.items(), text.items(), strict=True)
        return {(k if isinstance(k, str) else own): _as_written(v, said, inside[1]) for (k, v), (own, said) in pairs}
    if kind is str and isinstance(value, bool | int | float) and isinstance(text, str):
        return text
    if kind in {int, float} and isinstance(value, int) and isinstance(text, str) and _OCTAL.fullmatch(text):
        return int(text)
    return value


def first_line(error: Exception) -> str:
    """What OmegaConf says, without its details; of no value, in plain words."""
    said = str(error).strip().splitlines()[0]
    empty = any(mark in said for mark in ("Incompatible value 'None'", "is not Optional", "NoneType is not a subclass"))
    return "has no value; give one, or leave the key out" if empty else said


def one_line(error: Exception) -> str:
    """What a reader of YAML says, on one line."""
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())
