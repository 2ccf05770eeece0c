// The page "Explore": next-token distributions of a teacher and its students, computed here from their logits.
// EXPLORE comes from explore-data.js, which docs/explore.py writes.
"use strict";

const ROWS = 10; // tokens that are listed
const SKEW = 0.1; // the teacher's share in the skew KL's mixture

// ---- The mathematics, in float64. A distribution is the array of its log-probabilities. ----

const sum = (x) => x.reduce((total, each) => total + each, 0);

/** The logarithm of softmax(logits / T). */
function logSoftmax(logits, temperature) {
  const largest = Math.max(...logits);
  const scaled = Float64Array.from(logits, (z) => (z - largest) / temperature);
  const logSum = Math.log(sum(scaled.map(Math.exp)));
  return scaled.map((z) => z - logSum);
}

/** log(exp(a) + exp(b)), without overflow. */
const logAdd = (a, b) => Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));

/** The distribution share p + (1 - share) q. */
const mixture = (logp, logq, share) => logp.map((l, i) => logAdd(l + Math.log(share), logq[i] + Math.log(1 - share)));

const entropy = (logp) => -sum(logp.map((l) => Math.exp(l) * l));

const kl = (logp, logq) => sum(logp.map((l, i) => Math.exp(l) * (l - logq[i])));

/** By name in minikd: the value of D(p, q) and its slope, dD/dq for every token, up to a constant. */
const DIVERGENCES = {
  forward_kl: {
    label: "forward KL",
    value: kl,
    slope: (logp, logq) => logp.map((l, i) => -Math.exp(l - logq[i])),
  },
  reverse_kl: {
    label: "reverse KL",
    value: (logp, logq) => kl(logq, logp),
    slope: (logp, logq) => logq.map((l, i) => l - logp[i]),
  },
  js: {
    label: "Jensen–Shannon",
    value(logp, logq) {
      const m = mixture(logp, logq, 0.5);
      return (kl(logp, m) + kl(logq, m)) / 2;
    },
    slope(logp, logq) {
      const m = mixture(logp, logq, 0.5);
      return logq.map((l, i) => (l - m[i]) / 2);
    },
  },
  skew_forward_kl: {
    label: "skew KL",
    value: (logp, logq) => kl(logp, mixture(logp, logq, SKEW)),
    slope(logp, logq) {
      const m = mixture(logp, logq, SKEW);
      return logp.map((l, i) => -(1 - SKEW) * Math.exp(l - m[i]));
    },
  },
  total_variation: {
    label: "total variation",
    value: (logp, logq) => sum(logp.map((l, i) => Math.abs(Math.exp(l) - Math.exp(logq[i])))) / 2,
    slope: (logp, logq) => logq.map((l, i) => Math.sign(l - logp[i]) / 2),
  },
};

/** -T dD/dz: through the softmax, dD/dz_i = q_i (g_i - sum(q g)) / T with the slope g = dD/dq. */
function pull(divergence, logp, logq) {
  const q = logq.map(Math.exp);
  const slope = divergence.slope(logp, logq);
  const mean = sum(slope.map((g, i) => q[i] * g));
  return slope.map((g, i) => -q[i] * (g - mean));
}

/** The indices of the tokens that either model holds to be likeliest at T = 1, so that the list stays as T moves. */
function likeliest(teacher, student) {
  const [logp, logq] = [logSoftmax(teacher, 1), logSoftmax(student, 1)];
  const best = logp.map((l, i) => Math.max(l, logq[i]));
  return [...best.keys()].sort((i, j) => best[j] - best[i]).slice(0, ROWS);
}

// ---- The data ----

const VOCABULARY = EXPLORE.vocabulary;
const POSITIONS = EXPLORE.tokens.length;
const LOGITS = Object.fromEntries(EXPLORE.models.map((model) => [model.name, unpack(model.logits)]));
const STUDENTS = EXPLORE.models.filter((model) => model.name !== "teacher");

