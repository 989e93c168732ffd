"""Objects of any name: each is deleted exactly, and never another whose name is like it."""

import posixpath
import unicodedata
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest

from shared.outcome import Status
from tests.cleanup.test_artifacts import deletes
from tests.support.cleanup import CleanupWorld

LONGEST = "imports/" + "é" * 508
HOSTILE = [
    "imports/x/" + unicodedata.normalize("NFC", "Süß-日本語-🙂.pdf"),
    "imports/x/" + unicodedata.normalize("NFD", "Süß-日本語-🙂.pdf"),
    "imports/x/ two  blanks .pdf ",
    "imports/x/\t\u00a0\u200b\ufeff.pdf",
    "imports/x/a+b.pdf",
    "imports/x/#?%&=;:@!$,*.pdf",
    "imports/x/a.pdf?generation=1#top",
    "imports/x%2Fa.pdf",
    "imports/x/%252F%00%zz.pdf",
    "imports//a.pdf",
    "imports/x//a//",
    "imports/x/./a/../b",
    "imports/x/..",
    "imports/x/a.",
    "imports/x/\"quoted\"'it''s'`\\.pdf",
    "imports/x/{0}:name%(s)s$1[*].pdf",
    "imports/x/A.PDF",
    LONGEST,
]
# No orphans: only `jobs/` and `imports/` are searched for those. But a file of a run may be called anything.
ELSEWHERE = [
    "/imports/a.pdf", "//a", "a", "a/", "/", " ", "%2F", "...", "../a.pdf", "./a", "日本", "x" * 1024,
    "jobs/x/runs/y/gmail_imports/#1 ü?.pdf",
]  # fmt: skip


def like(name: str) -> set[str]:
    """Names that somebody who is careless with this one would take for it."""
    found = {
        name[:-1], name + "x", name + ".pdf", name + "/", name + "/a.pdf", name + " ", name.strip(), name.rstrip("./"),
        name.lower(), name.upper().replace("IMPORTS/", "imports/"), "/" + name, name.lstrip("/"), name[1:],
        unquote(name), unquote_plus(name), quote(name), quote(name, safe=""), quote_plus(name), quote(quote(name)),
        name.replace("//", "/"), posixpath.normpath(name), posixpath.dirname(name), posixpath.basename(name),
        name.partition("?")[0], name.partition("#")[0], name.replace("\\", "/"), name.replace("\\", "\\\\"),
        *(unicodedata.normalize(form, name) for form in ("NFC", "NFD", "NFKC")),
    }  # fmt: skip
    found -= {name, ".", ".."}
    return {each for each in found if 0 < len(each.encode()) <= 1024 and "\0" not in each}


def path_of(world: CleanupWorld, name: str) -> str:
    """What a request for an object must be sent to."""
    return f"/storage/v1/b/{world.bucket}/o/{quote(name, safe='')}"


def test_there_are_names_like_each() -> None:
    """And the longest has as many bytes as a name may have."""
    assert all(len(like(name)) > 4 for name in HOSTILE)
    assert len(LONGEST.encode()) == 1024


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[1:33])
def test_an_orphan_goes_and_what_rows_name_like_it_stays(world: CleanupWorld, name: str) -> None:
    run = world.submitted(world.job())
    for each in like(name):
        world.file(run, each)
    world.put(name)
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["orphans_cleaned"]) == (Status.COMPLETED, 1)
    assert [(request.name, request.path) for request in deletes(world)] == [(name, path_of(world, name))]
    assert world.objects() == like(name)
    # And the other way round.
    world.database.execute("UPDATE source_files SET gcs_object_name = 'imports/moved/' || id")
    world.file(run, name)
    outcome = world.run("artifact_cleanup", {"ORPHAN_MAX_FLOOR": "100"})
    orphans = {each for each in like(name) if each.startswith(("imports/", "jobs/"))}
    assert outcome.counts["orphans_cleaned"] == len(orphans)
    assert world.objects() == {name, *like(name)} - orphans


# In parts, so that none has a name like it that goes as well.
@pytest.mark.parametrize("part", [0, 1, 2])
def test_files_of_an_erased_run_go_and_what_is_called_like_them_stays(world: CleanupWorld, part: int) -> None:
    names = [*HOSTILE, *ELSEWHERE][part::3]
    kept = {each for name in names for each in like(name)}
    stays, goes = world.submitted(world.job()), world.draft(world.job())
    for each in kept:
        world.file(stays, each)
    files = [world.file(goes, name) for name in names]
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["objects_deleted"]) == (Status.COMPLETED, len(names))
    assert outcome.counts["open_objects"] == 0
    conversions = [f"jobs/{goes}/conversions/{file}.pdf" for file in files]
    assert {request.path for request in deletes(world)} == {path_of(world, name) for name in [*names, *conversions]}
    assert world.objects() == kept


def test_what_only_looks_like_one_of_the_folders_stays(world: CleanupWorld) -> None:
    world.file(world.submitted(world.job()))
    names = {
        "/imports/a.pdf", "imports", "Imports/a.pdf", "jobs", "myjobs/a.pdf", "temp_uploads", "temp_uploads2/ann/a.pdf",
        "x/temp_uploads/ann/a.pdf", "x/jobs/a/conversions/a.pdf", " imports/a.pdf", "imports%2Fa.pdf",
    }  # fmt: skip
    for name in names:
        world.put(name)
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 0
    assert names <= world.objects()


def test_a_name_that_no_table_can_hold_is_told_and_holds_nothing_up(world: CleanupWorld) -> None:
    """The bucket takes a NUL in a name, PostgreSQL does not."""
    world.file(world.submitted(world.job()))
    # The last of the listing, too: a sweep writes down where it stopped.
    names = {"imports/x/a\0.pdf", "temp_uploads/ann/\0"}
    for name in names:
        world.put(name)
    other = world.put("imports/x/a")
    # Of these nobody need hear: they are not ours, or not due.
    names |= {world.put("backups/\0"), world.put("imports/x/b\0", age=1)}
    environment = world.environment()
    outcome = environment.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["artifacts_cleaned"]) == (Status.COMPLETED, 1)
    told = [line for line in environment.lines() if line.get("event") == "attention"]
    assert sum(line["count"] for line in told) == 2
    assert "Delete them by hand" in told[0]["message"]
    assert names <= world.objects()
    assert other not in world.objects()


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_object_can_have_is_never_part_of_an_address(world: CleanupWorld, name: str) -> None:
    """As the end of an address they would mean the bucket itself, or all its objects."""
    world.file(world.draft(world.job()), name, stored=False)
    world.run("abandoned_cleanup")
    assert [row["state"] for row in world.outbox()] == ["absent"]
    deleted = [request.path for request in world.front.requests if request.method == "DELETE"]
    assert all("/o/jobs%2F" in path for path in deleted)
