"""The demo's chapters on the four cleanups: what should go goes, with its objects, and nothing else does.

What goes is declared where it is seeded (`devstack.demo_cleanups_kinds`). After each job every row and every object is
held against that, and the job's own figures are only a second witness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from rich import box
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, text

from devstack import buckets
from devstack.demo_cleanups_kinds import ABANDONED, ARTIFACTS, COUNTERS, KINDS, OPT_OUT, held_count, seed_all
from devstack.demo_cleanups_seed import DATA, OBJECTS, Seeding
from devstack.demo_cleanups_seen import Declared, Erasure, Snapshot, erasures, look, written_down, wrong_record
from devstack.demo_scene import Scene, Stage, change, expect, expected
from devstack.gcs_front import GcsFront
from devstack.prepared import Prepared
from devstack.serving import Answer
from functions.registry import JOBS
from shared.clock import format_rfc3339

# As Google's buckets have it unless their owner says otherwise.
_SOFT_DELETE = timedelta(days=7)
_ORPHANS_ALLOWED = 20
_ORPHAN_AGE = timedelta(days=14)
_ELSEWHERE = "another-environment/"
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    COUNTERS: {"Counters": "usage_counters"},
    ABANDONED: {"Runs": "job_runs", "Objects": OBJECTS},
    OPT_OUT: {"Runs": "job_runs", "Objects": OBJECTS},
    ARTIFACTS: {"Objects": OBJECTS, "Rows": "source_files"},
}


def with_front(prepared: Prepared, cleanup: contextlib.ExitStack) -> tuple[Prepared, GcsFront]:
    """Put a front before the storage server, which says of an object whatever age it is given."""
    front = cleanup.enter_context(GcsFront(prepared.settings["STORAGE_EMULATOR_HOST"]))
    front.bucket_fields["softDeletePolicy"] = {"retentionDurationSeconds": str(int(_SOFT_DELETE.total_seconds()))}
    return replace(prepared, settings={**prepared.settings, "STORAGE_EMULATOR_HOST": front.url}), front


def seed(connection: Connection, bucket: str, front: GcsFront, now: datetime) -> Seeding:
    """Seed all that the cleanups are about, rows and objects in the bucket; give what was seeded."""
    seeding = Seeding(connection, now)
    seed_all(seeding)
    seeding.store(front.upstream, bucket, front)
    return seeding


def show(scene: Scene) -> str:
    """Show and check everything about the four jobs; give what came of it.

    Raises StepFailed at the first thing that is not as it should be.
    """
    scene.teller.chapter(
        "A week of cleanups",
        "Some of what there is must go, and each kind of what must stay looks much like it. What goes is declared "
        "where it is seeded; every row and every object is held against that.",
    )
    prepared, front = with_front(scene.prepared, scene.cleanup)
    doing = "Seeding runs, files and objects"
    with scene.teller.step(doing, "Runs with files, counters, and a bucket of objects"), prepared.transaction() as own:
        seeding = seed(own, prepared.settings["GCS_BUCKET_NAME"], front, scene.now)
    return _Chapters(replace(scene, prepared=prepared), front, seeding).run()


class _Chapters:
    """A chapter for each job, each shown and then checked."""

    def __init__(self, scene: Scene, front: GcsFront, seeding: Seeding) -> None:
        self._scene = scene
        self._teller = scene.teller
        self._console = scene.console
        self._front = front
        self._seeding = seeding
        self._declared = Declared(seeding.things, seeding.changes)
        self._bucket = scene.prepared.settings["GCS_BUCKET_NAME"]

    def run(self) -> str:
        first = seen = self._look()
        for spot, thing in self._declared.things.items():
            expect(spot in first, f"What was seeded as '{thing.kind}' is not there.")
        for job, chapter in (
            (COUNTERS, self._show_counters),
            (ABANDONED, self._show_abandoned),
            (OPT_OUT, self._show_opt_out),
            (ARTIFACTS, self._show_artifacts),
        ):
            stage = self._begin(job)
            seen = chapter(stage, seen)
            stage.served.kill()
        objects, left = _objects(first), _objects(seen)
        return (
            f"{len(first) - len(seen):,} rows and objects that had to go are gone, among them {objects - left} of "
            f"{objects} objects; everything else is as it should be."
        )

    # --- the chapters

    def _show_counters(self, stage: Stage, before: Snapshot) -> Snapshot:
        self._fire(stage, {"deleted_count": self._declared.gone(COUNTERS, "usage_counters"), "due_count": 0})
        return self._show_after(COUNTERS, before)

    def _show_abandoned(self, stage: Stage, before: Snapshot) -> Snapshot:
        wanted = {
            "jobs_cleaned": self._declared.gone(ABANDONED, "job_runs"),
            "parents_deleted": self._declared.gone(ABANDONED, "extraction_jobs"),
            "objects_deleted": self._declared.gone(ABANDONED, "source_files"),
            "held": held_count(ABANDONED),
            "due_count": 0,
        }
        self._fire(stage, wanted)
        after = self._show_after(ABANDONED, before)
        self._check_records(ABANDONED)
        return after

    def _show_opt_out(self, stage: Stage, before: Snapshot) -> Snapshot:
        wanted = {
            "jobs_cleaned": len(self._declared.erased_rows(OPT_OUT)),
            "files_rehomed": self._declared.changed(OPT_OUT, "source_files", "job_run_id"),
            "waiting_on_draft": KINDS[OPT_OUT]["its file needed by a draft"].copies,
            "held": held_count(OPT_OUT),
        }
        self._console.print("A dry run first: the same candidates, and nothing touched.")
        dry = expected("The dry run", stage.dry_run({"dry_run": True}), "completed", {**wanted, "dry_run": True})
        self._unchanged("the dry run", before)
        counted = ", ".join(f"{name} {dry.fields[name]}" for name in wanted)
        self._teller.right(f"{counted}, and not a byte has changed")
        self._fire(stage, wanted)
        after = self._show_after(OPT_OUT, before)
        events = self._declared.changed(OPT_OUT, "usage_events", "task_id")
        self._teller.right(f"{events} usage events of erased tasks stay: billing is not the user's content")
        self._show_record(self._check_records(OPT_OUT))
        return after

    def _show_artifacts(self, stage: Stage, before: Snapshot) -> Snapshot:
        slot = JOBS[ARTIFACTS].last_firing(self._scene.now)
        self._console.print("First with rows that name other objects, as a wrong or an old database has:")
        orphans = self._orphans_without_rows(before)
        with self._rows_of_another_environment():
            answer = stage.fire_shortly(slot)
            numbers = {"success": False, "would_delete": orphans, "allowed": _ORPHANS_ALLOWED}
            expected("That firing", answer, "refused", numbers, http=500)
        self._unchanged("the refused run", before)
        self._teller.right(f"Refused: would_delete {orphans}, allowed {_ORPHANS_ALLOWED}. Not a byte has changed")
        self._console.print("With the right rows again, Cloud Scheduler's retry of the same slot:")
        first = self._fire(stage, self._artifact_counts(before))
        after = self._show_after(ARTIFACTS, before)
        self._console.print("And delivered once more:")
        again = stage.fire_again(slot)
        counts = {name: first.fields[name] for name in ("success", "run_id", *JOBS[ARTIFACTS].counts)}
        expected("The second delivery", again, "replayed", counts)
        self._unchanged("the second delivery", after)
        self._teller.right(f"Still run {first.fields['run_id']}, and not a byte has changed")
        return after

    # --- what they share

    def _begin(self, job: str) -> Stage:
        about = JOBS[job]
        slot = about.last_firing(self._scene.now)
        self._teller.chapter(f"{list(KINDS).index(job) + 1}. {job}, {slot:%A %H:%M}", f"{about.description}.")
        return self._scene.serve(about)

    def _fire(self, stage: Stage, wanted: Mapping[str, object]) -> Answer:
        answer = stage.fire_shortly(stage.job.last_firing(self._scene.now))
        return expected("The firing", answer, "completed", {"success": True, "failed_count": 0, **wanted})

    def _show_after(self, job: str, before: Snapshot) -> Snapshot:
        """Show each kind, and hold everything that there is against what is declared."""
        after = self._look()
        self._console.print(self._table(job, before, after))
        wanted = self._declared.after(job, before)
        difference = self._declared.difference(wanted, after)
        expect(difference is None, f"After {job}: {difference}")
        self._teller.right(
            f"{len(before) - len(after):,} rows and objects are gone, as declared; the other "
            f"{len(after) - _objects(after):,} rows and {_objects(after)} objects are as they should be"
        )
        return after

    def _table(self, job: str, before: Snapshot, after: Snapshot) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("Kind", no_wrap=True)
        for title in _COLUMNS[job]:
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("Why", no_wrap=True)
        for name, kind in KINDS[job].items():
            count = self._declared.count
            counts = [change(count(name, before, where), count(name, after, where)) for where in _COLUMNS[job].values()]
            table.add_row(name, *counts, kind.why)
        return table

    def _check_records(self, job: str) -> list[Erasure]:
        """Hold the records of erasures against what went, and see that they name nobody and nothing."""
        with self._scene.prepared.transaction() as connection:
            records, written = erasures(connection, job), written_down(connection)
        wanted = self._declared.erased_rows(job)
        wrong = wrong_record(records, wanted, _SOFT_DELETE, len(DATA))
        expect(wrong is None, f"After {job}: {wrong}")
        names = [*self._seeding.created, *self._seeding.users]
        told = [name for name in names if name in written]
        expect(not told, f"After {job} the records say who or what it was: {told[:1]}.")
        self._teller.right(f"{len(records)} records of erasures, complete, with no user's or object's name in them")
        return records

    def _show_record(self, records: list[Erasure]) -> None:
        record = max(records, key=lambda each: each.objects)
        grid = Table.grid(padding=(0, 2))
        rows = ", ".join(f"{count} {table}" for table, count in record.rows.items() if count)
        for name, value in {
            "run": f"{record.run} (extent: {record.extent})",
            "user": f"{record.user_hash[:16]}… (a keyed hash)",
            "rows": rows,
            "objects": f"{record.objects} with {record.bytes:,} bytes, gone at {_second(record.completed_at)}",
            "copies": f"in the bucket until {_second(record.copies_until)} ({record.copies})",
        }.items():
            grid.add_row(f"  {name}", escape(value))
        self._console.print("One of them, in maintenance.erasures:")
        self._console.print(grid)

    def _artifact_counts(self, seen: Snapshot) -> Mapping[str, int]:
        taken = self._declared.gone(ARTIFACTS, OBJECTS)
        return {
            "artifacts_cleaned": taken,
            "objects_deleted": taken,
            "held": held_count(ARTIFACTS),
            "listed_count": _objects(seen),
        }

    def _orphans_without_rows(self, seen: Snapshot) -> int:
        """How many objects would be orphans if no row named one."""
        before = self._scene.now - _ORPHAN_AGE
        held = {name for kinds in KINDS.values() for name, kind in kinds.items() if kind.held}
        return sum(
            1
            for where, name in seen
            if where == OBJECTS
            and name.startswith(("jobs/", "imports/"))
            and "/conversions/" not in name
            and self._seeding.created[name] < before
            and self._declared.things[where, name].kind not in held
        )

    @contextlib.contextmanager
    def _rows_of_another_environment(self) -> Iterator[None]:
        rename = "UPDATE source_files SET gcs_object_name = "
        with self._scene.prepared.transaction() as connection:
            connection.execute(text(f"{rename} '{_ELSEWHERE}' || gcs_object_name"))
        yield
        with self._scene.prepared.transaction() as connection:
            connection.execute(text(f"{rename} substr(gcs_object_name, {len(_ELSEWHERE) + 1})"))

    def _look(self) -> Snapshot:
        with self._scene.prepared.transaction() as connection:
            return look(connection, buckets.names(self._front.upstream, self._bucket))

    def _unchanged(self, what: str, before: Snapshot) -> None:
        difference = self._declared.difference(before, self._look())
        expect(difference is None, f"The data was changed by {what}: {difference}")


def _objects(seen: Snapshot) -> int:
    return sum(1 for where, _ in seen if where == OBJECTS)


def _second(moment: datetime | None) -> str:
    return "-" if moment is None else format_rfc3339(moment.replace(microsecond=0))
