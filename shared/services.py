"""Where everything is wired together: settings and clients, made once in a process and only when they are needed."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from shared.clock import Clock, SystemTimer, Timer
from shared.errors import Misconfigured
from shared.logline import Log, Redactor
from shared.postgres import Database
from shared.settings import Settings, parse_settings

if TYPE_CHECKING:
    from shared.cloud_tasks import CloudTasks
    from shared.gcs import GcsBucket
    from shared.redis_store import RedisStore
    from shared.stripe_api import StripeApi

# As many calls at once as anything here makes.
STRIPE_CONNECTIONS = 128
BUCKET_CONNECTIONS = 32


class Services:
    """The settings of one environment and the clients they call for.

    `environ` is read when settings are first asked for, not before. Asking for `settings` or a client raises
    Misconfigured when the environment is wrong. Requests are served by several threads; each thing is made once.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        clock: Clock,
        stream: TextIO,
        timer: Timer | None = None,
    ) -> None:
        self._environ = environ
        self._making = threading.RLock()
        self._settings: Settings | None = None
        self._database: Database | None = None
        self._redis: RedisStore | None = None
        self._stripe: StripeApi | None = None
        self._bucket: GcsBucket | None = None
        self._tasks: CloudTasks | None = None
        self.clock = clock
        self.redact = Redactor()
        self.log = Log(stream, clock, self.redact)
        self.timer = timer or SystemTimer()
        # Set by whoever wants the run to end between two batches, as if its time were up.
        self.stopping = threading.Event()

    @property
    def settings(self) -> Settings:
        """The checked settings."""
        with self._making:
            if self._settings is None:
                settings = parse_settings(self._environ)
                self.redact.add(settings.secrets)
                self._settings = settings
            return self._settings

    @property
    def database(self) -> Database:
        """The database; connects when it is first used."""
        with self._making:
            if self._database is None:
                self._database = Database(self.settings.database)
            return self._database

    @property
    def redis(self) -> "RedisStore | None":
        """Redis, or None where the installation has none."""
        with self._making:
            if self._redis is None and self.settings.redis is not None:
                # Imported here: an installation without Redis does not pay for its client.
                from shared.redis_store import RedisStore

                self._redis = RedisStore(self.settings.redis)
            return self._redis

    @property
    def stripe(self) -> "StripeApi":
        """Stripe; connects with the first call. Only where there is a key."""
        with self._making:
            if self._stripe is None:
                # Imported here: only a job that needs Stripe pays for its SDK.
                from shared.stripe_api import StripeApi

                self._stripe = StripeApi(self.settings.stripe, STRIPE_CONNECTIONS)
            return self._stripe

    @property
    def bucket(self) -> "GcsBucket":
        """The bucket; connects with the first call. Only where GCS_BUCKET_NAME is set."""
        with self._making:
            if self._bucket is None:
                # Imported here: only a job that needs the bucket pays for its client.
                from shared.gcs import GcsBucket

                self._bucket = GcsBucket(self.settings.cleanup, BUCKET_CONNECTIONS)
            return self._bucket

    @property
    def tasks(self) -> "CloudTasks":
        """Cloud Tasks; connects with the first call. Only where CONTINUATION_QUEUE is set."""
        with self._making:
            if self._tasks is None:
                # Imported here: nearly every run completes, and needs no queue.
                from shared.cloud_tasks import CloudTasks

                continuation = self.settings.continuation
                if continuation is None:
                    raise Misconfigured("CONTINUATION_QUEUE", "CONTINUATION_QUEUE is not set.")
                self._tasks = CloudTasks(continuation.queue, continuation.emulator)
            return self._tasks

    def close(self) -> None:
        """Close the connections of the clients that were made."""
        with self._making:
            if self._database is not None:
                self._database.dispose()
            if self._redis is not None:
                self._redis.close()
            if self._stripe is not None:
                self._stripe.close()
            if self._bucket is not None:
                self._bucket.close()
            if self._tasks is not None:
                self._tasks.close()
