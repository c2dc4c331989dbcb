"""Configs of the verbs that make data sets; loaded and checked as those of `raymds.config`."""

from dataclasses import dataclass, field

from raymds.errors import UsageError
from raymds.store.aws import StorageConfig


@dataclass
class SceneRows:
    """Images per split."""

    train: int = 10000
    val: int = 2000
    test: int = 5000


@dataclass
class ScenesConfig:
    """A data set of rendered driving scenes."""

    size: int = 64  # pixels a side
    seed: int = 0
    quality: int = 95  # JPEG quality
    rows: SceneRows = field(default_factory=SceneRows)
    rows_per_shard: int = 1000
    storage: StorageConfig = field(default_factory=StorageConfig)
    frequencies: dict[str, dict[str, float]] = field(default_factory=dict)  # of train; default: long-tailed
    balanced: dict[str, dict[str, float]] = field(default_factory=dict)  # of val and test; default: all classes equal


@dataclass
class GlyphsConfig:
    """A data set of things in many classes, each a shape of a colour and a pattern."""

    classes: int = 320  # the first ones of the generator, which has no more
    size: int = 64  # pixels a side
    seed: int = 0
    quality: int = 95  # JPEG quality
    rows: SceneRows = field(default_factory=lambda: SceneRows(16000, 6400, 6400))
    rows_per_shard: int = 1000
    storage: StorageConfig = field(default_factory=StorageConfig)
    frequencies: dict[str, float] = field(default_factory=dict)  # class -> weight in train, where not 1


@dataclass
class IngestConfig:
    """How images become a data set."""

    resize: int = 256  # pixels, short side of a stored image, smaller ones stay as they are; 0: every image does
    quality: int = 95  # JPEG quality of a resized image, 1 to 100
    rows_per_shard: int = 128  # images, at most; photos of 256 pixels have 60 to 110 KB, and 8 MB a shard read fastest
    seed: int = 0  # of the order of rows and of the choice of val
    val_share: float = 0.1  # of train that becomes val (bdd100k, places365); of all rows where test_share is given
    test_share: float = 0.0  # of all rows that becomes test; 0: the official val (a table without a split: 0.2)
    min_test: int = 40  # rows of each class in test and in val that are drawn so, as far as a third of the class goes
    classes: list[str] = field(default_factory=list)  # of places365, these alone; empty: all
    max_broken: int = 0  # images that may be missing or damaged, and are then left out
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        for key, holds, rule in (
            ("resize", self.resize >= 0, "has to be 0 or more"),
            ("quality", 1 <= self.quality <= 100, "has to be 1 to 100"),
            ("rows_per_shard", self.rows_per_shard > 0, "has to be above 0"),
            ("val_share", 0 < self.val_share < 1, "has to lie between 0 and 1, both excluded"),
            ("test_share", 0 <= self.test_share < 1 - self.val_share, "has to be 0 or more, with val_share below 1"),
            ("min_test", self.min_test >= 0, "has to be 0 or more"),
            ("max_broken", self.max_broken >= 0, "has to be 0 or more"),
        ):
            if not holds:
                raise UsageError(f"{key}={getattr(self, key)}: {rule}")


@dataclass
class RetrieveColumns:
    """Columns of the corpus; images are in `image`, or where `url` says."""

    caption: str = "caption"
    image: str | None = None  # encoded images; null: no such column
    url: str | None = None  # paths (relative to the corpus's folder), URIs or http(s) URLs; null: no such column
    local: bool = False  # whether a url may name files outside the corpus's folder, and servers of private networks


@dataclass
class SimilarityConfig:
    """A further condition on positives: the cosine of CLIP's embeddings of the caption and of a prompt."""

    minimum: float | None = None  # smallest cosine; null: phrases alone decide
    prompt: str = ""  # a sentence that describes the target
    model: str = ""  # an open_clip architecture
    weights: str = ""  # its weights: .safetensors, or an open_clip .pt


@dataclass
class RetrieveConfig:
    """Target pairs and negatives out of a caption corpus."""

    corpus: str = ""  # a Parquet file, or a folder of *.parquet at any depth
    out: str = ""  # directory of the data set
    columns: RetrieveColumns = field(default_factory=RetrieveColumns)
    target: str = ""  # attribute:class
    phrases: dict[str, list[str]] = field(default_factory=dict)  # class of the target's attribute -> what names it
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)
    negatives: float = 1.0  # per positive
    limit: int | None = None  # positives, at most: the first ones of the corpus; null: all
    seed: int = 0  # of the choice of negatives
    batch_rows: int = 4096  # captions in memory at a time
    rows_per_shard: int = 128  # at most
    resize: int = 256  # pixels, short side of a stored image, smaller ones stay as they are; 0: every image does
    quality: int = 95  # JPEG quality of a resized image, 1 to 100
    least: int = 32  # pixels, short side of the smallest image that is taken: smaller ones are placeholders
    storage: StorageConfig = field(default_factory=StorageConfig)
