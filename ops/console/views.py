"""The pages: what is asked for in an address, and what is shown for it."""

from collections.abc import Mapping
from datetime import datetime
from itertools import chain

from flask import Flask, Response, abort, make_response, render_template, request

from functions.registry import JOBS
from ops.commands.stripe_audit import period_of
from ops.console.overview import summary
from ops.console.plots import DAYS, plots
from ops.console.queries import LARGEST_ID, Reader
from ops.console.rendering import Column, logs_url
from ops.console.words import FLAGS, MEANINGS, STATUSES, shown_status
from ops.erasure_register import summed
from ops.jobs import ERASURE, recorded_as
from shared.job import FAILED_COUNT

_REFRESH_SECONDS = 30
_RUNS = (
    Column("Run", "id", "run"),
    Column("Job", "job", "job"),
    Column("Status", "status", "status"),
    Column("Started (UTC)", "started_at", "time"),
    Column("Took", "took", "duration"),
    Column("Message", "message"),
)
_DEAD_LETTERS = (
    Column("Event", "event", "uuid"),
    Column("State", "state", "state"),
    Column("Age", "age", "duration"),
    Column("Pages", "pages", "number"),
    Column("Customer", "customer", "id"),
    Column("Why", "why"),
    Column("Tried", "attempts", "number"),
)
_DRIFT = (
    Column("Customer", "customer", "id"),
    Column("Period", "period", "word"),
    Column("Ours", "ours", "number"),
    Column("Stripe's", "theirs", "number"),
    Column("Difference", "difference", "signed"),
    Column("Why", "why"),
    Column("Seen (UTC)", "seen_at", "time"),
    Column("Resolved (UTC)", "resolved_at", "time"),
)
_ERASURES = (
    Column("Erased (UTC)", "erased_at", "time"),
    Column("Run", "job_run_id", "uuid"),
    Column("Extent", "extent", "word"),
    Column("Rows", "rows", "number"),
    Column("Objects", "objects", "number"),
    Column("Bytes", "bytes", "size"),
    Column("Complete (UTC)", "completed_at", "time"),
    Column("Copies", "copies", "word"),
    Column("Until (UTC)", "copies_until", "time"),
    Column("By run", "run_id", "run"),
)
_ACTIONS = (
    Column("At (UTC)", "at", "time"),
    Column("By", "by"),
    Column("Action", "action"),
    Column("With", "arguments"),
    Column("Reason", "reason"),
)
_HOLDS = (
    Column("Hold", "id", "number"),
    Column("On", "on", "id"),
    Column("In force", "in_force"),
    Column("Until (UTC)", "until", "time"),
    Column("By", "by"),
    Column("Since (UTC)", "created_at", "time"),
    Column("Reason", "reason"),
)
_OPEN = (
    Column("State", "state", "state"),
    Column("Kind", "kind", "word"),
    Column("Objects", "objects", "number"),
    Column("Bytes", "bytes", "size"),
    Column("Oldest (UTC)", "oldest", "time"),
    Column("Next try (UTC)", "next_attempt", "time"),
    Column("Bucket", "bucket", "id"),
)
_ERRORS = (
    Column("State", "state", "state"),
    Column("Objects", "objects", "number"),
    Column("Tried", "attempts", "number"),
    Column("What was said", "error"),
)


