"""The OpenAPI description is the wire contract and the routes, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.routing import Route
from tests.serving.conftest import RunningServer

from vprm_runtime.wire import schemas
from vprm_serving.app import ROUTES

UNDESCRIBED = {"/", "/docs", "/openapi.json", "/page/{name}"}


def resolved(value: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its references followed."""
    if isinstance(value, dict):
        if "$ref" in value:
            return resolved(definitions[value["$ref"].split("/")[-1]], definitions)
        return {key: resolved(inner, definitions) for key, inner in value.items() if key != "$defs"}
    return [resolved(item, definitions) for item in value] if isinstance(value, list) else value


def test_bodies_are_the_types_of_the_wire_contract(server: RunningServer) -> None:
    document = server.http.get("/openapi.json").json()
    score = document["paths"]["/v1/score"]["post"]
    components = document["components"]["schemas"]
    body = score["requestBody"]["content"]["application/json"]["schema"]
    answer = score["responses"]["200"]["content"]["application/json"]["schema"]
    for found, name in ((body, "Row"), (answer, "Document")):
        wanted = schemas()[name]
        assert resolved(found, components) == resolved(wanted, wanted.get("$defs", {}))
    committed = json.loads((Path(__file__).parents[2] / "docs" / "wire.schema.json").read_text("utf-8"))
    assert committed["Row"] == schemas()["Row"]


def test_every_route_is_described_and_every_description_is_a_route(server: RunningServer) -> None:
    document = server.http.get("/openapi.json").json()
    described = {(path, method.upper()) for path, found in document["paths"].items() for method in found}
    routes = {
        (route.path, method)
        for route in ROUTES
        if isinstance(route, Route) and route.path not in UNDESCRIBED
        for method in route.methods or ()
    }
    automatic = {(path, "HEAD") for path, method in routes if method == "GET"}
    assert described == routes - (automatic - described)


def test_references_lead_somewhere(server: RunningServer) -> None:
    document = server.http.get("/openapi.json").json()
    text = json.dumps(document)
    for part in text.split('"$ref": "')[1:]:
        name = part.split('"')[0].removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"]
