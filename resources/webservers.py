"""The web servers that show the asset graph, as a Dagster resource: told to load it again when it changes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import dagster as dg
from pydantic import Field

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
        request = urllib.request.Request(  # noqa: S310 - an address of ours
            f"{address}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
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
