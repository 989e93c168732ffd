"""E-mail addresses: none of a person's is on any page or in the CSV, and the logins of services stay legible."""

import csv
import io
import json

import pytest

from ops.console.rendering import harmless
from ops.console.words import MEANINGS
from tests.console.hostile import PERSONS
from tests.console.serving import served
from tests.console.test_guards import PAGES
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase


@pytest.mark.parametrize("address", PERSONS)
@pytest.mark.parametrize("around", ["{}", "Ask {}, please.", "<{}>", "('{}')", "mailto:{}"])
def test_an_address_of_a_person_is_taken_out(address: str, around: str) -> None:
    assert harmless(around.format(address), str) == around.format("[e-mail address]")


@pytest.mark.parametrize(
    "login",
    [
        "fn-period@bytereview-prod.iam",
        "fn-period@bytereview-prod.iam.gserviceaccount.com",
        "12345-compute@developer.gserviceaccount.com",
        "service-12345@gcp-sa-cloudscheduler.iam.gserviceaccount.com",
    ],
)
@pytest.mark.parametrize("around", ["{}", "The login '{}' may not do this.", "<{}>", "As {}.", "user:{}"])
def test_a_login_of_a_service_stays(login: str, around: str) -> None:
    assert harmless(around.format(login), str) == around.format(login)


@pytest.mark.parametrize("text", ["Made at noon", "@", "a @ b", "5 @", "@property", '"quoted" and "more"'])
def test_what_is_no_address_stays(text: str) -> None:
    assert harmless(text, str) == text


def test_no_page_and_no_csv_has_an_address_of_a_person(hostile: TestDatabase, clock: ManualClock) -> None:
    runs = [f"/runs/{row['id']}" for row in hostile.rows("SELECT id FROM maintenance.runs")]
    with served({"DATABASE_URL": hostile.url}, clock) as console:
        said = {path: console.page(path) for path in (*PAGES, *runs, "/erasures.csv")}
    for path, text in said.items():
        for fragment in ("smith", "evil", "@example", "\N{FULLWIDTH COMMERCIAL AT}", "\N{SMALL COMMERCIAL AT}"):
            assert fragment not in text, path
    (row,) = csv.DictReader(io.StringIO(said["/erasures.csv"]))
    assert row["job"].startswith("[e-mail address] [e-mail address] ")
    ((name, count),) = json.loads(row["row_counts"]).items()
    assert (name.count("[e-mail address]"), count) == (len(PERSONS), 3)


def test_the_csv_has_no_secret(database: TestDatabase, clock: ManualClock) -> None:
    database.execute(
        "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) "
        "VALUES ('rk_live_s3cret', 1, gen_random_uuid(), '\\x00', 'run', '{\"rk_live_s3cret\": 1}', now())"
    )
    with served({"DATABASE_URL": database.url, "STRIPE_SECRET_KEY": "rk_live_s3cret"}, clock) as console:
        assert "s3cret" not in console.page("/erasures.csv")


@pytest.mark.parametrize("status", ["incomplete", "unavailable"])
def test_no_status_promises_a_second_try_to_what_was_started_by_hand(status: str) -> None:
    said = MEANINGS[status].do
    assert "Cloud Scheduler tries again" not in said
    assert "Nothing, if it came from a firing" in said
    assert "What was started by hand is not tried again: give the same command once more." in said
