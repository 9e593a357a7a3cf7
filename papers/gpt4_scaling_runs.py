"""
The training runs of gpt4_scaling.py, and a made-up language, whose entropy is known.

Papers: GPT-4 (arXiv:2303.08774) §3; Kaplan et al. (arXiv:2001.08361); Maloney et al., "A solvable
model of neural scaling laws" (arXiv:2210.16859).
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import data
import gpt
from gpt import GPT, GPTConfig
from papers.gpt4_scaling_tasks import VOCABULARY


@dataclass
class Setting:
    """What all runs on one text have in common."""
    block_size: int
    n_layer: int
    lr: float                                  # AdamW's rate is lr / width
    tokens_per_step: Callable[[float], float]  # by the tokens of the run [Kaplan §5.1]


CODE = Setting(256, 2, .4, lambda tokens: 512 if tokens < 1e6 else 1024)
# At widths 32 and 96 neither half nor twice of this rate or batch is better by .1 %.
LANGUAGE = Setting(16, 1, .6, lambda tokens: tokens ** (2 / 3) / 13)


def train_run(setting: Setting, text: tuple, path: Path, width: int, seed: int, tokens: float = 0,
              compute: float = 0):
    """Train a model on so many tokens, or with so much compute 6 N D, or load it: (model, what is
    known of the run). text: (tokenizer, training tokens, validation tokens)."""
    tokenizer, _, validation = text
    torch.manual_seed(seed)
    model = GPT(GPTConfig(tokenizer.vocab_size, setting.block_size, n_layer=setting.n_layer,
                          n_head=2, n_embd=width)).to(gpt.pick_device())
    N = model.num_params() - model.wte.weight.numel() - model.wpe.weight.numel()
    tokens = tokens or compute / (6 * N)
    batch_size = max(1, round(setting.tokens_per_step(tokens) / setting.block_size))
    per_step = batch_size * setting.block_size
    steps = math.ceil(tokens / per_step)
    D = steps * per_step
    config = gpt.TrainConfig(steps=steps, batch_size=batch_size, lr=setting.lr / width, seed=seed,
                             eval_every=500)
    gpt.train(model, *text, config, path, gpt.RunLog(path.with_suffix(".jsonl")))
    loss = gpt.evaluate(model, tokenizer, validation, max_tokens=200_000)["loss"]
    return model, {"width": width, "N": N, "D": D, "compute": 6.0 * N * D, "loss": loss}


# --------------------------------------------------------------------------------------------------
# The made-up language

# How strongly the next token depends on the last one, and how fast the singular values of this
# dependence fall.
STRENGTH, FALL = 2.5, 0.6
CHAINS = 1000  # pieces of the text; each starts anew


def next_token_probabilities(seed: int) -> np.ndarray:
    """P (V, V): row i is the distribution of the token after token i.

        P[i, j] is proportional to exp(G[i, j]) / (j + 2),  G = STRENGTH sum_k k^-FALL u_k v_k^T

    1 / (j + 2) is a frequency as in Zipf's law. The u_k and v_k are random directions, and G is
    scaled such that STRENGTH is the standard deviation of its entries. Whatever rank of G a model
    represents, a rest is left to learn, smaller by a power of that rank. [Maloney et al. 2022]
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
    """Nats per token that no model can do without: the mean entropy of the next token."""
    return float(-stationary(P) @ (P * np.log(P)).sum(axis=1))


def make_language(folder: Path, seed: int, tokens: int):
    """(training tokens, validation tokens, entropy). The ids are token ids as any others."""
    P = next_token_probabilities(seed)
    path = folder / "language.bin"
    if not path.exists():
        rng = np.random.default_rng([seed, 2])
        newest = rng.choice(VOCABULARY, size=CHAINS, p=stationary(P))  # (CHAINS,)
        upper = P.cumsum(axis=1)  # (V, V)
        text = [newest]
        for _ in range(tokens // CHAINS):
            below = upper[newest] < rng.random((CHAINS, 1))  # (CHAINS, V)
            newest = below.sum(axis=1).clip(max=VOCABULARY - 1)
            text.append(newest)
        with data.atomic_write(path) as file:
            file.write(np.stack(text, axis=1).astype(np.uint32).tobytes())  # chain by chain
    return *data.open_stream(path, VOCABULARY), entropy(P)
