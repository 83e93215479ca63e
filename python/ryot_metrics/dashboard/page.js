// The page: what it shows, when it asks, and what it says when nobody answers.

const RATE_SECONDS = 10; // rates and quantiles are of so much time
const SPANS = { 60: "1 minute", 300: "5 minutes", 900: "15 minutes" };
const TICK_SECONDS = { 60: 15, 300: 60, 900: 180 };
const TIMEOUT_SECONDS = 5;
const DEVICE_COLORS = 8;

const byId = (id) => document.getElementById(id);
const { metrics, interval } = document.documentElement.dataset;
const pause = Number(interval);

/** Series p50, p95 and p99 of a histogram. */
function quantiles(name) {
  return () =>
    [50, 95, 99].map((percent) => ({
      name: `p${percent}`,
      color: `p${percent}`,
      at: (from, to, model) => pages.quantile(percent / 100, from, to, `${name}_bucket`, model),
    }));
}

/** Series of a counter's growth a second, one for each of these groups. */
function rates(name, groups) {
  return () =>
    Object.entries(groups).map(([group, color]) => ({
      name: group,
      color,
      at: (from, to, model) =>
        pages.increase(from, to, name, { group, model }) / elapsed(from, to),
    }));
}

function ratio(part, whole) {
  return (from, to, model) => {
    const all = pages.increase(from, to, whole, { model });
    return all > 0 ? (pages.increase(from, to, part, { model }) || 0) / all : NaN;
  };
}

function level(name) {
  return (from, to, model) => pages.level(to, name, { model });
}

/** Series of a gauge, one for each of these groups. */
function levels(name, groups) {
  return () =>
    Object.entries(groups).map(([group, color]) => ({
      name: group,
      color,
      at: (from, to, model) => pages.level(to, name, { group, model }),
    }));
}

/** Series of a gauge, one for each device. */
function devices(name) {
  return () =>
    pages.groups(name).slice(0, DEVICE_COLORS).map((group, index) => ({
      name: `GPU ${group}`,
      color: `c${index + 1}`,
      at: (from, to, model) => pages.level(to, name, { group, model }),
    }));
}

const STATUSES = { success: "c1", error: "c2", timeout: "c4", cancelled: "c5", partial: "c3" };
const BATCH = "ryot_batch_size_distribution";
const KV_HITS = ratio("ryot_kv_cache_hits_total", "ryot_kv_cache_queries_total");
const PREFIX_QUERIES = "ryot_engine_prefix_cache_queries_total";
const PREFIX_HITS = ratio("ryot_engine_prefix_cache_hits_total", PREFIX_QUERIES);

/**
 * The charts; one with `optional` is hidden on a page that lacks this sample. One of an `engine` of
 * this package is not missed where there is none.
 */
const CARDS = [
  { title: "Time to first token", unit: "seconds", note: "From queued to the first token",
    series: quantiles("ryot_ttft_latency_seconds") },
  { title: "Inter-token latency", unit: "seconds", note: "From one token to the next",
    series: quantiles("ryot_inference_inter_token_latency_seconds") },
  { title: "Request latency", unit: "seconds", note: "From queued to finished",
    series: quantiles("ryot_inference_latency_seconds") },
  { title: "Tokens", unit: "rate", note: "Generated and read a second",
    series: rates("ryot_tokens_generated_total", { completion: "c1", prompt: "c3" }) },
  { title: "Requests", unit: "rate", note: "Finished a second, by status",
    series: rates("ryot_inference_requests_total", STATUSES) },
  { title: "In progress", unit: "count", note: "Requests now; the queued are among the active",
    series: () => [
      { name: "active", color: "c1", at: level("ryot_active_inference_requests") },
      { name: "queued", color: "c2", at: level("ryot_queue_depth") },
    ] },
  { title: "Queue wait", unit: "seconds", note: "From queued to scheduled",
    series: quantiles("ryot_inference_queue_wait_seconds") },
  { title: "Batch size", unit: "count", note: "Sequences in one batch",
    series: () => [
      { name: "mean", color: "c1", at: ratio(`${BATCH}_sum`, `${BATCH}_count`) },
      { name: "p95", color: "c2", at: quantiles(BATCH)()[1].at },
    ] },
  { title: "KV cache hits", unit: "percent", note: "Share of prompt tokens found in the cache",
    optional: "ryot_kv_cache_queries_total",
    series: () => [{ name: "hits", color: "c1", at: (...range) => 100 * KV_HITS(...range) }] },
  { title: "KV cache size", unit: "bytes", note: "Memory of the key-value cache",
    optional: "ryot_kv_cache_size_bytes",
    series: () => [{ name: "size", color: "c1", at: level("ryot_kv_cache_size_bytes") }] },
  { title: "Engine queue", unit: "count", note: "Requests that wait for a place, by class",
    engine: true, optional: "ryot_engine_queued_sessions",
    series: levels("ryot_engine_queued_sessions", { interactive: "c1", background: "c2" }) },
  { title: "Late tokens", unit: "rate", note: "Later than promised a second, by promise",
    engine: true, optional: "ryot_engine_slo_violations_total",
    series: rates("ryot_engine_slo_violations_total", { ttft: "c2", tbt: "c4" }) },
  { title: "Prefix cache hits", unit: "percent", note: "Share of prompt tokens the engine had",
    engine: true, optional: PREFIX_QUERIES,
    series: () => [{ name: "hits", color: "c1", at: (...range) => 100 * PREFIX_HITS(...range) }] },
  { title: "Prefix cache size", unit: "bytes", note: "Prefixes that no request uses, by place",
    engine: true, optional: "ryot_engine_prefix_cache_resident_bytes",
    series: levels("ryot_engine_prefix_cache_resident_bytes", { device: "c1", host: "c3" }) },
  { title: "GPU memory", unit: "bytes", note: "In use, by device",
    optional: "ryot_gpu_memory_usage_bytes", series: devices("ryot_gpu_memory_usage_bytes") },
  { title: "GPU utilisation", unit: "percent", note: "Share of time with work, by device",
    optional: "ryot_gpu_utilization_percent", series: devices("ryot_gpu_utilization_percent") },
];

