"""Typed configuration of every verb: OmegaConf structured configs, checked before anything starts.

A preset is YAML; `key=value` overrides use dots (`optim.lr=1e-5`). Each field's comment gives unit and meaning. Where
a value is `???` the user has to give it.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymds.errors import UsageError
from raymds.method.solvers import BASELINES
from raymds.overrides import check_keys, first_line, gives, left_out, one_line, refuse_secrets, written
from raymds.ranges import RULES, reads, too_large
from raymds.store import uri as storage
from raymds.store.aws import StorageConfig


@dataclass
class FreezeConfig:
    """What of the towers is not trained."""

    image: Any = 0  # the first N blocks and what stands before them; all: the whole tower
    text: Any = 0  # likewise; class heads are always trained


@dataclass
class ModelConfig:
    """The model being developed."""

    name: str = ""  # an open_clip architecture, or the built-in tiny-64; empty: the file of weights says it
    weights: str | None = None  # the old model: safetensors, or a checkpoint of PyTorch; null: random (pretrain only)
    pretrained: str | None = None  # open_clip's tag of the weights that `weights` come from: preprocessing, activation
    activation: str | None = None  # gelu or quickgelu, where neither the file nor name or pretrained says it
    heads: Any = None  # classes, in their order, of heads that the file has no names for; drop: leave those out
    head_rank: int | None = None  # r of METHOD 4, the rank of a new class head; null: that of the file's heads, else 32
    freeze: FreezeConfig = field(default_factory=FreezeConfig)


@dataclass
class AugmentConfig:
    """How the images of the objective's pairs differ from step to step; those of constraints never do."""

    shift: float = 0.0625  # share of its side by which an image moves at most, its edge repeated
    crop: float = 0.0  # share of its side that is cut off at most, the rest enlarged
    mirror: bool = True  # half of the images are mirrored: wrong for signs and text


@dataclass
class DataConfig:
    """The data set."""

    uri: str = ""  # directory of a shard set (it holds manifest.json)
    image_size: int = 0  # pixels, the model's input side; 0: the architecture's own
    on_corrupt: str = "error"  # what an undecodable image does: error, or skip (counted in the outcome)
    memory: int = 1024  # MiB of encoded images kept by each worker; a larger data set is streamed
    cache: str = ""  # local directory for shards of an object store, shared by a machine's workers; empty: none
    cache_size: float = 50.0  # GiB that the cache may hold
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class TaskConfig:
    """What is developed and what is protected."""

    target: str = ""  # attribute:class; a slice of it is attribute:class@attribute:class,…
    protect: list[str] = field(default_factory=list)  # attributes (all their classes but the target), or as the target
    retained: int = 1000  # retained examples per protected task, at most; of one without data, new images
    prompts: dict[str, Any] = field(default_factory=dict)  # attribute -> sentence with {} for the class, or several
    classes: dict[str, list[str]] = field(default_factory=dict)  # attribute -> its label set, where not all of them
    phrases: dict[str, dict[str, str]] = field(default_factory=dict)  # attribute -> class -> words for it in prompts
    without_data: list[str] = field(default_factory=list)  # classes, attributes: held by the old model's answers alone


@dataclass
class ObjectiveConfig:
    """The target objective, METHOD 2."""

    batch: int = 256  # pairs per step, all ranks together
    positive_share: float = 0.5  # share of them that show the target
    temperature: float = 0.05  # t of METHOD (7)
    gamma: float = 0.8  # γ₁ of METHOD (9), in (0, 1]
    head: str = "own"  # of the captions of negatives: their class's own, or the shared one


@dataclass
class ConstraintsConfig:
    """The constraints, METHOD 3. β, η, λ are in `units`; u and ε in the unit of the loss."""

    solver: str = "multiplicative"  # rule for λ, or a baseline: method/solvers.py, train/baselines.py
    loss: str = "error"  # what u measures: cross_entropy, error (share wrong), flips (was right, is wrong)
    units: str = "objective"  # λ = 1 pushes as the objective does, η is per run; absolute: λ of METHOD (12), η per step
    beta: Any = 3.0  # β, penalty weight; or {TASK or attribute or default: …}
    schedule: str = "constant"  # of β: constant, or cosine (it rises from 0 over the run)
    growth: float = 1.0  # what β of a task has been multiplied by at the end of a run in which it was always infeasible
    start: float = 0.4  # λ of the first step, where the solver remembers λ
    eta: float = 30.0  # η, rise of a multiplier per unit of u
    rho: float = 0.02  # ρ, the u at which smoothed_hinge is full
    lambda_min: float = 0.01  # the least λ of multiplicative
    lambda_max: float = 100.0  # the largest μ and λ of augmented_lagrangian, pi, multiplicative
    temperature: float = 0.05  # τ₀ of METHOD (12)
    gamma: float = 0.1  # γ₂ of METHOD (11), in (0, 1]: per step in the objective's units, else per step with the task
    slack: Any = 0.0  # ε of METHOD (1); negative: asks for a gain; or {TASK or attribute or default: …}
    margin: float = 2.0  # standard errors of u, as a task's examples are a sample, by which it is held more
    held_out: float = 0.25  # share of the retained examples that λ is measured on and nothing is trained on
    tasks_per_step: Any = "all"  # protected tasks sampled per step: a number, or all
    images_per_task: int = 10  # examples per sampled task and step, all ranks together


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = 1e-6  # peak learning rate
    weight_decay: float = 0.1  # on matrices; gains, biases and embeddings have none
    warmup: int = 500  # steps from 0 to the peak
    steps: int = 24000  # steps in all
    clip: float = 1.0  # largest norm of the gradient


