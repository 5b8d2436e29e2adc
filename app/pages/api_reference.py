"""`/docs`: every call of the API, as OpenAPI describes it, without anything that would come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.pages.rendering import render

router = APIRouter(include_in_schema=False)

Schema = Mapping[str, Any]
_NAMES = {"array": "list", "object": "object", "integer": "integer", "number": "number", "boolean": "true or false"}


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a member of a body."""

    name: str
    kind: str
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Call:
    """One method at one address."""

    method: str
    path: str
    description: str
    parameters: list[Field]
    bodies: dict[str, list[Field]]
    """Members by media type; none for contents that have none."""
    answers: dict[str, str]


@router.get("/docs", response_class=Response)
def show_api(request: Request) -> Response:
    """The page."""
    document = request.app.openapi()
    groups: dict[str, list[Call]] = {}
    for tag, call in _calls(document):
        groups.setdefault(tag, []).append(call)
    return render(request, "api.html", about=document["info"], groups=groups)


def _calls(document: Schema) -> Iterator[tuple[str, Call]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = [
                Field(each["name"], f"{each['in']}, {_kind(each['schema'])}", each["required"], _text(each))
                for each in operation.get("parameters", ())
                if each["in"] != "cookie"
            ]
            bodies = {
                media_type: _members(document, content.get("schema", {}))
                for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
            }
            answers = {status: answer["description"] for status, answer in operation["responses"].items()}
            call = Call(method.upper(), path, operation.get("description", ""), parameters, bodies, answers)
            yield operation.get("tags", ["other"])[0], call


def _members(document: Schema, schema: Schema) -> list[Field]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][_name(schema)]
    needed = schema.get("required", ())
    members = schema.get("properties", {})
    return [Field(name, _kind(member), name in needed, _text(member)) for name, member in members.items()]


def _kind(schema: Schema) -> str:
    """What a value is, in a few words."""
    if "$ref" in schema:
        return _name(schema)
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if schema.get("format") == "binary":
        return "file"
    kind = str(schema.get("type", "any value"))
    return _NAMES.get(kind, "text" if kind == "string" else kind)


def _name(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _text(described: Schema) -> str:
    return str(described.get("description") or described.get("schema", {}).get("description") or "")
