"""What a machine imports late, imported early: by the process that machines are forked from."""

from functions.registry import JOBS
from shared import cloud_tasks, gcs, redis_store, stripe_api

__all__ = ["cloud_tasks", "gcs", "redis_store", "stripe_api"]

for _job in JOBS.values():
    _job.load()
