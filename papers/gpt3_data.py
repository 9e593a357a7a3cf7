"""
GPT-3's data pipeline, put to the test on a made-up crawl of which we know every page's kind.

The claims:
    cleaning    a model trained on the cleaned crawl predicts good text better
                than one trained on as many tokens of the raw crawl (§2.2). Easy by construction:
                the junk is made of 20 templates, the good text by one generator
    mixture     good texts, read more often than their size says, improve it
                further (Table 2.2: a choice that the paper does not test)
    leaks       a model that has read tests does better on them than on others (the
                paper looks for this in §4 and finds little). Our model reads about half
                of the leaked tests: training draws random windows of the crawl

    python -m papers.gpt3_data          60,000 pages, three models (about 2 minutes)
    python -m papers.gpt3_data clean    only clean: 20,000 pages, or your own

Paper: GPT-3 (arXiv:2005.14165) §2.2, §4, Appendix A and C.
"""
import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import data
import gpt
from data import Tokenizer, World, load_text, option
from papers.claims import Claim, RunOptions, folder_of, mean_and_error, save_claims
from papers.figures import column, logged, plot
from papers.gpt3_clean import clean, clean_crawl, world_crawl
from papers.gpt3_filters import mix
from papers.models import SIZES, evaluate_pieces
from papers.tasks import wide_web

TEXTS = ("raw", "cleaned", "mixture")
SHAPE = SIZES["180k"]


@dataclass
class Options(RunOptions):
    name: str = option("gpt3_data", "results go to runs/NAME")
    pages: int = option(60_000, "pages of the crawl that is cleaned", at_least=100)
    steps: int = option(800, "optimizer steps on each text", at_least=1)
    seed: int = option(0, "of the crawl and of the models")


