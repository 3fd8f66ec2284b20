"use strict";
/* The page of a clip: lanes of probabilities and contributions, the voice, and the numbers of the window that is chosen. */
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#d55e00", "#6a7d00", "#8a4fbf", "#e69f00", "#9a9a9a", "#0072b2", "#cc79a7"];
const FACE = "#b86e00", VOICE = "#0072b2", WIDTH = 1000, HEIGHT = 100, SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes, ...children) {
  const drawn = ["svg", "path", "line"].includes(tag);
  const element = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const chart = (kind, label, ...children) =>
  make("svg", { class: kind, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...children);
const stroke = (d, colour, width = 2) =>
  make("path", { d, fill: "none", stroke: colour, "stroke-width": width, "vector-effect": "non-scaling-stroke" });
const x = seconds => WIDTH * seconds / data.duration;
const middle = row => (row.start + row.end) / 2;
const name = person => person ? `person ${person}` : "voice alone";
const colour = k => COLOURS[k % COLOURS.length];
const people = [...new Set(data.rows.map(row => row.person))];
const film = document.querySelector("video, audio");
const choosers = [];

/* Stretches of windows that follow each other: in a gap nothing is drawn. */
function stretches(rows) {
  const found = [];
  for (const row of rows) {
    const last = found.at(-1)?.at(-1);
    if (last && row.start - last.start < 1.5 * data.step) found.at(-1).push(row); else found.push([row]);
  }
  return found;
}

/* Edges of a stretch from left to right, half a step wider than the middles of its windows. */
function across(rows, height) {
  const half = data.step / 2;
  const points = rows.map((row, i) => [middle(row), height(row, i)]);
  const ends = [[points[0][0] - half, points[0][1]], ...points, [points.at(-1)[0] + half, points.at(-1)[1]]];
  return ends.map(([seconds, y]) => `${x(seconds).toFixed(1)},${y.toFixed(1)}`);
}

function probabilities(rows, person) {
  const svg = chart("probabilities", `Probabilities over time, ${name(person)}`);
  for (const stretch of stretches(rows)) {
    const below = stretch.map(() => 0);
    data.classes.forEach((label, k) => {
      const top = stretch.map((row, i) => below[i] + row.p[k]);
      const up = across(stretch, (_, i) => HEIGHT * (1 - top[i])), down = across(stretch, (_, i) => HEIGHT * (1 - below[i])).reverse();
      svg.append(make("path", { d: `M${up.join("L")}L${down.join("L")}Z`, fill: colour(k) }));
      top.forEach((value, i) => { below[i] = value; });
    });
  }
  return svg;
}

function contributions(rows, person) {
  const known = rows.filter(row => row.adds);
  if (!known.length) return null;
  const most = Math.max(1e-6, ...known.flatMap(row => row.adds.map(Math.abs)));
  const svg = chart("adds", `What face and voice add over time, ${name(person)}, up to ${most.toFixed(1)} nats`,
    stroke(`M0,${HEIGHT / 2}L${WIDTH},${HEIGHT / 2}`, "currentColor", 1));
  for (const stretch of stretches(known)) {
    [FACE, VOICE].forEach((tint, k) => svg.append(stroke(`M${across(stretch, row => HEIGHT / 2 * (1 - .95 * row.adds[k] / most)).join("L")}`, tint)));
  }
  return svg;
}

/* A lane of one person, and a slider over its windows. */
function lane(person) {
  const rows = data.rows.filter(row => row.person === person);
  const charts = [probabilities(rows, person), contributions(rows, person)].filter(Boolean);
  const marks = charts.map(svg => { const mark = stroke("", "currentColor", 3); svg.append(mark); return mark; });
  const box = make("div", { class: "lane", tabindex: 0, role: "slider", "aria-label": `Window, ${name(person)}`, "aria-valuemin": 1, "aria-valuemax": rows.length }, ...charts);
  const caption = make("figcaption", {});
  let chosen = 0;
  function choose(index, seek = true) {
    chosen = Math.max(0, Math.min(rows.length - 1, index));
    const row = rows[chosen];
    for (const mark of marks) mark.setAttribute("d", `M${x(middle(row))},0L${x(middle(row))},${HEIGHT}`);
    box.setAttribute("aria-valuenow", chosen + 1);
    box.setAttribute("aria-valuetext", `${row.start.toFixed(1)} to ${row.end.toFixed(1)} seconds: ${row.label}`);
    caption.textContent = `${name(person)}: ${row.start.toFixed(1)} to ${row.end.toFixed(1)} s, ${row.label} ${Math.max(...row.p).toFixed(2)}`;
    show(row);
    if (film && seek && film.paused) film.currentTime = middle(row);
  }
  const nearest = seconds => rows.reduce((best, row, i) => Math.abs(middle(row) - seconds) < Math.abs(middle(rows[best]) - seconds) ? i : best, 0);
  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
  box.addEventListener("keydown", event => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    choose(chosen + steps[event.key]);
  });
  const pointed = event => {
    const place = charts[0].getBoundingClientRect();
    choose(nearest((event.clientX - place.left) / place.width * data.duration));
  };
  box.addEventListener("pointermove", pointed);
  box.addEventListener("pointerdown", pointed);
  choosers.push({ choose, nearest });
  choose(0, false);
  return make("figure", {}, caption, box);
}

/* Bars of numbers, each with its name. */
function bars(rows, most, tint) {
  return make("table", {}, ...rows.map(([label, value], k) => {
    const bar = make("span", { class: "bar" });
    bar.style.width = `${(100 * Math.abs(value) / most).toFixed(1)}%`;
    bar.style.background = tint(value, k);
    return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, value.toFixed(2)), make("td", { class: "wide-bar", "aria-hidden": "true" }, bar));
  }));
}

