"""The search page: who may come, what is answered, what is refused, and names that would like to be markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from ml_registry_pipelines.access.access_log import AccessLog
from ml_registry_pipelines.access.policy import owner_of
from ml_registry_pipelines.access.secret import make_secret
from ml_registry_pipelines.access.sessions import Doorman
from ml_registry_pipelines.access.users import Users, actor_for_key
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import VersionFacts
from ml_registry_pipelines.search.answers import PAGE, tag_shown
from ml_registry_pipelines.search.vectors.updating import update
from ml_registry_pipelines.weblogin import Door
from ml_registry_pipelines.websearch import page_text, search_routes
from ml_registry_pipelines.webserver import visitor_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert('x')</script>\"'&"


@dataclass
class Site:
    """The search behind the door, without Dagster: registry, users and their keys."""

    app: Starlette
    log: Log
    models: ModelRegistry
    keys: dict[str, str]

    def client(self, who: str | None) -> TestClient:
        headers = {} if who is None else {"Authorization": f"Bearer {self.keys[who]}"}
        return TestClient(self.app, base_url="http://mlreg.test", headers=headers)

    def ask(self, who: str, path: str = "hits", **values: str) -> Any:
        return self.client(who).get(f"/mlreg/search/{path}", params=values)

    def names(self, who: str, **values: str) -> list[str]:
        answer = self.ask(who, **values)
        assert answer.status_code == 200, answer.text
        return [hit["name"] for hit in answer.json()["hits"]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("search")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLREG_HOME", str(home / "lake"))
    patch.setenv("DAGSTER_HOME", str(home))
    make_secret(home)
    with Lake(str(home / "lake")) as lake, Log(lake) as log:
        _, admin = Users(log, actor=owner_of(lake)).init()
        users = Users(log, actor=actor_for_key(log, admin.text))
        models = ModelRegistry(log, actor=users.actor)
        models.register_model("fraud", description="Finds card fraud.", tags={"team": "risk", "tier": 1})
        models.create_model_version("fraud", HostedModel("p", "1"), VersionFacts(metrics={"auc": 0.9}))
        models.register_model("fraud-eu", description="Finds card fraud in Europe.", tags={"team": "risk"})
        models.register_model("churn", description="Foresees who leaves.", tags={"team": "sales"})
        models.register_model(HOSTILE, description=f"Says {HOSTILE}", tags={"n": HOSTILE}, owners=["team:a"])
        ModelRegistry(log, actor=users.actor, tenant="acme").register_model("secret")
        keys = {"admin": admin.text}
        for who, tenants in (("viewer", ["*"]), ("acme", ["acme"]), ("nobody", [])):
            user = users.add_user(["viewer"], tenants=tenants)
            keys[who] = users.add_key(user.id).text
        single = users.add_user(["viewer"], tenants=[])
        users.grant(single.id, "default", model=models.get_model("churn").id)
        keys["single"] = users.add_key(single.id).text
        update(log)
        opened = lambda: log  # noqa: E731
        door = Middleware(Door, doorman=Doorman(opened, home), log=opened)
        app = Starlette(routes=search_routes(opened, visitor_of), middleware=[door])
        yield Site(app, log, models, keys)
    patch.undo()


# -- who may come ---------------------------------------------------------------------------------


def test_nobody_sees_the_page_or_an_answer_without_signing_in(site: Site) -> None:
    for path in ("", "/hits", "/model?id=fraud"):
        assert site.client(None).get(f"/mlreg/search{path}").status_code == 401
    page = site.client(None).get("/mlreg/search?q=a", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/mlreg/login?next=/mlreg/search%3Fq%3Da")


def test_what_stands_beside_the_search_is_not_opened_with_it(site: Site) -> None:
    for path in ("/mlreg/searching", "/graphql", "/runs"):
        assert site.client("single").get(path).status_code == 403
    home = site.client("single").get("/", headers={"Accept": "text/html"}, follow_redirects=False)
    assert home.status_code == 403
    assert "<a href='/mlreg/search'>Search models</a>" in home.text


def test_each_visitor_finds_what_the_grants_say_and_counts_no_more(site: Site) -> None:
    assert site.names("admin") == sorted(["churn", "fraud", "fraud-eu", HOSTILE])
    answer = site.ask("single").json()
    assert [hit["name"] for hit in answer["hits"]] == ["churn"]
    assert (answer["total"], answer["tenants"], answer["dagster"]) == (1, ["default"], False)
    assert site.names("single", text="card fraud") in ([], ["churn"])
    assert site.names("single", q="name = 'fraud'") == []
    assert site.names("acme", tenant="acme") == ["secret"]
    assert site.ask("viewer").json()["tenants"] == ["default", "acme"]


def test_a_model_that_a_visitor_may_not_read_is_refused_and_noted(site: Site) -> None:
    fraud = site.models.get_model("fraud").id
    for who, path, values in (
        ("single", "model", {"id": fraud}),
        ("single", "model", {"id": "fraud"}),
        ("acme", "hits", {"tenant": "default"}),
        ("nobody", "hits", {}),
    ):
        assert site.ask(who, path, **values).status_code == 403, (who, path)
    AccessLog(site.log.lake).flush()
    with site.log.lake.read("access_log") as reading:
        noted = reading.query(
            "t", "SELECT DISTINCT subject, tenant FROM access_log WHERE outcome = 'refused' AND door = 'web'"
        ).to_pylist()
    assert {"subject": "/mlreg/search/model", "tenant": "default"} in noted
    assert site.ask("single", "model", id="churn").json()["name"] == "churn"
    relatives = site.ask("single", "model", id="churn").json()["similar"]
    assert relatives == []


def test_users_tenants_are_no_tenant_to_search(site: Site) -> None:
    assert "mlreg" not in " ".join(site.ask("admin").json()["tenants"])
    assert site.ask("viewer", tenant="_access").status_code in {400, 403}


# -- what is answered -----------------------------------------------------------------------------


def test_words_find_by_text_and_meaning_and_say_why(site: Site) -> None:
    first = site.ask("viewer", text="card fraud in Europe").json()["hits"][0]
    assert first["name"] == "fraud-eu"
    assert any("europe" in why for why in first["why"])
    assert site.names("viewer", text="card fraud", q="tags.tier = 1") == ["fraud"]


def test_a_wrong_query_names_the_place_of_the_wrong_character(site: Site) -> None:
    query = "name = 'é' AND teem = 'risk'"
    wrong = site.ask("viewer", q=query)
    assert wrong.status_code == 400
    error = wrong.json()["error"]
    assert (error["position"], error["field"]) == (query.index("teem"), "filter")
    order = site.ask("viewer", order="name, nme").json()["error"]
    assert (order["position"], order["field"]) == (6, "order")
    assert site.ask("viewer", cursor="nonsense").status_code == 400
    assert site.ask("viewer", tenant="no such").status_code == 400


def test_pages_follow_each_other_without_gap_or_repetition_while_others_register(site: Site) -> None:
    log = site.log
    many = ModelRegistry(log, actor=site.models.actor, tenant="pages")
    many.register_many([NewThing(f"m{n:03}") for n in range(2 * PAGE + 5)])
    seen: list[str] = []
    cursor = ""
    while True:
        answer = site.ask("viewer", tenant="pages", cursor=cursor).json()
        seen += [hit["name"] for hit in answer["hits"]]
        many.register_model(f"m000-{len(seen)}")
        if (cursor := answer["cursor"] or "") == "":
            break
    assert seen == [f"m{n:03}" for n in range(2 * PAGE + 5)]


def test_a_model_is_told_with_its_versions_facts_and_nearest_relatives(site: Site) -> None:
    told = site.ask("viewer", "model", id="fraud").json()
    assert told["versions"] == [["v1", "registered · auc 0.9"]]
    assert ["team", "risk"] in told["facts"]
    assert told["similar"][0]["name"] == "fraud-eu"
    assert "same tags: team=risk" in told["similar"][0]["why"]
    assert told["links"] == [{"text": "Asset page in Dagster", "href": "../assets/models/default/fraud"}]
    assert site.ask("single", "model", id="churn").json()["links"] == []
    assert site.ask("viewer", "model", id="nothing").status_code == 404


@pytest.mark.parametrize("value", ["it's", 'say "x"', 3, 0.25, True, 10**9])
def test_a_tag_of_a_hit_is_a_condition_that_finds_it(site: Site, value: Any) -> None:
    told = tag_shown("odd key", value)
    name = f"tagged-{value!r}"
    if name not in site.names("admin", q="name LIKE 'tagged-%'"):
        site.models.register_model(name, tags={"odd key": value})
    assert site.names("admin", q=told["condition"]) == [name]
    site.models.delete_model(name)


# -- in a browser ---------------------------------------------------------------------------------


def test_the_page_runs_its_own_script_alone_and_is_kept_by_nobody(site: Site) -> None:
    answer = site.client("viewer").get("/mlreg/search")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)
    assert "innerHTML" not in answer.text
    assert page_text()[0] == answer.text


def test_keys_alone_search_move_open_and_clear_and_names_stay_text(site: Site, browser: Browser) -> None:
    """One page in one window, answered by the application in this process: no server is needed."""
    window = browser.new_context()
    errors: list[str] = []
    client = site.client("viewer")

    def answered(route: Any) -> None:
        path = route.request.url.removeprefix("http://mlreg.test")
        answer = client.get(path)
        route.fulfill(status=answer.status_code, headers=dict(answer.headers), body=answer.content)

    page = window.new_page()
    page.route("**/*", answered)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    try:
        page.goto("http://mlreg.test/mlreg/search")
        hits = page.locator("#hits > li")
        hits.nth(3).wait_for()
        assert HOSTILE in page.locator("#hits").inner_text()
        page.locator("#found").click(position={"x": 2, "y": 2})
        page.keyboard.press("/")
        page.keyboard.type("card fraud in Europe")
        page.get_by_text("fraud-eu").first.wait_for()
        page.locator("#summary", has_text="models").wait_for()
        page.locator("#hits > li:first-child[aria-selected=true] >> text=fraud-eu").wait_for()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.locator("aside h2", has_text="fraud").wait_for()
        page.locator("aside >> text=Nearest relatives").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        assert page.locator("#words").input_value() == ""
        page.locator("#filter").fill("name = 'a' AND teem = 1")
        page.get_by_role("alert").filter(has_text="no field 'teem'").wait_for()
        mark = page.locator("#pointer b").bounding_box()
        field = page.locator("#filter").bounding_box()
        assert mark is not None
        assert field is not None
        assert mark["y"] >= field["y"] + field["height"] - 1
        assert page.locator("#pointer span").text_content() == "name = 'a' AND "
        page.locator("#filter").fill(f"name = '{HOSTILE.replace(chr(39), chr(39) * 2)}'")
        page.locator("#hits > li:only-child").wait_for()
        page.locator("aside h2", has_text=HOSTILE).wait_for()
        assert errors == []
    finally:
        window.close()
