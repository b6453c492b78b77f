// SPDX-License-Identifier: Apache-2.0
// The engine live: /metrics once a second while the page can be seen, as figures with curves of the last two minutes.
// It is asked on every view, so that the curves are there when one looks.
import { request } from "./api.js";
import { byId, bytes, make, plural, rate, seconds } from "./dom.js";
import { Sample, growth, meanBetween, perSecond, quantileBetween } from "./metrics.js";

const pollPause = 1000; // ms
const n_kept = 120; // samples
const n_narrowest = 30; // samples across a curve at first; then it grows to all that are kept
const percent = (value) => `${(value * 100).toFixed(value < 0.0995 ? 1 : 0)} %`;
const whole = (value) => Math.round(value).toLocaleString("en");

const samples = [];
let watcher = () => {};

/** Figures: read(now, before, oldest) gives a number, or null while there is none; an optional card is then hidden.
    most: the top of the curve's scale, where it is not the curve's own; isKept: a pause does not change it. */
const figures = [
  {
    name: "Tokens written",
    unit: "tokens/s",
    read: (now, before) => perSecond(before, now, "vllm:generation_tokens_total"),
    show: rate,
    detail: (now) => `${whole(now.sum("vllm:generation_tokens_total") ?? 0)} since the start`,
  },
  {
    name: "Tokens read",
    unit: "tokens/s",
    read: (now, before) => perSecond(before, now, "vllm:prompt_tokens_total"),
    show: rate,
    detail: (now) => `${whole(now.sum("vllm:prompt_tokens_total") ?? 0)} since the start`,
  },
  {
    name: "Running",
    unit: "in the batch",
    read: (now) => now.sum("vllm:num_requests_running"),
    show: whole,
    detail: (now) => `${plural(now.sum("lowbit:connections") ?? 0, "open connection")}`,
  },
  {
    name: "Waiting",
    unit: "in the queue",
    read: (now) => now.sum("vllm:num_requests_waiting"),
    show: whole,
    detail: (now) => `${whole(now.sum("vllm:admission_rejections_total") ?? 0)} refused since the start`,
  },
  {
    name: "KV pages",
    unit: "in use",
    read: kvUsage,
    show: percent,
    most: 1,
    detail: (now) => {
      const n_pages = nPages(now), usage = kvUsage(now);
      const size = now.sum("lowbit:kv_bytes");
      return `${whole(usage * n_pages)} of ${whole(n_pages)} pages${size ? `, ${bytes(size)} in all` : ""}`;
    },
  },
  {
    name: "Prefix cache",
    unit: "found",
    read: (now, before, oldest) => hitRate(oldest, now),
    show: percent,
    most: 1,
    detail: (now) => {
      const found = now.sum("vllm:prefix_cache_hits_total") ?? 0, asked = now.sum("vllm:prefix_cache_queries_total");
      return asked ? `${whole(found)} of ${whole(asked)} tokens of prompts` : "no prompt yet";
    },
  },
  {
    name: "Forward pass",
    unit: "each",
    read: (now, before) => meanBetween(before, now, "lowbit:step_seconds"),
    show: seconds,
    isKept: true,
    detail: (now, oldest) => {
      const steps = growth(oldest, now, "lowbit:step_seconds_count");
      return steps ? `${plural(steps, "step")} in the last ${Math.round(now.time - oldest.time)} s` : "no step lately";
    },
  },
  {
    name: "Preempted",
    unit: "since the start",
    read: (now) => now.sum("vllm:num_preemptions_total"),
    show: whole,
    detail: () => "put back for want of pages",
  },
  {
    name: "Memory",
    unit: "weights and KV caches",
    read: (now) => now.sum("lowbit:memory_used_bytes"),
    show: bytes,
    detail: (now) => `of ${bytes(now.sum("lowbit:memory_budget_bytes") ?? 0)} that models may take`,
    isOptional: true,
  },
  {
    name: "Memory read",
    unit: "GB/s",
    read: (now) => now.sum("lowbit:dram_gbps"),
    show: rate,
    detail: () => "weights and KV pages",
    isOptional: true,
  },
  {
    name: "Roof",
    unit: "reached",
    read: (now) => now.all("lowbit:roof_fraction").reduce((most, { value }) => Math.max(most ?? 0, value), null),
    show: percent,
    most: 1,
    detail: () => "of the read bandwidth of this machine",
    isOptional: true,
  },
];

