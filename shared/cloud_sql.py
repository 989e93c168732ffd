"""Connections through the Cloud SQL connector, with an IAM login unless there is a password.

A module of its own because importing the connector costs half a second and 50 MiB: `shared.postgres_connect` imports it
only for an installation that sets CLOUD_SQL_INSTANCE.
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import ClientError, ClientResponseError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
from google.cloud.sql.connector import Connector
from google.cloud.sql.connector.exceptions import CloudSQLIPTypeError

from shared.database_url import DatabaseTarget
from shared.errors import MaintenanceError, Misconfigured, Unavailable

_CONNECT_SECONDS = 20


class CloudSql:
    """One connector for the process, made with its first connection."""

    def __init__(self) -> None:
        self._connector: Connector | None = None

    def connect(self, target: DatabaseTarget, *, application: str, startup: Mapping[str, str]) -> Any:
        """Open a pg8000 connection to the target's instance.

        Raises Misconfigured when credentials or rights are missing, the instance is unknown or it has no such address,
        Unavailable when Google's API or the instance does not answer, and the driver's DatabaseError when PostgreSQL
        itself refuses.
        """
        instance = str(target.cloud_sql_instance)
        try:
            if self._connector is None:
                # Lazy, because a function's CPU sleeps between requests ("Cloud SQL Python Connector", README).
                self._connector = Connector(refresh_strategy="lazy")
            return self._connector.connect(
                instance,
                "pg8000",
                user=target.user,
                password=target.password,
                db=target.database,
                ip_type=target.cloud_sql_ip_type,
                enable_iam_auth=target.password is None,
                timeout=_CONNECT_SECONDS,
                application_name=application,
                startup_params=dict(startup),
            )
        except CloudSQLIPTypeError as error:
            raise Misconfigured(
                "CLOUD_SQL_IP_TYPE",
                f"The Cloud SQL instance {instance} has no {target.cloud_sql_ip_type} address. Set CLOUD_SQL_IP_TYPE "
                "to one that it has: public or private.",
            ) from error
        except (GoogleAuthError, ClientError, OSError) as error:
            raise _meaning(error, instance) from error


def _meaning(error: Exception, instance: str) -> MaintenanceError:
    if isinstance(error, DefaultCredentialsError | RefreshError):
        return Misconfigured(
            "CLOUD_SQL_INSTANCE",
            "Google's credentials for Cloud SQL are missing or were refused. On Google Cloud the function's service "
            "account is used; elsewhere run `gcloud auth application-default login`.",
        )
    if isinstance(error, ClientResponseError) and error.status in (400, 401, 403, 404):
        return Misconfigured(
            "CLOUD_SQL_INSTANCE",
            f"Google refused access to the Cloud SQL instance {instance} (HTTP {error.status}). Check its name, and "
            "that this account has the roles cloudsql.client and cloudsql.instanceUser.",
        )
    return Unavailable("postgres", f"The Cloud SQL instance {instance} cannot be reached now. Try again.")
