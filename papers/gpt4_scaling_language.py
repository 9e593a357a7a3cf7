"""
A made-up language for gpt4_scaling.py, whose entropy is known.

Paper: Maloney et al., "A solvable model of neural scaling laws" (arXiv:2210.16859), which explains
why data whose spectrum falls as a power may give a power law. No such law is computed here.
"""
from pathlib import Path

import numpy as np

from data import atomic_write
from papers.gpt4_scaling_tasks import VOCABULARY

# How strongly the next token depends on the last one, and how fast the singular values of this
# dependence fall.
STRENGTH, FALL = 2.5, 0.6
# Independent pieces of a text, drawn at the same time. Only their first tokens, one in 4,500 (in
# validation one in 500), do not depend on the token before.
CHAINS = 1000
VALIDATION = 500_000  # tokens


def next_token_probabilities(seed: int) -> np.ndarray:
    """P (V, V): row i is the distribution of the token after token i.

        P[i, j] is proportional to exp(G[i, j]) / (j + 2),  G = STRENGTH sum_k k^-FALL u_k v_k^T

    Without G the frequencies would be near Zipf's law. The u_k and v_k are random directions, and
    G is scaled such that STRENGTH is the standard deviation of its entries. All V singular values
    of G matter, so no model that is narrower than V represents it exactly.
    """
    rng = np.random.default_rng([seed, 1])
    u, _ = np.linalg.qr(rng.standard_normal((VOCABULARY, VOCABULARY)))
    v, _ = np.linalg.qr(rng.standard_normal((VOCABULARY, VOCABULARY)))
    k = np.arange(1, VOCABULARY + 1)
    G = (u * k ** -FALL) @ v.T
    P = np.exp(STRENGTH * G / G.std()) / (k + 1)
    return P / P.sum(axis=1, keepdims=True)


def stationary(P: np.ndarray) -> np.ndarray:
    """The frequencies (V,) of the tokens in a long text: pi = pi P."""
    frequencies = np.full(len(P), 1 / len(P))
    for _ in range(200):
        frequencies = frequencies @ P
    return frequencies


def entropy(P: np.ndarray) -> float:
    """The mean entropy of the next token, in nats: no model has a smaller expected loss."""
    return float(-stationary(P) @ (P * np.log(P)).sum(axis=1))


def write_language(path: Path, seed: int, tokens: int, part: int):
    """Write so many tokens (rounded down to full chains) of the language of a seed, chain by chain.
    `part`: which of its texts. A token is a number below VOCABULARY and stands for no text."""
    P = next_token_probabilities(seed)
    upper = P.cumsum(axis=1)  # (V, V)
    rng = np.random.default_rng([seed, 2, part])
    newest = rng.choice(VOCABULARY, size=CHAINS, p=stationary(P))  # (CHAINS,)
    text = [newest]
    for _ in range(tokens // CHAINS - 1):
        below = upper[newest] < rng.random((CHAINS, 1))  # (CHAINS, V)
        newest = below.sum(axis=1).clip(max=VOCABULARY - 1)  # the last sum may be less than 1
        text.append(newest)
    with atomic_write(path) as file:
        file.write(np.stack(text, axis=1).astype(np.uint32).tobytes())


def make_language(folder: Path, seed: int, training: int) -> tuple:
    """(training tokens, validation tokens, entropy); the tokens are kept in files of the folder."""
    streams = []
    for part, tokens in enumerate((training, VALIDATION)):
        path = folder / f"{seed}-language-{part}.bin"
        if not path.exists():
            write_language(path, seed, tokens, part)
        streams.append(np.fromfile(path, np.uint32))
    return *streams, entropy(next_token_probabilities(seed))