@dataclass
class SelectConfig:
    """Choice, rescue, certificate, METHOD 6."""

    every: int = 600  # steps between checkpoints, each evaluated on val
    precision: str = "fp32"  # of all that is measured, on val and for the certificate: fp32, tf32, bf16
    average: float = 0.98  # candidates are running means of the weights with this decay per step; 0: the weights
    interpolate: bool = True  # try w_old + α(w − w_old) where a candidate violates
    tolerance: Any = 0.0  # largest loss that still counts as retained, a fraction; or {TASK or attribute or default: …}
    confidence: float = 0.95  # joint confidence of the certificate's bounds
    require: str = "retained"  # verdict that the outcome has at least: certified, retained, undecided
    require_target: str = "gain"  # on test the target's gain is above 0 as measured (gain), or by its bound (proven)


@dataclass
class RunConfig:
    """Where and on how much. All but uri, seed and precision may be another when a stopped run goes on."""

    uri: str = ""  # run directory
    workers: int = 1  # model replicas, one Ray Train worker each; 0: as many as the cluster has room for
    min_workers: int = 0  # with fewer machines the run goes on with as few as this; 0: it waits for all workers
    cpus_per_worker: float | None = None  # cores of each; null: those of a machine by its GPUs, and without GPUs 1
    gpus_per_worker: float | None = None  # GPUs of each; 0: train on CPU; null: 1 where the cluster has any
    placement: str = "pack"  # pack: on as few machines as possible; spread: on as many
    autoscaling: bool = False  # the cluster starts machines on demand: what is missing now is waited for
    micro_batch: int = 0  # images, and texts, that a worker has in memory with what their gradient needs; 0: all
    grad_checkpointing: bool = False  # keep of each block its input alone for the gradient, and compute it again
    precision: str | None = None  # of training: fp32, tf32, bf16; null: bf16 on GPUs, else fp32
    compile: bool = False  # compile the towers of training, which takes minutes at a start: for long runs on GPUs
    timeout: float = 600.0  # seconds that workers wait for one of them before they count it as lost
    max_failures: int = 3  # restarts after a lost worker before the run ends
    log_every: Any = "auto"  # steps between two records of steps in the log; auto: so that a run has some 2,000
    seed: int = 0  # of every random choice


@dataclass
class LedgerConfig:
    """The record of cycles, METHOD 7: what it protects has to be protected; see `raymds ledger`."""

    uri: str | None = None  # its directory; null: nothing is recorded
    author: str | None = None  # who says so; null: user.name and user.email of git
    key: str | None = None  # PEM file of the key that signs entries and certificates; null: RAYMDS_SIGNING_KEY, if set
    uses: int | None = (
        None  # certificates that the test split will be used for, said before the first; null: any number
    )


@dataclass
class SearchConfig:
    """The search of `raymds tune` for the best setting that keeps everything; a single cycle ignores it."""

    trials: int = 32  # settings tried, the preset's own first
    concurrency: int = 0  # trials at a time; 0: as many as the cluster has room for
    steps: int = 0  # training steps of each trial; 0: optim.steps
    algorithm: str = "tpe"  # what proposes settings: tpe, gp (both know the constraints), random, grid
    scheduler: str = "feasible_halving"  # what ends trials early: feasible_halving, none
    seed: int = 0  # of the proposals
    space: dict[str, Any] = field(default_factory=dict)  # key -> {kind: values}, search/space.py; empty: its default


