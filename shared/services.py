"""Where everything is wired together: settings and clients, made once in a process and only when they are needed."""

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TextIO

from shared.clock import Clock
from shared.logline import Log, Redactor
from shared.postgres import Database
from shared.settings import Settings, parse_settings

if TYPE_CHECKING:
    from shared.redis_store import RedisStore


class Services:
    """The settings of one environment and the clients they call for.

    `environ` is read when settings are first asked for, not before. Accessing `settings` or a client raises
    Misconfigured when the environment is wrong.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        clock: Clock,
        stream: TextIO,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._environ = environ
        self.clock = clock
        self.redact = Redactor()
        self.log = Log(stream, clock, self.redact)
        self.wait = wait or threading.Event().wait

    @cached_property
    def settings(self) -> Settings:
        """The checked settings."""
        settings = parse_settings(self._environ)
        self.redact.add(settings.secrets)
        return settings

    @cached_property
    def database(self) -> Database:
        """The database; connects when it is first used."""
        return Database(self.settings.database)

    @cached_property
    def redis(self) -> "RedisStore | None":
        """Redis, or None where the installation has none."""
        if self.settings.redis is None:
            return None
        # Imported here: an installation without Redis does not pay for its client.
        from shared.redis_store import RedisStore

        return RedisStore(self.settings.redis)

    def close(self) -> None:
        """Close the connections of the clients that were made."""
        if "database" in self.__dict__:
            self.database.dispose()
        if self.__dict__.get("redis") is not None:
            self.__dict__["redis"].close()
