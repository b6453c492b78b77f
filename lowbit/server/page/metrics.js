// SPDX-License-Identifier: Apache-2.0
// Prometheus' text as numbers: one poll is a Sample, figures over time come from two of them.

/** Label values by name. */
function labelsOf(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name] = value.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
  }
  return labels;
}

export class Sample {
  /** time: in seconds, of a clock that only goes forward. */
  constructor(text, time) {
    this.time = time;
    this.series = new Map(); // name -> [{labels, value}]
    for (const line of text.split("\n")) {
      if (line.startsWith("#")) continue;
      const found = line.match(/^([\w:]+)(?:\{(.*)\})? (\S+)/);
      if (!found) continue;
      const list = this.series.get(found[1]) ?? [];
      list.push({ labels: labelsOf(found[2] ?? ""), value: Number(found[3].replace("Inf", "Infinity")) });
      this.series.set(found[1], list);
    }
  }

  /** Series of that name and, if one is given, of that model. */
  all(name, model) {
    const list = this.series.get(name) ?? [];
    return model === undefined ? list : list.filter(({ labels }) => labels.model_name === model);
  }

  /** Their sum; null if there are none. */
  sum(name, model) {
    const list = this.all(name, model);
    return list.length === 0 ? null : list.reduce((sum, { value }) => sum + value, 0);
  }

  models() {
    const names = this.all("vllm:num_requests_running").map(({ labels }) => labels.model_name);
    return [...new Set(names)].filter((name) => name);
  }
}

/** How much a counter grew in a second; null while that is not known. */
export function perSecond(before, now, name, model) {
  const grown = growth(before, now, name, model);
  return grown === null ? null : grown / (now.time - before.time);
}

export function growth(before, now, name, model) {
  const last = now.sum(name, model), first = before?.sum(name, model) ?? null;
  // Less than before: the server began anew.
  return last === null || first === null || last < first ? null : last - first;
}

/** Mean of a histogram's values between two samples. */
export function meanBetween(before, now, name) {
  const count = growth(before, now, `${name}_count`), sum = growth(before, now, `${name}_sum`);
  return count ? sum / count : null;
}

/** The value that the share q of a histogram's values between two samples does not exceed, linear inside buckets. */
export function quantileBetween(before, now, name, q) {
  const grown = new Map(); // upper bound -> values up to it
  for (const [sample, sign] of [[now, 1], [before, -1]]) {
    for (const { labels, value } of sample.all(`${name}_bucket`)) {
      const bound = Number(labels.le.replace("+Inf", "Infinity"));
      grown.set(bound, (grown.get(bound) ?? 0) + sign * value);
    }
  }
  const bounds = [...grown.keys()].sort((a, b) => a - b);
  const total = grown.get(bounds.at(-1));
  if (!(total > 0)) return null;
  let lower = 0, below = 0;
  for (const bound of bounds) {
    const upTo = grown.get(bound);
    if (upTo >= q * total && upTo > below) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (q * total - below)) / (upTo - below);
    }
    lower = bound;
    below = upTo;
  }
  return lower;
}
