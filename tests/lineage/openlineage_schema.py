"""What OpenLineage 2-0-2 asks of an event, written down from its specification: names, kinds, what is required."""

from __future__ import annotations

from typing import Any

FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL"],
    "properties": {
        "_producer": {"type": "string", "format": "uri"},
        "_schemaURL": {"type": "string", "format": "uri"},
    },
}
FACETS = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Facet"}}
FIELD = {
    "type": "object",
    "required": ["namespace", "name", "field"],
    "properties": {name: {"type": "string"} for name in ("namespace", "name", "field")},
}


def _dataset(more: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["namespace", "name"],
        "properties": {
            "namespace": {"type": "string"},
            "name": {"type": "string"},
            "facets": {
                **FACETS,
                "properties": {
                    "version": {
                        "required": ["datasetVersion"],
                        "properties": {"datasetVersion": {"type": "string"}},
                    },
                    "schema": {
                        "properties": {
                            "fields": {
                                "type": "array",
                                "items": {"required": ["name"], "properties": {"name": {"type": "string"}}},
                            }
                        }
                    },
                    "columnLineage": {
                        "required": ["fields"],
                        "properties": {
                            "fields": {
                                "type": "object",
                                "additionalProperties": {
                                    "required": ["inputFields"],
                                    "properties": {"inputFields": {"type": "array", "items": FIELD}},
                                },
                            },
                            "dataset": {"type": "array", "items": FIELD},
                        },
                    },
                },
            },
            more: FACETS,
        },
    }


RUN_EVENT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"Facet": FACET},
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"type": "string", "pattern": r"/spec/2-0-2/OpenLineage\.json#/\$defs/RunEvent$"},
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {
                "runId": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
                "facets": FACETS,
            },
        },
        "job": {
            "type": "object",
            "required": ["namespace", "name"],
            "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
        },
        "inputs": {"type": "array", "items": _dataset("inputFacets")},
        "outputs": {"type": "array", "items": _dataset("outputFacets")},
    },
}
