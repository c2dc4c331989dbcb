"""How an S3 service is reached: what the AWS environment says, for pyarrow and botocore alike.

botocore reads it: variables, `~/.aws` with profiles of keys, `role_arn`, SSO and `credential_process`, web identity,
containers, instances. pyarrow knows less of it, so it is given what botocore found: keys, endpoint, region, proxy,
certificates. Keys stay in memory, and are asked for anew with every request, because those of a role or of SSO expire.
"""

import functools
import os
import re
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs as pafs

from raymds.errors import UsageError
from raymds.store import errors as store_errors
from raymds.store import names

# Newer AWS clients add checksums that Ceph, rclone and Swift refuse or get wrong. Read when a client is made.
os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")

_MAKING = threading.Lock()  # botocore makes one client at a time
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CONNECT = 3.0  # seconds, at most, for a connection

Keys = tuple[str, str, str | None]  # access key, secret key, session token


@dataclass(unsafe_hash=True)
class StorageConfig:
    """How an object store is reached; credentials come from the AWS environment."""

    endpoint: str | None = None  # URL of an S3 service; null: AWS_ENDPOINT_URL, the profile's, or Amazon's
    region: str | None = None  # null: AWS_REGION, the profile's, or where the bucket is
    profile: str | None = None  # of ~/.aws, before keys in variables; null: AWS_PROFILE
    anonymous: bool = False  # requests without a signature, for public buckets
    requester_pays: bool = False  # buckets are read at your expense, where theirs is that their requester pays
    timeout: float = 10.0  # seconds without an answer until a request is given up
    retries: int = 3  # tries of a request before the store counts as gone
    patience: float = 300.0  # seconds that a run waits for a store that is gone


def pyarrow(bucket: str, config: StorageConfig) -> Any:
    """A pyarrow client for a bucket, with the keys of this moment."""
    return _pyarrow(bucket, config, None if config.anonymous else _keys(config))


def boto(config: StorageConfig) -> Any:
    """A botocore client, for what pyarrow lacks; threads may share it."""
    with _MAKING:
        return _boto(config)


@functools.lru_cache(maxsize=1)
def _boto(config: StorageConfig) -> Any:
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    signing = {"signature_version": UNSIGNED} if config.anonymous else {}
    options = Config(connect_timeout=2.0, read_timeout=5.0, retries={"total_max_attempts": 2}, **signing)
    where = {"endpoint_url": endpoint(config), "region_name": _region(config) or "us-east-1"}
    client = _session(config.profile).create_client("s3", verify=_certificates(config), config=options, **where)
    if config.requester_pays:
        client.meta.events.register("before-call.s3", _pay)
    return client


def _pay(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def request(config: StorageConfig, name: str, **arguments: Any) -> Any:
    """The answer to a request by botocore, its body read; errors become those of a file system, as pyarrow has them."""
    # Only stores need botocore.
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # noqa: PLC0415

    try:
        answer = getattr(boto(config), name)(**arguments)
        return answer | {"Body": answer["Body"].read()} if "Body" in answer else answer
    except NoCredentialsError as error:
        raise OSError(str(error)) from None
    except BotoCoreError as error:
        raise OSError(f"NETWORK_CONNECTION: {error}") from None
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
            raise FileExistsError(str(error)) from None
        if code in {"NotImplemented", "501"}:
            raise NotImplementedError(str(error)) from None
        if code in {"NoSuchKey", "404"}:
            raise FileNotFoundError(str(error)) from None
        # The answer to a HEAD request has no body, which would say why.
        bare = {"403": "ACCESS_DENIED", "400": "No response body"}
        mark = bare.get(code) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()
        raise OSError(f"{mark}: HTTP status {status}: {error}") from None


def forget() -> None:
    """Read the AWS environment anew, when something is asked for next."""
    for cached in (_session, _pyarrow, _boto):
        cached.cache_clear()


def endpoint(config: StorageConfig) -> str | None:
    """URL of the service, None for Amazon's; UsageError where it is none."""
    if config.endpoint:
        return config.endpoint
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return names.check_endpoint(name, os.environ[name])
    given = _session(config.profile).get_scoped_config().get("endpoint_url")
    return names.check_endpoint("endpoint_url of the AWS profile", given) if given else None


@functools.lru_cache(maxsize=4)
def _session(profile: str | None) -> Any:
    import botocore.session  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    session = botocore.session.Session(profile=profile or None)
    try:
        session.get_scoped_config()
    except BotoCoreError as error:
        raise UsageError(f"the AWS configuration can't be used: {error}; check storage.profile and ~/.aws") from None
    return session


def _keys(config: StorageConfig) -> Keys | None:
    """Keys that are valid now, None where there are none; UsageError where a role, SSO or a process gives none."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        found = _session(config.profile).get_credentials()
        keys = found.get_frozen_credentials() if found else None
    except UsageError:  # of the profile, which is a ValueError too
        raise
    except (BotoCoreError, ClientError, OSError, ValueError) as error:  # the last two of a credential_process
        raise UsageError(
            f"no credentials: {error}; check storage.profile and ~/.aws, or sign in again (aws sso login)"
        ) from None
    return (keys.access_key, keys.secret_key, keys.token) if keys else None


def _region(config: StorageConfig) -> str | None:
    given = ("storage.region", config.region), *((name, os.environ.get(name)) for name in _REGIONS)
    for name, region in (*given, ("region of the AWS profile", _session(config.profile).get_config_variable("region"))):
        if region:
            return names.check_region(name, region)
    return None


def _certificates(config: StorageConfig) -> str | None:
    """File of the certificates that are trusted (AWS_CA_BUNDLE, or the profile's ca_bundle); None: the system's."""
    given: str | None = _session(config.profile).get_config_variable("ca_bundle")
    if given and not Path(given).is_file():
        raise UsageError(f"AWS_CA_BUNDLE={given}: no such file of certificates")
    return given


def _proxy(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for a URL."""
    parts = urlsplit(url)
    given = urllib.request.getproxies().get(parts.scheme)
    if not given or urllib.request.proxy_bypass(parts.netloc):
        return None
    return names.check_endpoint(
        f"{parts.scheme.upper()}_PROXY", given if "://" in given else f"http://{given}", proxy=True
    )


@functools.lru_cache(maxsize=32)
def _pyarrow(bucket: str, config: StorageConfig, keys: Keys | None) -> Any:
    service, options = endpoint(config), {"region": _region(config)}
    if service:
        parts = urlsplit(service)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        options["region"] = options["region"] or "us-east-1"
    elif options["region"] is None:
        options["region"] = _resolved(bucket)
    if keys:
        options |= dict(zip(("access_key", "secret_key", "session_token"), keys, strict=True))
    style = _session(config.profile).get_scoped_config().get("s3")
    return pafs.S3FileSystem(
        anonymous=config.anonymous,
        connect_timeout=min(_CONNECT, config.timeout),
        request_timeout=config.timeout,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=config.retries),
        allow_delayed_open=True,  # one request for a small object
        proxy_options=_proxy(service or "https://s3.amazonaws.com"),
        tls_ca_file_path=_certificates(config),
        force_virtual_addressing=isinstance(style, dict) and style.get("addressing_style") == "virtual",
        **options,
    )


def _resolved(bucket: str) -> str:
    """The region that Amazon says a bucket is in."""
    try:
        region: str = pafs.resolve_s3_region(bucket)
    except OSError as error:
        raise UsageError(
            f"s3://{bucket}: its region can't be found out: {store_errors.reason(error)}; give storage.region, or "
            "storage.endpoint of another store than Amazon's"
        ) from None
    return region
