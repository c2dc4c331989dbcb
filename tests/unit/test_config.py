"""Presets and overrides: typed, checked, with errors that name the key."""

from operator import attrgetter
from pathlib import Path

import pytest
import yaml

from raymds.config import Config, load, to_yaml
from raymds.data.config import ScenesConfig
from raymds.errors import UsageError
from raymds.run import RunDirectory


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"optim\.lrr: unknown key; did you mean optim\.lr\?"),
        ("optm.lr=1", r"optm: unknown key; did you mean optim\?"),
        ("optim.lr=fast", r"optim\.lr: Value 'fast' .* could not be converted to Float"),
        ("optim.steps=1.5", r"optim\.steps: Value '1\.5' .* Integer"),
        ("optim.lr=.inf", r"optim\.lr=inf: has to be above 0, and finite"),
        ("constraints.temperature=.inf", r"constraints\.temperature=inf: has to be above 0, and finite"),
        ("optim.lr=0", r"optim\.lr=0\.0: has to be above 0"),
        ("constraints.solver=hing", r"constraints\.solver=hing: has to be one of squared_hinge"),
        ("objective.gamma=1.5", r"objective\.gamma=1\.5: has to lie in \(0, 1\]"),
        ("constraints.tasks_per_step=0", r"constraints\.tasks_per_step=0: has to be all or above 0"),
        ("constraints.tasks_per_step=some", r"constraints\.tasks_per_step=some: has to be all"),
        ("optim.warmup=24000", r"optim\.warmup=24000: has to be below optim\.steps=24000"),
        ("run.log_every=0", r"run\.log_every=0: has to be auto, or a number of steps"),
        ("run.log_every=often", r"run\.log_every=often: has to be auto, or a number of steps"),
        ("run.workers=200", r"objective\.batch=256: gives 128 positives .* fewer than run\.workers=200"),
        ("select.confidence=95", r"select\.confidence=95\.0: has to lie between 0 and 1"),
        ("select.tolerance=1", r"select\.tolerance=1: has to be a fraction"),
        ("select.tolerance={weather: x}", r"select\.tolerance=\{'weather': 'x'\}: has to be a fraction"),
        ("select.require=violated", r"select\.require=violated: has to be one of certified, retained, undecided"),
        ("select.require_target=yes", r"select\.require_target=.*: has to be gain or proven"),
        ("search.algorithm=bayes", r"search\.algorithm=bayes: has to be tpe, gp, random or grid"),
        ("search.trials=0", r"search\.trials=0: has to be above 0"),
        ("task.without_data=3", r"task\.without_data: "),
        ("search.space=3", r"search\.space: "),
        ("optim.lr", r"override 'optim\.lr': has to be key=value"),
        ("optim..lr=1", r"override 'optim\.\.lr=1': has to be key=value"),
        (".lr=1", r"override '\.lr=1': has to be key=value"),
        ("optim.lr=inf", r"optim\.lr=inf: has to be above 0, and finite"),
        ("constraints.temperature=inf", r"constraints\.temperature=inf: has to be above 0, and finite"),
        ("run.timeout=inf", r"run\.timeout=inf: has to be above 0, and at most 1e9 seconds"),
        ("storage.timeout=1e300", r"storage\.timeout=1e\+300: .* at most 1e9 seconds"),
        ("data.cache=s3://b/cache", r"data\.cache=s3://b/cache: has to be a directory of the machines"),
        ("data.cache_size=inf", r"data\.cache_size=inf: has to be above 0, and finite"),
        ("run.cpus_per_worker=inf", r"run\.cpus_per_worker=inf: .* and finite"),
        ("model.head_rank=99999", r"model\.head_rank=99999: has to be above 0, and at most 8192"),
        (f"optim.steps={10**30}", rf"optim\.steps={10**30}: has to be 2147483647 or less"),
        (f"run.seed={2**64}", rf"run\.seed={2**64}: has to be 9007199254740992 or less"),
        (f"constraints.tasks_per_step={10**10}", r"tasks_per_step=10000000000: has to be 2147483647 or less"),
        ("run.uri=@x", r"^override 'run\.uri=@x': .* token line 1, column 1$"),
        ("data.uri=", r"^data\.uri: has no value; give one, or leave the key out$"),
        ("task.protect=[null]", r"^task\.protect\[0\]: has no value; give one, or leave the key out$"),
        ("optim=null", r"^optim: has no value; give one, or leave the key out$"),
    ],
)
def test_errors_name_the_key(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(Config, None, [override])
    assert caught.value.exit_status == 2


def test_a_required_key_without_value_is_named() -> None:
    with pytest.raises(UsageError, match=r"data\.uri: has no value; give it in the preset or as data\.uri=VALUE"):
        load(Config, None, ["model.name=a"], ("model.name", "data.uri"))


def test_a_tolerance_is_a_number_or_one_by_name_and_the_stored_config_has_it() -> None:
    assert load(Config, None, ["select.tolerance=0.01"]).select.tolerance == 0.01
    given = {"default": 0.01, "weather": 0, "weather:rainy": 0.03}
    config = load(Config, None, ['select.tolerance={default: 0.01, weather: 0, "weather:rainy": 0.03}'])
    assert config.select.tolerance == given
    assert yaml.safe_load(to_yaml(config))["select"]["tolerance"] == given


def test_overrides_win_over_the_preset(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("optim: {lr: 1e-3, steps: 900}\ntask: {protect: [weather, scene]}\n")
    config = load(Config, str(preset), ["optim.lr=2e-5"])
    assert (config.optim.lr, config.optim.steps, config.task.protect) == (2e-5, 900, ["weather", "scene"])
    assert config.optim.clip == 1.0


def test_a_stored_config_loads_as_itself(tmp_path: Path) -> None:
    config = load(Config, "demo", ["model.weights=w", "data.uri=d", "constraints.tasks_per_step=3"])
    stored = tmp_path / "config.yaml"
    stored.write_text(to_yaml(config))
    assert load(Config, str(stored), []) == config


@pytest.mark.parametrize("name", ["demo", "demo-pretrain"])
def test_built_in_presets_are_valid(name: str) -> None:
    load(Config, name, ["model.weights=w", "data.uri=d"])


def test_a_preset_that_is_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"preset nowhere: no such file.*demo, demo-pretrain"):
        load(Config, "nowhere", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("optim: {lr: 1")
    with pytest.raises(UsageError, match="not valid YAML"):
        load(Config, str(broken), [])
    broken.write_text("- a\n- b\n")
    with pytest.raises(UsageError, match="has to be a mapping"):
        load(Config, str(broken), [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", r"preset .*: has to be a mapping of sections"),
        ("optim.lr: 1", r"^optim\.lr: unknown key; a file has sections: optim: \{lr: …\}$"),
        ("optim: {lr: 1}\noptim: {lr: 2}", r"not valid YAML: .*found duplicate key optim line 2, column 1$"),
        ("null: 1", r"preset .*: Incompatible key type 'NoneType'$"),
    ],
)
def test_a_preset_that_is_no_mapping_of_sections(tmp_path: Path, content: str, message: str) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(content)
    with pytest.raises(UsageError, match=message):
        load(Config, str(preset), [])


def test_a_preset_that_is_a_directory_or_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^preset {tmp_path}: is a directory; give a file, like the config\.yaml"):
        load(Config, str(tmp_path), [])
    with pytest.raises(UsageError, match=r"^preset: is empty; give a file"):
        load(Config, "", [])


def test_a_built_in_preset_beside_a_directory_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make demo` leaves it."""
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load(Config, "demo", ["model.weights=w", "data.uri=d"]).model.name == "tiny-64"


def test_what_a_preset_leaves_to_the_user_has_no_default() -> None:
    preset = {"optim": {"lr": "???"}, "task": {"prompts": {"weather": "???"}}, "data": {"uri": "${run.uri}"}}
    with pytest.raises(UsageError, match=r"^optim\.lr: has no value; give it in the preset or as optim\.lr=VALUE$"):
        load(Config, preset, [])
    with pytest.raises(UsageError, match=r"^task\.prompts\.weather: has no value"):
        load(Config, preset, ["optim.lr=1e-4"])
    given = load(Config, preset, ["optim={lr: 1e-4}", "task.prompts.weather='{}'", "run.uri=runs/a"])
    assert (given.optim.lr, given.task.prompts, given.data.uri) == (1e-4, {"weather": "{}"}, "runs/a")


def test_frequencies_are_free_keys() -> None:
    assert load(ScenesConfig, None, ["frequencies.weather.foggy=0.1"]).frequencies == {"weather": {"foggy": 0.1}}


@pytest.mark.parametrize(
    ("variable", "refused"),
    [("DB_PASSWORD", True), ("API_KEY2", True), ("PASSENGER_DATA", False), ("KEYFRAMES", False), ("PWD", False)],
)
def test_variables_that_a_config_may_name(monkeypatch: pytest.MonkeyPatch, variable: str, refused: bool) -> None:
    monkeypatch.setenv(variable, "there")
    given = f"data.uri=${{oc.env:{variable}}}"
    if refused:
        with pytest.raises(UsageError, match=rf"\$\{{oc\.env:{variable}\}}: a config is stored with its run"):
            load(Config, None, [given])
    else:
        assert load(Config, None, [given]).data.uri == "there"


@pytest.mark.parametrize("content", [b"hello: 1", b"- 1", b"{", b"\xff\xfe", b"", b"run: 1"])
def test_a_run_directory_that_holds_another_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"^run\.uri={tmp_path}: its config\.yaml is not one that raymds wrote"):
        RunDirectory(str(tmp_path)).precision()


@pytest.mark.parametrize("solver", ["gem", "lwf", "ewc"])
def test_a_baseline_holds_no_class_without_data(solver: str) -> None:
    given = [f"constraints.solver={solver}", "task.without_data=[weather:snowy]"]
    with pytest.raises(UsageError, match=rf"task\.without_data=.*: constraints\.solver={solver} is no rule for λ"):
        load(Config, None, given)
    assert load(Config, None, ["constraints.solver=regularize", given[1]]).task.without_data == ["weather:snowy"]


def test_a_run_that_an_older_version_began_goes_on(tmp_path: Path) -> None:
    """Its config lacks the keys that came later; where they have their defaults, nothing differs."""
    run, given = RunDirectory(str(tmp_path)), ["task.target=weather:foggy", "optim.lr=1e-5"]
    run.claim(load(Config, None, given))
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del stored["task"]["without_data"], stored["model"]["freeze"], stored["ledger"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    run.claim(load(Config, None, given))
    with pytest.raises(UsageError, match=r"another config \(-  without_data: \[\]; \+  without_data:"):
        run.claim(load(Config, None, [*given, "task.without_data=[weather:snowy]"]))


def test_a_number_may_replace_a_presets_mapping(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("select: {tolerance: {default: 0.01}}\n")
    assert load(Config, str(preset), ["select.tolerance=0.02"]).select.tolerance == 0.02


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("task.protect=weather", r"^task\.protect: has to be a list: .*, not weather$"),
        ("task.protect={a: b}", r"^task\.protect: has to be a list: .*, not \{'a': 'b'\}$"),
        ("task.prompts=abc", r"^task\.prompts: has to be a mapping: .*, not abc$"),
        ("task.classes.weather=clear", r"^task\.classes\.weather: has to be a list"),
        ("task=3", r"^task: has to be a mapping: .*, not 3$"),
        ("data.augment=[1]", r"^data\.augment: has to be a mapping: .*, not \[1\]$"),
        ("task.protect=[[weather]]", r"^task\.protect\[0\]: has to be a single value, not \['weather'\]$"),
        ("task.without_data=[{a: b}]", r"^task\.without_data\[0\]: has to be a single value, not \{'a': 'b'\}$"),
        ("task.classes={a: [[b]]}", r"^task\.classes\.a\[0\]: has to be a single value, not \['b'\]$"),
        ("task.phrases={a: b}", r"^task\.phrases\.a: has to be a mapping: .*, not b$"),
        ("run.uri=[a]", r"^run\.uri: has to be a single value, not \['a'\]$"),
        ("run.autoscaling=2", r"^run\.autoscaling: has to be true or false, not 2$"),
        ("data.augment.mirror='-1'", r"^data\.augment\.mirror: has to be true or false, not -1$"),
        ("storage.anonymous=maybe", r"^storage\.anonymous: has to be true or false, not maybe$"),
    ],
)
def test_lists_and_mappings_are_asked_for_by_key(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(Config, None, [given])


@pytest.mark.parametrize("content", ["5", "true", "[1]"])
def test_a_preset_that_is_one_value_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"p\.yaml: has to be a mapping of sections"):
        load(Config, str(tmp_path / "p.yaml"), [])


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("run.uri", "0127", "0127"),
        ("run.uri", "2026_11_29", "2026_11_29"),
        ("run.uri", "'0127'", "0127"),
        ("model.weights", "1e3", "1e3"),
        ("ledger.author", "no", "no"),
        ("ledger.author", "null", None),
        ("task.protect", "[yes, 1.50]", ["yes", "1.50"]),
        ("task.classes", "{light: [on, off], sign: [007, a]}", {"light": ["on", "off"], "sign": ["007", "a"]}),
        ("task.phrases", "{sign: {a: 1_0, 007: b}, on: {c: d}}", {"sign": {"a": "1_0", "007": "b"}, "on": {"c": "d"}}),
        ("run.autoscaling", "on", True),
        ("run.workers", "010", 10),
        ("optim.steps", "0600", 600),
        ("optim.clip", "010", 10.0),
        ("run.workers", "0x10", 16),
    ],
)
def test_a_text_that_yaml_takes_for_something_else_stays_as_it_is_written(
    tmp_path: Path, key: str, written: str, value: object
) -> None:
    section, _, name = key.partition(".")
    (tmp_path / "p.yaml").write_text(f"{section}:\n  {name}: {written}\n")
    for config in (load(Config, None, [f"{key}={written}"]), load(Config, str(tmp_path / "p.yaml"), [])):
        assert attrgetter(key)(config) == value
