"""The web server's door and what lies behind: Dagster's own application, in this process, with real users."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import dagster as dg
import pytest
import uvicorn
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.test_utils import instance_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from ml_registry_pipelines import webserver
from ml_registry_pipelines.access.policy import owner_of
from ml_registry_pipelines.access.secret import make_secret
from ml_registry_pipelines.access.sessions import COOKIE, Attempts, TrustedProxy, safe_next, service_token
from ml_registry_pipelines.access.stamps import BACKFILL, LAUNCHPAD, STAMP, actor_of, stamped
from ml_registry_pipelines.access.users import Users, actor_for_key
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import BY_KEY, Actor, ActorKind
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.run_coordinator import VariableRefused
from ml_registry_pipelines.webpermissions import MUTATIONS, ProcessContext
from tests.conftest import PATIENCE_MS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("dagster_webserver")
LOCATION = "web_location"
ROLES = ("viewer", "engineer", "reviewer", "compliance")
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""


@dataclass
class Site:
    """One web server with its users and their keys."""

    app: Any
    instance: dg.DagsterInstance
    log: Log
    users: Users
    keys: dict[str, str]
    ids: dict[str, str]

    def client(self, role: str | None = None, **headers: str) -> TestClient:
        if role is not None:
            headers["Authorization"] = f"Bearer {self.keys[role]}"
        return TestClient(self.app, base_url="http://mlreg.test", headers=headers)

    def graphql(self, role: str, query: str, **variables: object) -> Any:
        return self.client(role).post("/graphql", json={"query": query, "variables": variables}).json()

    def launch(self, role: str, job: str, **more: object) -> Any:
        given = {"selector": selector(job), "runConfigData": {}, **more}
        return self.graphql(role, LAUNCH, p=given)["data"]["launchRun"]

    def launched(self, role: str, job: str, **more: object) -> dg.DagsterRun:
        done = self.launch(role, job, **more)
        assert done["__typename"] == "LaunchRunSuccess", done
        run = self.instance.get_run_by_id(done["run"]["runId"])
        assert run is not None
        return run


def selector(job: str) -> dict[str, str]:
    return {
        "repositoryLocationName": LOCATION,
        "repositoryName": "__repository__",
        "jobName": job,
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLREG_HOME", str(home / "lake"))
    overrides = {
        "run_coordinator": {
            "module": "ml_registry_pipelines.run_coordinator",
            "class": "StampingRunCoordinator",
        },
        "telemetry": {"enabled": False},
    }
    with (
        instance_for_test(temp_dir=str(home), overrides=overrides) as instance,
        Lake(str(home / "lake")) as lake,
        Log(lake) as log,
    ):
        patch.setenv("DAGSTER_HOME", str(home))
        make_secret(home)
        _, admin = Users(log, actor=owner_of(lake)).init()
        users = Users(log, actor=actor_for_key(log, admin.text))
        keys, ids = {"admin": admin.text}, {"admin": users.actor.id}
        for role in ROLES:
            user = users.add_user([role], tenants=["*"])
            keys[role], ids[role] = users.add_key(user.id).text, user.id
        elsewhere = users.add_user(["engineer"], tenants=["acme"])
        keys["acme"], ids["acme"] = users.add_key(elsewhere.id).text, elsewhere.id
        with process(instance) as context:
            app = webserver.WebServer(context, home=home).create_asgi_app()
            yield Site(app, instance, log, users, keys, ids)
    patch.undo()


def process(instance: dg.DagsterInstance) -> ProcessContext:
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(Path(__file__).with_name("web_location.py"))),
        location_name=LOCATION,
    )
    return ProcessContext(instance, workspace_load_target=InProcessWorkspaceLoadTarget(origin))


# -- the door ---------------------------------------------------------------------------------


def test_nobody_gets_anything_without_signing_in(site: Site) -> None:
    client = site.client()
    for path in ("/", "/graphql?query={version}", "/server_info", "/logs/a.out", "/runs/1", "/robots.txt"):
        assert client.get(path).status_code == 401
    assert client.post("/graphql", json={"query": "{ version }"}).status_code == 401
    assert client.post("/report_asset_materialization/owned", json={}).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/graphql"):
        pass
    page = client.get("/runs?a=1", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/mlreg/login?next=/runs%3Fa%3D1")


def test_who_signs_in_with_a_key_gets_a_session_that_scripts_and_other_sites_cannot_use(site: Site) -> None:
    client = site.client()
    assert 'name="next"' in client.get("/mlreg/login").text.replace("'", '"')
    done = client.post(
        "/mlreg/login", data={"key": site.keys["viewer"], "next": "/runs"}, follow_redirects=False
    )
    assert (done.status_code, done.headers["location"]) == (303, "/runs")
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "Max-Age=28800" in cookie
    assert site.keys["viewer"] not in cookie
    assert client.get("/server_info").status_code == 200
    sent = {"query": "{ version }"}
    for origin, status in (("http://mlreg.test", 200), ("http://evil.test", 403), ("null", 403)):
        assert client.post("/graphql", json=sent, headers={"Origin": origin}).status_code == status
    assert client.post("/graphql", json=sent).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/graphql", headers={"Origin": "http://evil.test"}),
    ):
        pass
    client.post("/mlreg/logout", headers={"Origin": "http://mlreg.test"})
    assert client.get("/server_info").status_code == 401


def test_browsers_say_of_the_form_that_it_is_from_here(site: Site) -> None:
    page = site.client().get("/mlreg/login")
    # A page with `no-referrer` sends its forms with `Origin: null`, as any page of another site can.
    assert page.headers["referrer-policy"] == "same-origin"
    sent = {"key": site.keys["viewer"], "next": "/runs"}
    for origin, status in (("http://mlreg.test", 303), ("null", 403)):
        client = site.client(Origin=origin)
        assert client.post("/mlreg/login", data=sent, follow_redirects=False).status_code == status


def test_a_cookie_that_was_altered_or_whose_user_is_out_opens_nothing(site: Site) -> None:
    user = site.users.add_user(["viewer"], tenants=["*"])
    client = site.client()
    client.post("/mlreg/login", data={"key": site.users.add_key(user.id).text})
    good = client.cookies[COOKIE]
    assert client.get("/server_info").status_code == 200
    body, _, seal = good.partition(".")
    for bad in (f"{body}x.{seal}", f"{body}.{'0' * 64}", body, "", ".", "a.b"):
        assert site.client(Cookie=f"{COOKIE}={bad}").get("/server_info").status_code == 401
    site.users.set_roles(user.id, ["engineer"])
    assert client.get("/server_info").status_code == 401


def test_after_ten_wrong_keys_an_address_waits_and_signed_in_users_go_on(site: Site) -> None:
    with process(site.instance) as context:
        app = webserver.WebServer(context, home=Path(site.instance.root_directory)).create_asgi_app()
    client = TestClient(app, base_url="http://mlreg.test")
    said = [client.post("/mlreg/login", data={"key": "wrong"}) for _ in range(11)]
    assert [answer.status_code for answer in said] == [401] * 10 + [429]
    assert int(said[-1].headers["retry-after"]) > 0
    assert client.post("/mlreg/login", data={"key": site.keys["viewer"]}).status_code == 429
    assert (
        client.get("/server_info", headers={"Authorization": f"Bearer {site.keys['viewer']}"}).status_code
        == 429
    )


def test_attempts_are_forgotten_after_a_minute_and_kept_for_a_bounded_number_of_addresses() -> None:
    at = [0.0]
    attempts = Attempts(clock=lambda: at[0])
    for _ in range(10):
        attempts.wrong("a")
    with pytest.raises(Exception, match="too many wrong keys; try again in 60 s"):
        attempts.check("a")
    attempts.check("b")
    at[0] = 61.0
    attempts.check("a")
    for n in range(10_100):
        attempts.wrong(str(n))
    assert len(attempts._wrong) == 10_000


@pytest.mark.parametrize(
    "given",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "javascript:alert(1)",
        "\\\\e",
        "/a\nb",
        "",
        "/\t/e",
    ],
)
def test_after_signing_in_nobody_is_sent_to_another_site(given: str) -> None:
    assert safe_next(given, "") == "/"
    assert safe_next("/runs?from=a:b", "") == "/runs?from=a:b"
    assert safe_next("/runs", "/dagster") == "/dagster/"


def test_a_proxy_is_believed_by_its_address_and_its_secret_only(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "proxy"
    secret.write_text("s" * 20)
    with pytest.MonkeyPatch.context() as patch, process(site.instance) as context:
        patch.setenv("MLREG_PROXY_ADDRESSES", "127.0.0.1")
        with pytest.raises(Exception, match="MLREG_PROXY_SECRET_FILE"):
            TrustedProxy.from_environment()
        patch.setenv("MLREG_PROXY_SECRET_FILE", str(secret))
        app = webserver.WebServer(context, home=Path(site.instance.root_directory)).create_asgi_app()
    headers = {"X-Forwarded-User": site.ids["viewer"], "X-Mlreg-Proxy-Secret": "s" * 20}
    from_proxy = TestClient(app, base_url="http://mlreg.test", client=("127.0.0.1", 5))
    from_elsewhere = TestClient(app, base_url="http://mlreg.test", client=("10.0.0.9", 5))
    assert from_proxy.get("/server_info", headers=headers).status_code == 200
    assert from_elsewhere.get("/server_info", headers=headers).status_code == 401
    for wrong in ({"X-Mlreg-Proxy-Secret": "wrong"}, {"X-Forwarded-User": "nobody"}):
        assert from_proxy.get("/server_info", headers={**headers, **wrong}).status_code == 401
    assert site.client(**headers).get("/server_info").status_code == 401


def test_who_has_not_every_tenant_sees_no_page_that_shows_all_of_them(site: Site) -> None:
    answer = site.client("acme").post("/graphql", json={"query": "{ version }"})
    assert answer.status_code == 403
    assert "show every tenant" in answer.json()["error"]
    for path in (
        "/mlreg/search/%2e%2e/%2e%2e/graphql",
        "/mlreg/artifacts/a/b/c",
        "/mlreg/search/more",
        "/mlreg/governance/",
    ):
        assert site.client("acme").get(path).status_code == 403, path
    assert site.client("acme").get("/mlreg/search/hits", params={"tenant": "acme"}).status_code == 200


def test_an_artifact_goes_to_who_may_read_it_and_every_refusal_is_noted(site: Site, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    versions = {}
    for tenant in ("acme", "default"):
        registry = ModelRegistry(site.log, actor=site.users.actor, tenant=tenant)
        registry.register_model("fraud")
        versions[tenant] = registry.create_model_version("fraud", content=tmp_path / "weights").id
    get = site.client("acme").get
    # A person lands on a page that says why, and leads to what is theirs.
    page = site.client("acme", Accept="text/html").get("/overview")
    assert (page.status_code, "show all tenants at once" in page.text) == (403, True)
    assert f"/mlreg/artifacts/acme/{versions['acme']}" in page.text
    assert versions["default"] not in page.text
    assert "default" not in page.text
    governance = site.client("acme", Accept="text/html").get("/mlreg/governance/acme")
    assert (governance.status_code, "<h1>Governance</h1>" in governance.text) == (200, True)
    for tenant in ("default", "nobody", "$access"):
        assert get(f"/mlreg/governance/{tenant}").status_code == 404
    assert site.client().get("/mlreg/governance/acme").status_code == 401
    assert site.client("viewer").get("/mlreg/governance/default").status_code == 200
    assert get(f"/mlreg/artifacts/acme/{versions['acme']}").content == b"w" * 100
    assert get(f"/mlreg/artifacts/default/{versions['default']}").status_code == 403
    assert site.client().get(f"/mlreg/artifacts/acme/{versions['acme']}").status_code == 401
    assert site.client("viewer").get(f"/mlreg/artifacts/acme/{versions['acme']}").status_code == 200


# -- what roles may do --------------------------------------------------------------------------


def test_every_mutation_of_the_schema_is_classified() -> None:
    from dagster_graphql.schema import create_schema

    mutations = create_schema().graphql_schema.mutation_type
    assert mutations is not None
    assert set(mutations.fields) == set(MUTATIONS)


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_no_mutation_gets_through_by_any_way_of_sending_it(site: Site, role: str) -> None:
    client = site.client(role)
    launches = {"launchRun", "launchPipelineExecution", "launchMultipleRuns"} if role == "reviewer" else set()
    for name in sorted(set(MUTATIONS) - {"logTelemetry"}):
        query = f"mutation {{ {name} {{ __typename }} }}"
        if name not in launches:
            answer = client.post("/graphql", json={"query": query})
            assert (answer.status_code, name in answer.text) == (403, True)
            fragment = f"fragment f on Mutation {{ x: {name} {{ __typename }} }}"
            hidden = f"query a {{ version }} mutation b {{ ...f }} {fragment}"
            assert client.post("/graphql", json={"query": hidden, "operationName": "a"}).status_code == 403
            assert (
                client.post(
                    "/graphql", content=query, headers={"Content-Type": "application/graphql"}
                ).status_code
                == 403
            )
        assert client.get(f"/graphql?{urlencode({'query': query})}").status_code == 403
        plain = client.post(
            f"/graphql?{urlencode({'query': query})}",
            content='{"query": "{ version }"}',
            headers={"Content-Type": "text/plain"},
        )
        assert plain.status_code == 403
    with client.websocket_connect("/graphql", subprotocols=["graphql-ws"]) as socket:
        for number, name in enumerate(sorted(MUTATIONS)):
            query = f"mutation {{ {name} {{ __typename }} }}"
            socket.send_json({"type": "start", "id": str(number), "payload": {"query": query}})
            said = socket.receive_json()
            assert said["type"] == "error"
            assert "subscriptions alone" in said["payload"]["message"]


REAL: dict[str, tuple[str, dict[str, object]]] = {
    "launchRun": (LAUNCH, {"p": {"selector": selector("other"), "runConfigData": {}}}),
    "launchPartitionBackfill": (
        "mutation($b: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $b) { __typename } }",
        {"b": {"assetSelection": [{"path": ["daily"]}], "partitionNames": ["a"]}},
    ),
    "wipeAssets": (
        "mutation($r: [PartitionsByAssetSelector!]!) { wipeAssets(assetPartitionRanges: $r) { __typename } }",
        {"r": [{"assetKey": {"path": ["owned"]}}]},
    ),
    "reportRunlessAssetEvents": (
        "mutation($e: ReportRunlessAssetEventsParams!) { reportRunlessAssetEvents(eventParams: $e) { __typename } }",
        {"e": {"eventType": "ASSET_MATERIALIZATION", "assetKey": {"path": ["owned"]}}},
    ),
    "deleteRun": ('mutation { deleteRun(runId: "RUN") { __typename } }', {}),
    "terminateRun": ('mutation { terminateRun(runId: "RUN") { __typename } }', {}),
    "reloadWorkspace": ("mutation { reloadWorkspace { __typename } }", {}),
    "reloadRepositoryLocation": (
        f'mutation {{ reloadRepositoryLocation(repositoryLocationName: "{LOCATION}") {{ __typename }} }}',
        {},
    ),
}


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_behind_the_first_lock_dagster_itself_refuses_too(
    site: Site, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "refused", lambda *_: None)
    run = site.launched("admin", "other")
    for name, (query, variables) in REAL.items():
        said = site.graphql(role, query.replace("RUN", run.run_id), **variables)
        wanted = "TerminateRunFailure" if name == "terminateRun" else "UnauthorizedError"
        assert said["data"][name]["__typename"] == wanted, (name, said)
    assert site.instance.has_run(run.run_id)
    paused = site.graphql(role, "mutation { setAutoMaterializePaused(paused: true) }")
    assert paused["errors"]


def test_a_reviewer_launches_the_approval_jobs_and_nothing_else(site: Site) -> None:
    run = site.launched("reviewer", "review_approval")
    assert actor_of(run.tags, run.run_id) == Actor(site.ids["reviewer"], authenticated_by=BY_KEY)
    for job in ("other", "helps_itself", "by_day", "__ASSET_JOB"):
        assert site.launch("reviewer", job)["__typename"] == "UnauthorizedError"
    asset = {"selector": {**selector("__ASSET_JOB"), "assetSelection": [{"path": ["owned"]}]}}
    assert (
        site.graphql("reviewer", LAUNCH, p={**asset, "runConfigData": {}})["data"]["launchRun"]["__typename"]
        == "UnauthorizedError"
    )
    many = site.graphql(
        "reviewer",
        "mutation($l: [ExecutionParams!]!) { launchMultipleRuns(executionParamsList: $l) { __typename"
        " ... on LaunchMultipleRunsResult { launchMultipleRunsResult { __typename } } } }",
        l=[{"selector": selector("other"), "runConfigData": {}}],
    )
    assert "LaunchRunSuccess" not in json.dumps(many)


def test_the_form_of_a_job_is_shown_to_reviewers_and_what_they_may_do_is_asked_for_each_job(
    site: Site,
) -> None:
    """Dagster's form sends away who may launch nothing in its location, before it knows about the job."""
    asked = " ".join(
        f'{job}: pipelineOrError(params: {{pipelineName: "{job}", repositoryName: "__repository__", '
        f'repositoryLocationName: "{LOCATION}"}}) {{ ... on Pipeline {{ hasLaunchExecutionPermission }} }}'
        for job in ("review_approval", "other")
    )
    entries = "... on Workspace { locationEntries { permissions { permission value } } }"
    query = f"{{ workspaceOrError {{ {entries} }} {asked} }}"
    shown = {}
    for role in ("reviewer", "viewer"):
        said = site.graphql(role, query)["data"]
        (entry,) = said["workspaceOrError"]["locationEntries"]
        may = {p["permission"] for p in entry["permissions"] if p["value"]}
        jobs = [said[job]["hasLaunchExecutionPermission"] for job in ("review_approval", "other")]
        shown[role] = ("launch_pipeline_execution" in may, len(may), jobs)
    assert shown == {"reviewer": (True, 1, [True, False]), "viewer": (False, 0, [False, False])}