const pages = new Pages(Math.max(...Object.keys(SPANS).map(Number)) + RATE_SECONDS);
const charts = CARDS.map((card) => new Chart(card, showCursor));
let timer = 0;
let failing = false;
let cursor = null;
let missed = true; // whether pages are missing since the last one that came

function elapsed(from, to) {
  return pages.snapshots[to].time - pages.snapshots[from].time;
}

/** Seconds since 1970 by a clock that is never set. */
function now() {
  return (performance.timeOrigin + performance.now()) / 1000;
}

/** The page's address, restricted to what is shown here. */
function address() {
  const url = new URL(metrics, document.baseURI);
  url.searchParams.set("profile", "ryot");
  for (const name of Object.keys(SAMPLES)) url.searchParams.append("name[]", name);
  return url;
}

async function poll() {
  clearTimeout(timer);
  const started = now();
  const url = address();
  try {
    const answer = await fetch(url, {
      headers: { Accept: "text/plain; version=0.0.4" },
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_SECONDS * 1000),
    });
    if (!answer.ok) throw new Error(`${url.pathname} answers ${answer.status}.`);
    const text = await answer.text();
    pages.add(text, now(), missed);
    failing = missed = false;
    draw();
  } catch (error) {
    failing = missed = true;
    const refused = error.name === "Error";
    byId("reason").textContent = refused ? error.message : `${url.pathname} does not answer.`;
  }
  byId("banner").hidden = !failing;
  byId("state").textContent = failing ? "reconnecting" : "live";
  document.documentElement.dataset.state = failing ? "reconnecting" : "live";
  if (!document.hidden) timer = setTimeout(poll, Math.max(0, pause - (now() - started)) * 1000);
}

function draw() {
  const { snapshots } = pages;
  const span = Number(byId("span").value);
  const model = byId("model").value;
  const to = snapshots.at(-1).time;
  const first = snapshots.findIndex(({ time }) => time >= to - span);
  const shown = snapshots.slice(first);
  const bases = shown.map((_, index) => pages.base(first + index, RATE_SECONDS));
  const view = {
    times: shown.map(({ time }) => time),
    gaps: shown.map(({ gap }) => gap),
    from: to - span,
    to,
    step: TICK_SECONDS[span],
    empty: emptyText(),
  };
  const absent = [];
  charts.forEach((chart, index) => {
    const { title, engine, optional, series } = CARDS[index];
    chart.root.hidden = optional !== undefined && !pages.columns.has(optional);
    if (chart.root.hidden && !engine) absent.push(title);
    if (chart.root.hidden) return;
    const drawn = series().map(({ name, color, at }) => ({
      name,
      color,
      values: bases.map((base, place) => at(base, first + place, model)),
    }));
    chart.draw({ ...view, series: drawn });
  });
  showCursor(cursor);
  byId("absent").textContent = absent.length ? `Not reported: ${absent.join(", ")}.` : "";
  listModels();
}

function emptyText() {
  const requests = pages.level(pages.snapshots.length - 1, "ryot_inference_requests_total");
  if (!(requests > 0)) return "no requests yet";
  return pages.snapshots.length < 2 ? "reading…" : "no requests in this time";
}

/** Keeps the list of models; choosing among fewer than two is no choice. */
function listModels() {
  const select = byId("model");
  const listed = new Set([...select.options].map(({ value }) => value));
  for (const model of [...pages.models].filter((name) => !listed.has(name))) {
    select.append(new Option(model, model));
  }
  byId("models").hidden = select.options.length < 3;
}

/** One cursor for all charts: they share their time. Null shows the latest values. */
function showCursor(time) {
  cursor = time;
  for (const chart of charts.filter(({ root, data }) => data && !root.hidden)) {
    const { times } = chart.data;
    const after = time === null ? -1 : times.findIndex((each) => each >= time);
    const index = after < 0 ? times.length - 1 : after;
    chart.point(index, time);
  }
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  const other = name === "dark" ? "light" : "dark";
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${other} colours`);
}

/** The browser may refuse to remember; the page works without. */
function remembered(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function start() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const preferred = () => remembered("ryot-theme") ?? (system.matches ? "dark" : "light");
  theme(preferred());
  system.addEventListener("change", () => theme(preferred()));
  byId("theme").addEventListener("click", () => {
    const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    remembered("ryot-theme", other);
    theme(other);
  });
  for (const [seconds, text] of Object.entries(SPANS)) {
    byId("span").append(new Option(text, seconds, seconds === "300", seconds === "300"));
  }
  byId("charts").append(...charts.map(({ root }) => root));
  byId("pace").textContent =
    `Read every ${pause} s; rates and quantiles are of the last ${RATE_SECONDS} s.`;
  const redraw = () => pages.snapshots.length && draw();
  byId("span").addEventListener("change", redraw);
  byId("model").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) {
      missed = true;
      poll();
    }
  });
  poll();
}

start();
