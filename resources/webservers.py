"""The web servers that show the asset graph, as a Dagster resource: told to load it again when it changes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.access.sessions import service_token

RELOAD = """
mutation Reload($location: String!) {
    reloadRepositoryLocation(repositoryLocationName: $location) {
        __typename
        ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
        ... on PythonError { message }
        ... on ReloadNotSupported { message }
        ... on RepositoryLocationNotFound { message }
        ... on UnauthorizedError { message }
    }
}
"""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class WebServersResource(dg.ConfigurableResource["WebServersResource"]):
    """Addresses of Dagster's web servers; without any, a graph is as new as the server's start."""

    addresses: list[str] = Field(default_factory=list)

    def reload(self, location: str, *, seconds: float) -> list[str]:
        """Let every server load a code location again; return what went wrong, a sentence each.

        A server that has taken the request and is not done after `seconds` goes on alone: asked
        again, it would only begin anew.
        """
        found = (self._reload(address.rstrip("/"), location, seconds) for address in self.addresses)
        return [problem for problem in found if problem is not None]

    def _reload(self, address: str, location: str, seconds: float) -> str | None:
        body = json.dumps({"query": RELOAD, "variables": {"location": location}}).encode()
        headers = {"Content-Type": "application/json"}
        if (token := service_token()) is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{address}/graphql", data=body, headers=headers)  # noqa: S310 - an address of ours
        try:
            # Nobody who redirects it gets the token.
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds) as answer:
                said = json.load(answer)
        except TimeoutError:
            return None
        except (OSError, ValueError) as failure:
            return f"{address} does not answer: {failure}"
        done = (said.get("data") or {}).get("reloadRepositoryLocation") or {
            "message": str(said.get("errors"))
        }
        loaded = done.get("locationOrLoadError") or {}
        if done.get("__typename") == "WorkspaceLocationEntry" and loaded.get("__typename") != "PythonError":
            return None
        reason = " ".join(str(loaded.get("message") or done.get("message") or done).split())
        return f"{address} cannot load {location}: {reason[:300]}"
