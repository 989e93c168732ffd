"""The published HTTP contract, docs/openapi.json: whatever is asked, the answer is one that stands there."""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from devstack.databases import create_database, drop_database
from devstack.serving import REPOSITORY, Served
from devstack.stack import Stack
from functions.registry import JOBS
from ops.migrate import migrate
from shared.clock import format_rfc3339
from shared.database_url import database_target
from shared.entry import _HTTP
from shared.invocation import Invocation
from shared.runner import run_job
from tests.conftest import MakeEnvironment
from tests.support.clock import NOON
from tests.support.jobs import count_one, ordered
from tests.support.serving import Functions, RawAnswer, request
from tests.support.tasks import QUEUE, Taking

CONTRACT: dict[str, Any] = json.loads((Path(REPOSITORY) / "docs" / "openapi.json").read_text(encoding="utf-8"))
SCHEMAS = CONTRACT["components"]["schemas"]
SCHEDULE_TIME = "X-CloudScheduler-ScheduleTime"
FIELDS = list(SCHEMAS["Invocation"]["properties"])


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """What holds a value against a schema of the contract."""
    return Draft202012Validator({**schema, "components": CONTRACT["components"]})


def problems(answer: RawAnswer, method: str) -> list[str]:
    """In what an answer is not as the contract says."""
    described = CONTRACT["paths"]["/"][method.lower()]["responses"].get(str(answer.status))
    if described is None:
        return [f"{answer.status} is not in the contract: {answer.text}"]
    schema = described["content"]["application/json"]["schema"]
    found = [error.message for error in validator(schema).iter_errors(json.loads(answer.text))]
    if answer.headers["Content-Type"] != "application/json":
        found.append("it is not JSON")
    if "Traceback" in answer.text:
        found.append("it has a stack trace")
    return found


