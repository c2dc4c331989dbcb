"""Negative flips of METHOD (6) as pictures for the report."""

import base64
import io

from PIL import Image

from raymds.data.decode import decode
from raymds.data.split import Split
from raymds.tasks import Tasks
from raymds.train.evaluate import Evaluation

_PER_TASK = 8
_THUMBNAIL = 160  # pixels, at most


def pictures(test: Split, before: Evaluation, after: Evaluation, tasks: Tasks) -> list[dict[str, str]]:
    """The first few negative flips of each protected task, JSON-ready."""
    flips = []
    for task in tasks.protected:
        rows = before.rows(task)[before.correct(task) & ~after.correct(task)]
        classes = tasks.classes[task.attribute]
        for row in rows[:_PER_TASK]:
            example = test.example(int(row))
            image = Image.fromarray(decode(example.image, _THUMBNAIL))
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=85)
            flips.append(
                {
                    "task": task.name,
                    "id": example.id,
                    "truth": classes[task.label],
                    "old": classes[before.predicted[task.attribute][row]],
                    "new": classes[after.predicted[task.attribute][row]],
                    "image": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
                }
            )
    return flips
