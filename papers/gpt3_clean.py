"""
GPT-3's whole data pipeline on a crawl: filter by quality, deduplicate, take tests out. The steps
are in gpt3_filters.py. The world's crawl is made up, so we know what each page is: three quarters
are advertisements and menus. Of the rest some are good texts, some are copies of good texts with
small changes, and some are good texts that contain a test item.

    python -m papers.gpt3_data clean                            the world's crawl
    python -m papers.gpt3_data clean --data RAW --good GOOD     your own documents

Paper: GPT-3 (arXiv:2005.14165) Appendix A and C.
"""
import dataclasses
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data import ECHOED, UserError, World, atomic_write, load_text, option, run_folder
from gpt import print_table
from papers.gpt3_filters import (QualityClassifier, decontaminate, deduplicate,
                                 quality_filter, word_ids)
from papers.tasks import wide_web

# ------------------------------------------------------------------------------
# The world's crawl

# Kinds of pages and their share of the crawl.
CRAWL = {"junk": .75, "good": .14, "copy": .06, "leak": .05}

BOILERPLATE = (
    "Click here to subscribe.", "Accept all cookies?", "Home, About, Contact, Login",
    "Your cart is empty.", "Buy {} online, best price!!!", "Share this page.", "Page {} of {}",
    "All rights reserved.", "{} {} {} cheap {}", "Sign up for our newsletter!",
    "Error 404: not found.", "Only {} left in stock!", "You may also like: {}, {}",
    "Posted by admin {} days ago", "Read more...", "Rated {} of 5 stars by {} users",
    "Free {} with every {}", "Advertisement", "Terms and conditions apply.", "Skip to content",
)


def boilerplate(rng: random.Random) -> str:
    """A line of an advertisement or a menu."""
    return rng.choice(BOILERPLATE).format(*rng.choices([*ECHOED, "3", "12", "99"], k=4))


def junk_page(rng: random.Random) -> str:
    """Advertisements and menus."""
    lines = [boilerplate(rng) for _ in range(rng.randint(10, 40))]
    return rng.choice(("\n", " ")).join(lines)


def copied_page(rng: random.Random, text: str) -> str:
    """A text in which one word in fifty is another one, and a line of boilerplate."""
    words = []
    for word in text.split(" "):
        if rng.random() < .02:
            word = rng.choice(ECHOED)
        words.append(word)
    return " ".join(words) + "\n\n" + boilerplate(rng)


def endless_documents(world: World) -> Iterator[str]:
    """The wide web, without end."""
    for part in itertools.count():
        yield from wide_web(world, 1000, f"crawl {part}")


def crawl(world: World, count: int, tests: list[str]) -> Iterator[str]:
    """`count` pages; each of the kind "leak" contains one of the tests."""
    rng = random.Random(f"crawl {world.seed}")
    documents = endless_documents(world)
    recent = deque(maxlen=300)  # good texts to copy
    for kind in rng.choices(list(CRAWL), weights=CRAWL.values(), k=count):
        if kind == "junk":
            yield junk_page(rng)
            continue
        if kind == "copy" and recent:
            yield copied_page(rng, rng.choice(recent))
            continue

        parts = []
        length = rng.randint(500, 1500)
        while sum(map(len, parts)) < length:
            parts.append(next(documents))
        if kind == "leak":
            place = rng.randrange(len(parts) + 1)
            parts.insert(place, rng.choice(tests))
        text = "\n\n".join(parts)
        if kind != "leak":
            recent.append(text)
        yield text


def world_crawl(world: World, pages: int, folder: Path):
    """Write the world's crawl as folder/crawl.jsonl.

    Returns a function that starts a pass over its texts, texts of the wanted quality, the tests
    that the crawl leaks, and as many tests that it does not.
    """
    rng = random.Random(f"tests {world.seed}")
    tests = {}  # by summary, so that all are distinct: texts may differ in a sentence only
    for _ in range(400):
        text, summary = world.trip(rng, "test")
        tests[summary] = f"{text}\nTL;DR: {summary}"
    leaked = list(tests.values())[::2]
    others = list(tests.values())[1::2]

    path = folder / "crawl.jsonl"
    with atomic_write(path) as file:
        for text in crawl(world, pages, leaked):
            file.write(json.dumps({"text": text}).encode() + b"\n")

    good = ["\n\n".join(wide_web(world, 12, f"good {i}")) for i in range(2000)]
    return partial(load_text, path), good, leaked, others


# ------------------------------------------------------------------------------
# The pipeline


def run_step(step: str, path: Path, keep: Callable, *arguments) -> dict:
    """Write the documents that keep(*arguments) yields, and say what it has taken away."""
    started = time.time()
    kept, taken = [], []  # characters of each document, and of each piece that is taken away
    examples = []

    def dropped(text):
        taken.append(len(text))
        if len(examples) < 2:
            examples.append(" ".join(text.split())[:90])

    with atomic_write(path) as file:
        for text in keep(*arguments, dropped=dropped):
            file.write(json.dumps({"text": text}).encode() + b"\n")
            kept.append(len(text))
    if not kept:
        raise UserError(f"nothing is left of the crawl after this step: {step}")
    print(f"{step}: took away for example")
    for example in examples:
        print(f"    {example}")
    total = sum(kept) + sum(taken)
    return {
        "step": step,
        "characters": f"{total:,}",
        "left": f"{sum(kept):,}",
        "documents left": len(kept),
        "taken away": len(taken),
        "share": sum(taken) / total,
        "MB/s": total / 1e6 / (time.time() - started),
    }


def clean(read: Callable[[], Iterator[str]], good: list[str], tests: list[str],
          folder: Path, seed: int) -> list[dict]:
    """Clean the crawl that read() starts a pass over; what is left goes to folder/clean.jsonl.

    The classifier learns from the first pages, ten for each good text. From there on one document
    at a time is in memory. Returns the report, a row for each step.
    """
    rng = random.Random(seed)
    first_pages = list(itertools.islice(read(), 10 * len(good)))
    raw = rng.sample(first_pages, min(len(first_pages), len(good)))
    classifier = QualityClassifier().fit(good, raw, rng)
    generator = np.random.default_rng(seed)
    kept = folder / "kept.jsonl"
    unique = folder / "unique.jsonl"

    return [
        run_step("quality", kept, quality_filter, read(), classifier, generator),
        run_step("duplicates", unique, deduplicate, load_text(kept)),
        run_step("contamination", folder / "clean.jsonl", decontaminate,
                 partial(load_text, unique), tests)]


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
    """The reader's crawl, good texts and tests. Raises UserError if they are not enough."""
    if not (options.data and options.good):
        raise UserError("a crawl of your own needs --data and --good, "
                        "texts of the wanted quality")

    read = partial(load_text, options.data)
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
    """Clean a crawl: filter by quality, deduplicate, take test questions out. [GPT-3 App. A, C]"""
    is_own = options.data or options.good or options.tests
    if is_own:  # before the folder is emptied: this may be a UserError
        read, good, tests = read_own(options)
    settings = dataclasses.asdict(options)
    del settings["name"], settings["fresh"]
    folder = run_folder(options.name, settings, options.fresh)
    if not is_own:
        read, good, tests, _ = world_crawl(World(options.seed), options.pages, folder)
    print_table(clean(read, good, tests, folder, options.seed), folder / "table.json")
    print(f"what is left: {folder / 'clean.jsonl'}")