def test_an_engineer_launches_and_materialises_and_makes_or_removes_no_evidence(site: Site) -> None:
    site.launched("engineer", "other")
    refused = site.client("engineer").post("/report_asset_materialization/owned", json={})
    assert refused.status_code == 403
    for name in ("wipeAssets", "reportRunlessAssetEvents", "deleteRun"):
        said = site.graphql("engineer", REAL[name][0], **REAL[name][1])
        assert "your role does not allow" in said["errors"][0]["message"]
    compliance = site.launch("compliance", "other")
    assert compliance["__typename"] == "LaunchRunSuccess"


@pytest.mark.parametrize("kind", ["materialization", "check", "observation"])
def test_only_admins_report_by_rest(site: Site, kind: str) -> None:
    for role in ROLES:
        assert site.client(role).post(f"/report_asset_{kind}/owned", json={}).status_code == 403
    if kind != "check":
        assert site.client("admin").post(f"/report_asset_{kind}/owned", json={}).status_code == 200


def test_what_runs_have_written_is_not_for_viewers_and_reviewers(site: Site) -> None:
    run = site.launched("engineer", "other")
    for path in (
        f"/logs/{run.run_id}/compute_logs/x.out",
        f"/download_debug/{run.run_id}",
        "/notebook?path=x",
    ):
        for role in ("viewer", "reviewer"):
            assert site.client(role).get(path).status_code == 403
    assert site.client("engineer").get(f"/download_debug/{run.run_id}").status_code == 200


