"""What the URI of an object, and the URL of a store, have to look like."""

import re
from urllib.parse import SplitResult, urlsplit

from raymds.errors import UsageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AZURE = {"abfs", "abfss", "az", "azure", "adl", "wasb", "wasbs"}
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


def is_note(path: str) -> bool:
    """Whether a path within a folder is no file of a person's: macOS, editors, notebooks leave such beside theirs."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def check_scheme(uri: str) -> None:
    """UsageError where the store of a URI is none that can be read, with what to write where it is only named so."""
    scheme, _, rest = uri.partition("://")
    known = scheme.strip().casefold()
    same = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}.get(known, known)
    if same in {"s3", "gs", "file"}:
        if same != scheme:
            raise UsageError(f"{uri}: write it as {same}://{rest}")
        return
    more = "; what lies on a web server has to be downloaded first" if known.startswith("http") else ""
    more = "; mount Azure's storage, or copy what lies there" if known in _AZURE else more
    shown = f"{scheme}://{'…@' * ('@' in rest)}{rest.rpartition('@')[2]}"  # there may be a key before it
    raise UsageError(
        f"{shown}: not a URI that can be read, such as a path, s3://bucket/prefix or gs://bucket/prefix{more}"
    )


def check_endpoint(name: str, endpoint: str, *, proxy: bool = False) -> str:
    """The endpoint that the key or variable `name` has; UsageError where it is no URL of a server.

    One of a proxy may have a user; more than scheme, host and port of another would not reach pyarrow's requests.
    """
    try:
        parts = urlsplit(endpoint)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not re.search(r"\s", endpoint):
            if proxy or (not (parts.path.strip("/") or parts.query or parts.fragment) and parts.username is None):
                return endpoint
            raise UsageError(f"{name}: has more than scheme, host and port; give {parts.scheme}://{_host(parts)} alone")
    except UsageError:
        raise
    except ValueError:
        pass
    raise UsageError(f"{name}={endpoint}: has to be a URL such as https://s3.example.com:9000")


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def check_region(name: str, region: str) -> str:
    """The region that the key or variable `name` has; UsageError where it can't be one: it is a part of host names."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", region):
        raise UsageError(f"{name}={region!r}: has to be a region such as eu-central-1")
    return region
