"use strict";
// The mathematics of the page: a 3-2-2 network with logistic hidden units, its error, and the error's derivatives, in
// doubles, each formula as docs/derivation.md has it. Weights are stored as W[from][to]; one example, no batch.

const network = (() => {
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // Σ_i a_i W_ij + b_j
  const weighted = (a, W, b) => b.map((bias, j) => bias + sum(a.map((value, i) => value * W[i][j])));

  // Relative to the largest logit nothing overflows; with `rest`, the sum of all parts but that one, nothing cancels either.
  function softmax(z) {
    const largest = Math.max(...z), first = z.indexOf(largest);
    const parts = z.map((value) => Math.exp(value - largest));
    const rest = sum(parts.filter((_, k) => k !== first));
    return { y: parts.map((part) => part / (1 + rest)), largest, first, rest };
  }

  function softmax_error(z, t) {
    const { largest, rest } = softmax(z);
    return sum(t.map((target, k) => (target === 0 ? 0 : target * (Math.log1p(rest) + (largest - z[k])))));
  }

  // y Σt − t, for the largest logit without a difference of two numbers near 1: y = 1 − rest / (1 + rest).
  function softmax_delta(z, t) {
    const { y, first, rest } = softmax(z), total = sum(t);
    return y.map((output, k) => (k === first ? total - t[k] - (total * rest) / (1 + rest) : output * total - t[k]));
  }

  // σ(z) − t, where 1 − σ(z) = σ(−z).
  const logistic_delta = (z, t) => z.map((s, k) => (1 - t[k]) * sigmoid(s) - t[k] * sigmoid(-s));

  // Each error: its outputs y, the error E, dE/dy (infinite where an output is 0 and should not be), and the delta dE/dz.
  const errors = {
    softmax_cross_entropy: {
      outputs: (z) => softmax(z).y,
      error: softmax_error,
      by_output: (y, t) => y.map((output, k) => -t[k] / output),
      delta: softmax_delta,
    },
    sigmoid_cross_entropy: {
      outputs: (z) => z.map(sigmoid),
      error: (z, t) => sum(z.map((s, k) => Math.max(s, 0) - s * t[k] + Math.log1p(Math.exp(-Math.abs(s))))),
      by_output: (y, t) => y.map((output, k) => (output - t[k]) / (output * (1 - output))),
      delta: logistic_delta,
    },
    squared_error: {
      outputs: (z) => z.slice(),
      error: (z, t) => sum(z.map((output, k) => (output - t[k]) ** 2 / 2)),
      by_output: (y, t) => y.map((output, k) => output - t[k]),
      delta: (z, t) => z.map((output, k) => output - t[k]),
    },
    sigmoid_squared_error: {
      outputs: (z) => z.map(sigmoid),
      error: (z, t) => sum(logistic_delta(z, t).map((difference) => difference ** 2 / 2)),
      by_output: (y, t) => y.map((output, k) => output - t[k]),
      delta: (z, t) => logistic_delta(z, t).map((difference, k) => difference * sigmoid(z[k]) * sigmoid(-z[k])),
    },
  };

  function forward(state) {
    const z1 = weighted(state.x, state.W1, state.b1);
    const a = z1.map(sigmoid);
    const z2 = weighted(a, state.W2, state.b2);
    return { z1, a, z2, y: errors[state.loss].outputs(z2), E: errors[state.loss].error(z2, state.t) };
  }

  // δ² = dE/dz², δ¹ = (δ² W²ᵀ) ⊙ a(1 − a), dE/dW = a_before δ, dE/db = δ.
  function backward(state) {
    const { a, z2 } = forward(state);
    const delta2 = errors[state.loss].delta(z2, state.t);
    const delta1 = a.map((value, i) => sum(delta2.map((d, j) => d * state.W2[i][j])) * value * (1 - value));
    const outer = (before, delta) => before.map((value) => delta.map((d) => value * d));
    return { delta1, delta2, W1: outer(state.x, delta1), b1: delta1, W2: outer(a, delta2), b2: delta2 };
  }

  // Every parameter: its name as it is shown, and how to read and write it in anything shaped like a state.
  const parameters = [];
  for (const [name, rows] of [["W1", 3], ["b1", 0], ["W2", 2], ["b2", 0]]) {
    const layer = name[1] === "1" ? "¹" : "²";
    for (let i = 0; i < Math.max(rows, 1); i++) {
      for (let j = 0; j < 2; j++) {
        const get = (s) => (rows ? s[name][i][j] : s[name][j]);
        const set = (s, value) => { if (rows) s[name][i][j] = value; else s[name][j] = value; };
        const sub = rows ? `${"₁₂₃"[i]}${"₁₂"[j]}` : "₁₂"[j];
        parameters.push({ array: name, i, j, label: `${name[0]}${layer}${sub}`, get, set });
      }
    }
  }

  const copy = (state) => JSON.parse(JSON.stringify(state));

  // (E(w + h) − E(w − h)) / 2h: wrong by about h² and by rounding/h, least near the cube root of the rounding.
  function finite_difference(state, parameter) {
    const moved = copy(state);
    const w = parameter.get(state);
    const h = 6e-6 * Math.max(1, Math.abs(w));
    const at = (value) => { parameter.set(moved, value); return forward(moved).E; };
    return (at(w + h) - at(w - h)) / (w + h - (w - h));
  }

  // The same for a logit of the last layer, which is what a delta claims to be.
  function finite_difference_by_logit(state, k) {
    const { z2 } = forward(state);
    const at = (h) => errors[state.loss].error(z2.map((z, j) => (j === k ? z + h : z)), state.t);
    const h = 6e-6 * Math.max(1, Math.abs(z2[k]));
    return (at(h) - at(-h)) / (2 * h);
  }

  // The delta by way of the outputs: dE/dz_k = Σ_j dE/dy_j dy_j/dz_k. For softmax every output depends on every logit,
  // dy_j/dz_k = y_j ([j = k] − y_k), so it is y_k (g_k − Σ g y); for logistic outputs dy/dz = y (1 − y).
  function by_outputs(state) {
    const { y } = forward(state);
    const g = errors[state.loss].by_output(y, state.t);
    if (state.loss === "squared_error") return g;
    if (state.loss !== "softmax_cross_entropy") return y.map((output, k) => g[k] * output * (1 - output));
    const mean = sum(g.map((value, k) => value * y[k]));
    return y.map((output, k) => output * (g[k] - mean));
  }

  // What is often written in its place for softmax: the slope of a logistic output.
  function mistaken(state) {
    const { y } = forward(state);
    return errors[state.loss].by_output(y, state.t).map((g, k) => g * y[k] * (1 - y[k]));
  }

  function step(state, rate) {
    const gradient = backward(state), next = copy(state);
    for (const parameter of parameters) parameter.set(next, parameter.get(state) - rate * parameter.get(gradient));
    return next;
  }

  // The numbers of docs/derivation.md: with ln 3 every exponential is a power of 3.
  const book = () => ({
    loss: "softmax_cross_entropy",
    x: [2, 1, -1],
    t: [1, 0],
    W1: [[0.5, -0.2], [-0.6, 0.6], [0.1, -0.4]],
    b1: [-0.3, Math.log(3) - 0.6],
    W2: [[0.4, -0.8], [0.8, 1.6]],
    b2: [-0.8, Math.log(3) - 0.8],
  });

  return {
    backward, book, by_outputs, copy, errors, finite_difference, finite_difference_by_logit, forward, mistaken, parameters, step, sum,
  };
})();
