"""
The laws of gpt4_scaling.py, fitted in numpy, and its tables and figure. For given exponents a law
is linear in its other numbers, which are found by least squares; the exponents are scanned.

Papers: GPT-4 (arXiv:2303.08774) §3; Chinchilla (arXiv:2203.15556) §3.3.
"""
import itertools
import math
from pathlib import Path

import numpy as np

from papers.figures import column, plot

SHOWN = 3        # the paper's figure shows the third-easiest bucket
RESAMPLED = 300  # bootstrap samples behind an interval


def fit_power(compute: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """y = a C^b, a straight line in logarithms: (a, b, 0). [GPT-4 §3.2, where b is -k]

    compute, values: one entry per run.
    """
    slope, height = np.polyfit(np.log(compute), np.log(values), 1)
    return math.exp(height), float(slope), 0.0  # a law without c, for `value_at`


def fit_loss(compute: np.ndarray, loss: np.ndarray) -> tuple[float, float, float]:
    """L(C) = a C^b + c with -1 < b < 0 and c >= 0, by least squares: (a, b, c). [GPT-4 §3.1]"""
    b = np.linspace(-.999, -.001, 999)
    power = (compute / compute.max()) ** b[:, None]  # (exponents, runs), numbers near 1
    centered = power - power.mean(axis=1, keepdims=True)
    # for every b at once the line through (power, loss): slope a, height c
    a = centered @ loss / np.sum(centered ** 2, axis=1)  # (exponents,), as are c and error
    c = loss.mean() - a * power.mean(axis=1)
    without_c = power @ loss / np.sum(power ** 2, axis=1)
    a = np.where(c < 0, without_c, a)
    c = np.maximum(c, 0)
    error = np.sum((a[:, None] * power + c[:, None] - loss) ** 2, axis=1)
    best = error.argmin()
    return float(a[best] * compute.max() ** -b[best]), float(b[best]), float(c[best])


def value_at(law: tuple[float, float, float], compute):
    """a C^b + c."""
    a, b, c = law
    return a * compute ** b + c


def predict(fit, compute: np.ndarray, values: np.ndarray, target: float,
            seed: int) -> dict[str, float]:
    """What a law fitted to runs predicts for compute `target`, with an interval that is meant to
    hold the truth 19 times out of 20 if the law is right; in simulations of our ladder 16 or 17
    times (no command repeats this).

    Bootstrap: runs are drawn with replacement and fitted again. Each prediction is multiplied by
    (value / law) of a random run, because the truth is a single run and has its noise, too.
    """
    law = fit(compute, values)
    ratios = values / value_at(law, compute)  # (runs,)
    rng = np.random.default_rng(seed)
    predicted = []
    while len(predicted) < RESAMPLED:
        drawn = rng.integers(len(values), size=len(values))
        if len(set(compute[drawn])) >= min(4, len(set(compute))):  # else any c fits
            resampled = fit(compute[drawn], values[drawn])
            predicted.append(value_at(resampled, target) * rng.choice(ratios))
    low, high = np.quantile(predicted, (.025, .975))
    return {"predicted": float(value_at(law, target)), "low": float(low), "high": float(high)}


def fit_sizes(N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> tuple[float, ...]:
    """L(N, D) = E + A / N^alpha + B / D^beta with E, A, B > 0: (E, A, B, alpha, beta), or nan if
    no exponents give such a law.

    [Chinchilla §3.3; by squared errors of the loss instead of Huber's of its logarithm, and by a
    scan instead of L-BFGS.]
    """
    best_error, best = math.inf, (math.nan,) * 5
    exponents = np.linspace(.05, 1.5, 59)
    for alpha, beta in itertools.product(exponents, exponents):
        of_size, of_tokens = (N / N.max()) ** -alpha, (D / D.max()) ** -beta
        columns = np.stack([np.ones(len(N)), of_size, of_tokens], axis=1)  # (runs, 3)
        weights = np.linalg.lstsq(columns, loss, rcond=None)[0]
        error = np.sum((columns @ weights - loss) ** 2)
        if weights.min() > 0 and error < best_error:
            E, A, B = weights
            best_error = error
            best = E, A * N.max() ** alpha, B * D.max() ** beta, alpha, beta
    return tuple(map(float, best))


def loss_of_size(law: tuple[float, ...], N, D):
    """E + A / N^alpha + B / D^beta."""
    E, A, B, alpha, beta = law
    return E + A / N ** alpha + B / D ** beta


def best_size(law: tuple[float, ...], compute: float) -> tuple[float, float]:
    """The N and D with 6 N D = compute whose loss by the law is smallest. [Chinchilla eq. 4]"""
    _, A, B, alpha, beta = law
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (compute / 6) ** (beta / (alpha + beta))
    return N, compute / (6 * N)


# --------------------------------------------------------------------------------------------------
# Tables and a figure. A run is a dict of what was measured


def quantities(study) -> dict[str, tuple]:
    """What is predicted for a seed: {name: (fit_..., the small runs' compute, their values)}."""
    language_compute = column(study.language_ladder, "compute")
    code_compute = column(study.code_ladder, "compute")
    found = {
        "loss, language": (fit_loss, language_compute, column(study.language_ladder, "loss")),
        "loss, code": (fit_loss, code_compute, column(study.code_ladder, "loss")),
    }
    nats = column(study.code_ladder, "nats")  # (runs, problems)
    for number, bucket in enumerate(study.buckets, start=1):
        found[f"bucket {number}"] = fit_power, code_compute, nats[:, bucket].mean(axis=1)
    return found


def laws_of(study, language: dict, code: dict) -> dict:
    """The laws that one seed's small runs give, their relative errors on the large runs `language`
    and `code`, and the best tokens per parameter by Chinchilla's law."""
    row = {"seed": study.seed, "entropy": study.entropy}
    for name, large in (("language", language), ("code", code)):
        _, compute, loss = quantities(study)[f"loss, {name}"]
        with_c, without_c = fit_loss(compute, loss), fit_power(compute, loss)
        row[f"{name} b"], row[f"{name} c"] = with_c[1:]
        row[f"{name} a C^b + c"] = value_at(with_c, large["compute"]) / large["loss"] - 1
        row[f"{name} a C^b"] = value_at(without_c, large["compute"]) / large["loss"] - 1
    runs = study.code_ladder + study.code_fewer
    sizes = fit_sizes(column(runs, "N"), column(runs, "D"), column(runs, "loss"))
    N, D = best_size(sizes, code["compute"])
    row["L(N, D)"] = loss_of_size(sizes, code["N"], code["D"]) / code["loss"] - 1
    row |= dict(zip(("E", "A", "B", "alpha", "beta"), sizes))
    return {**row, "D/N": code["D"] / code["N"], "best D/N": D / N}


def by_size(runs: list[dict]) -> list[dict]:
    """The means over all runs of each size."""
    rows = []
    for width in sorted(set(column(runs, "width").tolist())):
        same = [run for run in runs if run["width"] == width]
        row = {"width": width, "N": same[0]["N"], "D": same[0]["D"], "runs": len(same)}
        row["compute"] = f"{same[0]['compute']:.2e}"
        for key in ("loss", "agree", "disagree"):
            row[key] = float(column(same, key).mean())
        rows.append(row)
    return rows


def draw(path: Path, study, rows: dict[str, dict], sizes: list[dict]):
    """One seed's laws of the losses and of a bucket, and hindsight neglect of all seeds."""
    measured = quantities(study)

    def panel(title, name):
        fit, compute, values = measured[name]
        row = rows[name]
        target = float(row["compute"])
        xs = np.geomspace(compute.min(), target, 50)
        lines = [("small runs", compute, values, "C0o"),
                 ("law", xs, value_at(fit(compute, values), xs), "C1-"),
                 ("interval", [target, target], [row["low"], row["high"]], "C2-"),
                 ("large run", [target], [row["truth"]], "C3*")]
        return {"title": title, "xlabel": "compute, 6ND", "logx": True, "lines": lines}

    bucket = f"bucket {SHOWN}"
    lines = []
    for kind in ("agree", "disagree"):
        label = f"outcome and odds {kind}"
        lines.append((label, column(sizes, "compute").astype(float), column(sizes, kind), "o-"))
    plot(path, [
        panel("final loss, language", "loss, language"),
        panel("final loss, code", "loss, code"),
        panel(f"-log(pass rate), {bucket}", bucket),
        {"title": "hindsight neglect: decisions judged right", "xlabel": "compute, 6ND",
         "logx": True, "lines": lines}])
