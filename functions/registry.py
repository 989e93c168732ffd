"""jobs.json -> JOBS: every job there is, by its name. A wrong declaration fails here, at import."""

import json
from collections.abc import Mapping
from pathlib import Path

from shared.job import Job, parse_job


def load_jobs(path: Path) -> Mapping[str, Job]:
    """Read a declaration file; give its jobs by name, in the file's order.

    Raises ValueError for an entry that is wrong, or a name, short name or module that stands there twice.
    """
    jobs = [parse_job(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    for attribute in ("name", "cli", "module"):
        values = [getattr(job, attribute) for job in jobs]
        if len(set(values)) != len(values):
            raise ValueError(f"{path.name}: two jobs have the same {attribute}")
    return {job.name: job for job in jobs}


JOBS = load_jobs(Path(__file__).with_name("jobs.json"))
