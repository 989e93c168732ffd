"""Settings: what they mean, and the sentence for each that is wrong."""

import ssl
from collections.abc import Mapping

import pytest

from shared.database_url import DatabaseTarget, database_target, ssl_context
from shared.errors import Misconfigured
from shared.settings import parse_settings

URL = "postgresql://ann:s3cret%40pw@db.example:5433/byte"
BASE = {"DATABASE_URL": URL}


def test_defaults() -> None:
    settings = parse_settings(BASE)
    assert str(settings.redis) == "localhost:6379"
    assert settings.free_plan_codes == ("free",)
    assert not settings.report_only
    assert (settings.max_concurrent_jobs, settings.result_ttl_hours, settings.lock_ttl_seconds) == (5, 24, 60)
    assert settings.job_timeout_seconds is None


def test_on_cloud_run_there_is_no_redis_unless_it_is_named() -> None:
    assert parse_settings({**BASE, "K_SERVICE": "period-reset"}).redis is None
    named = parse_settings({**BASE, "K_SERVICE": "period-reset", "REDIS_URL": "rediss://:pw@10.0.0.3:6378/0"})
    assert str(named.redis) == "10.0.0.3:6378"


def test_an_empty_value_counts_as_not_set() -> None:
    names = ("REDIS_URL", "FREE_PLAN_CODES", "MAINTENANCE_MODE", "LOCK_TTL_SECONDS", "JOB_TIMEOUT_SECONDS", "DB_NAME")
    assert parse_settings({**BASE, **dict.fromkeys(names, " ")}) == parse_settings(BASE)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_any_driver_in_the_url_is_understood(scheme: str) -> None:
    target = database_target({"DATABASE_URL": URL.replace("postgresql", scheme)})
    assert target == DatabaseTarget("byte", "ann", "s3cret@pw", host="db.example", port=5433)
    assert target.instance == "db.example:5433"


def test_a_socket_folder() -> None:
    target = database_target({"DATABASE_URL": "postgresql://ann@/byte?host=/run/pg&port=5433"})
    assert (target.host, target.socket_path, target.instance) == (None, "/run/pg/.s.PGSQL.5433", "/run/pg:5433")


def test_cloud_sql_is_the_same_instance_by_socket_and_by_connector() -> None:
    by_socket = database_target({"DATABASE_URL": "postgresql://ann:pw@/byte?host=/cloudsql/p:r:i"})
    by_connector = database_target({"CLOUD_SQL_INSTANCE": "p:r:i", "DB_NAME": "byte", "DB_USER": "ann@p.iam"})
    assert by_socket.instance == by_connector.instance == "p:r:i"
    assert by_socket.socket_path == "/cloudsql/p:r:i/.s.PGSQL.5432"
    assert by_connector.password is None


