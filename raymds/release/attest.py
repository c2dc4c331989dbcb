"""Whether a signed certificate is of this model and these data, offline."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raymds.data.reader import verified
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ledger.signature import CERTIFICATE, Envelope, PublicKey, signed_name, subject_digest, unseal
from raymds.store import uri as storage

_UNSIGNED = "no such file: the certificate is not signed; set ledger.key when it is made"
_ALTERED = "was altered: it does not say what was signed"


def unsigned(certificate: str, content: Mapping[str, Any], keys: Sequence[PublicKey]) -> str | None:
    """Why a certificate of this content is not signed with one of the keys, in words; None where it is."""
    signed = signed_name(certificate)
    if not storage.exists(signed):
        return f"{signed}: {_UNSIGNED}"
    envelope, differs = opened(signed, keys)
    if envelope is not None and _published(envelope.predicate) != _published(content):
        differs.append(_ALTERED)
    return "; ".join(differs) or None


def opened(signed: str, keys: Sequence[PublicKey]) -> tuple[Envelope | None, list[str]]:
    """A certificate's signed statement, None where it is none; and what is wrong with it, in words."""
    try:
        envelope = unseal(storage.read(signed), signed)
    except UsageError as error:
        return None, [str(error)]
    fault = envelope.wrong(CERTIFICATE, keys)
    return envelope, [f"{signed}: {fault}"] if fault else []


def _published(certificate: Mapping[str, Any]) -> bytes:
    return (json.dumps(certificate, indent=1) + "\n").encode()


def verify(
    certificate: str, weights: str, data: str | None, keys: Sequence[PublicKey]
) -> tuple[dict[str, Any], list[str]]:
    """The certificate as it was signed, and what differs, in words; empty where all is as it was signed.

    `certificate` is a certificate.json beside its signed statement, or that statement alone. A data set's files are
    compared with its manifest: on a local disk by their digests, in a bucket by their sizes. UsageError where a file is
    not there.
    """
    content, model = storage.read(certificate), storage.sha256(storage.read(weights))
    signed = certificate if certificate.endswith(".intoto.json") else signed_name(certificate)
    if not storage.exists(signed):
        raise UsageError(f"{signed}: {_UNSIGNED}")
    envelope, differs = opened(signed, keys)
    if envelope is None:
        return {}, differs
    found = envelope.predicate
    if signed != certificate and content != _published(found):
        differs.append(f"{certificate}: {_ALTERED}")
    if model != subject_digest(envelope):
        differs.append(f"{weights}: is another model: its SHA-256 is {model}, certified was {subject_digest(envelope)}")
    if data is not None:
        differs += _data(data, found)
    return found, differs


def _data(uri: str, certificate: dict[str, Any]) -> list[str]:
    try:
        data = DataSet.open(uri)
        data.check()
        for file in data.files:
            if storage.is_local(file.uri):
                verified(file, storage.read(file.uri))
    except UsageError as error:
        return [str(error)]
    digests = certificate.get("digests")
    stated = digests.get("data") if isinstance(digests, dict) else None
    if data.digest != stated:
        return [f"{uri}: is another data set: its digest is {data.digest}, measured on was {stated}"]
    return []
