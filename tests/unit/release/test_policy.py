"""A policy file: what it asks of which task, and every way to write it wrong."""

from pathlib import Path

import pytest

from raymds.errors import UsageError
from raymds.release.policy import Policy, load

TASKS = ["weather:clear", "weather:rainy", "scene:[odd]", "weather:rainy@timeofday:night"]


def read(tmp_path: Path, text: str | bytes) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(str(path))


def test_the_most_specific_pattern_holds(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        'verdict: {"weather:rainy": undecided, "*": retained, "weather:*": certified, "*@timeofday:night": retained}\n'
        'negative_flips: {"*": 0.1, "scene:[odd]": 0.02, "we*": 0.05, "*ny": 0.04}',
    )
    assert [policy.required(task) for task in TASKS] == ["certified", "undecided", "retained", "retained"]
    assert [policy.most("negative_flips", task) for task in TASKS] == [0.05, 0.04, 0.02, 0.05]
    policy.check(TASKS)


@pytest.mark.parametrize("order", ['"a*": 0.1, "*a": 0.2', '"*a": 0.2, "a*": 0.1', '"a*": 0.2, "*a": 0.1'])
def test_of_two_patterns_alike_the_stricter_holds(tmp_path: Path, order: str) -> None:
    assert read(tmp_path, f"tolerance: {{{order}}}").most("tolerance", "aba") == 0.1


