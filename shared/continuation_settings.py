"""What the environment says about going on in a further step: the queue, and where this function can be called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.environ import text
from shared.errors import Misconfigured

_QUEUE = re.compile(r"projects/[a-z0-9.:-]+/locations/[a-z0-9-]+/queues/[A-Za-z0-9-]{1,100}")
_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?")


@dataclass(frozen=True)
class ContinuationSettings:
    """The Cloud Tasks queue; the function's service on Cloud Run, None elsewhere; a stand-in's address (host:port)."""

    queue: str
    service: str | None
    emulator: str | None

    def own_url(self, host: str) -> str:
        """The address at which this function is called, from a request's Host. Raises Misconfigured for another's.

        This function's token is sent to no other address: on Cloud Run to its own service's alone ("Service URLs",
        Cloud Run documentation), elsewhere to this machine, where a stand-in is used. A service of the same name in
        another project has such an address too. Cloud Run finds the service by the Host, so no request with another's
        comes here; and the token's audience is that address, so it opens nothing else.
        """
        if self.service is not None:
            own = re.compile(rf"{re.escape(self.service)}-([a-z0-9]+-[a-z]+\.a|[0-9]+\.[a-z0-9-]+)\.run\.app")
            if own.fullmatch(host):
                return f"https://{host}/"
        elif self.emulator is not None and _THIS_MACHINE.fullmatch(host):
            return f"http://{host}/"
        raise Misconfigured(
            "CONTINUATION_QUEUE",
            "The request came to an address that is none of this function's own. Call it at its run.app address, as "
            "Cloud Scheduler does.",
        )


def continuation_settings(environ: Mapping[str, str]) -> ContinuationSettings | None:
    """Read the settings; None where there is no queue. Raises Misconfigured for a malformed one."""
    queue = text(environ, "CONTINUATION_QUEUE")
    if queue is None:
        return None
    if not _QUEUE.fullmatch(queue):
        raise Misconfigured(
            "CONTINUATION_QUEUE",
            "CONTINUATION_QUEUE must be a queue's full name: projects/PROJECT/locations/REGION/queues/NAME.",
        )
    return ContinuationSettings(queue, text(environ, "K_SERVICE"), text(environ, "CLOUD_TASKS_EMULATOR_HOST"))
