"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;  // never HTML: names are free text
  if (kind) element.className = kind;
  return element;
};

// ---------------------------------------------------------------- table

document.querySelectorAll("table.sortable").forEach((table) => {
  const headings = [...table.tHead.rows[0].cells];
  const original = [...table.tBodies[0].rows];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.number === undefined) return cell.textContent;
    return cell.dataset.number === "" ? null : Number(cell.dataset.number);
  };
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const first = column ? "descending" : "ascending", second = column ? "ascending" : "descending";
      const next = {none: first, [first]: second, [second]: "none"}[heading.ariaSort || "none"];
      headings.forEach((other) => { other.ariaSort = "none"; });
      heading.ariaSort = next;
      const sign = next === "descending" ? -1 : 1;
      const rows = next === "none" ? original : [...original].sort((one, other) => {
        const [a, b] = [key(one, column), key(other, column)];
        if (a === null || b === null) return (a === null) - (b === null);  // empty cells last
        return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
      });
      table.tBodies[0].append(...rows);
    });
  });
});

// --------------------------------------------------------------- charts

const charts = read("charts");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 48rem)");
const themed = (value, color) => {
  if (value === "theme") return color;
  if (Array.isArray(value)) return value.map((each) => themed(each, color));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, themed(each, color)]));
  }
  return value;
};

function draw() {
  const style = getComputedStyle(document.documentElement);
  const [text, line, panel] = ["--text", "--line", "--panel"].map((name) => style.getPropertyValue(name).trim());
  document.querySelectorAll(".chart").forEach((place) => {
    const {data, layout} = themed(charts[place.dataset.chart], text);
    const axis = {gridcolor: line, zerolinecolor: line, linecolor: line};
    const wrapped = (title) => (narrow.matches ? title.text.replace(/(.{16,}?) /g, "$1<br>") : title.text);
    const below = {orientation: "h", x: 0, y: -0.18, yanchor: "top"};
    const entries = layout.showlegend ? data.length : 0;
    Plotly.react(place, data, {
      ...layout,
      height: layout.height + (narrow.matches ? 22 * entries : 0),
      xaxis: {...layout.xaxis, ...axis, title: {text: wrapped(layout.xaxis.title)}},
      yaxis: {...layout.yaxis, ...axis},
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: {color: text, size: 12},
      hoverlabel: {bgcolor: panel, bordercolor: line, font: {color: text}, align: "left"},
      margin: {l: 50, r: 16, t: 32, b: 48},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: line, activecolor: text},
      legend: narrow.matches ? below : {},
    }, {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"]});
  });
}

draw();
dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);

// ------------------------------------------------------------ inspector

const inspection = read("inspection");
if (inspection) {
  const {samples, experts, value} = inspection;
  const at = (id) => document.getElementById(id);
  const format = (number) => {
    if (typeof number !== "number") return number === null ? "" : number ? "yes" : "no";
    return Math.abs(number) <= 1 ? number.toFixed(3) : String(Number(number.toPrecision(4)));
  };
  samples.forEach((sample, number) => {
    const given = sample.experts.filter(([answer, , , queried]) => answer !== null && queried).map(([answer]) => answer);
    sample.number = number;
    sample.disagree = new Set(given).size > 1;
    sample.known = sample.experts.some(([answer]) => answer === sample.target);
    sample.found = [sample.name, sample.domain, sample.target, sample.answer].join("\n").toLowerCase();
  });
  [...new Set(samples.map((sample) => sample.target))].sort().forEach((name) => {
    const option = make("option", name);
    option.value = name;
    at("class").append(option);
  });
  const orders = {
    "as in the data": (sample) => sample.number,
    "most confident first": (sample) => -(sample.confidence ?? 0),
    "least confident first": (sample) => sample.confidence ?? 0,
  };
  Object.keys(samples[0].numbers).forEach((name) => {
    orders[`highest ${name} first`] = (sample) => -(sample.numbers[name] ?? 0);
  });
  Object.keys(orders).forEach((name) => at("order").append(make("option", name)));

  const bar = (cell, share, text) => {
    if (share !== null) {
      const box = make("span", undefined, "bar"), fill = make("i");
      fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
      box.append(fill);
      cell.append(box);
    }
    cell.append(text);
    return cell;
  };

  function show(sample) {
    document.querySelectorAll("#list button").forEach((button) => {
      button.setAttribute("aria-current", String(button.dataset.number === String(sample.number)));
    });
    const detail = at("detail");
    detail.replaceChildren(make("h3", sample.name));
    const line = (name, text, kind) => {
      const paragraph = make("p", `${name}: `);
      paragraph.append(make("b", text, kind));
      detail.append(paragraph);
    };
    if (sample.domain) line("Domain", sample.domain);
    line("True", sample.target);
    const mark = sample.correct ? "✓ correct" : "✗ wrong";
    const confidence = sample.confidence === null ? "" : `, ${value} ${format(sample.confidence)}`;
    line("Fused", `${sample.answer}  (${mark}${confidence})`, sample.correct ? "good" : "bad");
    Object.entries(sample.numbers).forEach(([name, number]) => {
      line(name[0].toUpperCase() + name.slice(1), number === null ? "none" : format(number));
    });
    const table = make("table"), head = table.createTHead().insertRow();
    const headings = ["expert", "answer", value];
    if (inspection.has_weights) headings.push("weight");
    if (inspection.has_queries) headings.push("queried");
    headings.forEach((heading) => head.append(make("th", heading)));
    const body = table.createTBody();
    const order = experts.map((_, place) => place);
    if (inspection.has_queries) order.sort((one, other) => sample.experts[other][3] - sample.experts[one][3]);
    order.forEach((place) => {
      const [answer, number, weight, queried] = sample.experts[place];
      const row = body.insertRow();
      if (!queried) row.className = "unqueried";
      const name = make("th", experts[place]);
      name.scope = "row";
      row.append(name);
      const right = answer === sample.target;
      const said = answer === null ? "no answer" : `${right ? "✓" : "✗"} ${answer}`;
      row.append(make("td", said, `text ${answer === null || !queried ? "" : right ? "good" : "bad"}`));
      row.append(bar(make("td"), value === "probability" ? number : null, format(number)));
      if (inspection.has_weights) row.append(bar(make("td"), weight, format(weight)));
      if (inspection.has_queries) row.append(make("td", queried ? "yes" : "no"));
    });
    detail.append(table);
  }

  function filter() {
    const [words, wanted] = [at("search").value.trim().toLowerCase(), at("class").value];
    const shown = samples.filter((sample) =>
      sample.found.includes(words) && (!wanted || sample.target === wanted) && (!at("wrong").checked || !sample.correct)
      && (!at("disagree").checked || sample.disagree) && (!at("rescued").checked || (!sample.correct && sample.known)));
    const key = orders[at("order").value];
    shown.sort((one, other) => key(one) - key(other));
    at("count").textContent = `${shown.length} of ${samples.length} samples`;
    at("list").replaceChildren(...shown.map((sample) => {
      const item = make("li"), button = make("button", sample.name);
      button.type = "button";
      button.dataset.number = sample.number;
      const sign = sample.correct ? "✓" : "✗";
      const text = sample.correct ? sample.target : `${sample.answer}, true ${sample.target}`;
      button.append(make("small", `${sign} ${text}`, sample.correct ? "good" : "bad"));
      button.addEventListener("click", () => show(sample));
      item.append(button);
      return item;
    }));
    if (shown.length) show(shown[0]);
    else at("detail").replaceChildren(make("p", "No sample fits the filters."));
  }

  at("filters").addEventListener("input", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  filter();
}