def test_one_value_is_for_all_and_what_is_not_asked_for_is_not_there(tmp_path: Path) -> None:
    policy = read(tmp_path, "verdict: certified\nnegative_flips: 1e-2\nprotect: [weather]\nage_days: 30")
    assert (policy.required("a:b"), policy.most("negative_flips", "a:b"), policy.age_days) == ("certified", 0.01, 30)
    assert (policy.gain, policy.gain_lower, policy.confidence) == (None,) * 3
    assert (policy.most("tolerance", "a:b"), policy.split, policy.signature) == (0.0, "test", ())
    assert read(tmp_path, "gain: 0.1").most("negative_flips", "a:b") is None
    assert read(tmp_path, 'verdict: {"a:*": certified}').required("b:c") == "undecided"  # a proven loss never passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, and would pass whatever"),
        ("# nothing\n", "is empty"),
        ("{}", "is empty"),
        ("[verdict]", "has to be a mapping of keys"),
        ("5", "has to be a mapping of keys"),
        ("true", "has to be a mapping of keys"),
        ("certified", "certified: unknown key; valid here: verdict, "),
        ("verdicts: certified", "verdicts: unknown key; did you mean verdict?"),
        ("1: certified", "1: unknown key; valid here: verdict, "),
        ("verdict: certifed", "verdict=certifed: has to be one of certified, retained, undecided"),
        ("verdict: violated", "verdict=violated: has to be one of certified, retained, undecided"),
        ("verdict:", "verdict=None: has to be one of"),
        ("verdict: [certified]", "verdict=['certified']: has to be one of"),
        ("verdict: {}", "verdict: has no pattern"),
        ('verdict: {"weather:*": 3}', "verdict.weather:*=3: has to be one of"),
        ("verdict: {1: certified}", "verdict.1: a pattern is a text"),
        ('verdict: {"*": {a: certified}}', "verdict.*={'a': 'certified'}: has to be one of"),
        ('verdict: {"a:*": certified, "a:*": undecided}', "a:*"),
        ("gain: 0.1\ngain: 0.01", "gain"),
        ("negative_flips: 2 %", "negative_flips=2 %: has to be a fraction, 0 or more and below 1"),
        ("negative_flips: 2", "negative_flips=2: has to be a fraction"),
        ("negative_flips: -0.1", "negative_flips=-0.1: has to be a fraction"),
        ("negative_flips: true", "negative_flips=True: has to be a fraction"),
        ("negative_flips: .nan", "negative_flips=nan: has to be a fraction"),
        ("tolerance: .inf", "tolerance=inf: has to be a fraction"),
        ('tolerance: {"*": 5}', "tolerance.*=5: has to be a fraction"),
        ("gain: 0", "gain=0: has to be a fraction above 0"),
        ("gain: 10", "gain=10: has to be a fraction above 0"),
        ('gain: {"*": 0.1}', "gain={'*': 0.1}: has to be a fraction above 0"),
        ("gain_lower: -0.1", "gain_lower=-0.1: has to be a fraction"),
        ("confidence: 95", "confidence=95: has to lie between 0 and 1"),
        ("confidence: 1", "confidence=1: has to lie between 0 and 1"),
        ("age_days: 0", "age_days=0: has to be a number of days"),
        ("age_days: .inf", "age_days=inf: has to be a number of days"),
        ("age_days: half a year", "age_days=half a year: has to be a number of days"),
        (f"age_days: {'9' * 5000}", "not valid YAML"),
        ("protect: weather", "protect=weather: has to list attributes or tasks"),
        ("protect: []", "protect=[]: has to list"),
        ("protect: [1]", "protect=[1]: has to list"),
        ("protect: ['']", "protect=['']: has to list"),
        ("signature: {key: release.pub}", "signature.key: release.pub: no such file"),
        ("signature: {key: [policy.pem, /dev/null]}", "signature.key: policy.pem: no such file"),
        ("signature: {key: /dev/null}", "signature.key=/dev/null: is no public key in PEM"),
        ("signature: {key: ''}", "signature={'key': ''}: has to be {key: FILE}"),
        ("signature: {key: []}", "signature={'key': []}: has to be {key: FILE}"),
        ("signature: {key: [1]}", "signature={'key': [1]}: has to be {key: FILE}"),
        ("signature: {keys: a.pem}", "signature={'keys': 'a.pem'}: has to be {key: FILE}"),
        ("signature: a.pem", "signature=a.pem: has to be {key: FILE}"),
        ('signature: {key: "a\\0b"}', "signature.key: 'a\\x00b': not a URI"),
        ("split: val", "split=val: has to name a split that no model is made or chosen with"),
        ("split: [test]", "split=['test']: has to name a split"),
        ("verdict: ${oc.env:HOME}", "verdict=${oc.env:HOME}: has to be one of"),
        ("verdict: ${", "not valid YAML"),
        ("verdict: [", "not valid YAML"),
        ("verdict: {*: certified}", "not valid YAML (a pattern that begins with * stands in quotes): "),
        ("a: " + "[" * 5000, "not valid YAML"),
        (b"\xff\xfe\x00verdict", "not valid YAML"),
        (b"\x00\x01\x02", "not valid YAML"),
        ("gain: 2026-01-01", "gain"),
        ("gain: !!python/object/apply:os.system [id]", "not valid YAML"),
    ],
)
def test_a_policy_that_is_wrong_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/policy.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^\S+/none\.yaml: no such file$"):
        load(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match=rf"^{tmp_path}: can't be read: "):
        load(str(tmp_path))
    with pytest.raises(UsageError, match=r"^empty URI"):
        load("")


def test_an_attribute_alone_is_no_pattern_and_the_one_that_is_meant_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'weather' matches no task .* did you mean 'weather:\*'\?"):
        read(tmp_path, "verdict: {weather: certified}").check(TASKS)


@pytest.mark.parametrize("key", ["verdict", "negative_flips", "tolerance"])
def test_a_pattern_that_guards_nothing_is_an_error(tmp_path: Path, key: str) -> None:
    value = "certified" if key == "verdict" else 0.1
    policy = read(tmp_path, f'{key}: {{"*": {value}, "weather:ranny": {value}}}')
    with pytest.raises(UsageError, match=rf"{key}: 'weather:ranny' matches no task .* did you mean 'weather:rainy'\?"):
        policy.check(TASKS)
