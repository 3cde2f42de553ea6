"use strict";
// Everything that comes from the registry is put in as text, never as markup.
const at = (id) => document.getElementById(id);
const words = at("words"), filter = at("filter"), order = at("order"), deprecated = at("deprecated");
const tenant = at("tenant"), list = at("hits"), details = at("details"), more = at("more"), summary = at("summary");
const PAUSE = 180;
const EXAMPLES = [
  ["", "stage = 'production'", "", "what is in production"],
  ["embeddings for code", "", "", "by meaning and by words"],
  ["", "tags.context_window >= 1000000 AND tags.input_usd_per_mtok < 1", "tags.input_usd_per_mtok",
    "long context for less than a dollar, the cheapest first"],
  ["", "tags.family IN ('claude', 'gpt') AND NOT name LIKE 'openrouter/%'", "", "two families, without one provider"],
  ["", "any.metrics.accuracy > 0.6 AND risk_class = 'minimal'", "", "by a metric of any version and class under the AI Act"],
];
let asked = 0, cursor = null, hits = [], chosen = -1, timer = 0, shownId = null, waiting = null;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

async function ask(path, values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value) query.set(name, value);
  const answer = await fetch(`search/${path}?${query}`, { headers: { Accept: "application/json" }, credentials: "same-origin" });
  if (answer.status === 401) {
    location.assign(`login?next=${encodeURIComponent(location.pathname + location.search)}`);
    throw new Error("sign in");
  }
  return { ok: answer.ok, said: await answer.json() };
}

// -- asking ------------------------------------------------------------------------------------

function given() {
  return {
    tenant: tenant.value, text: words.value.trim(), q: filter.value.trim() ? filter.value : "",
    order: order.value.trim(), deprecated: deprecated.checked ? "1" : "",
  };
}

function remember() {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(given())) if (value) query.set(name, value);
  if (shownId) query.set("model", shownId);
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
}

async function search({ further = false } = {}) {
  clearTimeout(timer);
  const number = ++asked;
  document.body.classList.add("busy");
  let answer;
  try {
    answer = await ask("hits", { ...given(), cursor: further ? cursor : "" });
  } catch (failure) {
    if (number === asked) complain({ message: `The registry does not answer: ${failure.message}` });
    return;
  } finally {
    if (number === asked) document.body.classList.remove("busy");
  }
  if (number !== asked) return;
  remember();
  if (!answer.ok) return complain(answer.said.error);
  complain(null);
  arrived(answer.said, further);
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(search, PAUSE);
}

function arrived(said, further) {
  offer(said.tenants, said.tenant);
  at("dagster").hidden = !said.dagster;
  at("account").hidden = !said.signed_in;
  if (!further) {
    hits = [];
    chosen = -1;
    list.replaceChildren();
  }
  const first = hits.length;
  for (const hit of said.hits) {
    list.append(row(hit, hits.length));
    hits.push(hit);
  }
  cursor = said.cursor;
  more.hidden = !cursor;
  const total = said.total === null ? `the best ${hits.length}` : said.total.toLocaleString("en");
  summary.textContent = `${total} ${said.total === 1 ? "model" : "models"}, as of event ${said.sequence.toLocaleString("en")}`;
  if (said.note) summary.textContent += `; ${said.note}`;
  const empty = !given().text && !given().q && !order.value;
  if (!hits.length) {
    list.append(make("li", "none", empty ? "There is no model yet that you may read."
      : "No model meets all of this. A deprecated one is shown when you tick “deprecated, too”."));
    list.lastChild.setAttribute("aria-disabled", "true");
  }
  if (further && hits.length > first) choose(first, true);
  // A narrow page shows a model when it is opened, and a link to one opens it.
  if (!further && !shownId && hits.length && !empty) choose(0, false);
  offerExamples();
}

function offer(tenants, current) {
  if (tenant.options.length !== tenants.length) {
    tenant.replaceChildren(...tenants.map((name) => new Option(name, name)));
  }
  tenant.value = current;
  at("tenancy").hidden = tenants.length < 2;
}

