// Draws the graph of this page: what came from what, left to right. No library and no network.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const svg = $("graph"), SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 224, HEIGHT = 42, GAP_X = 92, GAP_Y = 12;
  const MANY = 6;          // entities of one type in one column before they are drawn as one
  const DRAWN = 1500;      // boxes that are drawn at once; the rest stays grouped
  const nodes = new Map(data.nodes.map((n) => [n.id, { ...n, up: [], down: [] }]));
  const edges = data.edges.filter((e) => nodes.has(e.from) && nodes.has(e.to));
  for (const e of edges) { nodes.get(e.from).down.push(e); nodes.get(e.to).up.push(e); }
  const counts = new Map();
  for (const n of nodes.values()) counts.set(n.type, (counts.get(n.type) || 0) + 1);
  const types = [...counts.keys()].sort((a, b) => (b === "deployment") - (a === "deployment") || counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
  const colour = (type) => `var(--t${types.indexOf(type) % 8})`;
  const words = (text) => String(text).replaceAll("_", " ");
  const first = data.roots.filter((id) => nodes.has(id));
  const start = { roots: first, depth: first.length ? 1 : 0 };
  const state = { roots: first, depth: start.depth, mode: new Map(types.map((t) => [t, "grouped"])), open: new Set(), shown: new Set(), selected: null };
  let boxes = new Map(), lines = [], view = { x: 0, y: 0, k: 1 }, extent = { w: 1, h: 1 };

  const el = (name, attributes = {}, ...content) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
    made.append(...content.filter((c) => c !== null && c !== undefined));
    return made;
  };
  const draw = (name, attributes = {}, text = null) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  };

  // -- what is in view ------------------------------------------------------------------------
  function distances(from, sides) {
    const found = new Map(from.map((id) => [id, 0]));
    let frontier = from;
    while (frontier.length) {
      const next = [];
      for (const id of frontier) for (const side of sides) for (const e of nodes.get(id)[side]) {
        const other = side === "down" ? e.to : e.from;
        if (!found.has(other)) { found.set(other, found.get(id) + 1); next.push(other); }
      }
      frontier = next;
    }
    return found;
  }
  function inView() {
    const chosen = new Set();
    if (!state.roots.length) for (const id of nodes.keys()) chosen.add(id);
    else for (const side of ["up", "down"]) for (const [id, d] of distances(state.roots, [side])) if (!state.depth || d <= state.depth) chosen.add(id);
    for (const id of state.shown) chosen.add(id);
    for (const id of [...chosen]) if (state.mode.get(nodes.get(id).type) === "hidden" && !state.roots.includes(id)) chosen.delete(id);
    return chosen;
  }
  // Columns: everything stands to the right of all that it came from. A way back is drawn as one and counts for nothing.
  function columns(ids) {
    const column = new Map(), degree = new Map(), queue = [];
    for (const id of ids) {
      const n = nodes.get(id).up.filter((e) => ids.has(e.from)).length;
      degree.set(id, n);
      if (!n) queue.push(id);
    }
    const left = new Set(ids);
    while (left.size) {
      if (!queue.length) queue.push([...left].sort((a, b) => degree.get(a) - degree.get(b))[0]);
      const id = queue.shift();
      if (!left.delete(id)) continue;
      if (!column.has(id)) column.set(id, 0);
      for (const e of nodes.get(id).down) if (left.has(e.to)) {
        column.set(e.to, Math.max(column.get(e.to) || 0, column.get(id) + 1));
        degree.set(e.to, degree.get(e.to) - 1);
        if (degree.get(e.to) <= 0) queue.push(e.to);
      }
    }
    // Sources are drawn next to what they lead to, not all at the far left.
    for (const id of [...ids].sort((a, b) => column.get(b) - column.get(a))) {
      const to = nodes.get(id).down.filter((e) => ids.has(e.to) && column.get(e.to) > column.get(id)).map((e) => column.get(e.to));
      const from = nodes.get(id).up.some((e) => ids.has(e.from));
      if (to.length && !from) column.set(id, Math.min(...to) - 1);
    }
    return column;
  }
  function group(ids, column) {
    const cells = new Map();
    for (const id of ids) {
      const key = `${column.get(id)}|${nodes.get(id).type}`;
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(id);
    }
    const made = new Map(), of = new Map();
    const path = new Set(state.selected && nodes.has(state.selected) ? onWay(state.selected) : []);
    for (const [key, members] of cells) {
      const [place, type] = [Number(key.slice(0, key.indexOf("|"))), nodes.get(members[0]).type];
      const pinned = (id) => state.roots.includes(id) || state.shown.has(id) || id === state.selected || path.has(id);
      let alone = members;
      const whole = state.mode.get(type) === "all" || state.open.has(key);
      if (!whole && members.length > MANY || ids.size > DRAWN && members.length > MANY && !state.open.has(key)) {
        alone = members.filter(pinned);
        const rest = members.filter((id) => !pinned(id));
        if (rest.length === 1) alone.push(rest[0]);
        else if (rest.length) { made.set(key, { id: key, key, type, members: rest, column: place, group: true, name: `${rest.length.toLocaleString("en")} × ${words(type)}` }); for (const id of rest) of.set(id, key); }
      }
      for (const id of alone) { made.set(id, { ...nodes.get(id), column: place, members: [id] }); of.set(id, id); }
    }
    return { made, of };
  }
  function layout() {
    const ids = inView(), column = columns(ids);
    const { made, of } = group(ids, column);
    const seen = new Map();
    for (const e of edges) if (ids.has(e.from) && ids.has(e.to)) {
      const from = of.get(e.from), to = of.get(e.to);
      if (from === to) continue;
      const key = `${from}\u0001${to}`;
      if (!seen.has(key)) seen.set(key, { from, to, types: new Set(), ends: [] });
      seen.get(key).types.add(e.type);
      seen.get(key).ends.push(e);
    }
    lines = [...seen.values()];
    boxes = made;
    const used = [...new Set([...boxes.values()].map((b) => b.column))].sort((a, b) => a - b);
    const stacks = used.map((c) => [...boxes.values()].filter((b) => b.column === c).sort((a, b) => a.type < b.type ? -1 : a.type > b.type ? 1 : a.name < b.name ? -1 : 1));
    for (const b of boxes.values()) b.near = { up: [], down: [] };
    for (const l of lines) { boxes.get(l.from).near.down.push(l.to); boxes.get(l.to).near.up.push(l.from); }
    const settle = (stack) => stack.forEach((b, i) => { b.place = i - (stack.length - 1) / 2; });
    stacks.forEach(settle);
    for (let round = 0; round < 6; round++) {
      const side = round % 2 ? "down" : "up";
      for (const stack of round % 2 ? [...stacks].reverse() : stacks) {
        for (const b of stack) {
          const near = b.near[side].map((id) => boxes.get(id).place);
          b.want = near.length ? near.reduce((x, y) => x + y, 0) / near.length : b.place;
        }
        stack.sort((a, b) => a.want - b.want || (a.type < b.type ? -1 : a.type > b.type ? 1 : 0) || (a.name < b.name ? -1 : 1));
        settle(stack);
      }
    }
    // In long columns the way to what is selected goes through the middle, where it is seen at once.
    const way = state.selected && nodes.has(state.selected) ? onWay(state.selected) : null;
    for (const stack of way ? stacks : []) {
      const lit = stack.filter((b) => b.members.some((id) => way.has(id)));
      if (stack.length <= 2 * MANY || !lit.length || lit.length > stack.length / 2) continue;
      const others = stack.filter((b) => !lit.includes(b));
      stack.splice(0, stack.length, ...others.slice(0, others.length / 2), ...lit, ...others.slice(others.length / 2));
      settle(stack);
    }
    stacks.forEach((stack, c) => stack.forEach((b) => { b.x = c * (WIDTH + GAP_X); b.y = b.place * (HEIGHT + GAP_Y); }));
    const ys = [...boxes.values()].map((b) => b.y);
    const top = Math.min(0, ...ys);
    for (const b of boxes.values()) b.y -= top;
    extent = { w: Math.max(1, used.length * (WIDTH + GAP_X) - GAP_X), h: Math.max(HEIGHT, ...[...boxes.values()].map((b) => b.y + HEIGHT)) };
  }

  // -- ways ------------------------------------------------------------------------------------
  function reach(id, side) { return distances([id], [side]); }
  function onWay(id) {
    const up = reach(id, "up"), down = reach(id, "down");
    const anchors = state.roots.filter((r) => r !== id);
    if (!anchors.length) return new Set([...up.keys(), ...down.keys()]);
    const found = new Set([id]);
    for (const [reachHere, side] of [[up, "down"], [down, "up"]]) {
      const from = anchors.filter((r) => reachHere.has(r));
      if (!from.length) continue;
      const there = distances(from, [side]);
      for (const n of reachHere.keys()) if (there.has(n)) found.add(n);
    }
    return found;
  }
  function shortest(id) {
    for (const side of ["down", "up"]) {
      const before = new Map(state.roots.map((r) => [r, null]));
      let frontier = [...state.roots];
      while (frontier.length && !before.has(id)) {
        const next = [];
        for (const at of frontier) for (const e of nodes.get(at)[side]) {
          const other = side === "down" ? e.to : e.from;
          if (!before.has(other)) { before.set(other, [at, e.type]); next.push(other); }
        }
        frontier = next;
      }
      if (before.has(id)) {
        const path = [];
        for (let at = id, via = null; at !== null;) { path.push([at, via]); const b = before.get(at); via = b && b[1]; at = b && b[0]; }
        path.reverse();
        return { path: side === "down" ? path.map((p) => p[0]) : path.map((p) => p[0]).reverse(), side };
      }
    }
    return null;
  }

  // -- drawing -----------------------------------------------------------------------------------
  const measure = document.createElement("canvas").getContext("2d");
  function cut(text, width, font) {
    measure.font = font;
    if (measure.measureText(text).width <= width) return text;
    // The end of a name tells versions apart, so the middle goes.
    let keep = text.length;
    while (keep > 4 && measure.measureText(shorten(text, keep)).width > width) keep -= 1;
    return shorten(text, keep);
  }
  function shorten(text, keep) { const tail = Math.min(10, Math.floor(keep / 2)); return text.slice(0, keep - tail) + "…" + text.slice(text.length - tail); }
  const FAMILY = getComputedStyle(document.body).fontFamily;

  function render() {
    const on = state.selected && nodes.has(state.selected) ? onWay(state.selected) : null;
    const layer = draw("g", { id: "layer" });
    const below = draw("g"), above = draw("g"), labels = draw("g");
    for (const l of lines) {
      const a = boxes.get(l.from), b = boxes.get(l.to);
      const lit = on && l.ends.some((e) => on.has(e.from) && on.has(e.to));
      const back = b.x <= a.x;
      const [x1, y1, x2, y2] = [a.x + WIDTH, a.y + HEIGHT / 2, b.x, b.y + HEIGHT / 2];
      const bend = back ? GAP_X : Math.max(36, (x2 - x1) / 2);
      const path = draw("path", { class: `edge${on ? lit ? " on" : " off" : ""}`, d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, "marker-end": `url(#${lit ? "tip-on" : "tip"})` });
      path.append(draw("title", {}, `${a.name} → ${b.name}: ${[...l.types].map(words).join(", ")}`));
      (lit ? above : below).append(path);
      if (lit && !l.ends.every((e) => e.type === "part_of")) labels.append(draw("text", { class: "edge-label", x: (x1 + x2) / 2, y: (y1 + y2) / 2 - 4, "text-anchor": "middle" }, [...l.types].map(words).join(", ")));
    }
    layer.append(below, above);
    for (const b of boxes.values()) layer.append(box(b, on));
    layer.append(labels);
    svg.replaceChildren(tips(), layer);
    place();
    note();
  }
  function tips() {
    const defs = draw("defs");
    for (const [id, fill] of [["tip", "var(--edge)"], ["tip-on", "var(--accent)"]]) {
      const marker = draw("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto", markerUnits: "userSpaceOnUse" });
      const tip = draw("path", { d: "M0 0L8 4L0 8z" });
      tip.style.fill = fill;
      marker.append(tip);
      defs.append(marker);
    }
    return defs;
  }
  function box(b, on) {
    const lit = on && b.members.some((id) => on.has(id));
    const names = ["node", b.group ? "group" : "", state.roots.includes(b.id) ? "root" : "", on ? lit ? "on" : "off" : "", state.selected === b.id ? "selected" : ""];
    const g = draw("g", { class: names.filter(Boolean).join(" "), transform: `translate(${b.x} ${b.y})`, "data-id": b.id });
    g.append(draw("title", {}, b.group ? `${b.name}: open` : `${b.name} (${words(b.type)})`));
    g.append(draw("rect", { class: "box", width: WIDTH, height: HEIGHT, rx: 8 }));
    const strip = draw("rect", { x: 0, y: 8, width: 4, height: HEIGHT - 16, rx: 2 });
    strip.style.fill = colour(b.type);
    g.append(strip);
    const live = b.type === "deployment" && b.status === "live";
    g.append(draw("text", { class: "name", x: 14, y: 18 }, cut(b.name, WIDTH - (live ? 36 : 24), `550 12.5px ${FAMILY}`)));
    const about = b.group ? "click to open" : [words(b.type), b.stage, b.environment, live ? "live" : b.type === "deployment" ? b.status : null].filter(Boolean).join(" · ");
    const hidden = b.group ? 0 : more(b.id);
    g.append(draw("text", { class: "kind", x: 14, y: 33 }, cut(about, WIDTH - (hidden ? 62 : 24), `10.5px ${FAMILY}`)));
    if (live) g.append(draw("circle", { class: "live", cx: WIDTH - 13, cy: 14, r: 4 }));
    if (hidden) g.append(draw("text", { class: "more", x: WIDTH - 10, y: 33, "text-anchor": "end" }, `+${hidden.toLocaleString("en")}`));
    return g;
  }
  function more(id) {
    let n = 0;
    const there = visible();
    for (const e of nodes.get(id).up) if (!there.has(e.from)) n += 1;
    for (const e of nodes.get(id).down) if (!there.has(e.to)) n += 1;
    return n;
  }
  let there = null;
  function visible() {
    if (!there) { there = new Set(); for (const b of boxes.values()) for (const id of b.members) there.add(id); }
    return there;
  }
  function note() {
    const grouped = [...boxes.values()].filter((b) => b.group).reduce((n, b) => n + b.members.length, 0);
    const parts = [`${visible().size.toLocaleString("en")} of ${nodes.size.toLocaleString("en")} in view`];
    if (grouped) parts.push(`${grouped.toLocaleString("en")} of them in groups`);
    $("note").textContent = parts.join(", ");
  }
  function place() { $("layer").setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`); }
  function fit() {
    const { width, height } = svg.getBoundingClientRect();
    const k = Math.min(1.15, (width - 60) / extent.w, (height - 60) / extent.h);
    view = { k: Math.max(k, 0.05), x: 0, y: 0 };
    // Too much for one screen: what is asked about goes into the middle, and stays readable.
    const focus = boxes.get(state.selected) || boxes.get(state.roots[0]);
    if (k < 0.45 && focus) { view.k = 0.7; centre(focus); } else { view.x = (width - extent.w * view.k) / 2; view.y = (height - extent.h * view.k) / 2; }
    place();
  }
  function centre(b) {
    const { width, height } = svg.getBoundingClientRect();
    view.x = width / 2 - (b.x + WIDTH / 2) * view.k;
    view.y = height / 2 - (b.y + HEIGHT / 2) * view.k;
  }
  function zoom(factor, x, y) {
    const { width, height, left, top } = svg.getBoundingClientRect();
    const [px, py] = x === undefined ? [width / 2, height / 2] : [x - left, y - top];
    const k = Math.min(3, Math.max(0.05, view.k * factor));
    view.x = px - (px - view.x) * k / view.k;
    view.y = py - (py - view.y) * k / view.k;
    view.k = k;
    place();
  }
  function update({ fitted = false, keep = null } = {}) {
    const old = keep && boxes.get(keep), at = old && { x: old.x * view.k + view.x, y: old.y * view.k + view.y };
    there = null;
    layout();
    render();
    const now = keep && boxes.get(keep);
    if (at && now && !fitted) { view.x = at.x - now.x * view.k; view.y = at.y - now.y * view.k; place(); }
    if (fitted) fit();
    details();
    legend();
  }

  // -- acting --------------------------------------------------------------------------------
  function select(id, { bring = false } = {}) {
    state.selected = id;
    if (id && nodes.has(id) && !visible().has(id)) {
      const way = shortest(id);
      for (const step of way ? way.path : [id]) state.shown.add(step);
    }
    update({ keep: id && boxes.has(id) && !bring ? id : null });
    if (id && bring && boxes.has(id)) { view.k = Math.max(view.k, 0.7); centre(boxes.get(id)); place(); }
  }
  function expand(id) {
    for (const e of nodes.get(id).up) state.shown.add(e.from);
    for (const e of nodes.get(id).down) state.shown.add(e.to);
    if (nodes.get(id).up.length + nodes.get(id).down.length > 40) {
      // Too many to show one by one; then they are groups.
      for (const e of [...nodes.get(id).up, ...nodes.get(id).down]) state.shown.delete(e.from === id ? e.to : e.from);
      state.roots = [id]; state.depth = 1; $("depth").value = "1";
    }
    state.selected = id;
    update({ keep: id });
  }
  function activate(id) {
    const b = boxes.get(id);
    if (!b) return;
    if (b.group) { state.open.add(b.key); update({ keep: nearest(b) }); return; }
    if (state.selected === id && more(id)) expand(id); else select(id);
  }
  function nearest(b) { return b.near.up[0] || b.near.down[0] || null; }
  function centreOn(id) { state.roots = [id]; state.shown.clear(); state.open.clear(); state.selected = null; if (!state.depth) { state.depth = 1; } steps(); update({ fitted: true }); }
  function reset() {
    Object.assign(state, { roots: start.roots, depth: start.depth, selected: null });
    state.shown.clear(); state.open.clear();
    for (const t of types) state.mode.set(t, "grouped");
    steps();
    update({ fitted: true });
  }
  function move(key) {
    const here = boxes.get(state.selected) || boxes.get(state.roots[0]) || [...boxes.values()][0];
    if (!here) return;
    let to = null;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const near = here.near[key === "ArrowLeft" ? "up" : "down"].map((id) => boxes.get(id));
      to = near.sort((a, b) => Math.abs(a.y - here.y) - Math.abs(b.y - here.y))[0];
    } else {
      const column = [...boxes.values()].filter((b) => b.column === here.column).sort((a, b) => a.y - b.y);
      to = column[column.indexOf(here) + (key === "ArrowUp" ? -1 : 1)];
    }
    if (!state.selected) to = to && state.roots.length ? to : here;
    if (!to) return;
    state.selected = to.id;
    if (to.group) { render(); details(); } else select(to.id);
    bringInto(boxes.get(to.id));
  }
  function bringInto(b) {
    if (!b) return;
    const { width, height } = svg.getBoundingClientRect();
    const x = b.x * view.k + view.x, y = b.y * view.k + view.y;
    if (x < 20 || y < 20 || x + WIDTH * view.k > width - 20 || y + HEIGHT * view.k > height - 20) { centre(b); place(); }
  }

  // -- panels --------------------------------------------------------------------------------
  function link(id, text) {
    const a = el("a", { class: "go", href: "#" }, text || nodes.get(id).name);
    a.addEventListener("click", (event) => { event.preventDefault(); select(id, { bring: true }); });
    return a;
  }
  function details() {
    const panel = $("details"), id = state.selected, b = id && boxes.get(id);
    if (b && b.group) {
      const shown = b.members.map((m) => nodes.get(m)).sort((x, y) => x.name < y.name ? -1 : 1);
      panel.replaceChildren(el("h3", {}, b.name), el("p", { class: "kind" }, "a group"), el("ul", {}, ...shown.slice(0, 200).map((n) => el("li", {}, link(n.id)))), shown.length > 200 ? el("p", { class: "help" }, `and ${(shown.length - 200).toLocaleString("en")} more: search finds them`) : null);
      return;
    }
    if (!id || !nodes.has(id)) { panel.replaceChildren(...welcome()); return; }
    const n = nodes.get(id);
    const facts = el("dl");
    for (const [key, value] of Object.entries(n)) {
      if (["id", "type", "name", "up", "down"].includes(key) || value === null || value === "" || Array.isArray(value) && !value.length) continue;
      facts.append(el("dt", {}, words(key)), el("dd", {}, Array.isArray(value) ? value.join(", ") : key === "traffic_share" ? `${Math.round(value * 100)} %` : String(value)));
    }
    facts.append(el("dt", {}, "id"), el("dd", {}, n.id));
    const buttons = el("div", { class: "buttons" });
    if (more(id)) { const open = el("button", { type: "button" }, `Show ${more(id).toLocaleString("en")} more`); open.addEventListener("click", () => expand(id)); buttons.append(open); }
    const middle = el("button", { type: "button" }, "Centre here");
    middle.addEventListener("click", () => centreOn(id));
    buttons.append(middle);
    const way = state.roots.length && !state.roots.includes(id) ? shortest(id) : null;
    const content = [el("h3", {}, n.name), el("p", { class: "kind" }, words(n.type)), buttons, facts];
    if (way) content.push(el("h2", {}, `Shortest way, ${way.path.length - 1} step${way.path.length === 2 ? "" : "s"}`), el("ol", {}, ...way.path.map((step) => el("li", {}, step === id ? el("b", {}, n.name) : link(step)))));
    for (const [side, title] of [["up", "Directly upstream"], ["down", "Directly downstream"]]) {
      const near = n[side];
      if (!near.length) continue;
      content.push(el("h2", {}, `${title}, ${near.length.toLocaleString("en")}`), el("ul", {}, ...near.slice(0, 30).map((e) => el("li", {}, link(side === "up" ? e.from : e.to), el("span", { class: "kind" }, ` ${words(e.type)}`)))));
      if (near.length > 30) content.push(el("p", { class: "help" }, `and ${(near.length - 30).toLocaleString("en")} more`));
    }
    panel.replaceChildren(...content);
  }
  function welcome() {
    const keys = [["← →", "up and down the lineage"], ["↑ ↓", "within a column"], ["Enter", "open a group, show neighbours"], ["C", "centre here"], ["/", "search"], ["+ − 0", "zoom, fit"], ["Esc", "clear"]];
    const live = [...nodes.values()].filter((n) => n.type === "deployment" && n.status === "live").sort((a, b) => a.name < b.name ? -1 : 1);
    const content = [];
    if (live.length) content.push(el("h2", {}, `Live deployments, ${live.length.toLocaleString("en")}`), el("ul", {}, ...live.slice(0, 20).map((n) => el("li", {}, link(n.id), n.owners && n.owners.length ? el("span", { class: "kind" }, ` ${n.owners.join(", ")}`) : null))), live.length > 20 ? el("p", { class: "help" }, `and ${(live.length - 20).toLocaleString("en")} more`) : null);
    content.push(el("h2", {}, "Keys"), el("dl", {}, ...keys.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])));
    content.push(el("p", { class: "help" }, "Select an entity to see its way and its neighbours. +N says how many of its neighbours are not in view."));
    return content.filter(Boolean);
  }
  function legend() {
    const panel = $("types");
    const held = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.mode : null;
    panel.replaceChildren(el("h2", {}, "Types"), ...types.map((type) => {
      const swatch = el("i");
      swatch.style.background = colour(type);
      const choice = el("div", { role: "group", "aria-label": words(type) });
      for (const [mode, label] of [["all", "All"], ["grouped", "Grouped"], ["hidden", "Hide"]]) {
        const b = el("button", { type: "button", "aria-pressed": String(state.mode.get(type) === mode), "data-mode": `${type}|${mode}` }, label);
        b.addEventListener("click", () => { state.mode.set(type, mode); for (const key of [...state.open]) if (key.endsWith(`|${type}`)) state.open.delete(key); update({ fitted: true }); });
        choice.append(b);
      }
      return el("div", { class: "type" }, swatch, el("span", {}, words(type)), el("span", { class: "count" }, counts.get(type).toLocaleString("en")), choice);
    }));
    if (held) for (const b of panel.querySelectorAll("button")) if (b.dataset.mode === held) b.focus();
  }
  function steps() {
    const far = state.roots.length ? Math.max(0, ...distances(state.roots, ["up"]).values(), ...distances(state.roots, ["down"]).values()) : 0;
    const options = [];
    for (let d = 1; d <= Math.min(far, 20); d++) options.push(el("option", { value: d }, String(d)));
    options.push(el("option", { value: 0 }, "all"));
    $("depth").replaceChildren(...options);
    if (state.depth > far) state.depth = far || 0;
    $("depth").value = String(state.depth);
    $("depth").disabled = !state.roots.length;
  }
  function listing() {
    const by = types.map((type) => {
      const rows = [...nodes.values()].filter((n) => n.type === type).sort((a, b) => a.name < b.name ? -1 : 1);
      return el("table", {}, el("caption", {}, `${words(type)}, ${rows.length.toLocaleString("en")}`), el("tr", {}, el("th", {}, "name"), el("th", {}, "owners"), el("th", {}, "upstream"), el("th", {}, "downstream")), ...rows.map((n) => el("tr", {}, el("td", {}, n.name), el("td", {}, (n.owners || []).join(", ")), el("td", {}, String(n.up.length)), el("td", {}, String(n.down.length)))));
    });
    $("list").replaceChildren(...by);
  }

  // -- search ---------------------------------------------------------------------------------
  const input = $("search"), hits = $("hits");
  let found = [], chosen = 0;
  const haystack = [...nodes.values()].map((n) => [`${n.name} ${words(n.type)} ${(n.owners || []).join(" ")}`.toLowerCase(), n]);
  function search() {
    const terms = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = terms.length ? haystack.filter(([text]) => terms.every((t) => text.includes(t))).map(([, n]) => n) : [];
    matching.sort((a, b) => b.name.toLowerCase().startsWith(terms[0]) - a.name.toLowerCase().startsWith(terms[0]) || a.name.length - b.name.length || (a.name < b.name ? -1 : 1));
    found = matching.slice(0, 50);
    chosen = 0;
    hits.hidden = !terms.length;
    input.setAttribute("aria-expanded", String(!hits.hidden));
    hits.replaceChildren(...found.map((n, i) => {
      const item = el("li", { role: "option", "aria-selected": String(i === chosen), id: `hit${i}` }, el("b", {}, n.name), el("span", {}, words(n.type)));
      item.addEventListener("mousedown", (event) => { event.preventDefault(); take(i); });
      return item;
    }), ...(matching.length > 50 ? [el("li", { class: "none" }, `and ${(matching.length - 50).toLocaleString("en")} more`)] : []), ...(terms.length && !found.length ? [el("li", { class: "none" }, "nothing of that name")] : []));
  }
  function take(i) {
    if (!found[i]) return;
    hits.hidden = true;
    input.setAttribute("aria-expanded", "false");
    select(found[i].id, { bring: true });
    svg.focus();
  }
  input.addEventListener("input", search);
  input.addEventListener("focus", () => { if (input.value) search(); });
  input.addEventListener("blur", () => { hits.hidden = true; });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      chosen = Math.max(0, Math.min(found.length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
      [...hits.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === chosen)));
      if (hits.children[chosen]) { hits.children[chosen].scrollIntoView({ block: "nearest" }); input.setAttribute("aria-activedescendant", `hit${chosen}`); }
    } else if (event.key === "Enter") take(chosen);
    else if (event.key === "Escape") { input.value = ""; hits.hidden = true; svg.focus(); }
    event.stopPropagation();
  });

  // -- mouse and keys ---------------------------------------------------------------------------
  let drag = null;
  svg.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, vx: view.x, vy: view.y, moved: false, on: event.target.closest(".node") }; svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4) drag.moved = true;
    if (drag.moved) { svg.classList.add("dragged"); view.x = drag.vx + event.clientX - drag.x; view.y = drag.vy + event.clientY - drag.y; place(); }
  });
  svg.addEventListener("pointerup", () => {
    svg.classList.remove("dragged");
    if (drag && !drag.moved) { if (drag.on) activate(drag.on.dataset.id); else if (state.selected) { state.selected = null; render(); details(); } }
    drag = null;
  });
  svg.addEventListener("pointercancel", () => { drag = null; svg.classList.remove("dragged"); });
  svg.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 500), event.clientX, event.clientY); }, { passive: false });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    if (event.key === "/") { event.preventDefault(); input.focus(); input.select(); }
    else if (event.key === "Escape") { state.selected = null; update(); }
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") fit();
    else if ((event.key === "c" || event.key === "C") && nodes.has(state.selected)) centreOn(state.selected);
    else if (event.target.closest && event.target.closest("button, a")) return;
    else if (event.key.startsWith("Arrow")) { event.preventDefault(); move(event.key); }
    else if (event.key === "Enter" && state.selected) { event.preventDefault(); const b = boxes.get(state.selected); if (b && !b.group) expand(b.id); else activate(state.selected); }
  });
  $("in").addEventListener("click", () => zoom(1.25));
  $("out").addEventListener("click", () => zoom(0.8));
  $("fit").addEventListener("click", fit);
  $("home").addEventListener("click", reset);
  $("depth").addEventListener("change", () => { state.depth = Number($("depth").value); state.shown.clear(); update({ fitted: true }); });
  window.addEventListener("beforeprint", () => { const focus = state.selected; state.selected = null; render(); state.selected = focus; svg.setAttribute("viewBox", `-10 -10 ${extent.w + 20} ${extent.h + 20}`); $("layer").removeAttribute("transform"); });
  window.addEventListener("afterprint", () => { svg.removeAttribute("viewBox"); render(); });
  window.addEventListener("resize", fit);

  $("summary").textContent = [`${nodes.size.toLocaleString("en")} entities`, `${edges.length.toLocaleString("en")} edges`, data.asOf ? `as of ${data.asOf}` : null, data.partial ? "PARTIAL: there is more than this page holds" : null].filter(Boolean).join(" · ");
  steps();
  listing();
  update({ fitted: true });
})();
