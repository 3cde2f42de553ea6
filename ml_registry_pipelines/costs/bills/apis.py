"""What is asked of the usage and cost APIs of OpenAI, Anthropic and Cloudflare, page by page.

An answer is whole or an error: a chain of pages that breaks off gives nothing. Whole days are asked
for, in UTC, as the providers bill them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.bills.calling import Answer, BadAnswer, Caller, CredentialsRefused
from ml_registry_pipelines.costs.bills.formats import anthropic, cloudflare, openai
from ml_registry_pipelines.costs.bills.lines import LineError

if TYPE_CHECKING:
    from types import ModuleType

    from ml_registry_pipelines.costs.bills.settings import Pull

MOST_PAGES = 5_000
OPENAI_COSTS_DAYS, OPENAI_USAGE_DAYS, ANTHROPIC_DAYS = 180, 31, 31
"""Daily buckets of one page, by the providers' limits."""
OPENAI_USAGE = (
    ("completions", ("project_id", "model", "batch", "service_tier")),
    ("embeddings", ("project_id", "model")),
    ("moderations", ("project_id", "model")),
    ("images", ("project_id", "model")),
    ("audio_speeches", ("project_id", "model")),
    ("audio_transcriptions", ("project_id", "model")),
)
ANTHROPIC_VERSION = "2023-06-01"
CLOUDFLARE_ROWS = 10_000
"""Groups of one answer, by Cloudflare's limit; an answer with as many may be cut off."""
CLOUDFLARE_QUERY = """
query Costs($account: string!, $from: Time!, $to: Time!) {
  viewer {
    accounts(filter: {accountTag: $account}) {
      aiGatewayRequestsAdaptiveGroups(
        limit: %d, orderBy: [datetimeHour_ASC], filter: {datetimeHour_geq: $from, datetimeHour_leq: $to}
      ) {
        count
        sum { cost uncachedTokensIn uncachedTokensOut }
        dimensions { datetimeHour gateway provider model }
      }
    }
  }
}
"""


@dataclass(frozen=True)
class Report:
    """One report, whole: its pages as given, and the days that they state completely."""

    report: str
    issuer: str
    days: tuple[date, ...]
    pages: tuple[bytes, ...]


Ask = Callable[[], Report]


def reports(pull: Pull, key: str, since: date, until: date, caller: Callable[..., Caller]) -> Iterator[Ask]:
    """What an API has to be asked for the days from `since` to `until`, the latter left out; each by itself.

    Calling one raises `PullError`.
    """
    what = f"pull {pull.name!r}"
    match pull.api:
        case "openai":
            call = caller(pull.url, {"Authorization": f"Bearer {key}"}, what=what)
            yield lambda: _openai_costs(call, since, until)
            yield lambda: _openai_usage(call, since, until)
        case "anthropic":
            call = caller(pull.url, {"x-api-key": key, "anthropic-version": ANTHROPIC_VERSION}, what=what)
            yield lambda: _anthropic_costs(call, since, until)
            yield lambda: _anthropic_usage(call, since, until)
        case _:
            call = caller(pull.url, {"Authorization": f"Bearer {key}"}, what=what)
            yield lambda: _cloudflare(call, pull.account or "", since, until)


def _openai_costs(call: Caller, since: date, until: date) -> Report:
    asked = [*_epochs(since, until, OPENAI_COSTS_DAYS), ("group_by", "project_id"), ("group_by", "line_item")]
    answers = list(_pages(call, "/v1/organization/costs", asked))
    return _report(openai, openai.COSTS, [answers])


def _openai_usage(call: Caller, since: date, until: date) -> Report:
    chains = []
    for kind, grouped in OPENAI_USAGE:
        asked = [*_epochs(since, until, OPENAI_USAGE_DAYS), *(("group_by", name) for name in grouped)]
        chains.append(list(_pages(call, f"/v1/organization/usage/{kind}", asked)))
    return _report(openai, openai.USAGE, chains)


def _anthropic_costs(call: Caller, since: date, until: date) -> Report:
    asked = [*_times(since, until), ("group_by[]", "workspace_id"), ("group_by[]", "description")]
    return _report(anthropic, anthropic.COSTS, [list(_pages(call, "/v1/organizations/cost_report", asked))])


def _anthropic_usage(call: Caller, since: date, until: date) -> Report:
    grouped = ("workspace_id", "model", "service_tier", "context_window")
    asked = [*_times(since, until), *(("group_by[]", name) for name in grouped)]
    answers = list(_pages(call, "/v1/organizations/usage_report/messages", asked))
    return _report(anthropic, anthropic.USAGE, [answers])


