"""
GPT-3's data pipeline, step by step: quality filter, fuzzy deduplication, decontamination, mixture.

Each step reads documents one at a time and yields those that it keeps, so the memory does not grow
with the crawl. It calls `dropped` with each text that it takes away.

Paper: GPT-3 (arXiv:2005.14165) §2.2, Table 2.2, Appendix A and C.
"""
import random
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

PUNCTUATION = [code for code in range(0x3100)
               if unicodedata.category(chr(code))[0] in "PS"]
NO_PUNCTUATION = dict.fromkeys(PUNCTUATION)  # for str.translate: None removes

FEATURES = 2 ** 18  # of the quality classifier, trained for EPOCHS from the rate LR on
EPOCHS = 5
LR = 20.0
ALPHA = 9.0         # of the quality filter; paper: 9
SLOTS = 2 ** 16     # documents that the deduplication remembers by each hash
# Decontamination, all as in the paper: words of an n-gram, characters cut on either side, and of
# the shortest piece that is kept; pieces of a document and documents with an n-gram, at the most.
NGRAM, AROUND, SHORTEST, MOST_PIECES, COMMON = 13, 200, 200, 10, 10


# ------------------------------------------------------------------------------
# Words and n-grams as numbers


def word_ids(text: str) -> np.ndarray:
    """The words of a text, without case and punctuation, as 32-bit hashes: uint64, (words,)."""
    words = text.lower().translate(NO_PUNCTUATION).split()
    hashes = [zlib.crc32(word.encode("utf-8", errors="replace")) for word in words]
    return np.array(hashes, np.uint64)


def gram_ids(words: np.ndarray, n: int) -> np.ndarray:
    """A 64-bit hash of every n words in a row: (words,) -> (words - n + 1,).

    A polynomial in the words, modulo 2^64. Two n-grams that differ in one word collide once in 2^32
    times, which is neglected.
    """
    count = max(0, len(words) - n + 1)
    grams = np.zeros(count, np.uint64)
    for i in range(n):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + words[i:i + count]
    return grams


# ------------------------------------------------------------------------------
# Quality [App. A]


class QualityClassifier:
    """Logistic regression on hashed words: does a text look like good ones or like the raw crawl?

    As in the paper the raw crawl is the negative class, its good pages included: where these are a
    quarter of it, even the best page scores no more than about 1 / (1 + 1/4). A word counts by its
    share of the text (in the paper by its count), so that long pages have no advantage.
    """

    def __init__(self):
        self.weights = np.zeros(FEATURES)
        self.bias = 0.0

    def __call__(self, text: str) -> float:
        """P(good), between 0 and 1."""
        return self.score(*self.features_of(text))

    def features_of(self, text: str):
        """The distinct words of a text and their shares of it."""
        hashed = word_ids(text) % np.uint64(FEATURES)
        words, counts = np.unique(hashed, return_counts=True)
        return words.astype(np.int64), counts / max(1, counts.sum())

    def score(self, words, shares) -> float:
        logit = self.bias + self.weights[words] @ shares
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))

    def fit(self, good: list[str], raw: list[str], rng: random.Random):
        """Stochastic gradient descent; the gradient of the log-likelihood is (label - P) x
        features."""
        examples = [(self.features_of(text), 1) for text in good]
        examples += [(self.features_of(text), 0) for text in raw]
        for epoch in range(EPOCHS):
            rate = LR / (1 + epoch)
            bias_rate = 0.1 / (1 + epoch)
            for (words, shares), label in rng.sample(examples, len(examples)):
                error = label - self.score(words, shares)
                self.weights[words] += rate * error * shares
                self.bias += bias_rate * error
        return self


def quality_filter(documents: Iterable[str], score: Callable[[str], float],
                   rng: np.random.Generator, dropped: Callable) -> Iterator[str]:
    """Keep a document if pareto(ALPHA) > 1 - score: with numpy's pareto
    P(keep) = (2 - score)^-ALPHA. So a little of what looks bad stays (.002 of the pages
    that score 0) and, of the world's good pages, which score .8 at best, only a fifth.
    """
    for document in documents:
        if rng.pareto(ALPHA) > 1 - score(document):
            yield document
        else:
            dropped(document)


# ------------------------------------------------------------------------------
# Near-duplicates [App. A]