/** Float32, little-endian, from base64. */
function unpack(text) {
  const bytes = new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  return Float32Array.from({ length: bytes.byteLength / 4 }, (_, i) => bytes.getFloat32(4 * i, true));
}

/** A model's logits after the token at a position. */
function logitsAt(model, position) {
  return LOGITS[model].subarray(position * VOCABULARY.length, (position + 1) * VOCABULARY.length);
}

// ---- Words and elements ----

const VISIBLE = { " ": "␣", "\n": "↵", "\t": "⇥", "\x7f": "␡" };
const SPOKEN = { " ": "space ", "\n": "line break ", "\t": "tab " };

/** White space and control characters as signs. */
const visible = (token) =>
  token.replace(/[\0- \x7f]/g, (c) => VISIBLE[c] ?? String.fromCharCode(0x2400 + c.charCodeAt(0)));

/** The token for a screen reader. */
const spoken = (token) => token.replace(/[ \n\t]/g, (c) => SPOKEN[c]).trim();

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;

const signed = (x) => (Math.abs(x) < 5e-4 ? "0" : `${x > 0 ? "+" : "−"}${Math.abs(x).toFixed(3)}`);

/** A new element: its attributes, `style` as an object of custom properties, and what it holds. */
function element(name, { style = {}, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  Object.entries(style).forEach(([key, value]) => made.style.setProperty(key, value));
  made.append(...children);
  return made;
}

/** A number as people read it, and in full. */
const number = (value, text) => element("data", { value }, text);

/** A token, for eyes and for ears. */
const tokenNodes = (token) => [
  element("span", { class: "token", "aria-hidden": "true" }, visible(token)),
  element("span", { class: "unseen" }, spoken(token)),
];

const page = document.getElementById("explore");
const find = (selector) => page.querySelector(selector);

// ---- Controls ----

/** One of several choices: a native radio button, so that the arrow keys work. */
const choice = (group, value, label, ...content) =>
  element("label", {}, element("input", { type: "radio", name: group, value, "aria-label": label }), ...content);

function buildControls() {
  find(".before").append(`… ${visible(EXPLORE.before.slice(-30))}`);
  EXPLORE.tokens.forEach((id, i) => {
    const token = VOCABULARY[id];
    const parts = [element("span", { class: "token" }, visible(token)), element("span", { class: "meter" })];
    find(".tokens").append(choice("position", i, `${spoken(token)}, token ${i + 1} of ${POSITIONS}`, ...parts));
  });
  STUDENTS.forEach(({ name, colour, loss }) => {
    const label = choice("student", name, `${name}, validation loss ${loss.toFixed(2)}`, element("span", {}, name));
    label.style.setProperty("--model", colour);
    find(".students").append(label);
  });
  Object.entries(DIVERGENCES).forEach(([name, { label }]) => {
    find("#divergence").append(element("option", { value: name }, label));
  });
  find(`[name=position][value="${Math.floor(0.8 * POSITIONS)}"]`).checked = true; // there is something to go by there
  find("[name=student][value=soft]").checked = true;
}

/** What is chosen. The slider moves the logarithm of the temperature. */
const chosen = () => ({
  position: Number(find("[name=position]:checked").value),
  student: find("[name=student]:checked").value,
  temperature: 2 ** Number(find("#temperature").value),
  divergence: DIVERGENCES[find("#divergence").value],
});

// ---- What is shown ----

/** The chosen divergence at every position, for one student. */
function course(student, { temperature, divergence }) {
  const at = (model, position) => logSoftmax(logitsAt(model, position), temperature);
  return EXPLORE.tokens.map((_, i) => divergence.value(at("teacher", i), at(student, i)));
}

/** Under each token, the divergence there, on a scale that all students share. */
function showSentence(state) {
  const courses = Object.fromEntries(STUDENTS.map(({ name }) => [name, course(name, state)]));
  const largest = Math.max(...Object.values(courses).flat(), 1e-12);
  page.querySelectorAll(".meter").forEach((meter, i) => {
    meter.style.setProperty("--length", courses[state.student][i] / largest);
  });
}

function showTemperature({ temperature }) {
  find("output").textContent = `T = ${temperature.toFixed(2)}`;
  find("#temperature").setAttribute("aria-valuetext", `T = ${temperature.toFixed(2)}`);
}

function showNumbers({ student, divergence }, logp, logq) {
  const entry = (name, title, value, kind) =>
    element(
      "div",
      { class: kind, "data-name": name },
      element("dt", {}, title),
      element("dd", {}, number(value, value.toFixed(4))),
    );
  find(".numbers").replaceChildren(
    entry("teacher_entropy", "entropy, teacher", entropy(logp), "of-teacher"),
    entry("student_entropy", `entropy, ${student}`, entropy(logq), "of-student"),
    ...Object.entries(DIVERGENCES).map(([name, each]) =>
      entry(name, each.label, each.value(logp, logq), each === divergence ? "chosen" : ""),
    ),
  );
}

function showSummary({ position, student, temperature, divergence }, logp, logq) {
  const next = EXPLORE.tokens[position + 1] ?? EXPLORE.following;
  const value = divergence.value(logp, logq).toFixed(3);
  find(".summary").replaceChildren(
    "The text goes on with ",
    ...tokenNodes(VOCABULARY[next]),
    `: teacher ${percent(Math.exp(logp[next]))}, ${student} ${percent(Math.exp(logq[next]))}. `,
    `At T = ${temperature.toFixed(2)} their ${divergence.label} is ${value}.`,
  );
}

/** The rows of the table: the likeliest tokens, and all others together. */
function rows({ position, student, divergence }, logp, logq) {
  const listed = likeliest(logitsAt("teacher", position), logitsAt(student, position));
  const pulls = pull(divergence, logp, logq);
  const found = listed.map((i) => ({ id: i, p: Math.exp(logp[i]), q: Math.exp(logq[i]), pull: pulls[i] }));
  const rest = (key) => -sum(found.map((row) => row[key]));
  return [...found, { id: null, p: Math.max(0, 1 + rest("p")), q: Math.max(0, 1 + rest("q")), pull: rest("pull") }];
}

function showTable(state, logp, logq) {
  const shown = rows(state, logp, logq);
  const next = EXPLORE.tokens[state.position + 1] ?? EXPLORE.following;
  const longest = (key) => Math.max(...shown.slice(0, -1).map((row) => Math.abs(row[key])), 1e-12); // of single tokens
  const [largest, strongest] = [Math.max(longest("p"), longest("q")), longest("pull")];
  const bar = (kind, share) =>
    element("div", { class: `bar ${kind}`, style: { "--length": share / largest } }, number(share, percent(share)));
  const line = ({ id, p, q, pull: force }) => {
    const name = id === null ? [`the other ${VOCABULARY.length - ROWS}`] : tokenNodes(VOCABULARY[id]);
    const arrow = { class: "pull", style: { "--length": force / strongest } };
    return element(
      "tr",
      { "data-id": id, class: id === next ? "next" : id === null ? "others" : "" },
      element("th", { scope: "row" }, ...name),
      element("td", {}, bar("of-teacher", p), bar("of-student", q)),
      element("td", {}, element("div", arrow, number(force, signed(force)))),
    );
  };
  find("caption").replaceChildren(
    element("span", { class: "of-teacher" }, "teacher"),
    " and ",
    element("span", { class: "of-student" }, state.student),
  );
  find("tbody").replaceChildren(...shown.map(line));
}

function show() {
  const state = chosen();
  const [logp, logq] = ["teacher", state.student].map((model) =>
    logSoftmax(logitsAt(model, state.position), state.temperature),
  );
  page.style.setProperty("--student", STUDENTS.find(({ name }) => name === state.student).colour);
  showSentence(state);
  showTemperature(state);
  showNumbers(state, logp, logq);
  showSummary(state, logp, logq);
  showTable(state, logp, logq);
}

buildControls();
page.addEventListener("input", show);
page.hidden = false;
show();
