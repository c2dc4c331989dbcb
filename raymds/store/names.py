"""What the URI of an object, and the URL of a store, have to look like."""

import re
from urllib.parse import urlsplit

from raymds.errors import UsageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OPTIONS = re.compile(
    r"\?.*(access_key|secret_key|session_token|endpoint_override|region|scheme|anonymous)="
)  # pyarrow


def parse(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket, and bucket/key, which keeps every letter that a key may have; UsageError for what is no URI."""
    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    if "@" in bucket or _OPTIONS.search(key):
        shown = f"{scheme}://…{bucket.rpartition('@')[2]}/{key.partition('?')[0]}"
        raise UsageError(
            f"{shown}: a URI holds bucket and key alone; credentials come from the AWS environment, endpoint and "
            "region from storage.endpoint and storage.region"
        )
    if not bucket:
        raise UsageError(f"{uri}: names no bucket; give {scheme}://bucket/prefix")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{uri}: {bucket!r} can't name a bucket, which has letters, digits, dots and hyphens alone")
    if "//" in f"/{key}":
        raise UsageError(f"{uri}: has two slashes in a row in its key, where no part of a name stands; leave one out")
    return scheme, bucket, path


def check_endpoint(name: str, endpoint: str) -> str:
    """The endpoint that the key or variable `name` has; UsageError where it is no URL of a server."""
    try:
        parts = urlsplit(endpoint)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return endpoint
    except ValueError:
        pass
    raise UsageError(f"{name}={endpoint}: has to be a URL such as https://s3.example.com:9000")
