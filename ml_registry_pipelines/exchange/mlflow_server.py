"""An MLflow tracking server, read over its REST API: what it holds, as values, and the bytes of artifacts.

Only reads. Nothing of MLflow is installed for it. What becomes of what is read is in
`mlflow_import.py`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.artifacts import MAX_FILES, checked_path

if TYPE_CHECKING:
    import requests

API = "api/2.0/mlflow"
PROXY = "api/2.0/mlflow-artifacts/artifacts"
PAGE = 1000
TRIES = 4
CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
PAUSE_SECONDS = 0.2
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
PIECE = 1 << 20
DEEPEST = 64


class TrackingServerError(MlregError):
    """The tracking server did not give what was asked for."""


class Unreachable(TrackingServerError):
    """Nothing answers there, or it keeps failing."""


class AccessRefused(TrackingServerError):
    """The server wants other credentials."""


class NoTrackingServer(TrackingServerError):
    """Something answers there that is no MLflow tracking server."""


class NotThere(TrackingServerError):
    """The server has no such thing."""


class ArtifactLost(TrackingServerError):
    """An artifact that the server lists cannot be fetched whole."""


class NotHandedOut(TrackingServerError):
    """The artifacts lie where the tracking server hands nothing out."""


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model. Two of one name are the same if they were created at the same millisecond."""

    name: str
    created_ms: int
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, int]

    @property
    def is_prompt(self) -> bool:
        return self.tags.get("mlflow.prompt.is_prompt", "").lower() == "true"


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    number: int
    created_ms: int
    updated_ms: int
    stage: str
    description: str
    source: str
    run_id: str
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Shelf:
    """A folder of artifacts that the server hands out, by one of three routes.

    `route` is proxy (`place` is a path below the artifact proxy), run or logged_model
    (`place` is its id, and `below` a path inside).
    """

    route: str
    place: str
    below: str = ""


@dataclass(frozen=True)
class Credentials:
    """What opens the server; never shown."""

    username: str = ""
    password: str = ""
    token: str = ""

    @classmethod
    def from_environment(cls) -> Credentials:
        """The variables that MLflow's own clients read."""
        return cls(
            os.environ.get("MLFLOW_TRACKING_USERNAME", ""),
            os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
            os.environ.get("MLFLOW_TRACKING_TOKEN", ""),
        )


