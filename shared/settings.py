"""Every setting, read once from an injected mapping. Importing this module reads nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shared.cleanup_settings import CleanupSettings, cleanup_settings
from shared.continuation_settings import ContinuationSettings, continuation_settings
from shared.database_url import DatabaseTarget, database_target
from shared.environ import choice, number, optional_number, text
from shared.errors import Misconfigured
from shared.stripe_settings import StripeSettings, stripe_settings

_LOCAL_REDIS = "redis://localhost:6379/0"


@dataclass(frozen=True)
class RedisTarget:
    """Where Redis is, and the CA certificate (PEM text) that its TLS certificate is held against."""

    url: str = field(repr=False)
    ca_cert: str | None = field(default=None, repr=False)

    @property
    def password(self) -> str | None:
        """The password in the URL, if there is one, as written there."""
        return urlsplit(self.url).password

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 6379}"


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked. Durations carry their unit in the name."""

    database: DatabaseTarget
    redis: RedisTarget | None
    free_plan_codes: tuple[str, ...]
    report_only: bool
    max_concurrent_jobs: int
    result_ttl_hours: int
    lock_ttl_seconds: int
    job_timeout_seconds: int | None
    revision: str | None
    stripe: StripeSettings
    cleanup: CleanupSettings
    continuation: ContinuationSettings | None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never leave the process, in any form in which they may turn up in a text."""
        redis = (self.redis.password, self.redis.url) if self.redis else ()
        secrets = (self.database.password, *redis, self.stripe.secret_key)
        return tuple(secret for secret in secrets if secret is not None)


def parse_settings(environ: Mapping[str, str]) -> Settings:
    """Read all settings from `environ`. An empty value counts as not set.

    Raises Misconfigured for the first one that is missing or malformed: which, and what it should look like.
    """
    return Settings(
        database=database_target(environ),
        redis=_redis(environ),
        free_plan_codes=_codes(environ, "FREE_PLAN_CODES", "free"),
        report_only=choice(environ, "MAINTENANCE_MODE", ("enforce", "report")) == "report",
        max_concurrent_jobs=number(environ, "MAX_CONCURRENT_JOBS", 5, 1, 100),
        result_ttl_hours=number(environ, "RESULT_TTL_HOURS", 24, 1, 8760),
        lock_ttl_seconds=number(environ, "LOCK_TTL_SECONDS", 60, 2, 3600),
        job_timeout_seconds=optional_number(environ, "JOB_TIMEOUT_SECONDS", 61, 1710),
        revision=text(environ, "K_REVISION"),
        stripe=stripe_settings(environ),
        cleanup=cleanup_settings(environ),
        continuation=continuation_settings(environ),
    )


def _codes(environ: Mapping[str, str], name: str, default: str) -> tuple[str, ...]:
    codes = [code.strip() for code in (text(environ, name) or default).split(",")]
    if not all(codes):
        raise Misconfigured(name, f"{name} must be a list of plan codes with commas between them, such as: free,trial.")
    return tuple(dict.fromkeys(codes))


def _redis(environ: Mapping[str, str]) -> RedisTarget | None:
    url = text(environ, "REDIS_URL")
    ca_cert = text(environ, "REDIS_CA_CERT")
    if url is None:
        # Cloud Run sets K_SERVICE. There, no REDIS_URL means that the installation has no Redis.
        return None if text(environ, "K_SERVICE") else RedisTarget(_LOCAL_REDIS)
    try:
        parts = urlsplit(url)
        well_formed = (
            parts.scheme in ("redis", "rediss")
            and parts.hostname is not None
            and (parts.port is None or parts.port > 0)
            and re.fullmatch(r"/?|/\d{1,4}", parts.path) is not None
            and not parts.query
        )
    except ValueError:
        well_formed = False
    if not well_formed:
        raise Misconfigured("REDIS_URL", "REDIS_URL must look like redis://:password@host:6379/0 or rediss://….")
    if ca_cert is not None and "-----BEGIN CERTIFICATE-----" not in ca_cert:
        raise Misconfigured("REDIS_CA_CERT", "REDIS_CA_CERT must hold the CA certificate itself, as PEM text.")
    return RedisTarget(url, ca_cert)