@pytest.fixture(scope="module")
def contracted(stack: Stack, service_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A served function with a database of its own, for requests that are refused or find nothing to do."""
    with ExitStack() as cleanup:
        url = create_database(stack.database_url, f"maintenance_test_{secrets.token_hex(6)}", service_template)
        cleanup.callback(drop_database, stack.database_url, url.rpartition("/")[2].partition("?")[0])
        migrate(database_target({"DATABASE_URL": url}), NOON)
        environ = {"DATABASE_URL": url, "REDIS_URL": stack.redis_url}
        folder = tmp_path_factory.mktemp("contract")
        yield Functions(folder, environ, cleanup).serve()


def test_the_contract_is_well_formed_and_says_all_that_there_is() -> None:
    for name, schema in SCHEMAS.items():
        Draft202012Validator.check_schema(schema)
        for target in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(schema)):
            assert target in SCHEMAS, f"{name} refers to {target}"
    assert list(SCHEMAS["JobName"]["enum"]) == list(JOBS)
    answers = CONTRACT["paths"]["/"]["post"]["responses"]
    told: dict[str, int] = {}
    for code, answer in answers.items():
        schema = answer["content"]["application/json"]["schema"]
        name = schema.get("oneOf", [schema])[0]["$ref"].rpartition("/")[2]
        told |= dict.fromkeys(SCHEMAS[name]["properties"]["status"]["enum"], int(code))
    ours = {status.value: code for status, code in _HTTP.items()}
    assert {name: code for name, code in told.items() if name in ours} == ours


# What a body may be: right, wrong in one way, or anything.
right = st.fixed_dictionaries(
    {"dry_run": st.just(True)},
    optional={
        "force": st.booleans(),
        "limit": st.integers(1, 10**30),
        "as_of": st.datetimes(min_value=NOON.replace(tzinfo=None, year=1980)).map(lambda at: f"{at.isoformat()}Z"),
    },
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
wrong = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=10), anything, max_size=4)
bodies = (right | wrong).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=300)
# What is no header for HTTP is refused by the server itself, before a function sees it.
latin = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
headers = st.dictionaries(
    st.sampled_from([SCHEDULE_TIME, "Content-Type", "Authorization", "X-Forwarded-For", "traceparent", "Cookie"]),
    latin | st.just(format_rfc3339(NOON)),
    max_size=3,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, sent=headers)
def test_whatever_is_posted_is_answered_as_the_contract_says(
    contracted: Served, body: bytes, sent: dict[str, str]
) -> None:
    answer = request(contracted, "POST", "/", body, sent)
    assert problems(answer, "POST") == []
    assert answer.status in (200, 400, 409, 500)
    if answer.status == 500:
        assert answer.fields["status"] != "failed"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=right)
def test_what_the_contract_allows_is_taken(contracted: Served, body: dict[str, object]) -> None:
    assert validator(SCHEMAS["Invocation"]).is_valid(body)
    answer = request(contracted, "POST", "/", json.dumps(body).encode())
    assert (answer.status, answer.fields["status"], answer.fields["dry_run"]) == (200, "completed", True)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=wrong)
def test_what_the_contract_does_not_allow_is_refused_by_name(contracted: Served, body: dict[str, object]) -> None:
    if validator(SCHEMAS["Invocation"]).is_valid(body):
        return
    answer = request(contracted, "POST", "/", json.dumps(body).encode())
    assert answer.status == 400
    assert problems(answer, "POST") == []


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"step": 48}, True),
        ({"step": 49}, False),
        ({"step": 0}, False),
        ({"step": "1"}, False),
        ({"shard": -1}, False),
        ({"shard": 33}, False),
        ({"shard": "1"}, False),
        ({"slot": 1}, False),
        ({"limit": 1}, False),
    ],
)
def test_a_delivery_of_cloud_tasks_is_taken_as_the_contract_says(
    contracted: Served, changes: dict[str, object], right: bool
) -> None:
    body = {"slot": format_rfc3339(NOON), "step": 1, "shard": 0, **changes}
    assert validator(SCHEMAS["Step"]).is_valid(body) is right
    answer = request(contracted, "POST", "/", json.dumps(body).encode(), {"X-CloudTasks-TaskName": "a"})
    assert (answer.status, problems(answer, "POST")) == (200 if right else 400, [])


@pytest.mark.parametrize(("shard", "right"), [(0, True), (2, True), (3, False)])
def test_a_shard_is_taken_where_there_are_so_many(functions: Functions, shard: int, right: bool) -> None:
    served = functions.serve({"TEST_SHARDS": "2"}, target="stripe_reconcile")
    body = {"slot": format_rfc3339(NOON), "step": 1, "shard": shard}
    answer = request(served, "POST", body=json.dumps(body).encode(), headers={"X-CloudTasks-TaskName": "a"})
    # Of Stripe it has no key: that comes later than the body.
    assert (answer.status == 400, problems(answer, "POST")) == (not right, [])
    assert (answer.fields.get("field") == "shard") is not right


def test_what_a_firing_in_shards_answers_stands_in_the_contract(make_environment: MakeEnvironment) -> None:
    with Taking() as taking:
        services = make_environment({"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": taking.address}).services
        job = ordered("in_shards", count_one, shards=2)
        told = []
        for shard in (0, 1, 2, 0):
            trigger = "task" if shard else "schedule"
            outcome = run_job(services, job, Invocation(trigger, NOON, step=1, shard=shard, host="127.0.0.1:1"))
            told.append({**outcome.as_json(), "job": "stripe_reconcile"})
    schema = CONTRACT["paths"]["/"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    for answer in told:
        assert [
            error.message for error in validator(schema).iter_errors(json.loads(json.dumps(answer, default=str)))
        ] == []
    named = [sorted(each.keys() & {"handed_to", "continued_by"}) for each in told]
    assert named == [["handed_to"], [], ["continued_by"], []]
    # What is not described by name passes as a count.
    assert "continued_by" in SCHEMAS["Done"]["properties"]


def test_health_is_told_as_the_contract_says(contracted: Served, functions: Functions) -> None:
    assert problems(request(contracted, "GET"), "GET") == []
    down = functions.serve({"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"})
    wrong_setting = functions.serve({"DATABASE_URL": "postgresql:///"})
    for served, code in ((down, 503), (wrong_setting, 500)):
        for method in ("GET", "POST"):
            answer = request(served, method)
            assert (answer.status, problems(answer, method)) == (code, [])
            assert "s3cret" not in answer.text
