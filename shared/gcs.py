"""The adapter to Google Cloud Storage, on google-cloud-storage.

It makes one attempt at each call about a single object and says what came of it: the outbox knows when to try again, so
that no thread sleeps in a retry while the run's deadline passes. The bucket and its listing are asked for some seconds.
Facts about errors: "HTTP status and error codes for JSON", Cloud Storage documentation.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import google.cloud.storage as storage
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from google.api_core.page_iterator import HTTPIterator
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from shared.bucket_calls import Answer, BucketState, Deletion, StoredObject
from shared.cleanup_settings import CleanupSettings
from shared.errors import MaintenanceError, Misconfigured, Unavailable

# To connect, and between two bytes of an answer.
_TIMEOUT_SECONDS = (5.0, 10.0)
# A listing has thousands of pages: one that fails is asked for again, for a few seconds.
_RETRY = DEFAULT_RETRY.with_delay(initial=0.2, maximum=2.0).with_timeout(8.0)
_LIST = "storage.objects.list"
# No object can be called so ("Object names", Cloud Storage documentation), and at the end of an address they would mean
# the bucket, or all of its objects.
_NO_NAMES = frozenset({"", ".", ".."})
_NO_BUCKET = "The specified bucket does not exist."
# Reasons of the JSON API for a missing right; others, such as a closed billing account, say what is wrong themselves.
_NO_RIGHT = frozenset({"forbidden", "insufficientPermissions", "authError", "required", "unknown"})
_LOOK = "Look at the bucket and its project in the Google Cloud console."
_TRANSIENT = (TooManyRequests, ServerError, Conflict, requests.RequestException)
# What the client trips over in an answer that is none of Google's.
_NONSENSE = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
# What keeps an object for the time being: reasons of the JSON API, and how its messages begin.
_KEPT_REASONS = frozenset({"retentionPolicyNotMet", "objectUnderActiveHold"})
# The name of the object stands in these messages, so that only their beginning tells them from others.
_KEPT_MESSAGE = re.compile(
    r"Object '.*' is (under active (Temporary|Event-Based) hold|subject to bucket's retention)", re.S
)


class GcsBucket:
    """The bucket that the settings name. `connections` is how many calls are made at once at most."""

    def __init__(self, settings: CleanupSettings, connections: int) -> None:
        """Remember the settings; nothing connects before the first call. Raises Misconfigured without credentials."""
        if settings.bucket is None:
            raise Misconfigured("GCS_BUCKET_NAME", "GCS_BUCKET_NAME is not set.")
        self.name = settings.bucket
        try:
            if settings.emulator_url is None:
                self._client = storage.Client()
            else:
                self._client = storage.Client(
                    project="emulated",
                    credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # the library has no types
                    client_options=ClientOptions(api_endpoint=settings.emulator_url),
                )
        except (GoogleAuthError, OSError) as error:
            raise _auth_error(error) from error
        # Its own pool holds ten connections, and drops those of further threads after each call.
        adapter = HTTPAdapter(pool_connections=2, pool_maxsize=connections)
        self._client._http.mount("https://", adapter)
        self._client._http.mount("http://", adapter)
        # For spans that nobody records it would ask for the bucket, in threads that repeat for two minutes.
        self._client._bucket_metadata_cache = None
        self._bucket = self._client.bucket(self.name)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def state(self) -> BucketState:
        """Look at the bucket itself: what of a deleted object stays. Raises Unavailable or Misconfigured."""
        with self._translated("storage.buckets.get"):
            bucket = self._client.get_bucket(self.name, timeout=_TIMEOUT_SECONDS, retry=_RETRY)
            seconds = int(bucket.soft_delete_policy.retention_duration_seconds or 0)
            return BucketState(timedelta(seconds=seconds), bool(bucket.versioning_enabled))

    def pages(self, start: str | None) -> Iterator[Sequence[StoredObject]]:
        """All objects from a name on, page by page. Raises Unavailable or Misconfigured."""
        pages = self._listing(start_offset=start, page_size=1000, retry=_RETRY).pages
        while True:
            with self._translated(_LIST):
                page = next(pages, None)
                found = None if page is None else [_stored(blob) for blob in page]
            if found is None:
                return
            yield found

    def find(self, name: str) -> StoredObject | Deletion:
        """An object as it is now, or why there is none to tell of. Raises Misconfigured.

        Asked of the listing, in which the name itself comes first of all that begin with it: a login that may read an
        object may read the users' documents, and these functions need not.
        """
        found: list[StoredObject] = []
        told = self._attempt(
            lambda: found.extend(_stored(blob) for blob in self._listing(prefix=name, max_results=1, retry=None)), _LIST
        )
        if told is not None:
            return told
        return found[0] if found and found[0].name == name else Deletion(Answer.ABSENT)

    def _listing(self, **asked: Any) -> HTTPIterator:
        fields = "items(name,generation,timeCreated,size),nextPageToken"
        listing: HTTPIterator = self._client.list_blobs(self._bucket, fields=fields, timeout=_TIMEOUT_SECONDS, **asked)
        return listing

    def delete(self, name: str, generation: int | None) -> Deletion:
        """Delete an object, and with a generation only that. Raises Misconfigured."""
        if name in _NO_NAMES:
            return Deletion(Answer.ABSENT)
        told = self._attempt(
            lambda: self._bucket.delete_blob(
                name, if_generation_match=generation, timeout=_TIMEOUT_SECONDS, retry=None
            ),
            "storage.objects.delete",
        )
        return told or Deletion(Answer.DELETED)

    def _attempt(self, call: Callable[[], object], permission: str) -> Deletion | None:
        """Make a call about one object; None where it went through."""
        try:
            call()
        except NotFound as error:
            if permission == _LIST or _first(error, "message") == _NO_BUCKET:
                raise self._missing() from error
            return Deletion(Answer.ABSENT)
        except PreconditionFailed:
            return Deletion(Answer.CHANGED)
        except Forbidden as error:
            if _is_kept(error):
                return Deletion(Answer.HELD, _said(error))
            raise self._refused(permission, error) from error
        except Unauthorized as error:
            raise self._refused(permission, error) from error
        except _TRANSIENT as error:
            return Deletion(Answer.BUSY, _said(error), too_fast=isinstance(error, TooManyRequests))
        except GoogleAuthError as error:
            told = _auth_error(error)
            if isinstance(told, Unavailable):
                return Deletion(Answer.BUSY, _said(error))
            raise told from error
        except _NONSENSE as error:
            # A name that the client itself does not take, or an answer that is none of the bucket's.
            return Deletion(Answer.BUSY if permission == _LIST else Answer.REFUSED, _said(error))
        except GoogleAPICallError as error:
            timed_out = error.code == HTTPStatus.REQUEST_TIMEOUT
            return Deletion(Answer.BUSY if timed_out else Answer.REFUSED, _said(error))
        return None

    @contextmanager
    def _translated(self, permission: str) -> Iterator[None]:
        """Turn errors of a call about the whole bucket into ours."""
        try:
            yield
        except NotFound as error:
            raise self._missing() from error
        except (Forbidden, Unauthorized) as error:
            raise self._refused(permission, error) from error
        except BadRequest as error:
            raise Misconfigured(
                "the bucket", f"The bucket {self.name} does not take the request ({_reason(error)}). {_LOOK}"
            ) from error
        except GoogleAuthError as error:
            raise _auth_error(error) from error
        except (GoogleAPICallError, RetryError, requests.RequestException, *_NONSENSE) as error:
            raise Unavailable(
                "gcs", f"Google Cloud Storage does not answer for the bucket {self.name}: {_said(error)}. Try again."
            ) from error

    def _missing(self) -> Misconfigured:
        return Misconfigured(
            "GCS_BUCKET_NAME", f"There is no bucket {self.name}. Check GCS_BUCKET_NAME, and that it still exists."
        )

    def _refused(self, permission: str, error: Forbidden | Unauthorized) -> Misconfigured:
        reason = _reason(error)
        if reason not in _NO_RIGHT:
            return Misconfigured("the bucket", f"The bucket {self.name} refuses all requests ({reason}). {_LOOK}")
        return Misconfigured(
            "bucket rights",
            f"The service account may not use {permission} on the bucket {self.name}. Grant it a role that has "
            "storage.objects.list, storage.objects.delete and storage.buckets.get there. It need not read objects.",
        )


def _stored(blob: storage.Blob) -> StoredObject:
    """An object as listed. Raises ValueError for one whose content or age is not told: it must not be taken for old."""
    if blob.generation is None or blob.time_created is None:
        raise ValueError("an object without generation or time")
    return StoredObject(blob.name, blob.generation, blob.time_created, blob.size or 0)


def _is_kept(error: Forbidden) -> bool:
    told = [each for each in error.errors if isinstance(each, dict)]
    return any(
        each.get("reason") in _KEPT_REASONS or _KEPT_MESSAGE.match(str(each.get("message"))) is not None
        for each in told
    )


def _first(error: GoogleAPICallError, key: str) -> str | None:
    """What the first of the errors that the JSON API lists says under a key."""
    first = error.errors[0] if error.errors else None
    return str(first[key]) if isinstance(first, dict) and key in first else None


def _reason(error: GoogleAPICallError) -> str:
    """The JSON API's reason for an error; one word of Google's."""
    reason = _first(error, "reason") or ""
    return reason if reason.isalnum() else "unknown"


def _said(error: Exception) -> str:
    """What an error is, in words that name no object: names are the user's content."""
    if isinstance(error, GoogleAPICallError):
        return f"{int(error.code)} {type(error).__name__}" if error.code else type(error).__name__
    return type(error).__name__


def _auth_error(error: Exception) -> MaintenanceError:
    # On Google Cloud, a hiccup of the metadata server comes wrapped.
    causes = (error, error.__cause__, *error.args)
    if any(isinstance(cause, TransportError) for cause in causes) or getattr(error, "retryable", False):
        return Unavailable("gcs", "Google's login service does not answer. Try again.")
    return Misconfigured(
        "Google credentials",
        "There are no usable Google credentials here. On Google Cloud the function's service account is used; "
        "elsewhere run `gcloud auth application-default login`, or set STORAGE_EMULATOR_HOST for a stand-in.",
    )