def training_of(options: Options) -> tuple[gpt.TrainConfig, int]:
    """How each model is trained, and on how many tokens."""
    eval_every = max(1, options.steps // 5)
    config = gpt.TrainConfig(steps=options.steps, eval_every=eval_every, seed=options.seed)
    return config, config.steps * config.batch_size * SHAPE.block_size


def prepare(world: World, folder: Path, options: Options) -> dict:
    """Clean the crawl and write the three texts as token streams."""
    read, good, leaked, others = world_crawl(world, options.pages, folder)
    report = clean(read, good, leaked + others, folder, options.seed)
    tokenizer = Tokenizer(data.train_bpe(good, SHAPE.vocab_size - len(data.SPECIAL_TOKENS)))
    tokenizer.save(folder / "tokenizer.json")
    cleaned = partial(load_text, folder / "clean.jsonl")

    _, tokens = training_of(options)
    size = 4 * tokens  # characters; of junk, which takes more tokens, a model reads only half
    # only 300 good texts, so that they are read about three times
    sources = {"cleaned crawl": (cleaned, 0.6), "good texts": (lambda: good[:300], 0.4)}
    texts = {
        # a page has about 740 characters: some more than needed
        "raw": itertools.islice(read(), size // 600),
        "cleaned": cleaned(),
        "mixture": mix(sources, size),
    }
    for name, documents in texts.items():
        data.write_stream(documents, tokenizer, folder / f"{name}.bin")
    return {"report": report, "leaked": leaked, "others": others}


def data_effect(world: World, folder: Path, prepared: dict, options: Options):
    """One model, equal tokens: trained on the raw crawl, on the cleaned one, and on the mixture.
    Returns rows, and {text: bits per byte of each piece of good held-out text}."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    held_out = []
    for text in wide_web(world, 1500, "held out"):
        held_out += [*tokenizer.encode(text), tokenizer.eot]
    held_out = np.array(held_out, np.int64)  # (tokens,)

    config, tokens = training_of(options)
    rows = []
    losses, bits = {}, {}
    for name in TEXTS:
        stream, _ = data.open_stream(folder / f"{name}.bin", tokenizer.vocab_size)
        text = tokenizer, stream, held_out
        model, _ = gpt.train_gpt(folder / f"180k-{name}.pt", text, SHAPE, config)
        bits[name] = evaluate_pieces(model, tokenizer, held_out, "bits_per_byte")
        row = {"text": name, "epochs": tokens / len(stream),
               "bits per byte, good text": float(np.mean(bits[name]))}
        for kind in ("leaked", "others"):
            pairs = [("", test) for test in prepared[kind]]
            scores = gpt.completion_logprobs(model, tokenizer, pairs)
            losses[name, kind] = -np.array([total for total, _ in scores])  # (tests,)
            row[f"{kind} tests, nats"] = float(losses[name, kind].mean())
        rows.append(row)

    # test by test, the raw crawl's model against the mean of the two that read hardly any
    gains, variance = {}, 0.0
    for kind in ("leaked", "others"):
        unread = (losses["cleaned", kind] + losses["mixture", kind]) / 2  # (tests,)
        gain = unread - losses["raw", kind]
        gains[kind] = gain.mean()
        variance += gain.var() / len(gain)
    raw = rows[TEXTS.index("raw")]
    raw["leak is worth"] = float(gains["leaked"] - gains["others"])
    raw["standard error"] = math.sqrt(variance)
    return rows, bits


def claims(rows: list[dict], bits: dict[str, np.ndarray], tests: int) -> list[Claim]:
    """Of one seed: errors are over pieces of the held-out text, or over distinct tests, which
    leaves out how much two models differ. papers.claims takes them over seeds."""
    raw = rows[TEXTS.index("raw")]
    pieces = len(bits["raw"])
    return [
        Claim("GPT-3", "§2.2", "the cleaned crawl teaches good text better than the raw one, bits "
              "per byte (easy by construction: junk of 20 templates)", "no number",
              *mean_and_error(bits["raw"] - bits["cleaned"]), 1, pieces),
        Claim("GPT-3", "Table 2.2", "a mixture with more of the good texts teaches it better than "
              "the cleaned crawl, bits per byte", "a choice, not measured",
              *mean_and_error(bits["cleaned"] - bits["mixture"]), 1, pieces),
        Claim("GPT-3", "§4", "leaked tests are easier for the model of the raw crawl than for the "
              "two that read hardly any, nats per test beyond other tests (the paper looked for "
              "this and found little)",
              "little effect on most tests", raw["leak is worth"],
              raw["standard error"], 1, tests)]


def draw(folder: Path):
    """The loss on good text along training on each text."""
    lines = []
    for name in TEXTS:
        rows = logged(folder / f"180k-{name}.jsonl", "bits_per_byte")
        lines.append((name, column(rows, "step"), column(rows, "bits_per_byte"), "o-"))
    panel = {
        "title": "bits per byte of good held-out text",
        "xlabel": "steps, equal tokens",
        "lines": lines,
    }
    plot(folder / "gpt3_data.png", [panel])


def gpt3_data(options: Options = Options()):
    """What filtering, deduplicating and mixing a crawl is worth to a model. [GPT-3 App. A, C]"""
    if options.fast:
        options = dataclasses.replace(options, pages=2000, steps=3)
    folder = folder_of(options, "pages", "steps", "seed")
    world = World(options.seed)
    path = folder / "prepared.json"
    if not path.exists():
        data.write_json(path, prepare(world, folder, options))
    prepared = json.loads(path.read_text())

    print("\n== the pipeline")
    gpt.print_table(prepared["report"], folder / "pipeline.json")
    rows, bits = data_effect(world, folder, prepared, options)
    print("\n== one model, equal tokens")
    gpt.print_table(rows, folder / "table.json")
    draw(folder)
    tests = len(prepared["leaked"]) + len(prepared["others"])
    save_claims(folder, claims(rows, bits, tests))


if __name__ == "__main__":
    data.command_line({"gpt3_data": gpt3_data, "clean": clean_crawl}, default="gpt3_data")
