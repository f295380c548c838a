"""The OpenAPI description: bodies are the types of the wire contract, so that it cannot say anything else."""

from functools import cache
from importlib.metadata import version
from typing import Any

from vprm_runtime.execution.aggregate import AGGREGATES
from vprm_runtime.wire import schemas

_ERRORS = {
    "400": "the body is not what was expected", "404": "no such session, or an image that is not here (any more)",
    "413": "larger than the server takes", "422": "it cannot be scored, and why",
    "429": "the queue is full: try again after Retry-After", "500": "the engine failed on it",
    "503": "the server is stopping", "504": "the deadline passed before it was scored",
}  # fmt: skip
_QUERY = [
    {"name": "aggregate", "in": "query", "schema": {"enum": list(AGGREGATES)}, "description": "default mean"},
    {
        "name": "max_steps",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1},
        "description": "default no limit",
    },
    {"name": "max_tiles", "in": "query", "schema": {"type": "integer", "minimum": 1}, "description": "default model's"},
    {"name": "step_separator", "in": "query", "schema": {"type": "string"}, "description": "default blank lines"},
    {"name": "drop_empty_steps", "in": "query", "schema": {"type": "boolean"}, "description": "default false"},
]
_TIMEOUT = {
    "name": "x-vprm-timeout-ms", "in": "header", "schema": {"type": "integer", "minimum": 0},
    "description": "how long the caller waits; work that is late is dropped",
}  # fmt: skip
_OBJECT: dict[str, Any] = {"type": "object"}
_SESSION = {
    "type": "object",
    "required": ["session", "tiles", "prefix_tokens", "steps"],
    "properties": {
        "session": {"type": "string"},
        "tiles": {"type": "array", "items": {"type": "integer"}},
        "prefix_tokens": {"type": "integer"},
        "steps": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
}


@cache
def specification() -> dict[str, Any]:
    """The document of /openapi.json."""
    row, document = _reference("Row"), _reference("Document")
    session, step = _reference("Session"), _reference("Step")
    return {
        "openapi": "3.1.0",
        "info": {"title": "vprm serve", "version": version("vprm")},
        "components": {"schemas": _components(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/score": {"post": _operation("Scores of a row.", row, document, query=True)},
            "/v1/score/stream": {
                "post": _operation(
                    "Scores as they come: events prepared, steps, result, then document or error.",
                    row, {"type": "string"}, query=True, answer_type="text/event-stream",
                )
            },
            "/v1/select": {
                "post": _operation("The best response and the ranking, as the model card has it.", row, _OBJECT, True)
            },
            "/v1/images/{digest}": {
                "put": _operation(
                    "Keep an image file under the BLAKE2b digest (32 bytes, hexadecimal) of its content.",
                    {"type": "string", "contentEncoding": "binary"}, _OBJECT, path=("digest",),
                    body_type="application/octet-stream",
                ),
                "head": _operation("Whether the image is here.", None, None, path=("digest",)),
            },
            "/v1/sessions": {"post": _operation("Run images and question once.", _OBJECT, session, True, status="201")},
            "/v1/sessions/{session}": {
                "get": _operation("A session.", None, session, path=("session",)),
                "delete": _operation("Close a session.", None, None, path=("session",), status="204"),
            },
            "/v1/sessions/{session}/append": {
                "post": _operation("Commit a step.", _fields("step", after="integer"), step, path=("session",))
            },
            "/v1/sessions/{session}/score_next": {
                "post": _operation("Score alternatives for the next step.", _OBJECT, document, path=("session",))
            },
            "/v1/sessions/{session}/fork": {
                "post": _operation("A second session.", None, session, path=("session",), status="201")
            },
            "/v1/sessions/{session}/rewind": {
                "post": _operation("Forget the last steps.", _fields(steps="integer"), session, path=("session",))
            },
            "/v1/report": {
                "post": _operation(
                    "A scored row as one HTML file: row, results as /v1/score answered, aggregate, threshold.",
                    _report_schema(row), {"type": "string"}, answer_type="text/html",
                )
            },
            "/get_reward": {"post": _operation("OpenRLHF's remote reward.", _OBJECT, _OBJECT, query=True)},
            "/pooling": {"post": _operation("vLLM's pooling of messages.", _OBJECT, _OBJECT, query=True)},
            "/v1/model": {"get": _operation("Model, limits, queue and cache.", None, _OBJECT)},
            "/healthz": {"get": _operation("503 if the engine is stuck.", None, _OBJECT)},
            "/readyz": {"get": _operation("503 while loading and draining.", None, _OBJECT)},
            "/metrics": {"get": _operation("Prometheus' text.", None, {"type": "string"}, answer_type="text/plain")},
        },
    }  # fmt: skip


def _report_schema(row: dict[str, Any]) -> dict[str, Any]:
    results = {"type": "array", "items": _reference("Result")}
    others = {"aggregate": {"enum": list(AGGREGATES)}, "threshold": {"type": "number", "minimum": 0, "maximum": 1}}
    properties = {"row": row, "results": results, **others}
    return {"type": "object", "required": ["row", "results"], "properties": properties, "additionalProperties": False}


def _components() -> dict[str, Any]:
    """The wire contract's types by name, their nested ones too."""
    found: dict[str, Any] = {"Error": _ERROR, "Session": _SESSION}
    for name, schema in schemas().items():
        found |= schema.get("$defs", {})
        found[name] = {key: value for key, value in schema.items() if key != "$defs"}
    moved: dict[str, Any] = _with_references(found)
    return moved


def _with_references(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: inner.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _with_references(inner)
            for key, inner in value.items()
        }
    return [_with_references(item) for item in value] if isinstance(value, list) else value


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _fields(*texts: str, **others: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in texts} | {name: {"type": kind} for name, kind in others.items()}
    return {"type": "object", "required": list(texts), "properties": properties, "additionalProperties": False}


def _operation(
    summary: str, body: dict[str, Any] | None, answer: dict[str, Any] | None, query: bool = False,
    path: tuple[str, ...] = (), status: str = "200", body_type: str = "application/json",
    answer_type: str = "application/json",
) -> dict[str, Any]:  # fmt: skip
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path
    ]
    parameters += [*_QUERY, _TIMEOUT] if query else []
    good: dict[str, Any] = {"description": summary}
    if answer is not None:
        good["content"] = {answer_type: {"schema": answer}}
    errors = {
        code: {"description": text, "content": {"application/json": {"schema": _reference("Error")}}}
        for code, text in _ERRORS.items()
    }
    operation: dict[str, Any] = {"summary": summary, "parameters": parameters, "responses": {status: good, **errors}}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {body_type: {"schema": body}}}
    return operation
