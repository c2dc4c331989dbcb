"""What is in a data set: rows per split and class from its manifest, and a contact sheet of examples.

A sheet shows the same images for the same data set and seed.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment
from PIL import Image, ImageDraw, ImageFont, ImageOps

from raymds.data.decode import decode
from raymds.data.doubles import Row
from raymds.data.sampler import Rows
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.store import uri as storage

Record = dict[str, Any]

_EXAMPLES = 8  # of a class
_TOGETHER = 4  # shards that a class's examples are mixed from, where those hold enough of them
_SIDE = 96  # pixels of a thumbnail
_MOST = 60  # classes of an attribute on a PNG, which would be too tall with all of 365


@dataclass(frozen=True)
class Cell:
    """One example; no picture where its image can't be decoded."""

    id: str
    picture: Image.Image | None

    @property
    def uri(self) -> str:
        """The picture as a data URI, empty where there is none."""
        if self.picture is None:
            return ""
        buffer = io.BytesIO()
        self.picture.save(buffer, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Line:
    """One class, how many rows have it, and some of them."""

    label: str
    rows: int
    cells: list[Cell]


@dataclass(frozen=True)
class Sheet:
    """Examples of every class of every attribute."""

    title: str
    lines: dict[str, list[Line]]  # by attribute
    left_out: dict[str, int]  # classes, by attribute


def look(uri: str, split: str | None, out: str | None, seed: int, show: Callable[[Record], None]) -> Record:
    """Rows per class as of `counts`, of one split or all; with `out`, a contact sheet of it or else the first split.

    UsageError where there is no such split, the seed is negative, or `out` ends in neither .png nor .html. `show` gets
    progress records.
    """
    draw = drawing(out) if out else None
    if seed < 0:
        raise UsageError(f"--seed {seed}: has to be 0 or more")
    data = DataSet.open(uri)
    if split is not None and split not in data.splits:
        raise UsageError(f"--split {split}: no such split in {uri}; it has {', '.join(data.splits)}")
    if out and draw:
        most = _MOST if draw is png else None
        storage.write(out, draw(gather(data, split or next(iter(data.splits)), seed, most, show)))
    return {"data": uri, **counts(data, [split] if split else list(data.splits)), "parts": data.parts, "sheet": out}


def drawing(out: str) -> Callable[["Sheet"], bytes]:
    """What makes a sheet a file of this name; UsageError where its ending is none."""
    found = {".png": png, ".html": html}.get(Path(out).suffix.lower())
    if found is None:
        raise UsageError(f"--out {out}: has to end in .png or .html")
    return found


def alike(data: DataSet, pairs: Sequence[tuple[Row, Row, int]]) -> Sheet:
    """Rows of two splits that look alike, side by side; each with the number of bits in which their hashes differ."""
    loaded = {split: data.load(split) for split in data.splits}

    def cell(found: Row) -> Cell:
        example = loaded[found.split].example(found.row)
        return Cell(f"{found.split}: {example.id}", thumbnail(example.image))

    lines = [Line(f"{bits} of 128 bits differ", 2, [cell(one), cell(other)]) for one, other, bits in pairs]
    return Sheet(data.uri, {"look alike in two splits": lines}, {"look alike in two splits": 0})


def counts(data: DataSet, splits: Sequence[str]) -> Record:
    """By the manifest: `rows` per split, `classes` per attribute, class and split, and those `undefined` in each."""
    rows = {split: sum(shard.rows for shard in data.splits[split]) for split in splits}
    classes = {
        attribute: {label: {split: data.count(split, attribute, label) for split in splits} for label in labels}
        for attribute, labels in data.attributes.items()
    }
    undefined = {
        attribute: {split: rows[split] - sum(found[split] for found in labels.values()) for split in splits}
        for attribute, labels in classes.items()
    }
    return {"rows": rows, "classes": classes, "undefined": undefined}


def gather(data: DataSet, split: str, seed: int, most: int | None, show: Callable[[Record], None]) -> Sheet:
    """Draw the examples of a split, of the first `most` classes of each attribute, and read their shards, each once."""
    loaded = data.load(split)
    chosen = {
        (attribute, label): choose(loaded, attribute, number, seed)
        for attribute, labels in data.attributes.items()
        for number, label in enumerate(labels[:most])
    }
    wanted = np.unique(np.concatenate([np.empty(0, np.int64), *chosen.values()]))
    _, starts = np.unique(loaded.shard_of(wanted), return_index=True)
    cells: dict[int, Cell] = {}
    for group in np.split(wanted, starts[1:]):
        loaded.ahead(wanted[len(cells) : len(cells) + len(group) + 1])  # this shard and the next
        for row in group.tolist():
            example = loaded.example(row)
            cells[row] = Cell(example.id, thumbnail(example.image))
        show({"event": "progress", "what": "images read", "done": len(cells), "total": len(wanted)})
    lines: dict[str, list[Line]] = {attribute: [] for attribute in data.attributes}
    for (attribute, label), rows in chosen.items():
        count = data.count(split, attribute, label)
        lines[attribute].append(Line(label, count, [cells[row] for row in rows.tolist()]))
    left_out = {attribute: len(labels) - len(labels[:most]) for attribute, labels in data.attributes.items()}
    return Sheet(f"{data.uri} · {split} split · seed {seed}", lines, left_out)


def choose(split: Split, attribute: str, label: int, seed: int) -> Rows:
    """Up to 8 rows of a class, a pure function of its rows and the seed.

    All classes turn to the shards in one random order, a few at a time, so that few have to be read.
    """

    def random(*key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))

    turn = random().permutation(len(split.files)) // _TOGETHER
    rows = random(list(split.labels).index(attribute), label).permutation(split.rows_of(attribute, label))
    return rows[np.argsort(turn[split.shard_of(rows)], kind="stable")][:_EXAMPLES]


