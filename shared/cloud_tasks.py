"""The adapter to Cloud Tasks, on google-cloud-tasks: it queues one request to a function of ours.

A task's name is made by the caller, so that the same step cannot be queued twice: Cloud Tasks refuses a name that is
there, or was there a short while ago ("tasks.create", Cloud Tasks reference: ALREADY_EXISTS).
"""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import google.auth
import google.auth.transport.requests
import grpc  # type: ignore[import-untyped]
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from shared.errors import Misconfigured, Unavailable

_TIMEOUT_SECONDS = 10.0
# The longest there is ("HTTP targets", dispatch deadline): a step may take as long as a firing.
_DEADLINE = timedelta(minutes=30)


class CloudTasks:
    """One queue. `emulator` is the address (host:port) of a stand-in, which is spoken to without credentials."""

    def __init__(self, queue: str, emulator: str | None = None) -> None:
        """Remember what is used; nothing connects before the first call. Raises Misconfigured without credentials."""
        self._queue = queue
        self._credentials: Any = None
        if emulator is not None:
            channel = grpc.insecure_channel(emulator)
            self._client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            return
        try:
            self._credentials, _ = google.auth.default()
            self._client = tasks_v2.CloudTasksClient(credentials=self._credentials)
        except auth.GoogleAuthError as error:
            raise Misconfigured(
                "CONTINUATION_QUEUE",
                "There are no Google credentials here, which Cloud Tasks needs. On Google Cloud the function's service "
                "account is used; elsewhere take CONTINUATION_QUEUE away.",
            ) from error

    def queue(self, name: str, url: str, body: Mapping[str, object]) -> None:
        """Queue a POST of this JSON to the function at `url`; a task of this name that is there already is the same.

        Raises Misconfigured where the queue is not there or may not be used, and Unavailable.
        """
        request: dict[str, Any] = {
            "http_method": tasks_v2.HttpMethod.POST,
            "url": url,
            "headers": {"Content-Type": "application/json"},
            "body": json.dumps(body).encode(),
        }
        account = self._account()
        if account is not None:
            request["oidc_token"] = {"service_account_email": account, "audience": url}
        task = tasks_v2.Task(
            {"name": f"{self._queue}/tasks/{name}", "http_request": request, "dispatch_deadline": _DEADLINE}
        )
        try:
            self._client.create_task(parent=self._queue, task=task, retry=None, timeout=_TIMEOUT_SECONDS)
        except api.AlreadyExists:
            return
        except (api.Forbidden, api.NotFound, api.Unauthorized, api.BadRequest) as error:
            raise Misconfigured(
                "CONTINUATION_QUEUE",
                f"Cloud Tasks refuses a task in {self._queue}: {error.message.rstrip('.')}. Check that the queue is "
                "there and that this function's account has roles/cloudtasks.enqueuer on it and may act as itself.",
            ) from error
        except (api.GoogleAPICallError, api.RetryError, auth.GoogleAuthError) as error:
            raise Unavailable(
                "cloud_tasks", f"Cloud Tasks does not take a task now ({type(error).__name__})."
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.transport.close()  # type: ignore[no-untyped-call]  # Google's

    def _account(self) -> str | None:
        """The account of this function, which its next step is called with; None on a stand-in."""
        if self._credentials is None:
            return None
        try:
            # On Cloud Run the account is called "default" until it was asked for.
            self._credentials.refresh(google.auth.transport.requests.Request())
        except auth.GoogleAuthError as error:
            raise Unavailable("cloud_tasks", "Google's login does not serve now.") from error
        account: str | None = getattr(self._credentials, "service_account_email", None)
        return account