function nPages(now, model) {
  return now.all("vllm:cache_config_info", model).reduce((sum, { labels }) => sum + Number(labels.num_gpu_blocks), 0);
}

/** Over all models: their pages weigh what they are. */
function kvUsage(now) {
  const models = now.models(), n_pages = nPages(now);
  if (models.length <= 1 || n_pages === 0) return now.sum("vllm:kv_cache_usage_perc");
  const used = models.map((model) => (now.sum("vllm:kv_cache_usage_perc", model) ?? 0) * nPages(now, model));
  return used.reduce((sum, pages) => sum + pages, 0) / n_pages;
}

function hitRate(before, now) {
  const asked = growth(before, now, "vllm:prefix_cache_queries_total");
  return asked ? growth(before, now, "vllm:prefix_cache_hits_total") / asked : null;
}

// ---- cards

function makeCard(figure) {
  const value = make("strong", {}, "–");
  const detail = make("p", { class: "detail" });
  const peak = make("span", { class: "peak" });
  const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("class", "curve");
  chart.setAttribute("aria-hidden", "true"); // the figure beside it says what counts
  const area = document.createElementNS(chart.namespaceURI, "path");
  area.setAttribute("class", "area");
  const line = document.createElementNS(chart.namespaceURI, "path");
  line.setAttribute("class", "line");
  chart.append(area, line);
  const head = make("p", { class: "figure" }, value, " ", make("span", {}, figure.unit));
  figure.card = make("article", { class: "card" }, make("div", { class: "card-head" }, make("h3", {}, figure.name), peak),
    head, chart, detail);
  figure.parts = { value, detail, peak, chart, area, line };
  figure.history = [];
  return figure.card;
}

function drawCurve(figure) {
  const { chart, area, line, peak } = figure.parts;
  const values = figure.history.map((value) => value ?? 0);
  const highest = Math.max(...values);
  const top = figure.most ?? (highest * 1.1 || 1);
  const width = Math.max(n_narrowest, values.length) - 1;
  const first = width + 1 - values.length;
  chart.setAttribute("viewBox", `0 0 ${width} 40`);
  const points = values.map((value, at) => `${first + at} ${(38 - (36 * Math.min(value, top)) / top).toFixed(1)}`);
  line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
  area.setAttribute("d", points.length > 1 ? `M${first} 40L${points.join("L")}L${width} 40Z` : "");
  peak.textContent = highest > 0 ? `peak ${figure.show(highest)}` : "";
}

function record(now) {
  const before = samples.at(-1), oldest = samples[0];
  samples.push(now);
  if (samples.length > n_kept) samples.shift();
  for (const figure of figures) {
    let value = figure.read(now, before, oldest ?? now);
    figure.isThere ||= value !== null;
    if (value !== null) figure.last = value;
    else if (figure.isKept) value = figure.last ?? null; // what it was when there was something to measure
    figure.history.push(value);
    if (figure.history.length > n_kept) figure.history.shift();
  }
}

function draw() {
  const now = samples.at(-1);
  if (!now || byId("view-engine").hidden) return;
  const oldest = samples[0];
  for (const figure of figures) {
    const value = figure.history.at(-1);
    figure.card.hidden = figure.isOptional && !figure.isThere;
    figure.parts.value.textContent = value === null || value === undefined ? "–" : figure.show(value);
    figure.parts.detail.textContent = figure.detail(now, oldest);
    drawCurve(figure);
  }
  showTables([latencies(oldest, now), modelTable(now), endings(now)].filter(({ rows }) => rows.length > 0));
}

