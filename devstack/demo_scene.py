"""What the chapters of all jobs in the demo share: the servers, a job that is asked and fired, and the checks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from devstack.prepared import Prepared
from devstack.serving import Answer, Served, ask, fire
from devstack.telling import StepFailed, Teller
from shared.clock import format_rfc3339
from shared.job import Job


@dataclass(frozen=True)
class Scene:
    """Where the chapters play: the teller, the servers with their data, and the moment that all data is made for."""

    teller: Teller
    prepared: Prepared
    cleanup: contextlib.ExitStack
    now: datetime

    @property
    def console(self) -> Console:
        """Where to print what the teller has no words for."""
        return self.teller.console

    def serve(self, job: Job) -> Stage:
        """Serve the job's function until the end of the demo."""
        command = f"functions-framework --target={job.name}"
        with self.teller.step(f"Starting {command}", command):
            served = Served(job.name, self.prepared.settings, log=self.prepared.folder / f"{job.name}.log")
            self.cleanup.enter_context(served)
        return Stage(self, job, served)


@dataclass(frozen=True)
class Stage:
    """One job's function, served."""

    scene: Scene
    job: Job
    served: Served

    def show_health(self) -> Mapping[str, Any]:
        """Ask for the health, show it, and give what waits for the job."""
        console = self.scene.console
        answer = expected("GET /", ask(self.served.url), "healthy", {})
        job = next(each for each in answer.fields["jobs"] if each["job"] == self.job.name)
        checks = ", ".join(f"{name} {state}" for name, state in answer.fields["checks"].items())
        console.print(f"{answer.status} {answer.fields['status']}: {escape(checks)}")
        waiting: Mapping[str, Any] = job["waiting"]
        console.print(f"{self.job.name}: {figures(waiting)}")
        console.print(f"Next firing: {job['next_firing']}")
        return waiting

    def fire(self, slot: datetime) -> Answer:
        """Fire the slot as Cloud Scheduler does, and show with which headers."""
        for header in (
            "X-CloudScheduler: true",
            f"X-CloudScheduler-JobName: {self.job.name.replace('_', '-')}",
            f"X-CloudScheduler-ScheduleTime: {format_rfc3339(slot)}",
        ):
            self.scene.console.print(f"  {header}")
        with self.scene.teller.step("The job runs", "The job has run and answered"):
            return fire(self.served.url, job=self.job.name, slot=slot)

    def fire_shortly(self, slot: datetime) -> Answer:
        """Fire the slot as Cloud Scheduler does, and show the answer in its words."""
        answer = fire(self.served.url, job=self.job.name, slot=slot)
        self.scene.console.print(f"  X-CloudScheduler-ScheduleTime: {format_rfc3339(slot)}")
        self._show(answer)
        return answer

    def fire_again(self, slot: datetime) -> Answer:
        """Deliver a firing once more, and show the answer."""
        answer = fire(self.served.url, job=self.job.name, slot=slot)
        self._show(answer)
        return answer

    def dry_run(self, request: Mapping[str, object]) -> Answer:
        """Ask for a dry run by hand, and show request and answer."""
        body = json.dumps(request)
        answer = fire(self.served.url, job=self.job.name, slot=None, body=body.encode())
        self.scene.console.print(f"  {body}")
        self._show(answer)
        return answer

    def _show(self, answer: Answer) -> None:
        fields = answer.fields
        status = f"{answer.status} [bold]{escape(str(fields.get('status')))}[/]"
        self.scene.console.print(f"  {status} in {fields.get('duration_ms')} ms:")
        self.scene.console.print(f"  {escape(str(fields.get('message')))}")


def expect(holds: bool, otherwise: str) -> None:
    """Raise StepFailed with the sentence unless it holds."""
    if not holds:
        raise StepFailed(otherwise)


def expected(what: str, answer: Answer, status: str, wanted: Mapping[str, object], *, http: int = 200) -> Answer:
    """Give the answer back if it has the HTTP status, the status and the fields wanted. Raises StepFailed."""
    fields = answer.fields
    said = f"{what} was answered with {answer.status} {fields.get('status')}: {fields.get('message')}"
    expect((answer.status, fields.get("status")) == (http, status), f"{said} Expected was {http} {status}.")
    for name, value in wanted.items():
        expect(fields.get(name) == value, f"{said} Its {name} is {fields.get(name)}; expected was {value}.")
    return answer


def change(old: int, new: int) -> str:
    """A figure before and after, once if it is the same."""
    return f"{new:,}" if old == new else f"{old:,} → {new:,}"


def figures(values: Mapping[str, Any]) -> str:
    """Figures with their names, in a line."""
    return ", ".join(f"{name} {value:,}" for name, value in values.items())
