// From pages of /metrics to rates, means and quantiles, as PromQL computes them.
//
// This part must not know the document. Label values are anybody's text: they live in Maps, whose
// keys cannot collide with anything, and leave only as values of text nodes.

/** Samples that the page reads, and the label by which it splits each ("" for none). */
const SAMPLES = {
  process_start_time_seconds: "",
  ryot_ttft_latency_seconds_bucket: "le",
  ryot_inference_inter_token_latency_seconds_bucket: "le",
  ryot_inference_latency_seconds_bucket: "le",
  ryot_inference_queue_wait_seconds_bucket: "le",
  ryot_tokens_generated_total: "token_type",
  ryot_inference_requests_total: "status",
  ryot_active_inference_requests: "",
  ryot_queue_depth: "",
  ryot_batch_size_distribution_bucket: "le",
  ryot_batch_size_distribution_sum: "",
  ryot_batch_size_distribution_count: "",
  ryot_kv_cache_queries_total: "",
  ryot_kv_cache_hits_total: "",
  ryot_kv_cache_size_bytes: "",
  ryot_engine_queued_sessions: "class",
  ryot_engine_slo_violations_total: "slo",
  ryot_engine_prefix_cache_queries_total: "",
  ryot_engine_prefix_cache_hits_total: "",
  ryot_engine_prefix_cache_resident_bytes: "location",
  ryot_gpu_memory_usage_bytes: "device_id",
  ryot_gpu_utilization_percent: "device_id",
};

/** Models beyond this number are counted together: the page stays small whatever names exist. */
const MODELS_MAX = 50;
const OTHER_MODELS = "(others)";
const START_TIME = "process_start_time_seconds";

/** The samples of a page of text 0.0.4: each series as it is written, and its value. */
function* lines(text) {
  for (const line of text.split("\n")) {
    if (line === "" || line[0] === "#") continue;
    const end = line.lastIndexOf("}") + 1 || line.search(/[ \t]/);
    yield [line.slice(0, end), number(line.slice(end).trim().split(/[ \t]/)[0])];
  }
}

function number(text) {
  return text.endsWith("Inf") ? (text[0] === "-" ? -Infinity : Infinity) : Number(text);
}

/** Name and labels of a series. */
function parseSeries(series) {
  const brace = series.indexOf("{");
  const labels = new Map();
  if (brace < 0) return { name: series, labels };
  for (const [, label, value] of series.slice(brace).matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/gs)) {
    labels.set(label, value.replace(/\\(.)/gs, (_, c) => (c === "n" ? "\n" : c)));
  }
  return { name: series.slice(0, brace), labels };
}

/** PromQL's histogram_quantile over [upper bound, cumulative count] in ascending order. */
function quantile(q, buckets) {
  const last = buckets.length - 1;
  if (last < 1 || buckets[last][0] !== Infinity || !(buckets[last][1] > 0)) return NaN;
  const rank = q * buckets[last][1];
  const found = buckets.findIndex(([, count]) => count >= rank);
  const [bound, count] = buckets[found];
  if (found === last) return buckets[last - 1][0];
  if (found === 0 && bound <= 0) return bound;
  const [lower, below] = found ? buckets[found - 1] : [0, 0];
  return count > below ? lower + (bound - lower) * ((rank - below) / (count - below)) : NaN;
}

/** What the pages of the last `span` seconds said. */
class Pages {
  constructor(span) {
    this.span = span;
    this.series = new Map(); // as written → where it is counted, and its state
    this.columns = new Map(); // sample → [{group, model, column}]
    this.chosen = new Map(); // what `choose` found
    this.width = 0;
    this.models = new Set();
    this.snapshots = []; // {time, values by column, gap: whether pages before it are missing}
  }

  /** Takes a page. `gap`: since the last one, pages are missing. */
  add(text, time, gap) {
    const page = [...lines(text)];
    const started = page.find(([series]) => series === START_TIME)?.[1];
    const restarted = started !== this.started && this.snapshots.length > 0;
    this.started = started;
    for (const state of this.series.values()) if (restarted) reset(state);
    for (const [series, value] of page) {
      let state = this.series.get(series);
      if (state === undefined) this.series.set(series, (state = this.admit(series)));
      if (state.counter && value < state.value) reset(state);
      state.value = value;
      state.time = time;
    }
    this.snapshots.push({ time, gap, values: this.values(time) });
    const old = this.snapshots.findIndex((snapshot) => snapshot.time >= time - this.span);
    this.snapshots.splice(0, old);
  }

