"""The S3 server of cluster/local_s3.py on cores of its own, as it would be another machine."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))
import local_s3


@contextlib.contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """Processes started meanwhile run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def serve(directory: str, cores: Sequence[int]) -> Iterator[dict[str, str]]:
    """An S3 server on these cores; gives the variables by which clients find it."""
    with contextlib.ExitStack() as stack:
        with on(cores):
            variables = stack.enter_context(local_s3.serve(Path(directory)))
        yield {
            **variables,
            "AWS_DEFAULT_REGION": variables["AWS_REGION"],
            "S3_ENDPOINT_URL": variables["AWS_ENDPOINT_URL"],  # of mosaicml-streaming
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