def thumbnail(image: bytes | memoryview) -> Image.Image | None:
    """An encoded image made to fit 96 × 96 pixels; None where it can't be decoded."""
    try:
        pixels = decode(image, _SIDE)
    except ValueError:
        return None
    return ImageOps.contain(Image.fromarray(pixels), (_SIDE, _SIDE))


_MARGIN, _PITCH = 20, 120  # pixels: round the sheet, from image to image
_WIDTH = 2 * _MARGIN + _EXAMPLES * _PITCH
_INK, _MUTED, _BOX = "#1b1f25", "#5a626e", "#e6e9ed"


def png(sheet: Sheet) -> bytes:
    """The sheet as one tall image."""
    strips = [_text(sheet.title, 13, _MUTED, above=_MARGIN)]
    for attribute, lines in sheet.lines.items():
        strips += [_text(attribute, 22, _INK, above=24), *map(_strip, lines)]
        if sheet.left_out[attribute]:
            strips.append(_text(f"and {sheet.left_out[attribute]} more classes: a sheet in HTML has all", 13, _MUTED))
    page = Image.new("RGB", (_WIDTH, sum(strip.height for strip in strips) + _MARGIN), "white")
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _text(text: str, size: int, ink: str, above: int = 10) -> Image.Image:
    """A line of text as wide as the page."""
    strip = Image.new("RGB", (_WIDTH, above + size * 3 // 2), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((_MARGIN, above), _shortened(draw, text, _WIDTH - 2 * _MARGIN, size), ink, _font(size))
    return strip


def _strip(line: Line) -> Image.Image:
    """A class: its name above its images, each above its id."""
    label = _text(f"{line.label}  ·  {line.rows:,} rows", 15, _INK)
    strip = Image.new("RGB", (_WIDTH, label.height + (_SIDE + 20 if line.cells else 0)), "white")
    strip.paste(label, (0, 0))
    draw = ImageDraw.Draw(strip)
    for number, cell in enumerate(line.cells):
        left, top = _MARGIN + number * _PITCH, label.height
        if cell.picture is None:
            draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), _BOX)
            middle = (left + _SIDE // 2, top + _SIDE // 2)
            draw.text(middle, "can't be\ndecoded", _MUTED, _font(12), anchor="mm", align="center")
        else:
            strip.paste(cell.picture, (left, top + _SIDE - cell.picture.height))
        draw.text((left, top + _SIDE + 3), _shortened(draw, cell.id, _PITCH - 8, 10), _MUTED, _font(10))
    return strip


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """The end of a text too wide, which is where ids differ."""
    text = " ".join(text.split())  # Pillow can't measure several lines
    start = next(n for n in range(len(text) + 1) if draw.textlength("…" * (n > 0) + text[n:], _font(size)) <= width)
    return "…" * (start > 0) + text[start:]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font: Pillow's has no letters beyond ASCII."""
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def html(sheet: Sheet) -> bytes:
    """The sheet as a page that refers to nothing outside itself."""
    return Environment(autoescape=True, trim_blocks=True).from_string(_PAGE).render(sheet=sheet).encode()


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{{ sheet.title }}</title>
<style>
:root { color-scheme: light dark; --page: #ffffff; --box: #e6e9ed; --ink: #1b1f25; --muted: #5a626e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14171c; --box: #2a2f38; --ink: #e8eaee; --muted: #a7afbb; } }
* { box-sizing: border-box; }
body { max-width: 58rem; margin: 0 auto; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1rem; font-weight: 400; color: var(--muted); margin: 0; }
h2 { font-size: 1.5rem; margin: 2rem 0 0; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
h3 span { font-weight: 400; color: var(--muted); }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); gap: .75rem; margin: 0; padding: 0; }
li { list-style: none; font-size: .75rem; line-height: 1.3; color: var(--muted); }
img, .none { display: block; width: 100%; aspect-ratio: 1; margin-bottom: .2rem; }
img { object-fit: contain; object-position: left bottom; }
.none { display: grid; place-items: center; text-align: center; background: var(--box); }
</style>
</head>
<body>
<h1>{{ sheet.title }}</h1>
{% for attribute, lines in sheet.lines.items() %}
<h2>{{ attribute }}</h2>
{% for line in lines %}
<h3>{{ line.label }} <span>· {{ "{:,}".format(line.rows) }} rows</span></h3>
<ul>
{% for cell in line.cells %}
{% set uri = cell.uri %}
<li>{% if uri %}<img src="{{ uri }}" alt="{{ line.label }}">{% else %}<div class="none">can't be decoded</div>
{% endif %}{{ cell.id }}</li>
{% endfor %}
</ul>
{% endfor %}
{% endfor %}
</body>
</html>
"""
