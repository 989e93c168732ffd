"""The page of the jobs, made of functions/jobs.json; what each figure means is in figures.toml."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from functions.registry import JOBS
from ops.grants import HEALTH_JOB
from shared.health import patience
from shared.job import Job

_NEEDS = {"postgres": "PostgreSQL", "redis": "Redis", "stripe": "Stripe", "gcs": "the bucket"}
_INTRODUCTION = """# Jobs

This page is made of `functions/jobs.json`, which declares the jobs. An installation may have other schedules, attempts
and pauses by its Terraform variables: `python -m ops schedules list` shows what is deployed.

Times are UTC. A run stops 60 s before its timeout; what is left is for the next attempt. A job is **overdue** when a
firing has had time for all its attempts and no full success has come since.
"""
_AFTER_TABLE = """
What a login may do in the database is in [who may do what](database-rights.md) too, with the reasons.
"""
_FIGURES = """
Figures are in the answer, on the `finish` line of the log, in `maintenance.runs` and in `python -m ops show RUN_ID`.
**Counts** add up over all attempts of a firing. **Gauges** say what waits at the end of a run.
"""


def figures() -> Mapping[str, Mapping[str, str]]:
    """What each job does (`about`) and each figure means (`common`, `counts`, `gauges`)."""
    found: Mapping[str, Mapping[str, str]] = tomllib.loads(Path(__file__).with_name("figures.toml").read_text())
    return found


def jobs_page() -> str:
    """The page. Raises KeyError for a figure of which nobody says what it means."""
    jobs = list(JOBS.values())
    lines = [_INTRODUCTION, "| job | by hand | when (UTC) | what it does |", "|---|---|---|---|"]
    lines += [f"| [`{job.name}`](#{job.name}) | `{job.cli}` | `{job.schedule}` | {job.description} |" for job in jobs]
    lines += [_AFTER_TABLE, *(line for job in jobs for line in _section(job))]
    return "\n".join(lines)


def _section(job: Job) -> Iterator[str]:
    yield f"## {job.name} {{#{job.name}}}\n"
    yield f"{job.description}."
    yield f"{figures()['about'][job.name]}\n"
    yield "| | |"
    yield "|---|---|"
    yield f"| by hand | `python -m ops run {job.cli}` |"
    yield f"| entry point | `{job.name}`; at Google `{job.name.replace('_', '-')}` |"
    yield f"| schedule | `{job.schedule}` (UTC) |"
    yield f"| timeout of one attempt | {job.timeout_seconds} s, of which the last 60 s are for ending |"
    yield f"| attempts | 1, and {job.retries} more where it did not succeed |"
    yield f"| overdue | {_hours(patience(job))} after a firing, without a full success |"
    yield f"| memory | {job.memory_mib} MiB |"
    yield f"| needs | {', '.join(_NEEDS[need] for need in job.needs)} |"
    if job.name == HEALTH_JOB:
        yield "| besides | its function is asked for the health check of all jobs |"
    yield _FIGURES
    known = figures()
    yield from _table("count", job.counts, {**known["counts"], **known["common"]}, known["common"])
    yield from _table("gauge", job.gauges, known["gauges"], ())
    yield "Rights in the database:\n"
    yield "| table | may |"
    yield "|---|---|"
    yield from (f"| `{table}` | {', '.join(privileges)} |" for table, privileges in job.rights.items())
    yield ""


def _table(
    heading: str, names: Sequence[str], meaning: Mapping[str, str], common: Sequence[str] | Mapping[str, str]
) -> Iterator[str]:
    yield f"| {heading} | meaning |"
    yield "|---|---|"
    yield from (f"| `{name}` | {meaning[name]} |" for name in (*names, *common))
    yield ""


def _hours(time: timedelta) -> str:
    minutes = time // timedelta(minutes=1)
    return f"{minutes // 60} h {minutes % 60} min"
