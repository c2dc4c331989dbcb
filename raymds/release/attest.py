"""Whether a signed certificate is of this model and these data, offline."""

import json
from collections.abc import Sequence
from typing import Any

from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ledger.signature import CERTIFICATE, PublicKey, signed_name, subject_digest, unseal
from raymds.store import uri as storage


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
        raise UsageError(f"{signed}: no such file: {certificate} is not signed; set ledger.key when it is made")
    try:
        envelope = unseal(storage.read(signed), signed)
    except UsageError as error:
        return {}, [str(error)]
    fault, found = envelope.wrong(CERTIFICATE, keys), envelope.predicate
    differs = [f"{signed}: {fault}"] if fault else []
    if signed != certificate and content != (json.dumps(found, indent=1) + "\n").encode():
        differs.append(f"{certificate}: was altered: it does not say what was signed")
    if model != subject_digest(envelope):
        differs.append(f"{weights}: is another model: its SHA-256 is {model}, certified was {subject_digest(envelope)}")
    if data is not None:
        differs += _data(data, found)
    return found, differs


def _data(uri: str, certificate: dict[str, Any]) -> list[str]:
    try:
        data = DataSet.open(uri)
        data.check()
    except UsageError as error:
        return [str(error)]
    digests = certificate.get("digests")
    stated = digests.get("data") if isinstance(digests, dict) else None
    if data.digest != stated:
        return [f"{uri}: is another data set: its digest is {data.digest}, measured on was {stated}"]
    return []
