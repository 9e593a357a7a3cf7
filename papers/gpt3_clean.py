"""
GPT-3's whole data pipeline on a crawl: filter by quality, deduplicate, take tests
out. The steps are in gpt3_filters.py.

    python -m papers.gpt3_data clean                            the world's crawl
    python -m papers.gpt3_data clean --data RAW --good GOOD     your own documents

Paper: GPT-3 (arXiv:2005.14165) Appendix A and C.
"""
import dataclasses
import itertools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data import UserError, World, atomic_write, load_text, option, run_folder
from gpt import print_table
from papers.crawl import world_crawl
from papers.gpt3_filters import (QualityClassifier, decontaminate, deduplicate,
                                 quality_filter, word_ids)


@dataclass
class Tally:
    """What a step takes away."""
    characters: int = 0
    pieces: int = 0
    examples: list[str] = field(default_factory=list)

    def dropped(self, text: str):
        self.characters += len(text)
        self.pieces += 1
        if len(self.examples) < 2:
            self.examples.append(" ".join(text.split())[:90])


def run_step(step: str, documents: Iterable[str], tally: Tally, path: Path) -> dict:
    """Write the documents that a step keeps, and say what it has taken away."""
    started = time.time()
    left = 0
    kept = 0
    with atomic_write(path) as file:
        for text in documents:
            file.write(json.dumps({"text": text}).encode() + b"\n")
            left += len(text)
            kept += 1
    if not kept:
        raise UserError(f"nothing is left of the crawl after this step: {step}")
    print(f"{step}: took away for example")
    for example in tally.examples:
        print(f"    {example}")
    total = left + tally.characters
    return {
        "step": step,
        "characters": f"{total:,}",
        "left": f"{left:,}",
        "documents left": kept,
        "taken away": tally.pieces,
        "share": tally.characters / total,
        "MB/s": total / 1e6 / (time.time() - started),
    }


def clean(read: Callable[[], Iterator[str]], good: list[str], tests: list[str],
          folder: Path, seed: int = 0) -> list[dict]:
    """Clean the crawl that read() starts a pass over; what is left goes to
    folder/clean.jsonl.

    The classifier learns from the first pages, ten for each good text. From
    there on one document at a time is in memory. Returns the report, a row for
    each step.
    """
    rng = random.Random(seed)
    first_pages = list(itertools.islice(read(), 10 * len(good)))
    raw = rng.sample(first_pages, min(len(first_pages), len(good)))
    classifier = QualityClassifier().fit(good, raw, rng)
    generator = np.random.default_rng(seed)
    kept = folder / "kept.jsonl"
    unique = folder / "unique.jsonl"

    tally = Tally()
    documents = quality_filter(read(), classifier, generator, tally.dropped)
    rows = [run_step("quality", documents, tally, kept)]

    tally = Tally()
    documents = deduplicate(load_text(kept), tally.dropped)
    rows.append(run_step("duplicates", documents, tally, unique))

    tally = Tally()
    documents = decontaminate(lambda: load_text(unique), tests, tally.dropped)
    rows.append(run_step("contamination", documents, tally, folder / "clean.jsonl"))
    return rows


# ------------------------------------------------------------------------------
# The command


@dataclass
class CleanOptions:
    data: str | None = option(None, "your raw documents, a file or a folder")
    good: str | None = option(None, "your documents of the wanted quality, likewise")
    tests: str | None = option(None, "documents that must not be in the result, likewise")
    name: str = option("clean", "the result is runs/NAME/clean.jsonl")
    pages: int = option(20_000, "size of the world's crawl", at_least=100)
    seed: int = option(0, "of the world's crawl and of the filter")
    fresh: bool = option(False, "remove earlier results first")


def read_own(options: CleanOptions):
    """The reader's crawl, good texts and tests. Raises UserError if they are
    not enough."""
    if not (options.data and options.good):
        raise UserError("a crawl of your own needs --data and --good, "
                        "texts of the wanted quality")

    def read() -> Iterator[str]:
        return load_text(options.data)

    next(read())  # UserError if there is no document
    good = list(itertools.islice(load_text(options.good), 2000))
    if len(good) < 100:
        raise UserError(
            f"{options.good}: {len(good)} documents; a classifier needs 100 good ones or more "
            '(files of a folder, lines of {"text": ...}, or texts between <|endoftext|>)')
    tests = list(load_text(options.tests)) if options.tests else []
    short = sum(len(word_ids(test)) < 13 for test in tests)
    if short:
        print(f"{short} of {len(tests)} tests have fewer than 13 words: "
              "these cannot be found")
    return read, good, tests


def clean_crawl(options: CleanOptions = CleanOptions()):
    """Clean a crawl: filter by quality, deduplicate, take test questions out.
    [GPT-3 App. A, C]"""
    is_own = options.data or options.good or options.tests
    if is_own:
        read, good, tests = read_own(options)
    settings = dataclasses.asdict(options)
    del settings["name"], settings["fresh"]
    folder = run_folder(options.name, settings, options.fresh)
    if not is_own:
        read, good, tests, _ = world_crawl(World(options.seed), options.pages, folder)
    print_table(clean(read, good, tests, folder, options.seed), folder / "table.json")
    print(f"what is left: {folder / 'clean.jsonl'}")