def add_pages(app: Flask, reader: Reader, project: str | None) -> None:
    """Add all of them to the app."""

    @app.get("/")
    def overview() -> Response:
        jobs, waits = reader.jobs(), reader.for_a_person()
        refreshes = request.args.get("refresh") != "off"
        shown = summary(jobs, waits)
        answer = make_response(render_template("overview.html", jobs=jobs, summary=shown, refreshes=refreshes))
        if refreshes:
            # A header and no element: it does the same, and who needs more time can turn it off.
            answer.headers["Refresh"] = str(_REFRESH_SECONDS)
        return answer

    @app.get("/plots")
    def plots_page() -> str:
        days, job = request.args.get("days", str(DAYS[1])), _job_asked_for()
        if days not in map(str, DAYS):
            abort(404, f"Plots are made over {', '.join(map(str, DAYS))} days, and not over {days}.")
        shown = plots(reader, int(days), job)
        return render_template("plots.html", shown=shown, days=int(days), choices=DAYS, job=job, names=list(JOBS))

    @app.get("/runs")
    def runs() -> str:
        job, status = _job_asked_for(), request.args.get("status") or None
        if status is not None and status not in STATUSES:
            abort(404, f"There is no status {status!r}. Statuses are {', '.join(STATUSES)}.")
        listed = reader.runs(job, status, _number_asked_for("before"))
        rows = [{**row, "took": _seconds(row["started_at"], row["finished_at"])} for row in listed.rows]
        older = {"job": job, "status": status, "before": rows[-1]["id"]} if listed.more else None
        return render_template(
            "runs.html", rows=rows, columns=_RUNS, older=older, job=job, status=status, names=[*JOBS, ERASURE],
            statuses=STATUSES, later="before" in request.args,
        )  # fmt: skip

    @app.get("/runs/<int:run_id>")
    def run(run_id: int) -> str:
        row = reader.run(run_id)
        if row is None:
            abort(404, f"There is no run {run_id}. Runs older than 400 days are taken away.")
        status = shown_status(row["status"], row["counts"])
        flags = [said for name, said in FLAGS.items() if row["counts"].get(name)]
        return render_template(
            "run.html", run=row, status=status, meaning=MEANINGS[status], flags=flags,
            figures=_figures(row["job"], row["counts"]), short=JOBS[row["job"]].cli if row["job"] in JOBS else "JOB",
            took=_seconds(row["started_at"], row["finished_at"]), logs=logs_url(project, row),
        )  # fmt: skip

    @app.get("/dead-letters")
    def dead_letters() -> str:
        listed = reader.dead_letters()
        rows = [{**row, "age": row["age_minutes"] * 60, "why": _why(row)} for row in listed.rows]
        return render_template("dead_letters.html", rows=rows, columns=_DEAD_LETTERS, more=listed.more)

    @app.get("/drift")
    def drift() -> str:
        resolved_too = request.args.get("all") == "yes"
        listed = reader.drift(resolved_too)
        rows = [
            {
                **row,
                "period": period_of(row["period_start"], row["period_end"]),
                "difference": row["theirs"] - row["ours"],
                "why": row["reason"].replace("_", " "),
            }
            for row in listed.rows
        ]
        columns = _DRIFT if resolved_too else _DRIFT[:-1]
        return render_template("drift.html", rows=rows, columns=columns, more=listed.more, all=resolved_too)

    @app.get("/erasures")
    def erasures() -> str:
        user = _user_asked_for()
        listed = reader.erasures(user, _number_asked_for("below"))
        rows = [summed(row) for row in listed.rows]
        older = {"user": user, "below": rows[-1]["id"]} if listed.more else None
        return render_template("erasures.html", rows=rows, columns=_ERASURES, older=older, user=user)

    @app.get("/erasures.csv")
    def erasures_csv() -> Response:
        parts = reader.erasures_as_csv(_user_asked_for())
        # Not before the first part is there: where the database is down, the answer is a page that says so.
        first = next(parts, "")

        named = {"Content-Disposition": 'attachment; filename="erasures.csv"'}
        return Response(chain([first], parts), headers=named, mimetype="text/csv")

    @app.get("/actions")
    def actions() -> str:
        listed = reader.actions()
        return render_template("actions.html", rows=listed.rows, columns=_ACTIONS, more=listed.more)

    @app.get("/holds")
    def holds() -> str:
        ended_too = request.args.get("all") == "yes"
        listed = reader.holds(ended_too)
        rows = [{**row, "on": f"{row['scope']} {row['subject']}"} for row in listed.rows]
        columns = _HOLDS if ended_too else tuple(column for column in _HOLDS if column.name != "in_force")
        return render_template("holds.html", rows=rows, columns=columns, more=listed.more, all=ended_too)

    @app.get("/outbox")
    def outbox() -> str:
        opened, errors = reader.outbox()
        # A time would promise what never comes.
        rows = [{**row, "next_attempt": None} if row["other_bucket"] else row for row in opened]
        return render_template("outbox.html", rows=rows, columns=_OPEN, errors=errors, error_columns=_ERRORS)


def _job_asked_for() -> str | None:
    """The job that the address names, or None for all. Ends the request where there is no such job."""
    name = request.args.get("job") or None
    found = None if name is None else recorded_as(name)
    if name is not None and found is None:
        abort(404, f"There is no job {name!r}. The jobs are {', '.join((*JOBS, ERASURE))}.")
    return found


def _number_asked_for(name: str) -> int | None:
    """A number in the address, or None. Ends the request where it is none that a row could have."""
    text = request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) <= LARGEST_ID):
        abort(404, f"{text!r} is no number of a row.")
    return int(text)


def _user_asked_for() -> str | None:
    return request.args.get("user", "").strip() or None


def _figures(name: str, counts: Mapping[str, object]) -> list[tuple[str, list[tuple[str, object]]]]:
    """A run's counts in the order of their declaration: what it did, what waited at its end, and what else there is."""
    job = JOBS.get(name)
    declared = [
        ("What it did", (*job.counts, FAILED_COUNT) if job else (FAILED_COUNT,)),
        ("What waited at its end", job.gauges if job else ()),
    ]
    known = {each for _, names in declared for each in names} | FLAGS.keys()
    declared.append(("Beside that", tuple(each for each in counts if each not in known)))
    parts = [(heading, [(each, counts[each]) for each in names if each in counts]) for heading, names in declared]
    return [part for part in parts if part[1]]


def _seconds(started: datetime, finished: datetime | None) -> float | None:
    return None if finished is None else max(0.0, (finished - started).total_seconds())


def _why(row: Mapping[str, str | None]) -> str | None:
    parts = ((row["error_code"] or "").replace("_", " "), row["error_message"])
    return ": ".join(part for part in parts if part) or None
