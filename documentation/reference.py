"""The API's own schema as a page of Markdown."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings import Settings

_INTRODUCTION = """# The API from its schema

Made from the schema that a running service gives at `/openapi.json`. [api.md](api.md) says the same in words, with
examples.
"""


def reference_page() -> str:
    """Every call with its parameters, body and answers, then the members of every schema."""
    with tempfile.TemporaryDirectory() as home:
        document = create_app(Settings(home=Path(home))).openapi()
    lines = [_INTRODUCTION, "## Calls\n"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines.extend(_call(method.upper(), path, operation))
    lines.append("## Schemas\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines.extend(_schema(name, schema))
    return "\n".join(lines)


def _call(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method} {path}`\n"
    yield _prose(operation.get("description") or operation.get("summary", "")) + "\n"
    parameters = operation.get("parameters", ())
    if parameters:
        yield "| parameter | in | type |\n|---|---|---|"
        for parameter in parameters:
            yield f"| `{parameter['name']}` | {parameter['in']} | {_kind(parameter.get('schema', {}))} |"
        yield ""
    body = operation.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        yield f"Body: `{media}`, {_kind(content.get('schema', {}))}\n"
    yield "| status | answer |\n|---|---|"
    for status, answer in operation["responses"].items():
        kinds = {
            f"`{media}` {_kind(content.get('schema', {}))}".strip()
            for media, content in answer.get("content", {}).items()
        }
        yield f"| {status} | {_cell(answer.get('description', ''))} {_cell(', '.join(sorted(kinds)))} |"
    yield ""


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    yield _prose(schema.get("description", "")) + "\n"
    members = schema.get("properties", {})
    if members:
        yield "| member | type | default |\n|---|---|---|"
        required = set(schema.get("required", ()))
        for member, kind in members.items():
            default = "required" if member in required else f"`{kind['default']}`" if "default" in kind else ""
            yield f"| `{member}` | {_kind(kind)} | {_cell(default)} |"
        yield ""
    elif "enum" in schema:
        yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in a few words; another schema as a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(_kind(part) for part in schema[word])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"array of {_kind(schema.get('items', {})) or 'anything'}"
    return str(schema.get("format") or schema.get("type", ""))


def _prose(text: str) -> str:
    return text.replace("<", "&lt;")


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|").replace("\n", " ")
