"""What an object store's errors mean. pyarrow raises plain OSErrors: they are told apart by what they say."""

_TRANSIENT = (
    *("Status(UNAVAILABLE", "Status(DEADLINE_EXCEEDED", "Status(INTERNAL", "Status(RESOURCE_EXHAUSTED"),  # of gs://
    *("NETWORK_CONNECTION", "curlCode", "REQUEST_TIMEOUT", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE"),
    *("THROTTLING", "HTTP status 500", "HTTP status 502", "HTTP status 503", "HTTP status 504", "Connection reset"),
)


EXPIRED = "the session token has expired; renew it (aws sso login, or the profile's file)"
SKEWED = "this machine's clock differs from the store's by too much; set it"
_PAYS = ", and set storage.requester_pays=true where its requester pays"
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "REQUEST_EXPIRED")


def reason(error: OSError) -> str:
    """What an error of a file system says, and for an object store what to check."""
    text = error.strerror or str(error)
    if expired(error):
        return EXPIRED
    for mark, meaning in (
        ("NO_SUCH_BUCKET", "no such bucket; check its name and storage.endpoint"),
        ("INVALID_ACCESS_KEY_ID", "the access key is not known there; check AWS_ACCESS_KEY_ID and storage.profile"),
        ("SIGNATURE_DOES_NOT_MATCH", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY and storage.profile"),
        ("TIME_TOO_SKEWED", SKEWED),
        ("ACCESS_DENIED", "no permission; check the credentials and the bucket's policy" + _PAYS),
        ("OAuth2", "no credentials; run gcloud auth application-default login, or set storage.anonymous=true"),
        ("Status(PERMISSION_DENIED", "no permission; check the credentials and the policy of the bucket"),
        ("Status(UNAUTHENTICATED", "no permission; check the credentials and the policy of the bucket"),
        ("Status(UNAVAILABLE", "the store can't be reached; check the network"),
        ("curlCode: 28", "the store does not answer; check storage.endpoint and the network"),
        ("NETWORK_CONNECTION", "the store can't be reached; check storage.endpoint and the network"),
    ):
        if mark in text:
            return f"{meaning} ({mark.removeprefix('Status(')})"
    return text


def expired(error: OSError) -> bool:
    """Whether credentials that were good are so no more; those of a profile's file may be renewed at any time."""
    return any(mark in str(error) for mark in _EXPIRED)


def unexplained(error: OSError) -> bool:
    """Whether a store refused a request without saying why."""
    return "HTTP status 400" in str(error) and "No response body" in str(error)


def transient(error: OSError) -> bool:
    """Whether the same request may succeed a while later."""
    return any(mark in str(error) for mark in _TRANSIENT) and not isinstance(error, FileNotFoundError)