def test_the_service_reloads_the_catalogue_and_does_nothing_else(site: Site) -> None:
    site.keys["service"] = service_token(site.instance.root_directory) or ""
    query = f'mutation {{ reloadRepositoryLocation(repositoryLocationName: "{LOCATION}") {{ __typename }} }}'
    assert "UnauthorizedError" not in json.dumps(site.graphql("service", query))
    assert site.client("service").post("/graphql", json={"query": LAUNCH}).status_code == 403
    assert site.client("service").get(f"/download_debug/{'0' * 8}").status_code == 403
    site.keys["service"] = "mlreg-service_" + "0" * 64
    assert site.client("service").post("/graphql", json={"query": query}).status_code == 401


def test_a_browser_signs_in_and_a_link_from_elsewhere_finds_the_session(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    """What a client of tests does not do: `Origin` as the page's own headers make it, and a strict cookie."""
    with served(site.app) as address:
        window = browser.new_context()
        window.set_default_timeout(PATIENCE_MS)
        page = window.new_page()
        page.goto(f"{address}/mlreg/login?next=/server_info%3Fa%3D1")
        page.fill("input[name=key]", site.keys["reviewer"])
        page.get_by_role("button").click()
        page.wait_for_url("**/server_info?a=1")
        link = tmp_path / "page.html"
        link.write_text(f"<a href='{address}/server_info?b=2'>decide</a>", encoding="utf-8")
        page.goto(link.as_uri())
        page.get_by_role("link").click()
        page.wait_for_url("**/server_info?b=2")
        assert "dagster" in page.content()
        window.clear_cookies()
        page.goto(link.as_uri())
        page.get_by_role("link").click()
        page.wait_for_url("**/mlreg/login?again=1&next=/server_info*")
        page.get_by_label("API key").wait_for()
        window.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of a real server of an application."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


# -- the stamp ----------------------------------------------------------------------------------


def test_a_forged_or_copied_stamp_never_survives_a_launch(site: Site) -> None:
    admins = site.launched("admin", "other")
    forged = [
        {"key": STAMP, "value": admins.tags[STAMP]},
        {"key": "mlreg/launched_by", "value": site.ids["admin"]},
    ]
    run = site.launched("engineer", "other", executionMetadata={"tags": forged})
    assert actor_of(run.tags, run.run_id) == Actor(site.ids["engineer"], authenticated_by=BY_KEY)
    assert run.tags["mlreg/launched_by"] == site.ids["engineer"]
    # Copied to another run, altered or made with another secret, it says nothing.
    assert actor_of({STAMP: admins.tags[STAMP]}, run.run_id) is None
    assert actor_of({STAMP: admins.tags[STAMP][:-1] + "0"}, admins.run_id) in {
        None,
        Actor(site.ids["admin"], authenticated_by=BY_KEY),
    }
    assert actor_of({STAMP: '{"id": "admin"}'}, run.run_id) is None


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"text": {"env": "SERVICE_PASSWORD"}}, "text"),
        ({"several": ["plain", {"env": "SERVICE_PASSWORD"}]}, "several.1"),
        ({"pairs": {"env": {"env": "SERVICE_PASSWORD"}}}, "pairs.env"),
        ({"number": {"env": "SERVICE_PASSWORD"}}, "number"),
    ],
)
def test_no_run_is_given_a_value_of_the_services_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch, config: dict[str, object], place: str
) -> None:
    """Whatever job or asset it is of: what a run was given, it may tell in metadata, messages and tables."""
    monkeypatch.setenv("SERVICE_PASSWORD", "4711")
    ops = {"ops": {"tells": {"config": config}}}
    said = site.launch("engineer", "told", runConfigData=ops)
    assert said["__typename"] == "PythonError"
    assert f"ops.tells.config.{place} asks for the variable SERVICE_PASSWORD" in said["message"]
    assert "MLREG_CONFIG_VARIABLES" in said["message"]
    (run,) = site.instance.get_runs(dg.RunsFilter(job_name="told"), limit=1)
    assert run.status is dg.DagsterRunStatus.FAILURE
    kept = [str(run.run_config), *(str(record.event_log_entry) for record in _records(site, run.run_id))]
    assert any("asks for the variable" in each for each in kept)
    assert "4711" not in "".join(kept)
    # In a backfill it is the daemon that submits what a person has configured.
    monkeypatch.setenv("MLREG_DAEMON", "1")
    made = run._replace(
        run_id=make_new_run_id(), status=dg.DagsterRunStatus.NOT_STARTED, tags={"dagster/backfill": "b"}
    )
    site.instance.add_run(made)
    with process(site.instance) as context:
        given = SubmitRunContext(made, workspace=context.create_request_context())
        with pytest.raises(VariableRefused):
            site.instance.run_coordinator.submit_run(given)


