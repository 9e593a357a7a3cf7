"""
A dirty web whose truth is known: what GPT-3's data pipeline ought to find.

Three quarters of the pages are advertisements and menus. Of the rest some are
good texts, some are copies with small changes, and in some stands a question of a
test.
"""
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import ECHOED, World, atomic_write, load_text
from papers.tasks import wide_web

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


@dataclass
class Page:
    """A page of the crawl, and what is true of it."""
    text: str
    kind: str  # one of CRAWL
    copied: int = -1  # the number of the page that a copy was made from


def junk_page(rng: random.Random) -> str:
    """Advertisements and menus."""
    lines = []
    for line in rng.choices(BOILERPLATE, k=rng.randint(10, 40)):
        words = rng.choices([*ECHOED, "3", "12", "99"], k=4)
        lines.append(line.format(*words))
    return rng.choice(("\n", " ")).join(lines)


def copied_page(rng: random.Random, text: str) -> str:
    """A text in which one word in fifty is another one, and a line of
    boilerplate."""
    words = []
    for word in text.split(" "):
        if rng.random() < .02:
            word = rng.choice(ECHOED)
        words.append(word)
    return " ".join(words) + "\n\n" + rng.choice(BOILERPLATE)


def endless_documents(world: World, seed: int) -> Iterator[str]:
    """The wide web, without end."""
    for part in itertools.count():
        yield from wide_web(world, 1000, f"crawl {seed} {part}")


def crawl(world: World, count: int, seed: int, tests: list[str]) -> Iterator[Page]:
    """`count` pages; in those of the kind "leak" stands one of the tests."""
    rng = random.Random(f"crawl {world.seed} {seed}")
    documents = endless_documents(world, seed)
    kinds = rng.choices(list(CRAWL), weights=CRAWL.values(), k=count)
    recent = []  # (page number, text)
    for number, kind in enumerate(kinds):
        if kind == "junk":
            yield Page(junk_page(rng), "junk")
            continue
        if kind == "copy" and recent:
            original, text = rng.choice(recent)
            yield Page(copied_page(rng, text), "copy", original)
            continue

        parts = []
        length = rng.randint(500, 1500)
        while sum(map(len, parts)) < length:
            parts.append(next(documents))
        if kind == "leak":
            place = rng.randrange(len(parts) + 1)
            parts.insert(place, rng.choice(tests))
        text = "\n\n".join(parts)
        recent = [*recent[-299:], (number, text)]
        yield Page(text, "leak" if kind == "leak" else "good")


def world_crawl(world: World, pages: int, folder: Path):
    """Write the world's crawl as folder/crawl.jsonl.

    Returns a function that starts a pass over its texts, texts of the wanted
    quality, the tests that the crawl leaks, and as many tests that it does not.
    """
    rng = random.Random(f"tests {world.seed}")
    tests = {}  # by text, so that all are distinct
    for _ in range(300):
        text, summary = world.trip(rng, "test")
        tests[text] = f"{text}\nTL;DR: {summary}"
    leaked = list(tests.values())[::2]
    others = list(tests.values())[1::2]

    path = folder / "crawl.jsonl"
    with atomic_write(path) as file:
        for page in crawl(world, pages, 0, leaked):
            file.write(json.dumps({"text": page.text}).encode() + b"\n")

    def read() -> Iterator[str]:
        return load_text(path)

    good = ["\n\n".join(wide_web(world, 12, f"good {i}")) for i in range(2000)]
    return read, good, leaked, others