class TrackingServer:
    """One tracking server.

    Args:
        uri: its address, `http://host:5000`; a user and password in it are used and not shown.
        credentials: by default those of the environment.

    Raises:
        NoTrackingServer: the address is none.
    """

    def __init__(self, uri: str, credentials: Credentials | None = None) -> None:
        try:
            parts = urlsplit(uri.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in {"http", "https"} or not host:
            shown = uri.rpartition("@")[2]
            raise NoTrackingServer(f"{shown!r} is no address of a tracking server; give http://HOST:PORT")
        given = credentials or Credentials.from_environment()
        if parts.username:
            given = Credentials(unquote(parts.username), unquote(parts.password or ""))
        self._credentials = given
        bracketed = f"[{host}]" if ":" in host else host
        netloc = bracketed if port is None else f"{bracketed}:{port}"
        self.uri = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        self._session: requests.Session | None = None

    # -- what it holds -----------------------------------------------------------------

    def born_ms(self) -> int | None:
        """When the server's database was made, by its first experiment; None where that cannot be seen."""
        try:
            found = self._get(f"{API}/experiments/get", {"experiment_id": "0"})["experiment"]
        except (NotThere, AccessRefused, KeyError):
            return None
        return int(found.get("creation_time", 0)) or None

    def models(self) -> Iterator[RegisteredModel]:
        """All registered models, prompts included."""
        # A search leaves prompts out unless it asks for them.
        for wanted in ("", "tags.`mlflow.prompt.is_prompt` = 'true'"):
            for row in self._pages(
                f"{API}/registered-models/search", "registered_models", wanted, "name ASC"
            ):
                model = _model(row)
                if model.is_prompt == bool(wanted):
                    yield model

    def model(self, name: str) -> RegisteredModel:
        """One registered model.

        Raises:
            NotThere: there is none of that name.
        """
        return _model(self._get(f"{API}/registered-models/get", {"name": name})["registered_model"])

    def versions(self) -> Iterator[ModelVersion]:
        """The versions of all registered models."""
        path = f"{API}/model-versions/search"
        for row in self._pages(path, "model_versions", "", "name ASC"):
            yield _version(row)

    def run(self, run_id: str) -> dict[str, Any]:
        """A run as the server gives it: info, data, inputs, outputs."""
        found: dict[str, Any] = self._get(f"{API}/runs/get", {"run_id": run_id})["run"]
        return found

    def metric_history(self, run_id: str, key: str) -> Iterator[dict[str, Any]]:
        """Every value that a run has logged for a metric."""
        asked: dict[str, Any] = {"run_id": run_id, "metric_key": key, "max_results": 25_000}
        while True:
            answer = self._get(f"{API}/metrics/get-history", asked)
            yield from answer.get("metrics", ())
            if not answer.get("next_page_token"):
                return
            asked["page_token"] = answer["next_page_token"]

    # -- artifacts ---------------------------------------------------------------------

    def shelf(self, version: ModelVersion) -> Shelf:
        """Where the artifacts of a version are handed out.

        Raises:
            NotHandedOut: they lie in a store that the server does not stand before.
            NotThere: the run or model that they belong to is gone.
        """
        answer = self._get(
            f"{API}/model-versions/get-download-uri", {"name": version.name, "version": str(version.number)}
        )
        return self._shelf(str(answer.get("artifact_uri", "")), version, 0)

    def _shelf(self, uri: str, version: ModelVersion, depth: int) -> Shelf:
        parts = urlsplit(uri)
        if depth > 8:
            raise NotHandedOut(f"the artifacts of {version.name} version {version.number} lead in a circle")
        match parts.scheme:
            case "mlflow-artifacts" if parts.netloc in {"", urlsplit(self.uri).netloc}:
                return Shelf("proxy", unquote(parts.path).strip("/"))
            case "http" | "https" if uri.startswith(f"{self.uri}/{PROXY}/"):
                return Shelf("proxy", unquote(uri.removeprefix(f"{self.uri}/{PROXY}/")).strip("/"))
            case "runs":
                run_id, _, below = uri.removeprefix("runs:").strip("/").partition("/")
                root = str(self.run(run_id)["info"].get("artifact_uri", ""))
                if urlsplit(root).scheme in {"mlflow-artifacts", "http", "https"}:
                    return self._shelf(f"{root.rstrip('/')}/{below}", version, depth + 1)
                return Shelf("run", run_id, below)
            case "models" if (name := uri.removeprefix("models:").strip("/")).startswith("m-"):
                model_id, _, below = name.partition("/")
                found = self._get(f"{API}/logged-models/{quote(model_id, safe='')}", {})
                root = str(found["model"]["info"].get("artifact_uri", ""))
                if urlsplit(root).scheme in {"mlflow-artifacts", "http", "https"}:
                    return self._shelf(f"{root.rstrip('/')}/{below}", version, depth + 1)
                return Shelf("logged_model", model_id, below)
        if version.run_id:
            root = str(self.run(version.run_id)["info"].get("artifact_uri", "")).rstrip("/")
            if root and (uri == root or uri.startswith(f"{root}/")):
                return Shelf("run", version.run_id, uri[len(root) :].strip("/"))
        raise NotHandedOut(
            f"the artifacts of {version.name} version {version.number} lie at {without_secrets(uri)}, which the "
            "tracking server does not hand out"
        )

    def download(self, shelf: Shelf, target: Path) -> int:
        """Write all files of a shelf below `target`, as streams; return the bytes.

        Raises:
            ArtifactLost: a listed file cannot be had, or came shorter than listed.
        """
        total = 0
        for number, (path, size) in enumerate(self._files(shelf, "", 0), start=1):
            if number > MAX_FILES:
                raise ArtifactLost(f"{self.uri} lists more than {MAX_FILES:,} files for one model; pack them")
            file = target / checked_path(path)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as failure:
                raise ArtifactLost(f"{file.parent} cannot be made: {failure.strerror}") from failure
            total += self._fetch(shelf, path, size, file)
        return total

    def _files(self, shelf: Shelf, folder: str, depth: int) -> Iterator[tuple[str, int | None]]:
        if depth > DEEPEST:
            raise ArtifactLost(
                f"{self.uri} lists folders more than {DEEPEST} levels deep below {shelf.place}"
            )
        for row in self._listing(shelf, folder):
            name = str(row.get("path", "")).rstrip("/").rsplit("/", 1)[-1]
            path = f"{folder}/{name}" if folder else name
            checked_path(path)
            if row.get("is_dir"):
                yield from self._files(shelf, path, depth + 1)
            else:
                yield path, None if row.get("file_size") is None else int(row["file_size"])

    def _listing(self, shelf: Shelf, folder: str) -> list[dict[str, Any]]:
        below = "/".join(part for part in (shelf.below, folder) if part)
        match shelf.route:
            case "proxy":
                path, asked = PROXY, {"path": "/".join(p for p in (shelf.place, folder) if p)}
            case "run":
                path, asked = f"{API}/artifacts/list", {"run_id": shelf.place}
                asked |= {"path": below} if below else {}
            case _:
                path = f"{API}/logged-models/{quote(shelf.place, safe='')}/artifacts/directories"
                asked = {"artifact_directory_path": below} if below else {}
        found: list[dict[str, Any]] = []
        while True:
            answer = self._get(path, asked)
            found += answer.get("files", ())
            if not answer.get("next_page_token"):
                return found
            asked["page_token"] = answer["next_page_token"]

    def _fetch(self, shelf: Shelf, path: str, size: int | None, file: Path) -> int:
        below = "/".join(part for part in (shelf.below, path) if part)
        match shelf.route:
            case "proxy":
                address, asked = f"{PROXY}/{quote(f'{shelf.place}/{path}')}", {}
            case "run":
                address, asked = "get-artifact", {"run_id": shelf.place, "path": below}
            case _:
                address = f"ajax-api/2.0/mlflow/logged-models/{quote(shelf.place, safe='')}/artifacts/files"
                asked = {"artifact_file_path": below}
        why = ""
        for attempt in range(TRIES):
            if attempt:
                _pause(attempt)
            try:
                written = self._stream(address, asked, file)
            except NotThere:
                raise ArtifactLost(f"{self.uri} lists the artifact {path!r} and does not have it") from None
            except _Broken as broken:
                why = str(broken)
                continue
            if size is None or written == size:
                return written
            why = f"{written:,} bytes came"
        listed = "" if size is None else f" of {size:,} bytes"
        raise ArtifactLost(
            f"the artifact {path!r}{listed} cannot be fetched whole from {self.uri}: {why}, {TRIES} times"
        )

    def _stream(self, address: str, asked: Mapping[str, str], file: Path) -> int:
        import requests

        with self._ask(address, asked, stream=True) as answer:
            written = 0
            try:
                with file.open("wb") as out:
                    for piece in answer.iter_content(PIECE):
                        written += len(piece)
                        out.write(piece)
            except requests.RequestException as broken:
                raise _Broken(
                    f"the answer broke off after {written:,} bytes ({type(broken).__name__})"
                ) from broken
            except OSError as failure:
                raise TrackingServerError(f"{file} cannot be written: {failure.strerror}") from failure
            return written

    # -- asking --------------------------------------------------------------------------

    def _pages(self, path: str, field: str, wanted: str, order: str) -> Iterator[dict[str, Any]]:
        asked: dict[str, Any] = {"max_results": PAGE, "order_by": order}
        if wanted:
            asked["filter"] = wanted
        while True:
            answer = self._get(path, asked)
            yield from answer.get(field, ())
            if not answer.get("next_page_token"):
                return
            asked["page_token"] = answer["next_page_token"]

    def _get(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object at a path; what may pass is asked for again."""
        for attempt in range(TRIES):
            if attempt:
                _pause(attempt)
            try:
                with self._ask(path, asked) as answer:
                    found = answer.json()
            except _Broken as broken:
                if attempt == TRIES - 1:
                    raise Unreachable(f"{self.uri} failed {TRIES} times: {broken}") from broken
                continue
            except ValueError:
                break
            if isinstance(found, dict):
                return found
            break
        raise NoTrackingServer(
            f"{self.uri} answered /{path} with something that is no MLflow answer; is it a tracking server's address?"
        )

    def _ask(self, path: str, asked: Mapping[str, Any], *, stream: bool = False) -> requests.Response:
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.headers.update({"Accept-Encoding": "identity"})
            if self._credentials.token:
                self._session.headers["Authorization"] = f"Bearer {self._credentials.token}"
            elif self._credentials.username:
                self._session.auth = (self._credentials.username, self._credentials.password)
        try:
            answer = self._session.get(
                f"{self.uri}/{path}",
                params=dict(asked),
                stream=stream,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                # Where it leads would get the credentials.
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as failure:
            raise Unreachable(f"{self.uri} has a certificate that is not trusted: {failure}") from failure
        except requests.exceptions.ConnectionError as failure:
            raise _Broken("nothing answers") from failure
        except (
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as failure:
            raise _Broken("the answer broke off") from failure
        except requests.exceptions.Timeout as failure:
            raise _Broken(f"no answer within {READ_SECONDS:.0f} seconds") from failure
        except requests.RequestException as failure:
            raise NoTrackingServer(f"{self.uri} cannot be asked: {failure}") from failure
        return self._judged(answer, path)

    def _judged(self, answer: requests.Response, path: str) -> requests.Response:
        status = answer.status_code
        if status == 200:
            return answer
        with answer:
            said, code = _said(answer)
            if status in PASSING:
                raise _Broken(f"it answered /{path} with status {status}{said}")
            if status in {401, 403}:
                raise AccessRefused(
                    f"{self.uri} refused /{path} with status {status}{said}: set MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an account that may read"
                )
            if 300 <= status < 400:
                to = without_secrets(answer.headers.get("Location", "elsewhere"))
                raise NoTrackingServer(f"{self.uri} leads on to {to}; give the address that it leads to")
            if status == 404 and (
                code == "RESOURCE_DOES_NOT_EXIST" or path.startswith((PROXY, "get-art", "ajax"))
            ):
                raise NotThere(f"{self.uri} does not have that{said}")
            if code:
                raise TrackingServerError(f"{self.uri} answered /{path} with status {status}{said}")
            raise NoTrackingServer(
                f"{self.uri} answered /{path} with status {status}; is it a tracking server's address?"
            )


class _Broken(TrackingServerError):
    """A request that may succeed the next time."""


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.5, 1.0) * PAUSE_SECONDS * 2 ** min(attempt, 5))


def _said(answer: requests.Response) -> tuple[str, str]:
    """The server's own words, short, and its error code."""
    import requests

    try:
        body = answer.json()
    except (ValueError, requests.RequestException):
        return "", ""
    if not isinstance(body, dict) or "error_code" not in body:
        return "", ""
    return f" ({str(body.get('message', ''))[:200]})", str(body["error_code"])


def without_secrets(uri: str) -> str:
    """An address without the user, password and query that may stand in it."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _pairs(rows: object) -> dict[str, str]:
    return {str(r["key"]): str(r.get("value", "")) for r in rows} if isinstance(rows, list) else {}


def _model(row: Mapping[str, Any]) -> RegisteredModel:
    return RegisteredModel(
        str(row["name"]),
        int(row.get("creation_timestamp", 0)),
        str(row.get("description", "")),
        _pairs(row.get("tags")),
        {str(a["alias"]): int(a["version"]) for a in row.get("aliases", ())},
    )


def _version(row: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(
        str(row["name"]),
        int(row["version"]),
        int(row.get("creation_timestamp", 0)),
        int(row.get("last_updated_timestamp", 0)),
        str(row.get("current_stage", "None")) or "None",
        str(row.get("description", "")),
        str(row.get("source", "")),
        str(row.get("run_id", "") or ""),
        str(row.get("status", "READY")),
        _pairs(row.get("tags")),
    )