@dataclass
class Config:
    """Everything a cycle, a pretraining or a certificate needs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    run: RunConfig = field(default_factory=RunConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)


SECTIONS = tuple(section.name for section in dataclasses.fields(Config))

T = TypeVar("T")


def load(
    schema: type[T], preset: str | Mapping[str, Any] | None, overrides: Sequence[str], require: Iterable[str] = ()
) -> T:
    """A checked config from a preset (path, URI, name of a built-in one, or its content) and `key=value` overrides.

    Raises UsageError naming the key for unknown keys, wrong types, missing values and values out of range.
    """
    base = OmegaConf.structured(schema)
    sources = [] if preset is None else [_preset(preset)]
    sources += [_override(item) for item in overrides]
    left_open: set[str] = set()  # keys that are `???` in what was merged last: merging keeps the default there
    for source, texts in sources:
        refuse_secrets(OmegaConf.to_yaml(source))
        check_keys(source, base, "", texts)
        left_open = {key for key in left_open if not gives(source, key)} | set(left_out(source))
        try:
            base = OmegaConf.merge(base, source)
        except OmegaConfBaseException as error:
            raise UsageError(f"{error.full_key or 'config'}: {first_line(error)}") from None
        except (TypeError, ValueError) as error:  # a mapping in the place of a list
            raise UsageError(f"{', '.join(map(str, source))}: {first_line(error)}") from None
    try:
        missing = sorted(left_open) or [key for key in require if not OmegaConf.select(base, key)]
        if missing:
            raise UsageError(f"{missing[0]}: has no value; give it in the preset or as {missing[0]}=VALUE")
        config = cast(T, OmegaConf.to_object(base))
    except OmegaConfBaseException as error:  # of an interpolation
        raise UsageError(f"{error.full_key or 'config'}: {first_line(error)}") from None
    if isinstance(config, Config):
        check(config)
    return config


def to_yaml(config: object) -> str:
    """The resolved config as YAML, what a run directory stores."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _preset(name: str | Mapping[str, Any]) -> tuple[DictConfig, Any]:
    """A preset, and its values as they are written in a file."""
    if not isinstance(name, str | Mapping):
        raise UsageError(f"preset {name}: has to be a name, a file or a mapping of sections")
    if not isinstance(name, str):
        return OmegaConf.create(dict(name)), None
    built_in = {path.name.removesuffix(".yaml"): path for path in (resources.files("raymds") / "presets").iterdir()}
    if not name or (Path(name).is_dir() and name not in built_in):  # `make demo` leaves a directory of that name
        what = f"preset {name}: is a directory" if name else "preset: is empty"
        raise UsageError(f"{what}; give a file, like the config.yaml of a run directory, or a built-in preset's name")
    if name in built_in and not Path(name).is_file():
        content = built_in[name].read_bytes()
    elif "://" in name or Path(name).exists():
        content = storage.read(name)
    else:
        raise UsageError(
            f"preset {name}: no such file, and no built-in preset of that name ({', '.join(sorted(built_in))})"
        )
    try:
        loaded = OmegaConf.create(content.decode())
    except AssertionError:  # of a number
        loaded = None
    except OmegaConfBaseException as error:
        raise UsageError(f"preset {name}: {first_line(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"preset {name}: not valid YAML: {one_line(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UsageError(f"preset {name}: has to be a mapping of sections")
    return loaded, written(content.decode())


def _override(item: str) -> tuple[DictConfig, Any]:
    """An override as a config, and its value as it is written."""
    key, equals, value = item.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError(f"override {item!r}: has to be key=value, for example optim.lr=1e-5")
    texts = written(value)
    for part in reversed(key.split(".")):
        texts = {part: texts}
    try:
        return OmegaConf.from_dotlist([item]), texts
    except yaml.YAMLError as error:
        raise UsageError(f"override {item!r}: {one_line(error)}") from None
    except OmegaConfBaseException as error:
        raise UsageError(f"override {item!r}: {first_line(error)}") from None


def check(config: Config) -> None:
    """Ranges and cross-field rules; raises UsageError naming the key, its value and what it has to be."""
    for key, holds, rule in RULES:
        value = attrgetter(key)(config)
        if not holds(value):
            raise UsageError(f"{key}={value}: {rule}")
    for key, most in too_large(config):
        raise UsageError(f"{key}={attrgetter(key)(config)}: has to be {most} or less")
    if config.optim.warmup >= config.optim.steps:
        raise UsageError(f"optim.warmup={config.optim.warmup}: has to be below optim.steps={config.optim.steps}")
    limits = config.constraints
    if limits.lambda_min >= limits.lambda_max:
        raise UsageError(f"constraints.lambda_min={limits.lambda_min}: has to be below constraints.lambda_max")
    read = reads(limits.solver)
    if "constraints.beta" not in read and (limits.growth != 1 or limits.schedule != "constant"):
        raise UsageError(
            f"constraints.solver={limits.solver}: reads no constraints.beta, so leave out constraints.growth and "
            "constraints.schedule"
        )
    if limits.solver in BASELINES and isinstance(limits.beta, dict):
        raise UsageError(f"constraints.beta: has to be one number where constraints.solver is {limits.solver}")
    if limits.solver in BASELINES and config.task.without_data:
        raise UsageError(
            f"task.without_data={config.task.without_data}: constraints.solver={limits.solver} is no rule for λ and "
            "holds no class without examples; leave one of the two out"
        )
    if limits.solver in BASELINES and config.run.micro_batch:
        raise UsageError(
            f"run.micro_batch={config.run.micro_batch}: constraints.solver={limits.solver} looks at whole batches; "
            "leave it out, or lower objective.batch"
        )
    if 0 < config.run.workers < config.run.min_workers:
        raise UsageError(f"run.min_workers={config.run.min_workers}: is above run.workers={config.run.workers}")
    objective = config.objective
    positives = round(objective.batch * objective.positive_share)
    smallest = min(positives, objective.batch - positives)
    if smallest < config.run.workers:
        raise UsageError(
            f"objective.batch={objective.batch}: gives {positives} positives and {objective.batch - positives} "
            f"negatives, fewer than run.workers={config.run.workers}; raise objective.batch or lower run.workers"
        )
