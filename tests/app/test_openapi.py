"""The description of the API is enough to make a client from: names, schemas, headers, examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis

from app.errors import CATALOGUE
from app.main import create_app
from app.settings import Settings
from app.store.migrate import upgrade

CALLS_WITHOUT_AN_ANSWER = {"delete_job", "delete_model", "delete_dataset", "delete_webhook", "delete_open_upload"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'bitbudget.db'}")
    upgrade(settings.database_url)
    return json.loads(json.dumps(create_app(settings).openapi()))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in document["paths"].values():
        for operation in path.values():
            yield operation["operationId"], operation


def contents(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of every body its call, its media type and what is declared."""
    for name, operation in operations(document):
        bodies = [operation.get("requestBody", {})]
        bodies += [answer for status, answer in operation["responses"].items() if status != "206"]
        for body in bodies:
            for media_type, content in body.get("content", {}).items():
                yield name, media_type, content


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    whole = {**schema, "components": document["components"]}
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def test_it_is_valid_openapi(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_calls_have_short_names_and_known_tags(document: dict[str, Any]) -> None:
    names = [name for name, _ in operations(document)]
    assert len(names) == len(set(names))
    assert {"submit_job", "list_jobs", "put_model", "get_plan", "certify_file", "create_key"} <= set(names)
    assert all(name.count("_") in (1, 2) for name in names), names
    tags = {tag["name"] for tag in document["tags"]}
    assert all(set(operation["tags"]) <= tags for _, operation in operations(document))


def test_every_reference_leads_to_a_schema(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    targets = {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}
    known = document["components"]["schemas"]
    assert {target for target in targets if target.removeprefix("#/components/schemas/") not in known} == set()


def test_every_body_has_a_schema(document: dict[str, Any]) -> None:
    assert [(name, kind) for name, kind, content in contents(document) if not content.get("schema")] == []


def test_every_json_has_an_example_that_its_schema_takes(document: dict[str, Any]) -> None:
    without = {"get_plan", "get_sensitivity", "get_certificate", "get_plan_schema"}  # too long for one
    for name, media_type, content in contents(document):
        if not media_type.endswith("json"):
            continue
        examples = [one["value"] for one in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        assert examples or name in without, (name, media_type)
        for example in examples:
            validator(document, content["schema"]).validate(example)


def test_what_is_made_has_a_location_and_what_is_loaded_an_etag(document: dict[str, Any]) -> None:
    calls = dict(operations(document))
    for name in ("submit_job", "replan_job", "certify_file", "create_key", "create_webhook", "create_upload"):
        made = next(answer for status, answer in calls[name]["responses"].items() if status in ("201", "202"))
        assert "Location" in made["headers"], name
    for name in ("get_plan", "get_frontier", "get_sensitivity", "get_certificate", "get_quantized_model"):
        assert "ETag" in calls[name]["responses"]["200"]["headers"]
        assert "Content-Range" in calls[name]["responses"]["206"]["headers"]
    for name, operation in calls.items():
        if "429" in operation["responses"]:
            assert "Retry-After" in operation["responses"]["429"]["headers"], name
    sent = {parameter["name"] for parameter in calls["append_to_upload"]["parameters"]}
    assert {"Tus-Resumable", "Upload-Offset"} <= sent


def test_keys_are_asked_for_only_where_the_service_asks_for_them(document: dict[str, Any], tmp_path: Path) -> None:
    assert not any("security" in operation for _, operation in operations(document))
    with_keys = create_app(Settings(home=tmp_path, database_url="sqlite://", auth="keys")).openapi()
    assert "security" in dict(operations(with_keys))["submit_job"]


def test_the_codes_of_problems_are_those_of_the_catalogue(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(CATALOGUE)
