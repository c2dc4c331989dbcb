"""What rendering a scene costs on one core.

    python benchmarks/scenes.py [--size 64] [--json FILE]

Batches of long-tailed scenes take turns with decoding a JPEG of the same size, which is the reference:
the figures are images per second of CPU time, and the ratio of the two, each the median over the batches.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import simplejpeg

from raymds.data.decode import decode
from raymds.scenes.render import render

BATCH, BATCHES = 100, 11


def measure(size: int) -> dict[str, float]:
    """Medians over the batches."""
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(render(0, 0, size).pixels), quality=95)
    rendering, ratio = [], []
    for batch in range(BATCHES):
        begin = time.process_time()
        for index in range(batch * BATCH, (batch + 1) * BATCH):
            render(0, index, size)
        middle = time.process_time()
        for _ in range(BATCH):
            decode(encoded)
        end = time.process_time()
        rendering.append(BATCH / (middle - begin))
        ratio.append((middle - begin) / (end - middle))
    return {"size": size, "images_per_second": statistics.median(rendering), "per_decoded": statistics.median(ratio)}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description="What rendering a scene costs on one core.")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    figures = measure(options.size)
    print(
        f"{options.size} px: {figures['images_per_second']:.0f} images/s on one core, "
        f"{figures['per_decoded']:.0f} times the cost of decoding one"
    )
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
