// A line chart in SVG with its title, its legend of current values and its cursor.
//
// Knows nothing of metrics. Every text becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const AXIS = { notation: "compact", maximumSignificantDigits: 3 };
const MARGIN = { left: 52, right: 8, top: 8, bottom: 20 };

/** By name: what a value of 1 is called on a scale where the largest is `max`. */
const UNITS = {
  seconds: (max) => (max < 1e-3 ? [1e-6, "µs"] : max < 1 ? [1e-3, "ms"] : [1, "s"]),
  bytes: (max) => {
    const power = Math.min(4, Math.max(0, Math.floor(Math.log2(max || 1) / 10)));
    return [1024 ** power, ["B", "KiB", "MiB", "GiB", "TiB"][power]];
  },
  percent: () => [1, "%"],
  rate: () => [1, "/s"],
  count: () => [1, ""],
};

function element(name, attributes = {}, ...children) {
  const made = ["svg", "g", "path", "line", "text"].includes(name)
    ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A value with three digits or so, in its own unit. */
function format(value, unit) {
  if (!Number.isFinite(value)) return "–";
  const [factor, name] = UNITS[unit](value);
  const scaled = value / factor;
  const digits = scaled >= 100 || Number.isInteger(scaled) ? 0 : scaled >= 10 ? 1 : 2;
  const shown = scaled.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return name === "/s" ? `${shown}/s` : name ? `${shown}\u00a0${name}` : shown;
}

/** From 0 to at least `max` in two to four steps of 1, 2 or 5. */
function ticks(max, unit) {
  const [factor] = UNITS[unit](max);
  const rough = (max / factor || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) * power;
  if (unit === "count") step = Math.max(1, step);
  const steps = Math.max(1, Math.ceil(max / factor / step - 0.001));
  return Array.from({ length: steps + 1 }, (_, index) => index * step * factor);
}

class Chart {
  /** @param {{title, unit, note}} card what the chart is called, its unit, what it measures */
  constructor(card, onCursor) {
    this.card = card;
    this.legend = element("ul", { class: "legend" });
    this.svg = element("svg", { role: "img", tabindex: "0", height: HEIGHT });
    this.empty = element("p", { class: "empty" });
    const plot = element("div", { class: "plot" }, this.svg, this.empty);
    const title = element("h2", {}, card.title);
    this.root = element("section", { class: "card", "data-card": card.title });
    this.root.append(title, element("p", { class: "note" }, card.note), this.legend, plot);
    this.svg.addEventListener("pointermove", (event) => onCursor(this.timeAt(event)));
    this.svg.addEventListener("pointerdown", (event) => onCursor(this.timeAt(event)));
    this.svg.addEventListener("pointerleave", () => onCursor(null));
    this.svg.addEventListener("blur", () => onCursor(null));
    this.svg.addEventListener("keydown", (event) => this.key(event, onCursor));
  }

  /**
   * @param {{times, gaps, from, to, series: [{name, color, values}], empty}} data `gaps` says of
   * each time whether a line may not reach it; `empty` is the text for a chart without a value
   */
  draw(data) {
    this.data = data;
    const values = data.series.flatMap((each) => each.values.filter(Number.isFinite));
    this.root.classList.toggle("blank", values.length === 0);
    this.empty.textContent = values.length ? "" : data.empty;
    this.width = this.svg.clientWidth || 320;
    const max = this.card.unit === "percent" ? 100 : values.reduce((a, b) => Math.max(a, b), 0);
    this.ticks = ticks(max, this.card.unit);
    const lines = data.series.map((each) => this.line(each));
    this.svg.replaceChildren(...this.axes(), ...lines.reverse()); // the first lies on top
    this.point(data.times.length - 1, null);
  }

  x(time) {
    const { from, to } = this.data;
    const inner = this.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + ((time - from) / (to - from)) * inner;
  }

  y(value) {
    const inner = HEIGHT - MARGIN.top - MARGIN.bottom;
    return MARGIN.top + inner * (1 - value / this.ticks.at(-1));
  }

  axes() {
    const top = this.ticks.at(-1);
    const right = this.width - MARGIN.right;
    const [factor, unit] = UNITS[this.card.unit](top);
    const drawn = [];
    for (const tick of this.ticks) {
      const y = this.y(tick);
      const shown = (tick / factor).toLocaleString("en", AXIS);
      const label = tick === top ? `${shown}${unit === "/s" ? unit : ` ${unit}`}` : shown;
      drawn.push(
        element("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y }),
        element("text", { class: "tick end", x: MARGIN.left - 6, y: y + 4 }, label),
      );
    }
    const { from, to, step } = this.data;
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      const x = this.x(time);
      if (x < MARGIN.left + 14 || x > this.width - 22) continue;
      const label = clock(time, step < 60);
      drawn.push(element("text", { class: "tick middle", x, y: HEIGHT - 5 }, label));
    }
    return drawn;
  }

  /** A path with a hole where a value is missing; a lone value is a dot, by its round cap. */
  line({ color, values }) {
    const { times, gaps, from } = this.data;
    let path = "";
    let open = false;
    values.forEach((value, index) => {
      const shown = Number.isFinite(value) && times[index] >= from;
      if (shown) {
        const x = this.x(times[index]).toFixed(1);
        const y = this.y(value).toFixed(1);
        path += open && !gaps[index] ? `L${x} ${y}` : `M${x} ${y}h0`;
      }
      open = shown;
    });
    return element("path", { class: `line ${color}`, d: path });
  }

  /** Shows the values at an index in the legend, and the cursor if there is a time for it. */
  point(index, time) {
    const { series, times } = this.data;
    const items = series.map(({ name, color, values }) => {
      const value = values[index] ?? NaN;
      const output = element("output", { "data-value": value }, format(value, this.card.unit));
      const key = element("span", { class: `key ${color}`, "aria-hidden": "true" });
      return element("li", {}, key, `${name} `, output);
    });
    this.legend.replaceChildren(...items);
    const said = items.map((item) => item.textContent).join(", ");
    const when = time === null ? "" : ` at ${clock(times[index], true)}`;
    this.svg.setAttribute("aria-label", `${this.card.title}${when}: ${said || "no data"}`);
    this.cursor?.remove();
    if (time === null || index < 0) return;
    const x = this.x(times[index]);
    const label = { class: "middle", x: Math.min(x, this.width - 26), y: HEIGHT - 5 };
    this.cursor = element(
      "g",
      { class: "cursor" },
      element("line", { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      element("text", label, clock(times[index], true)),
    );
    this.svg.append(this.cursor);
  }

  timeAt(event) {
    const { from, to } = this.data;
    const inner = this.width - MARGIN.left - MARGIN.right;
    const x = event.clientX - this.svg.getBoundingClientRect().left - MARGIN.left;
    this.at = from + Math.min(1, Math.max(0, x / inner)) * (to - from);
    return this.at;
  }

  key(event, onCursor) {
    const { from, to } = this.data;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") onCursor(null);
    if (step === undefined) return;
    event.preventDefault();
    this.at = Math.min(to, Math.max(from, (this.at ?? to) + (step * (to - from)) / 60));
    onCursor(this.at);
  }
}

function clock(seconds, exact) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (exact) options.second = "2-digit";
  return new Date(seconds * 1000).toLocaleTimeString("en", options);
}