function offerExamples() {
  at("examples").hidden = Boolean(shownId);
}

function complain(error) {
  const wrong = at("wrong"), pointer = at("pointer");
  document.body.classList.toggle("refused", Boolean(error));
  wrong.hidden = !error;
  wrong.textContent = error ? error.message : "";
  const inOrder = Boolean(error) && error.field === "order";
  filter.setAttribute("aria-invalid", String(Boolean(error) && error.position !== null && error.position !== undefined && !inOrder));
  order.setAttribute("aria-invalid", String(inOrder));
  pointer.hidden = !error || inOrder || error.position === null || error.position === undefined;
  if (!pointer.hidden) {
    // The same characters, unseen: so the mark stands below the right one, however wide they are.
    pointer.firstChild.textContent = [...filter.value].slice(0, error.position).join("");
    follow();
  }
}

function follow() {
  at("pointer").style.transform = `translateX(${-filter.scrollLeft}px)`;
}

// -- results -----------------------------------------------------------------------------------

function row(hit, index) {
  const item = make("li");
  item.id = `hit-${index}`;
  item.tabIndex = -1;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", "false");
  const title = make("div", "title");
  title.append(make("b", "", hit.name));
  if (hit.latest_version) title.append(make("span", "", `v${hit.latest_version}`));
  if (hit.aliases.length) title.append(make("span", "", hit.aliases.join(", ")));
  if (hit.status !== "active") title.append(make("span", "old", hit.status));
  if (hit.owners.length) title.append(make("span", "", hit.owners.join(", ")));
  item.append(title);
  if (hit.description) item.append(make("p", "said", hit.description));
  if (hit.tags.length) item.append(chips(hit.tags));
  if (hit.why.length) item.append(make("p", "why", hit.why.join("; ")));
  item.addEventListener("click", (event) => {
    if (event.target.closest(".chips")) return;
    choose(index, true);
    open();
  });
  return item;
}

function chips(tags) {
  const made = make("div", "chips");
  for (const tag of tags.slice(0, 12)) {
    const chip = make("button");
    chip.type = "button";
    chip.tabIndex = -1;
    chip.append(make("i", "", `${tag.name} `), document.createTextNode(tag.shown));
    chip.title = `add ${tag.condition} to the filter`;
    chip.addEventListener("click", () => refine(tag.condition));
    made.append(chip);
  }
  return made;
}

function refine(condition) {
  const before = filter.value.trim();
  if (!before.includes(condition)) filter.value = before ? `${/\bor\b/i.test(before) ? `(${before})` : before} AND ${condition}` : condition;
  filter.focus();
  search();
}

function choose(index, focus) {
  const former = list.children[chosen];
  if (former) former.setAttribute("aria-selected", "false");
  chosen = Math.max(-1, Math.min(index, hits.length - 1));
  const item = list.children[chosen];
  if (!item || chosen < 0) return words.focus();
  item.setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", item.id);
  if (focus) {
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }
  clearTimeout(waiting);
  waiting = setTimeout(() => show(hits[chosen].id, false), focus ? 90 : 0);
}

function open() {
  clearTimeout(waiting);
  const id = hits[chosen] && hits[chosen].id;
  if (id) show(id, true);
}

// -- one model ---------------------------------------------------------------------------------

async function show(id, into) {
  if (into) {
    details.classList.add("open");
    details.focus();
  }
  if (shownId === id && details.childElementCount) return;
  shownId = id;
  offerExamples();
  remember();
  let answer;
  try {
    answer = await ask("model", { tenant: tenant.value, id });
  } catch (failure) {
    answer = { ok: false, said: { error: { message: `The registry does not answer: ${failure.message}` } } };
  }
  if (shownId !== id) return;
  details.replaceChildren();
  const close = make("button", "", "Close");
  close.id = "close";
  close.type = "button";
  close.addEventListener("click", leave);
  details.append(close);
  if (!answer.ok) return details.append(make("p", "quiet", answer.said.error.message));
  describe(answer.said);
}