def _epochs(since: date, until: date, limit: int) -> list[tuple[str, str]]:
    start, end = (int(_midnight(day).timestamp()) for day in (since, until))
    return [("start_time", str(start)), ("end_time", str(end)), ("bucket_width", "1d"), ("limit", str(limit))]


def _times(since: date, until: date) -> list[tuple[str, str]]:
    start, end = (_midnight(day).strftime("%Y-%m-%dT%H:%M:%SZ") for day in (since, until))
    return [
        ("starting_at", start),
        ("ending_at", end),
        ("bucket_width", "1d"),
        ("limit", str(ANTHROPIC_DAYS)),
    ]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _pages(call: Caller, path: str, asked: list[tuple[str, str]]) -> Iterator[Answer]:
    """All pages of a list, to its end.

    Raises:
        BadAnswer: a page is none, or the chain does not end.
    """
    token: str | None = None
    seen: set[str] = set()
    while True:
        answer = call.get(path, asked if token is None else [*asked, ("page", token)])
        page = answer.value
        if not isinstance(page.get("data"), list) or not isinstance(page.get("has_more"), bool):
            raise BadAnswer(f"the answer of {path} is no page: it lacks data or has_more")
        yield answer
        if not page["has_more"]:
            return
        following = page.get("next_page")
        if not isinstance(following, str) or not following:
            raise BadAnswer(f"{path} says that there are more pages, and not where; nothing was taken")
        if following in seen or len(seen) >= MOST_PAGES:
            raise BadAnswer(
                f"{path} gives the same page again, or more than {MOST_PAGES:,}; nothing was taken"
            )
        seen.add(following)
        token = following


def _report(module: ModuleType, name: str, chains: list[list[Answer]]) -> Report:
    """The pages of all chains, and the days that every chain has."""
    stated: list[set[date]] = []
    for chain in chains:
        days: set[date] = set()
        for answer in chain:
            for bucket in answer.value["data"]:
                if not isinstance(bucket, dict) or not module.is_bucket(bucket):
                    raise BadAnswer(f"a page of {name} holds something else than buckets; nothing was taken")
                try:
                    days.add(module.bounds(bucket)[0].date())
                except LineError as wrong:
                    raise BadAnswer(f"a bucket of {name} has no period: {wrong}; nothing was taken") from None
        stated.append(days)
    complete = set.intersection(*stated) if stated else set()
    pages = tuple(answer.raw for chain in chains for answer in chain)
    return Report(name, module.PROVIDER, tuple(sorted(complete)), pages)


# -- Cloudflare ----------------------------------------------------------------------------


def _cloudflare(call: Caller, account: str, since: date, until: date) -> Report:
    days = [since + timedelta(days=n) for n in range((until - since).days)]
    pages: list[bytes] = []
    for day in days:
        first = _midnight(day)
        answer, full = _groups(call, account, first, first + timedelta(hours=23))
        if not full:
            pages.append(answer.raw)
            continue
        for hour in (first + timedelta(hours=n) for n in range(24)):
            answer, full = _groups(call, account, hour, hour)
            if full:
                raise BadAnswer(
                    f"Cloudflare has {CLOUDFLARE_ROWS:,} or more groups in the hour {hour.isoformat()}, more than it "
                    "answers; nothing was taken"
                )
            pages.append(answer.raw)
    return Report(cloudflare.COSTS, cloudflare.ISSUER, tuple(days), tuple(pages))


def _groups(call: Caller, account: str, first: datetime, last: datetime) -> tuple[Answer, bool]:
    """The groups of some hours, both included, and whether there may be more than were given."""
    variables = {
        "account": account,
        "from": first.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "to": last.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    answer = call.post(
        "/client/v4/graphql", {"query": CLOUDFLARE_QUERY % CLOUDFLARE_ROWS, "variables": variables}
    )
    if errors := answer.value.get("errors"):
        said = _first_message(errors)
        if "auth" in said.lower() or "permission" in said.lower():
            raise CredentialsRefused(
                f"Cloudflare does not accept the token: {said}; it needs Account Analytics: Read"
            )
        raise BadAnswer(f"Cloudflare's analytics answered with an error: {said}")
    found = cloudflare.groups(answer.value)
    if found is None:
        raise BadAnswer("the answer of Cloudflare's analytics lacks its groups")
    return answer, len(found) >= CLOUDFLARE_ROWS


def _first_message(errors: Any) -> str:
    first = errors[0] if isinstance(errors, list) and errors else errors
    message = first.get("message") if isinstance(first, Mapping) else first
    return " ".join(str(message).split())[:200]