/* The numbers of one window. */
function show(row) {
  const parts = [make("div", {}, make("h3", {}, `${name(row.person)}, ${row.start.toFixed(1)} to ${row.end.toFixed(1)} s: ${row.label}`),
    bars(data.classes.map((label, k) => [label, row.p[k]]), 1, (_, k) => colour(k)))];
  if (row.unlike) parts[0].append(make("p", {}, `Unlike what the weights know: novelty ${row.novelty.toFixed(2)}.`));
  if (row.crop) {
    const face = make("div", { class: "face" }, make("img", { src: row.crop, alt: `The face of ${name(row.person)}` }));
    if (row.heat) face.append(make("img", { class: "heat", src: row.heat, alt: `In red: where in the face ${row.label} is seen` }));
    parts.push(make("div", {}, make("h3", {}, `Where in the face: ${row.label}`), face));
  }
  if (row.adds) parts.push(make("div", {}, make("h3", {}, `What adds to ${row.label}, nats`),
    bars([["face", row.adds[0]], ["voice", row.adds[1]]], Math.max(1e-6, ...row.adds.map(Math.abs)), (_, k) => [FACE, VOICE][k])));
  if (row.terms) parts.push(make("div", {}, make("h3", {}, `In the voice, for and against ${row.label}, nats`),
    bars(row.terms, Math.max(1e-6, ...row.terms.map(term => Math.abs(term[1]))), value => value > 0 ? VOICE : "transparent")));
  if (data.every > 1 && !row.crop && !row.terms) parts.push(make("p", {}, `Face and descriptors are kept of every ${data.every}th window.`));
  document.getElementById("now").replaceChildren(...parts);
}

/* Waveform with loudness and pitch. */
function voice() {
  const { wave, loudness, pitch } = data.sound;
  if (!wave.length) return make("p", {}, "There is no sound in it.");
  if (!Math.max(...wave)) return make("p", {}, "There is a sound track in it, and it is silent.");
  const end = x(data.sound.seconds), at = (i, n) => (end * (i + .5) / n).toFixed(1);
  const edge = sign => wave.map((peak, i) => `${at(i, wave.length)},${(HEIGHT / 2 * (1 + sign * peak)).toFixed(1)}`);
  const line = (values, most, drawn) => {
    let d = "";
    values.forEach((value, i) => {
      if (drawn(value)) d += `${i && drawn(values[i - 1]) ? "L" : "M"}${at(i, values.length)},${(HEIGHT * (1 - Math.min(1, value / most))).toFixed(1)}`;
    });
    return d;
  };
  const loudest = Math.max(1e-6, ...loudness);
  return make("figure", {}, chart("sound", "The sound: waveform, loudness and pitch over time",
    make("path", { d: `M${edge(-1).join("L")}L${edge(1).reverse().join("L")}Z`, fill: "#9a9a9a" }),
    stroke(line(loudness, loudest, () => true), "#d55e00"), stroke(line(pitch, 500, hertz => hertz > 0), VOICE, 3)),
  make("figcaption", {}, "Grey: waveform; orange: loudness, of its maximum; blue: pitch, 0 to 500 Hz."));
}

document.getElementById("classes").append(...data.classes.map((label, k) => {
  const patch = make("span", {});
  patch.style.background = colour(k);
  return make("li", {}, patch, label);
}));
document.getElementById("lanes").append(...people.map(lane),
  make("div", { class: "axis", "aria-hidden": "true" }, ...[0, 1, 2, 3, 4].map(k => make("span", {}, `${(data.duration * k / 4).toFixed(1)} s`))));
document.getElementById("voice").append(voice());
if (choosers.length) choosers[0].choose(0, false);
if (film && choosers.length) film.addEventListener("timeupdate", () => {
  if (!film.paused) choosers[0].choose(choosers[0].nearest(film.currentTime), false);
});