def deduplicate(documents: Iterable[str], dropped: Callable, hashes: int = 10,
                threshold: float = 0.5) -> Iterator[str]:
    """Keep the first of each group of near-duplicates, by MinHash and locality-sensitive hashing.

    Two sets of word triples with Jaccard similarity J have the same smallest hash with probability
    J, so the share of equal ones among `hashes` of these estimates J. Documents that have at least
    one in common, which has the probability 1 - (1 - J)^hashes, are compared.

    Ten hashes as in the paper, which does not print its threshold. Its features are single words;
    ours are triples, because different documents of this simple English share too many words.
    Memory is fixed: one table for each hash, in which a new document takes the slot of an older
    one.
    """
    rng = np.random.default_rng(0)
    factors = rng.integers(1, 2 ** 63, size=(hashes, 1), dtype=np.uint64) | np.uint64(1)
    seen = np.zeros((hashes, SLOTS, hashes), np.uint32)
    tables = np.arange(hashes)
    for document in documents:
        words = word_ids(document)
        # A text without words has the hash 0, like an empty slot, and is dropped.
        grams = gram_ids(words, min(3, len(words)))  # (triples,)
        hashed = (grams * factors) >> np.uint64(32)  # (hashes, triples)
        signature = hashed.min(axis=1).astype(np.uint32)  # (hashes,)
        candidates = seen[tables, signature % SLOTS]  # (tables, hashes)
        similarity = (candidates == signature).mean(axis=1)  # (tables,)
        if similarity.max() >= threshold:
            dropped(document)
        else:
            seen[tables, signature % SLOTS] = signature
            yield document


# ------------------------------------------------------------------------------
# Decontamination [App. C]


def cuts_around(document: str, hits: list[int]) -> list[list[int]]:
    """The stretches [start, stop] of characters to cut: the NGRAM words from each hit on, and
    AROUND characters on either side. Overlapping ones are one."""
    words = [match.span() for match in re.finditer(r"\S+", document)
             if match[0].translate(NO_PUNCTUATION)]
    cuts = []
    for hit in hits:
        start = max(0, words[hit][0] - AROUND)
        stop = min(len(document), words[hit + NGRAM - 1][1] + AROUND)
        if cuts and start <= cuts[-1][1]:
            cuts[-1][1] = stop
        else:
            cuts.append([start, stop])
    return cuts


def decontaminate(read: Callable[[], Iterable[str]], tests: list[str],
                  dropped: Callable) -> Iterator[str]:
    """Cut every 13-gram that a test has, too, out of the documents, and 200 characters on either
    side.

    Pieces shorter than 200 characters are dropped, and so are documents in more than ten pieces. A
    13-gram in more than ten documents is a common phrase and stays. read() starts a pass over the
    documents; there are two.
    """
    targets = set()
    for test in tests:
        targets.update(gram_ids(word_ids(test), NGRAM).tolist())
    counts = Counter()
    for document in read():
        grams = gram_ids(word_ids(document), NGRAM).tolist()
        counts.update(targets.intersection(grams))
    targets = {gram for gram, count in counts.items() if count <= COMMON}

    for document in read():
        grams = gram_ids(word_ids(document), NGRAM).tolist()
        hits = [index for index, gram in enumerate(grams) if gram in targets]
        if not hits:
            yield document
            continue
        pieces = []
        end = 0
        for start, stop in cuts_around(document, hits):
            pieces.append(document[end:start])
            dropped(document[start:stop])
            end = stop
        pieces.append(document[end:])
        pieces = [piece for piece in pieces if piece]
        for piece in pieces:
            if len(piece) >= SHORTEST and len(pieces) <= MOST_PIECES:
                yield piece
            else:
                dropped(piece)


# ------------------------------------------------------------------------------
# Mixture [§2.2]


def endless(read: Callable[[], Iterable[str]]) -> Iterator[str]:
    """The documents of one pass after the other."""
    while True:
        yield from read()


def mix(sources: dict[str, tuple[Callable[[], Iterable[str]], float]],
        size: int) -> Iterator[str]:
    """About `size` characters of documents, each source with its share of them, whatever its own
    size.

    A small good source is read several times, a large one not to its end. sources: {name: (a
    function that starts a pass, weight)}, none of them empty.
    """
    documents = {name: endless(read) for name, (read, _) in sources.items()}
    given = Counter()
    while given.total() < size:
        # the source that is most behind its share
        name = min(sources, key=lambda name: given[name] / sources[name][1])
        document = next(documents[name])
        given[name] += len(document)
        yield document