  /** Gives a series seen for the first time its column; one that nobody asks about has none. */
  admit(series) {
    const { name, labels } = parseSeries(series);
    const counter = /_(total|bucket|sum|count)$/.test(name);
    const state = { column: -1, counter, largest: name.endsWith("_percent"), before: 0, value: 0 };
    const used = name !== "ryot_gpu_memory_usage_bytes" || labels.get("memory_type") === "used";
    if (!Object.hasOwn(SAMPLES, name) || !used) return state;
    const group = labels.get(SAMPLES[name]) ?? "";
    const model = this.modelOf(labels.get("model") ?? "");
    if (!this.columns.has(name)) this.columns.set(name, []);
    const columns = this.columns.get(name);
    let place = columns.find((each) => each.group === group && each.model === model);
    if (place === undefined) {
      columns.push((place = { group, model, column: this.width++ }));
      this.chosen.clear();
    }
    return { ...state, column: place.column };
  }

  modelOf(name) {
    if (name === "" || this.models.has(name)) return name;
    if (this.models.size >= MODELS_MAX) return OTHER_MODELS;
    this.models.add(name);
    return name;
  }

  /** All columns now: counters without their resets; gauges that the page still has, else NaN. */
  values(time) {
    const values = new Float64Array(this.width).fill(NaN);
    for (const { column, counter, largest, before, value, time: seen } of this.series.values()) {
      if (column < 0 || !(counter || seen === time)) continue;
      const sum = values[column] || 0;
      // Each model on a device has the device's own utilisation: the sum would mean nothing.
      values[column] = largest ? Math.max(sum, value) : sum + before + value;
    }
    return values;
  }

  /** The index of the oldest snapshot at most `seconds` before snapshot `at` with no gap between. */
  base(at, seconds) {
    let base = at;
    const since = this.snapshots[at].time - seconds - 0.001;
    while (base > 0 && !this.snapshots[base].gap && this.snapshots[base - 1].time >= since) base--;
    return base;
  }

  /** The groups of a sample, sorted. */
  groups(name) {
    return [...new Set((this.columns.get(name) ?? []).map(({ group }) => group))].sort();
  }

  /** The columns of a sample that have this group and model, where one is given. */
  choose(name, group, model) {
    const key = JSON.stringify([name, group, model]);
    if (!this.chosen.has(key)) {
      const fits = (each) =>
        (group === undefined || each.group === group) && (!model || each.model === model);
      const places = (this.columns.get(name) ?? []).filter(fits);
      this.chosen.set(key, places.map(({ column }) => column));
    }
    return this.chosen.get(key);
  }

  /** A gauge, or a counter's count, at a snapshot; NaN if the page had none. */
  level(at, name, { group, model } = {}) {
    const { values } = this.snapshots[at];
    let sum = NaN;
    for (const column of this.choose(name, group, model)) {
      const value = values[column] ?? NaN;
      if (Number.isNaN(value)) continue;
      sum = name.endsWith("_percent") ? Math.max(sum || 0, value) : (sum || 0) + value;
    }
    return sum;
  }

  /** By how much a counter grew from one snapshot to another; it began at 0. */
  increase(from, to, name, only) {
    return this.level(to, name, only) - (this.level(from, name, only) || 0);
  }

  /** A quantile of what a histogram observed between two snapshots. */
  quantile(q, from, to, name, model) {
    const buckets = this.groups(name).map((group) => {
      return [number(group), this.increase(from, to, name, { group, model }) || 0];
    });
    buckets.sort(([a], [b]) => a - b);
    let highest = 0; // a page is not one moment: a count can lag behind the one below it
    for (const bucket of buckets) bucket[1] = highest = Math.max(highest, bucket[1]);
    return quantile(q, buckets);
  }
}

/** What a counter had reached stays counted; it goes on from 0. */
function reset(state) {
  if (state.counter) state.before += state.value;
  state.value = 0;
}
