"""The schemas of results, for tests that have real ones."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

DOCUMENTS, PLAN = "urn:bitbudget:schema:documents:1", "urn:bitbudget:schema:plan:1"


def check_document(name: str, document: Any) -> None:
    """Raise ValidationError unless the document is one of this name."""
    texts = {uri: files("app.schemas").joinpath(file) for uri, file in _FILES.items()}
    schemas = {uri: json.loads(text.read_bytes()) for uri, text in texts.items()}
    registry = Registry().with_resources((uri, Resource.from_contents(schema)) for uri, schema in schemas.items())
    Draft202012Validator({"$ref": f"{DOCUMENTS}#/$defs/{name}"}, registry=registry).validate(document)


_FILES = {DOCUMENTS: "documents-1.json", PLAN: "plan-1.json"}
