"use strict";
// The page: what is shown of the network, and what the reader may move. Every number that can be changed is an <input>, so
// all of it works by keyboard; the state is kept in the address, so a network can be sent to somebody.

(() => {
  const place = document.getElementById("playground");
  if (!place) return;

  const NAMES = {
    softmax_cross_entropy: "softmax outputs, cross-entropy",
    sigmoid_cross_entropy: "logistic outputs, cross-entropy",
    squared_error: "linear outputs, squared error",
    sigmoid_squared_error: "logistic outputs, squared error",
  };
  const ARRAYS = ["x", "t", "W1", "b1", "W2", "b2"];
  const MOST_STEPS = 1000;

  let state = network.book();
  let rate = 0.5;
  let losses = [];

  // -- small things ----------------------------------------------------------------------------------------------------

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "line", "circle", "text", "polyline", "g"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function shown(value) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : value.toFixed(5);
    return text.replaceAll("-", "−");
  }

  const near = (a, b) => Math.abs(a - b) <= 1e-6 * Math.max(1, Math.abs(a), Math.abs(b));

  function field(label, value, changed, step = 0.1) {
    const input = element("input", { type: "number", step, value: Number(value.toPrecision(7)), "aria-label": label });
    input.addEventListener("input", () => { if (Number.isFinite(input.valueAsNumber)) changed(input.valueAsNumber); });
    return input;
  }

  // -- the address -----------------------------------------------------------------------------------------------------

  function to_address() {
    const parts = ARRAYS.map((name) => `${name}=${state[name].flat().join(",")}`);
    return `#loss=${state.loss}&rate=${rate}&${parts.join("&")}`;
  }

  function from_address() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.get("loss") in network.errors) state.loss = given.get("loss");
    if (Number.isFinite(Number.parseFloat(given.get("rate")))) rate = Number.parseFloat(given.get("rate"));
    for (const name of ARRAYS) {
      const numbers = (given.get(name) ?? "").split(",").map(Number.parseFloat);
      const shape = state[name];
      if (numbers.length !== shape.flat().length || !numbers.every(Number.isFinite)) continue;
      state[name] = Array.isArray(shape[0]) ? shape.map((row, i) => row.map((_, j) => numbers[row.length * i + j])) : numbers;
    }
  }

  // -- what can be moved -----------------------------------------------------------------------------------------------

  function controls() {
    const choice = element("select", { "aria-label": "error function", onchange: (event) => changed(() => { state.loss = event.target.value; }) });
    for (const [name, words] of Object.entries(NAMES)) {
      choice.append(element("option", name === state.loss ? { value: name, selected: "" } : { value: name }, words));
    }
    const vector = (name) => state[name].map((value, k) => field(`${name} ${k + 1}`, value, (v) => changed(() => { state[name][k] = v; }, false)));
    return element("div", { class: "pg-controls" },
      element("label", {}, "error ", choice),
      element("span", {}, "inputs x ", ...vector("x")),
      element("span", {}, "targets t ", ...vector("t")));
  }

  function buttons() {
    const button = (words, action) => element("button", { type: "button", onclick: action }, words);
    return element("div", { class: "pg-controls" },
      element("label", {}, "learning rate ", field("learning rate", rate, (v) => changed(() => { rate = v; }, false))),
      button("one step", () => advance(1)),
      button("50 steps", () => advance(50)),
      button("certain, and wrong", () => changed(() => { state.b2 = wrong(8); })),
      button("targets that sum to 3", () => changed(() => { state.t = [2, 1]; })),
      button("the numbers of the derivation", () => changed(() => { state = { ...network.book(), loss: state.loss }; losses = []; })));
  }

  // Biases that put logits so far on the side where the target is not.
  const wrong = (size) => {
    const { z2 } = network.forward(state);
    return state.b2.map((bias, k) => bias - z2[k] + (state.t[k] > 0.5 ? -size : size));
  };

  function advance(steps) {
    changed(() => {
      for (let i = 0; i < steps && losses.length < MOST_STEPS; i++) {
        if (losses.length === 0) losses.push(network.forward(state).E);
        state = network.step(state, rate);
        losses.push(network.forward(state).E);
      }
    });
  }

  // -- what is seen ----------------------------------------------------------------------------------------------------

  const UNITS = [[60, [50, 140, 230]], [260, [95, 185]], [460, [95, 185]]]; // x of a layer, y of its units

  function drawing() {
    const { a, z1, z2, y } = network.forward(state);
    const { delta1, delta2 } = network.backward(state);
    const picture = element("svg", { viewBox: "0 0 620 285", role: "img", "aria-label": "the network: three inputs, two hidden units, two outputs" });
    for (const [array, left] of [["W1", 0], ["W2", 1]]) {
      state[array].forEach((row, i) => row.forEach((weight, j) => {
        const [x1, from] = UNITS[left], [x2, to] = UNITS[left + 1];
        const width = Math.min(8, 0.8 + 3 * Math.abs(weight));
        picture.append(element("line", { x1, y1: from[i], x2, y2: to[j], "stroke-width": width, class: weight < 0 ? "pg-negative" : "pg-positive" }));
      }));
    }
    const unit = (x, y0, inside, ...below) => {
      picture.append(element("circle", { cx: x, cy: y0, r: 24 }), element("text", { x, y: y0 + 4 }, inside));
      below.forEach((line, i) => picture.append(element("text", { x, y: y0 + 38 + 14 * i, class: "pg-small" }, line)));
    };
    const short = (value) => (Number.isFinite(value) && Math.abs(value) < 1000 ? value.toFixed(3) : shown(value)).replace("-", "−");
    state.x.forEach((value, i) => unit(UNITS[0][0], UNITS[0][1][i], short(value)));
    a.forEach((value, i) => unit(UNITS[1][0], UNITS[1][1][i], short(value), `z ${short(z1[i])}`, `δ ${short(delta1[i])}`));
    y.forEach((value, k) => unit(UNITS[2][0], UNITS[2][1][k], short(value), `z ${short(z2[k])}`, `δ ${short(delta2[k])}`));
    state.t.forEach((value, k) => picture.append(element("text", { x: 560, y: UNITS[2][1][k] + 4 }, `t ${short(value)}`)));
    ["inputs x", "a = σ(z)", "outputs y", "targets"].forEach((words, i) =>
      picture.append(element("text", { x: [60, 260, 460, 560][i], y: 16, class: "pg-small" }, words)));
    return picture;
  }

  function table(caption, heads, rows) {
    const cell = (content) => element("td", {}, ...(Array.isArray(content) ? content : [content]));
    return element("div", { class: "pg-wide" }, element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))))));
  }

  function gradients() {
    const gradient = network.backward(state);
    const row = (parameter) => {
      const by_hand = parameter.get(gradient), measured = network.finite_difference(state, parameter);
      const input = field(parameter.label, parameter.get(state), (v) => changed(() => parameter.set(state, v), false));
      return [parameter.label, input, shown(by_hand), shown(measured), near(by_hand, measured) ? "✓" : "✗"];
    };
    return table("Every parameter: move it, and compare its derivative with the finite difference (E(w + h) − E(w − h)) / 2h",
      ["", "value", "dE/dw", "finite difference", ""], network.parameters.map(row));
  }

  // The two ways to a delta, and for softmax two that are wrong; a column for each output.
  function ways() {
    const { y, z2 } = network.forward(state);
    const truth = y.map((_, k) => network.finite_difference_by_logit(state, k));
    const plain = (values) => values.map(shown);
    const judged = (values) => values.map((value, k) => `${shown(value)} ${near(value, truth[k]) ? "✓" : "✗"}`);
    const { by_output, delta } = network.errors[state.loss];
    const rows = [
      ["y", ...plain(y)],
      ["t", ...plain(state.t)],
      ["dE/dy", ...plain(by_output(y, state.t))],
      ["dE/dz, by way of dE/dy", ...judged(network.by_outputs(state))],
      ["dE/dz, at once", ...judged(delta(z2, state.t))],
    ];
    if (state.loss === "softmax_cross_entropy") {
      rows.push(["y(1 − y) dE/dy, a mistake", ...judged(network.mistaken(state))]);
      rows.push(["y − t", ...judged(y.map((output, k) => output - state.t[k]))]);
    }
    rows.push(["finite difference by z", ...plain(truth)]);
    return table("Two ways to the same delta (✓: as the finite difference of the logit)", ["", "output 1", "output 2"], rows);
  }

  function words() {
    const { y } = network.forward(state), total = network.sum(state.t);
    const said = {
      softmax_cross_entropy: "dE/dy = −t/y and dE/dz = yΣt − t are derivatives by different things: every output depends on every logit, and the full Jacobian y_j([j = k] − y_k) leads from one to the other. The slope of a logistic output, y(1 − y), is only its diagonal: what it leaves out is how the other outputs give way.",
      sigmoid_cross_entropy: "Each output depends on its own logit alone, with slope y(1 − y). The derivative by the output has just that in its denominator, so it cancels: y − t is left, however certain the output is.",
      squared_error: "The output is the logit: the two derivatives are one.",
      sigmoid_squared_error: "Here nothing cancels: the delta keeps the slope y(1 − y), which vanishes where the output is certain, even if it is certainly wrong. Press “certain, and wrong”, then change the error to cross-entropy.",
    }[state.loss];
    const notes = [said];
    if (state.loss === "softmax_cross_entropy" && Math.abs(total - 1) > 1e-12) {
      notes.push(`The targets sum to ${shown(total)}, not to 1: the delta is y·${shown(total)} − t. The deltas of an example sum to 0, as they must, since a constant added to all logits changes no output; y − t does not.`);
    }
    if (state.loss === "sigmoid_squared_error" && y.some((output, k) => Math.abs(output - state.t[k]) > 0.99)) {
      notes.push("An output is saturated on the wrong side: see how small its delta is, and how little a step changes.");
    }
    return element("div", { "aria-live": "polite" }, ...notes.map((note) => element("p", {}, note)));
  }

  function curve() {
    const E = network.forward(state).E;
    const line = element("p", {}, element("strong", {}, `E = ${shown(E)}`), losses.length ? ` after ${losses.length - 1} steps` : "");
    if (losses.length < 2) return line;
    const most = Math.max(...losses.filter(Number.isFinite)) || 1;
    const points = losses.map((loss, i) => `${(600 * i) / (losses.length - 1)},${110 - (100 * Math.min(loss, most)) / most}`);
    const picture = element("svg", { viewBox: "0 0 620 120", role: "img", "aria-label": `the error over ${losses.length - 1} steps, from ${shown(losses[0])} to ${shown(E)}` },
      element("line", { x1: 0, y1: 110, x2: 600, y2: 110, class: "pg-axis" }), element("polyline", { points: points.join(" ") }));
    return element("div", {}, line, picture);
  }

  // All numbers as text, for programs: tests compare them with fastbp's.
  function numbers() {
    const { a, y, E } = network.forward(state), gradient = network.backward(state);
    return JSON.stringify({ state, a, y, E, gradient, next: network.step(state, rate), steps: losses.length });
  }

  // -- the page --------------------------------------------------------------------------------------------------------

  const movable = element("div"), seen = element("div"), told = element("div"), held = element("div");
  const programs = element("script", { type: "application/json", id: "playground-numbers" });
  place.replaceChildren(movable, seen, told, held, programs);

  // An input that is being typed into stays as it is: then only what follows from it is drawn anew.
  function draw(inputs) {
    seen.replaceChildren(drawing(), curve());
    if (inputs) {
      movable.replaceChildren(controls(), buttons());
      held.replaceChildren(gradients());
    } else {
      const anew = gradients().querySelectorAll("tbody tr");
      held.querySelectorAll("tbody tr").forEach((row, i) => {
        for (const column of [2, 3, 4]) row.cells[column].textContent = anew[i].cells[column].textContent;
      });
    }
    told.replaceChildren(words(), ways());
    programs.textContent = numbers();
  }

  function changed(change, inputs = true) {
    change();
    const focused = document.activeElement;
    const kept = inputs && place.contains(focused) ? [focused.tagName, focused.getAttribute("aria-label") ?? focused.textContent] : null;
    draw(inputs);
    history.replaceState(null, "", to_address());
    if (!kept) return;
    for (const found of place.querySelectorAll(kept[0])) {
      if ((found.getAttribute("aria-label") ?? found.textContent) === kept[1]) { found.focus(); break; }
    }
  }

  from_address();
  draw(true);
  const asked = Number.parseInt(new URLSearchParams(location.hash.slice(1)).get("steps"), 10);
  if (asked > 0) advance(Math.min(asked, MOST_STEPS));
})();
