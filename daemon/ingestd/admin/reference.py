"""The page about the HTTP interface, from its OpenAPI document: what a person wants to know before the first request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ingestd.admin.problems import CONTENT_TYPE

_KEYWORDS = ("minimum", "maximum", "minLength", "maxLength")


def groups(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operations by what they are about, in the order of the document."""
    found: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[operation["tags"][0]].append(_operation(document, method, path, operation))
    return [{"name": name, "operations": operations} for name, operations in found.items()]


def _operation(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    schemas = [_resolved(document, about["schema"]) for about in content.values()]
    answers = {status: answer for status, answer in operation["responses"].items() if "$ref" not in answer}
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "permission": operation["x-permission"],
        "parameters": [
            {"name": one["name"], "where": one["in"], "type": kind_of(document, one["schema"]), "text": one["description"]}
            for one in operation["parameters"]
        ],
        "body": [member for schema in schemas for member in _members(document, schema)],
        "open": any(schema.get("additionalProperties") is True for schema in schemas),
        "answers": [
            {"status": status, "text": answer["description"], "members": list(_answered(document, answer))}
            for status, answer in answers.items()
        ],
    }


def _answered(document: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, about in answer.get("content", {}).items():
        if kind == CONTENT_TYPE or "json" not in kind:
            continue
        schema = _resolved(document, about["schema"])
        items = schema.get("properties", {}).get("items")
        yield from _members(document, _resolved(document, items["items"]) if items else schema)


def _members(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    needed = schema.get("required", ())
    for name, about in schema.get("properties", {}).items():
        yield {"name": name, "type": kind_of(document, about), "needed": name in needed, "text": about.get("description", "")}


def kind_of(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(kind_of(document, one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {kind_of(document, schema.get('items', {}))}"
    limits = [f"{word} {schema[word]}" for word in _KEYWORDS if word in schema]
    kind = schema.get("format") or schema.get("type", "any")
    return f"{kind} ({', '.join(limits)})" if limits and kind == "integer" else str(kind)


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema
