#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes sampler/golden.json: what probabilities each set of sampling parameters must give.

An independent reference in numpy, double precision, written from the definitions: penalties, logit
bias, temperature, top-k, top-p, min-p, in this order. Cases whose answer would hang on a rounding
error (a cut within 1e-4 of its threshold) are refused. Run: make_sampler.py
"""
import json
import pathlib

import numpy as np

N_VOCAB = 97
CHI_SQUARE_Z = 4.75  # one-sided normal quantile of 1e-6


def distribution(logits, prompt, generated, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0,
                 repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0,
                 logit_bias=()):
    x = logits.copy()
    for token in set(prompt) | set(generated):
        x[token] = x[token] / repetition_penalty if x[token] > 0 else x[token] * repetition_penalty
    for token in set(generated):
        x[token] -= presence_penalty + frequency_penalty * generated.count(token)
    for token, bias in logit_bias:
        x[token] += bias
    if temperature == 0:
        return np.eye(len(x))[int(np.argmax(x))]
    order = np.lexsort((np.arange(len(x)), -x))  # likeliest first, ties by id
    kept = order[:top_k] if top_k > 0 else order
    p = np.exp((x[kept] - x[kept[0]]) / temperature)
    p /= p.sum()
    if top_p < 1:
        sums = np.cumsum(p)
        assert np.abs(sums - top_p).min() > 1e-4, "a cut too close to top_p"
        n_kept = int(np.searchsorted(sums, top_p)) + 1
        kept, p = kept[:n_kept], p[:n_kept]
    if min_p > 0:
        relative = p / p[0]
        assert np.abs(relative - min_p).min() > 1e-4, "a cut too close to min_p"
        kept, p = kept[relative >= min_p], p[relative >= min_p]
    result = np.zeros(len(x))
    result[kept] = p / p.sum()
    return result


def chi_square_limit(n_cells):
    """Wilson-Hilferty quantile for n_cells - 1 degrees of freedom."""
    k = n_cells - 1
    if k <= 0:
        return 0.0
    return k * (1 - 2 / (9 * k) + CHI_SQUARE_Z * (2 / (9 * k)) ** 0.5) ** 3


def main():
    rng = np.random.default_rng(7)
    logits = (rng.normal(size=N_VOCAB) * 2.5).astype(np.float32)
    logits[11] = logits[3] = logits.max() + np.float32(0.25)  # ties at the top
    logits[50:54] = logits[50]                                # and in the middle
    logits[60] = -np.inf
    prompt = [3, 5, 8, 8, 50]
    generated = [11, 11, 20, 3, 51, 11]
    cases = [
        dict(),
        dict(temperature=0.0),
        dict(temperature=0.0, logit_bias=[[40, 30.0]]),
        dict(temperature=0.7),
        dict(temperature=2.5),
        dict(top_k=1),
        dict(top_k=2),
        dict(top_k=40, temperature=1.3),
        dict(top_k=1000),
        dict(top_p=0.9),
        dict(top_p=0.35, temperature=0.8),
        dict(min_p=0.05),
        dict(min_p=0.2, temperature=1.5),
        dict(top_k=20, top_p=0.8, min_p=0.1, temperature=1.2),
        dict(repetition_penalty=1.3),
        dict(repetition_penalty=0.7, temperature=0.9),
        dict(presence_penalty=1.5),
        dict(frequency_penalty=0.8),
        dict(presence_penalty=-0.5, frequency_penalty=0.4, repetition_penalty=1.1, top_k=30),
        dict(logit_bias=[[0, 5.0], [11, -60.0], [96, 4.5]]),
        dict(logit_bias=[[7, 6.0]], temperature=0.6, top_p=0.95, min_p=0.02, top_k=50,
             repetition_penalty=1.15, presence_penalty=0.2, frequency_penalty=0.1),
    ]
    golden = {
        "made_by": f"make_sampler.py, numpy {np.__version__}",
        "logits": [None if np.isinf(v) else float(v) for v in logits],  # null: minus infinity
        "prompt": prompt,
        "generated": generated,
        "chi_square_limits": [round(chi_square_limit(n), 3) for n in range(N_VOCAB + 1)],  # by cells
        "cases": [],
    }
    for case in cases:
        p = distribution(logits.astype(np.float64), prompt, generated, **case)
        golden["cases"].append({
            "params": case,
            "probabilities": [[int(i), float(f"{p[i]:.12g}")] for i in np.flatnonzero(p)],
        })
    path = pathlib.Path(__file__).parent / "sampler" / "golden.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{path}: {len(cases)} cases")


if __name__ == "__main__":
    main()