// ---- tables

let shape = ""; // titles and numbers of rows of the tables that are shown

/** Cells change in place: a table that somebody reads, or has the focus in, is not taken away each second. */
function showTables(tables) {
  const place = byId("engine-tables");
  const wanted = tables.map(({ title, rows }) => `${title} ${rows.length}`).join("\n");
  if (shape !== wanted) place.replaceChildren(...tables.map(makeTable));
  shape = wanted;
  const cells = place.querySelectorAll("tbody th, tbody td");
  tables.flatMap(({ rows }) => rows.flat()).forEach((text, at) => {
    if (cells[at].textContent !== text) cells[at].textContent = text;
  });
}

function makeTable({ title, head, rows }) {
  const row = (cells) => make("tr", {}, ...cells.map((_, at) => (at === 0 ? make("th", { scope: "row" }) : make("td"))));
  const top = make("tr", {}, ...head.map((name) => (name ? make("th", { scope: "col" }, name) : make("td"))));
  return make("article", { class: "card" }, make("h3", {}, title),
    make("div", { class: "wide", tabindex: 0, role: "group", "aria-label": title },
      make("table", {}, make("thead", {}, top), make("tbody", {}, ...rows.map(row)))));
}

function latencies(oldest, now) {
  const names = [
    ["To the first token", "vllm:time_to_first_token_seconds"],
    ["Between tokens", "vllm:inter_token_latency_seconds"],
    ["Whole request", "vllm:e2e_request_latency_seconds"],
  ];
  const cell = (name, q) => {
    const value = quantileBetween(oldest, now, name, q);
    return value === null ? "–" : seconds(value);
  };
  const rows = names.map(([title, name]) => [title, cell(name, 0.5), cell(name, 0.95), cell(name, 0.99)]);
  return { title: "Latency in these two minutes", head: ["", "median", "95 %", "99 %"], rows };
}

function modelTable(now) {
  const before = samples.at(-2);
  const rows = now.models().map((model) => {
    const speed = perSecond(before, now, "vllm:generation_tokens_total", model);
    const weights = now.sum("lowbit:weight_bytes", model), kv = now.sum("lowbit:kv_bytes", model);
    return [model, speed === null ? "–" : rate(speed), whole(now.sum("vllm:num_requests_running", model) ?? 0),
      weights ? bytes(weights) : now.sum("lowbit:model_loaded", model) === 0 ? "not loaded" : "–", kv ? bytes(kv) : "–"];
  });
  return { title: "Models", head: ["name", "tokens/s", "running", "weights", "KV cache"], rows };
}

function endings(now) {
  const meanings = { stop: "came to their end", length: "reached the limit of tokens", abort: "client gone, or shutting down", error: "failed" };
  const counts = new Map();
  for (const { labels, value } of now.all("vllm:request_success_total")) {
    counts.set(labels.finished_reason, (counts.get(labels.finished_reason) ?? 0) + value);
  }
  const rows = [...counts].map(([reason, count]) => [reason, whole(count), meanings[reason] ?? ""]);
  return { title: "Answers since the start", head: ["end", "answers", "meaning"], rows };
}

// ---- the poll

async function poll() {
  if (!document.hidden) {
    try {
      const response = await request("metrics");
      record(new Sample(await response.text(), performance.now() / 1000));
      watcher(true);
    } catch {
      watcher(false);
    }
    draw();
  }
  setTimeout(poll, pollPause);
}

/** isThere is called with every poll: whether the server answered. */
export function watch(isThere) {
  watcher = isThere;
}

/** The newest sample, or null. */
export const latest = () => samples.at(-1) ?? null;

export function start() {
  byId("cards").append(...figures.map(makeCard));
  poll();
}

export const shown = draw;