@pytest.mark.parametrize(
    ("mode", "verify", "hostname"),
    [
        ("prefer", ssl.CERT_NONE, False),
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_sslmode_is_translated(mode: str, verify: ssl.VerifyMode, hostname: bool) -> None:
    context = ssl_context(database_target({"DATABASE_URL": f"{URL}?sslmode={mode}"}))
    assert (context.verify_mode, context.check_hostname) == (verify, hostname)


@pytest.mark.parametrize(
    ("changes", "setting", "sentence"),
    [
        ({"DATABASE_URL": None}, "DATABASE_URL", "is not set"),
        ({"DATABASE_URL": "not a url s3cret"}, "DATABASE_URL", "not a URL"),
        ({"DATABASE_URL": URL.replace("postgresql", "postgrse")}, "DATABASE_URL", "does not begin with"),
        ({"DATABASE_URL": URL.replace("postgresql", "mysql")}, "DATABASE_URL", "does not begin with"),
        ({"DATABASE_URL": URL.replace("/byte", "")}, "DATABASE_URL", "names no database"),
        ({"DATABASE_URL": "postgresql://db.example/byte"}, "DATABASE_URL", "names no user"),
        ({"DATABASE_URL": "postgresql://ann:s3cret@/byte"}, "DATABASE_URL", "names no host"),
        ({"DATABASE_URL": URL.replace("5433", "54x3")}, "DATABASE_URL", "should look like"),
        ({"DATABASE_URL": URL.replace("5433", "99999")}, "DATABASE_URL", "port outside"),
        ({"DATABASE_URL": URL + "?sslmode=on"}, "DATABASE_URL", "unknown sslmode"),
        ({"DATABASE_URL": URL + "?options=-csearch_path%3Dx"}, "DATABASE_URL", "'options'"),
        ({"DATABASE_URL": URL + "?sslmode=require&sslmode=disable"}, "DATABASE_URL", "more than once"),
        ({"CLOUD_SQL_INSTANCE": "p:r:i"}, "DATABASE_URL", "both set"),
        ({"DATABASE_URL": None, "CLOUD_SQL_INSTANCE": "p:r"}, "CLOUD_SQL_INSTANCE", "project:region:instance"),
        ({"DATABASE_URL": None, "CLOUD_SQL_INSTANCE": "a:b:c:d:e"}, "CLOUD_SQL_INSTANCE", "project:region:instance"),
        ({"DATABASE_URL": None, "CLOUD_SQL_INSTANCE": "p:r:i"}, "DB_NAME", "not set"),
        ({"DATABASE_URL": None, "CLOUD_SQL_INSTANCE": "p:r:i", "DB_NAME": "byte"}, "DB_USER", "not set"),
        (
            {
                "DATABASE_URL": None,
                "CLOUD_SQL_INSTANCE": "p:r:i",
                "DB_NAME": "byte",
                "DB_USER": "ann",
                "CLOUD_SQL_IP_TYPE": "psc",
            },
            "CLOUD_SQL_IP_TYPE",
            "public, private",
        ),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "http://localhost"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "redis://:s3cret@host:port/0"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "redis://host/zero"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "redis://[host/0"}, "REDIS_URL", "redis://"),
        ({"REDIS_URL": "rediss://host/0", "REDIS_CA_CERT": "ca.pem"}, "REDIS_CA_CERT", "PEM"),
        ({"FREE_PLAN_CODES": "free,,trial"}, "FREE_PLAN_CODES", "commas"),
        ({"MAINTENANCE_MODE": "dry"}, "MAINTENANCE_MODE", "enforce, report"),
        ({"MAX_CONCURRENT_JOBS": "0"}, "MAX_CONCURRENT_JOBS", "from 1 to 100"),
        ({"MAX_CONCURRENT_JOBS": "five"}, "MAX_CONCURRENT_JOBS", "whole number"),
        ({"MAX_CONCURRENT_JOBS": "٣"}, "MAX_CONCURRENT_JOBS", "whole number"),
        ({"RESULT_TTL_HOURS": "-1"}, "RESULT_TTL_HOURS", "whole number"),
        ({"LOCK_TTL_SECONDS": "1"}, "LOCK_TTL_SECONDS", "from 2 to 3600"),
        ({"LOCK_TTL_SECONDS": "9" * 5000}, "LOCK_TTL_SECONDS", "whole number"),
        ({"JOB_TIMEOUT_SECONDS": "60"}, "JOB_TIMEOUT_SECONDS", "from 61 to 1710"),
    ],
)
def test_a_wrong_setting_is_named_and_its_text_is_not_repeated(
    changes: Mapping[str, str | None], setting: str, sentence: str
) -> None:
    environ = {name: value for name, value in {**BASE, **changes}.items() if value is not None}
    with pytest.raises(Misconfigured) as refused:
        parse_settings(environ)
    assert refused.value.setting == setting
    assert sentence in str(refused.value)
    assert setting in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_an_sslrootcert_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"missing\.pem"):
        ssl_context(database_target({"DATABASE_URL": URL + "?sslmode=verify-ca&sslrootcert=/nowhere/missing.pem"}))


def test_secrets_are_in_no_repr() -> None:
    settings = parse_settings({**BASE, "REDIS_URL": "redis://:r3dis@host:6379/0"})
    assert "s3cret" not in repr(settings)
    assert "r3dis" not in repr(settings)
    assert set(settings.secrets) == {"s3cret@pw", "r3dis", "redis://:r3dis@host:6379/0"}