function describe(model) {
  details.append(make("h2", "", model.name));
  details.append(make("p", "quiet", [
    model.status, model.version ? `newest version v${model.version}` : "no version yet", ...model.owners,
  ].join(" · ")));
  if (model.description) details.append(make("p", "", model.description));
  const links = make("div", "links");
  for (const link of model.links) {
    const to = make("a", "", link.text);
    to.href = link.href;
    links.append(to);
  }
  if (model.links.length) details.append(links);
  table("Facts", model.facts);
  if (model.similar.length || model.note) {
    details.append(make("h3", "", "Nearest relatives"));
    if (model.note) details.append(make("p", "quiet", model.note));
    const near = make("ol");
    for (const one of model.similar) {
      const item = make("li"), name = make("button", "", one.name);
      name.type = "button";
      name.addEventListener("click", () => show(one.id, true));
      item.append(make("span", "score", one.score), name, make("p", "why", one.why.join("; ")));
      near.append(item);
    }
    details.append(near);
  }
  table("Versions", model.versions);
}

function table(title, rows) {
  if (!rows.length) return;
  const made = make("dl");
  for (const [name, value] of rows) made.append(make("dt", "", name), make("dd", "", value));
  details.append(make("h3", "", title), made);
}

function leave() {
  details.classList.remove("open");
  const item = list.children[chosen];
  if (item) item.focus();
  else words.focus();
}

function clear() {
  words.value = filter.value = order.value = "";
  shownId = null;
  details.replaceChildren();
  details.classList.remove("open");
  complain(null);
  offerExamples();
  words.focus();
  search();
}

// -- keys --------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.matches("input, select");
  const inDetails = details.contains(event.target);
  if (event.key === "/" && (!typing || (event.target === words && !words.value))) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if (event.key === "Escape") {
    event.preventDefault();
    if (inDetails || details.classList.contains("open")) leave();
    else clear();
  } else if (event.key === "ArrowDown" && !event.target.matches("select") && !inDetails) {
    event.preventDefault();
    if (chosen === hits.length - 1 && cursor && !typing) search({ further: true });
    else choose(typing ? Math.max(chosen, 0) : chosen + 1, true);
  } else if (event.key === "ArrowUp" && !event.target.matches("select") && !typing && !inDetails) {
    event.preventDefault();
    choose(chosen - 1, true);
  } else if (event.key === "Enter" && list.contains(event.target) && !event.target.matches("button")) {
    event.preventDefault();
    open();
  }
});

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search().then(() => hits.length && choose(0, true));
});
for (const input of [words, filter, order]) {
  input.addEventListener("input", () => {
    shownId = null;
    later();
  });
}
filter.addEventListener("scroll", follow);
deprecated.addEventListener("change", () => search());
tenant.addEventListener("change", () => {
  shownId = null;
  details.replaceChildren();
  search();
});
more.addEventListener("click", () => search({ further: true }));

function begin() {
  const query = new URLSearchParams(location.search);
  words.value = query.get("text") || "";
  filter.value = query.get("q") || "";
  order.value = query.get("order") || "";
  deprecated.checked = query.get("deprecated") === "1";
  if (query.get("tenant")) tenant.replaceChildren(new Option(query.get("tenant"), query.get("tenant")));
  const examples = at("examples");
  examples.open = matchMedia("(min-width: 861px)").matches;
  for (const [text, condition, by, meaning] of EXAMPLES) {
    const example = make("button");
    example.type = "button";
    example.append(make("code", "", [text, condition, by && `order by ${by}`].filter(Boolean).join("   ")), make("span", "", meaning));
    example.addEventListener("click", () => {
      words.value = text;
      filter.value = condition;
      order.value = by;
      search().then(() => hits.length && choose(0, true));
    });
    examples.append(example);
  }
  const asks = query.get("model");
  words.focus();
  search().then(() => asks && show(asks, true));
}
begin();
