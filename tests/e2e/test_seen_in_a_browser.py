"""What a person sees in a browser, after all runs of the tests before: the platform's assets, and the registry's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.conftest import PATIENCE_MS
from tests.e2e.ui import Ui, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PLATFORM = ("sources", "telemetry", "costs", "reports", "operations")
REGISTRY = ("datasets", "models", "models/fraud", "deployments", "sources", "telemetry", "costs")


@pytest.fixture(scope="module")
def page(browser: Browser, ui: Ui) -> Iterator[Page]:
    """One for all tests, signed in as the demo's admin: reading the UI's scripts, 10 MB, takes two seconds.

    Of a UI that has nothing else to do.
    """
    wait_for("an end of all runs", ui.quiet)
    window = browser.new_context(viewport={"width": 1680, "height": 1000})
    window.set_default_timeout(PATIENCE_MS)
    page = window.new_page()
    page.goto(f"{ui.address}/overview", wait_until="domcontentloaded")
    page.get_by_label("API key").fill(ui.key or "")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/login" not in url, wait_until="commit")
    yield page
    window.close()


def show(page: Page, place: str, *, width: int = 1680, height: int = 1000) -> None:
    """Go to a place of the UI as its own links do, without loading it anew; what lies outside is not drawn."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate(
        "to => { history.pushState({}, '', to); dispatchEvent(new PopStateEvent('popstate', {state: {}})) }",
        place,
    )


def test_the_asset_graph_shows_every_group_and_table(page: Page) -> None:
    expanded = ",".join(f"global@global:{group}" for group in PLATFORM)
    show(page, f"/asset-groups/?expanded={quote(expanded, safe='')}", width=2000, height=1800)
    for name in (*PLATFORM, "landing", "inference_events", "model_costs", "cost_rollup", "daily_cost_report"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_the_page_of_an_asset_shows_rows_columns_and_checks(page: Page) -> None:
    show(page, "/assets/telemetry/inference_events")
    page.get_by_text("One row is one attempt of one inference request").first.wait_for()
    show(page, "/assets/telemetry/inference_events?view=checks")
    page.get_by_text("no_negative_tokens").first.wait_for()


def test_the_key_chart_is_shown_in_the_metadata_of_the_overview(page: Page) -> None:
    show(page, "/assets/reports/cost_overview?view=overview")
    unfold = page.get_by_role("row", name="chart").get_by_text("[Show Markdown]").first
    unfold.wait_for()
    unfold.click()
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300


def test_the_graph_leads_from_the_data_to_the_costs(page: Page) -> None:
    expanded = quote(",".join(f"global@global:{group}" for group in REGISTRY), safe="")
    # Room for the whole graph, as in docs/images.
    show(page, f"/asset-groups/?expanded={expanded}", width=2800, height=2700)
    for name in ("v1", "v2", "fraud", "fraud-api", "landing", "inference_events", "model_costs"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_the_page_of_a_version_and_of_a_dataset_with_an_odd_name_show_what_they_are(
    page: Page,
) -> None:
    show(page, "/assets/models/default/fraud/v2?view=overview")
    page.get_by_text("Scores payments.").first.wait_for()
    page.get_by_text("mlreg get fraud@v2 PATH").first.wait_for()
    page.locator('a[href*="credit_x20_data_x2F_2026"]').first.click()
    page.wait_for_url("**/assets/datasets/default/credit_x20_data_x2F_2026**")
    show(page, "/assets/datasets/default/credit_x20_data_x2F_2026?view=overview")
    page.get_by_text("Its versions are its materializations.").first.wait_for()