def _records(site: Site, run_id: str) -> Any:
    return site.instance.get_records_for_run(run_id).records


def test_a_variable_that_the_keeper_of_the_service_names_is_filled_in_and_env_is_a_word(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"ops": {"tells": {"config": {"pairs": {"env": "production"}}}}}
    assert site.launched("engineer", "told", runConfigData=plain).status is dg.DagsterRunStatus.QUEUED
    monkeypatch.setenv("MLREG_CONFIG_VARIABLES", "REGION, STAGE")
    named = {"ops": {"tells": {"config": {"text": {"env": "STAGE"}}}}}
    monkeypatch.setenv("STAGE", "blue")
    assert site.launched("engineer", "told", runConfigData=named).status is dg.DagsterRunStatus.QUEUED


def test_a_re_execution_has_who_asked_for_it_and_not_its_parents_launcher(site: Site) -> None:
    parent = site.launched("admin", "other")
    site.instance.report_run_failed(parent)
    query = """mutation($r: ReexecutionParams) { launchRunReexecution(reexecutionParams: $r) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    said = site.graphql("engineer", query, r={"parentRunId": parent.run_id, "strategy": "ALL_STEPS"})
    run = site.instance.get_run_by_id(said["data"]["launchRunReexecution"]["run"]["runId"])
    assert run is not None
    assert actor_of(run.tags, run.run_id) == Actor(site.ids["engineer"], authenticated_by=BY_KEY)


def test_a_backfill_has_who_asked_for_it_and_so_has_its_re_execution(site: Site) -> None:
    query = """mutation($b: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $b) {
        __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    of_job = {
        "partitionSetName": "by_day_partition_set",
        "repositorySelector": {"repositoryName": "__repository__", "repositoryLocationName": LOCATION},
    }
    forged = [{"key": STAMP, "value": "forged"}]
    said = site.graphql("admin", query, b={"selector": of_job, "partitionNames": ["a"], "tags": forged})
    assert said["data"]["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", said
    first = site.instance.get_backfill(said["data"]["launchPartitionBackfill"]["backfillId"])
    assert first is not None
    assert actor_of(first.tags, BACKFILL) == Actor(site.ids["admin"], authenticated_by=BY_KEY)
    site.instance.update_backfill(first.with_status(BulkActionStatus.CANCELED))
    again = site.graphql(
        "engineer",
        "mutation($r: ReexecutionParams) { reexecutePartitionBackfill(reexecutionParams: $r) {"
        " ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
        r={"parentRunId": first.backfill_id, "strategy": "ALL_STEPS"},
    )
    second = site.instance.get_backfill(again["data"]["reexecutePartitionBackfill"]["backfillId"])
    assert second is not None
    assert actor_of(second.tags, BACKFILL) == Actor(site.ids["engineer"], authenticated_by=BY_KEY)


def test_what_the_daemon_submits_has_the_platform_its_backfills_launcher_or_its_parents(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = site.launched("engineer", "other")

    def submitted(parent: str | None = None, **tags: str) -> Actor | None:
        made = like._replace(
            run_id=make_new_run_id(),
            status=dg.DagsterRunStatus.NOT_STARTED,
            tags=tags,
            parent_run_id=parent,
            root_run_id=parent,
        )
        site.instance.add_run(made)
        context = SubmitRunContext(made, workspace=None)  # type: ignore[arg-type]
        run = site.instance.run_coordinator.submit_run(context)
        return actor_of(run.tags, run.run_id)

    engineer = Actor(site.ids["engineer"], authenticated_by=BY_KEY)
    assert submitted(**{STAMP: "forged"}) == LAUNCHPAD
    monkeypatch.setenv("MLREG_DAEMON", "1")
    platform = submitted(**{STAMP: "forged"})
    assert platform is not None
    assert (platform.id, platform.kind, platform.authenticated_by) == (
        "dagster",
        ActorKind.SYSTEM,
        "platform",
    )
    of_backfill = {"dagster/backfill": "b1", **stamped(engineer, BACKFILL)}
    assert submitted(**of_backfill) == engineer
    assert submitted(**{"dagster/backfill": "b1", STAMP: "forged"}) == LAUNCHPAD
    parent = site.launched("engineer", "other")
    assert submitted(parent.run_id, **{"dagster/backfill": "b1"}) == engineer


def test_without_users_dev_is_open_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "lake"))
    with process(site.instance) as context:
        app = webserver.WebServer(context, home=Path(site.instance.root_directory)).create_asgi_app()
        client = TestClient(app, base_url="http://mlreg.test")
        assert client.get("/server_info").status_code == 200
        said = client.post(
            "/graphql",
            json={"query": LAUNCH, "variables": {"p": {"selector": selector("other"), "runConfigData": {}}}},
        ).json()
        run = site.instance.get_run_by_id(said["data"]["launchRun"]["run"]["runId"])
        assert run is not None
        assert actor_of(run.tags, run.run_id) == LAUNCHPAD
        monkeypatch.setenv("MLREG_ENV", "production")
        assert client.get("/server_info").status_code == 401
    shutil.rmtree(tmp_path / "lake", ignore_errors=True)


def test_logins_and_refusals_are_in_the_access_log_without_any_key(site: Site) -> None:
    from ml_registry_pipelines.access.access_log import AccessLog

    site.client().post("/mlreg/login", data={"key": site.keys["viewer"]})
    site.client().post("/mlreg/login", data={"key": "mlreg_wrong"})
    site.client("viewer").post("/graphql", json={"query": LAUNCH})
    lake = Lake(site.log.lake.root)
    app_lake = next(iter(webserver_logs(site)))
    AccessLog(app_lake).flush()
    with lake.read("access_log") as reading:
        rows = reading.query(
            "t", "SELECT actor, action, subject, outcome, reason FROM access_log"
        ).to_pylist()
    seen = {(r["actor"], r["action"], r["outcome"]) for r in rows}
    assert (site.ids["viewer"], "login", "allowed") in seen
    assert ("unknown", "login", "refused") in seen
    assert (site.ids["viewer"], "request", "refused") in seen
    assert not re.search(r"mlreg_[0-9a-f]{16}_", json.dumps(rows))


def webserver_logs(site: Site) -> list[Lake]:
    """The lake of the application, whose notes wait for company."""
    for middleware in site.app.user_middleware:
        if "doorman" in middleware.kwargs:
            return [middleware.kwargs["log"]().lake]
    raise AssertionError("no door")
