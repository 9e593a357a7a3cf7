# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "numpy", "tiktoken"]
# ///
"""
gpt.py: the model. GPT-1, GPT-2 and GPT-3 are one class and a few switches.

A GPT maps token ids to logits over the next token. Here are the transformer, with a fused attention of our
own in plain PyTorch, sampling with a cache, training, evaluation, the door to published weights, and the
experiments of the three papers.

    python gpt.py                              train the default model on the embedded world (about 3 minutes
                                               on 2 CPU cores), print loss, bits per byte and samples
    python gpt.py pretrain --data my.txt       the same on your own text (a file, a folder, a URL, a name)
    python gpt.py gpt1                         GPT-1: four tasks, pretrained and not (14 minutes)
    python gpt.py gpt2                         GPT-2: zero-shot tasks on six sizes (11 minutes)
    python gpt.py gpt3                         GPT-3: examples in the prompt, bands, clean text (12 minutes)
    python gpt.py sample --prompt "Mia lives"  text from a trained model, or with --model gpt2 from OpenAI's
    python gpt.py export                       a trained model as a folder that transformers opens
    python gpt.py sizes                        the papers' models: parameters, memory, compute
    python gpt.py bench                        attention: time and peak memory of three ways to compute it

Papers: GPT-1 (Radford et al. 2018); GPT-2 (Radford et al. 2019); GPT-3 (arXiv:2005.14165);
FlashAttention-2 (arXiv:2307.08691); Muon (Jordan et al. 2024).

Contents
    1. The family: GPTConfig, PRESETS
    2. Attention: attention, fused_attention
    3. The block: CausalSelfAttention, MLP, Block
    4. The model: GPT, KVCache
    5. Sampling: sample_next_token, generate, generate_steps, complete, beam_search
    6. Optimizers: Muon, make_optimizers, schedule
    7. Checkpoints and logs: save_checkpoint, load_checkpoint, RunLog
    8. Training and evaluation: train, evaluate, completion_logprob, choose
    9. Weights of the real world: RELEASED, load_pretrained, export_pretrained
    10. GPT-1: LSTM, transfer, Classifier, fine_tune, zero_shot, FineTuning, gpt1
    11. GPT-2: zero_shot_tasks, gpt2
    12. GPT-3: few_shot_accuracy, scorings, synthetic_tasks, banded_attention, data_effect, gpt3
    13. Commands: pretrain, sample, sizes, export, bench

Letters: B batch, T time (tokens), C = n_embd, nh heads, hs = C / nh head size, V vocabulary, P prompt length,
R response length. idx are token ids.
"""
from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Threads that wait for each other sleep soon instead of spinning, or one busy program beside this one makes
# training four times slower (now two). libgomp reads this when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
import torch
import torch.nn as nn
import torch.nn.functional as F

from data import (ECHOED, GPT1_TASKS, NEW_TOKENS, PRACTISED, SPECIAL_TOKENS, TOPICS, WEBS, WORLD_DOCUMENTS,
                  Batches, GPT1Tokenizer, Labeled, Tokenizer, UserError, World, atomic_write, bleu,
                  cache_folder, classification_input, clean, command_line, download, few_shot_prompt,
                  gpt1_task, gpt2_task, gpt3_task, load_labeled, load_text, mix, ngram_f1, open_stream,
                  require, right_pad, rouge, rule, split_sentences, train_bpe, web, world_crawl,
                  write_stream)


# ----------------------------------------------------------------------------------------------------------
# 1. The family: GPTConfig, PRESETS                                                          [GPT-2 Table 2]


@dataclass(slots=True)
class GPTConfig:
    """The shape of a model; the defaults are GPT-2's smallest."""
    vocab_size: int = 50257
    block_size: int = 1024      # context length in tokens
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0        # on embeddings and on what each sub-layer adds; never inside attention
    post_norm: bool = False     # GPT-1: normalize behind each sub-layer, and not at the end
    window: int | None = None   # GPT-3: every other layer sees only so many tokens back


PRESETS = {
    "gpt1": GPTConfig(vocab_size=40478, block_size=512, post_norm=True),
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
    # Table 2.1, less its misprints (XL: 24 heads of 128 are not 2048 wide; 13B: 5140 is no multiple of 40).
    # How wide its bands are, and whether the even or the odd layers have them, the paper does not say
    **{f"gpt3-{name}": GPTConfig(block_size=2048, n_layer=n_layer, n_head=n_head, n_embd=n_embd, window=256)
       for name, n_layer, n_head, n_embd in (
           ("small", 12, 12, 768), ("medium", 24, 16, 1024), ("large", 24, 16, 1536), ("xl", 24, 16, 2048),
           ("2.7b", 32, 32, 2560), ("6.7b", 32, 32, 4096), ("13b", 40, 40, 5120), ("175b", 96, 96, 12288))},
    # the sizes that we train, each about twice the one before
    **{name: GPTConfig(1152, 128, n_layer, n_head, n_embd) for name, n_layer, n_head, n_embd in (
        ("24k", 1, 2, 16), ("45k", 1, 2, 28), ("90k", 1, 3, 48), ("180k", 2, 2, 64), ("340k", 2, 3, 96),
        ("760k", 3, 4, 128))},
}

OUR_SIZES = [name for name, config in PRESETS.items() if config.block_size == 128]

# ----------------------------------------------------------------------------------------------------------
# 2. Attention: attention, fused_attention                 [GPT-1 §3.1; FlashAttention-2 Algorithms 1 and 2]


def attention(q, k, v, window: int | None = None):
    """Causal attention as the equation says: softmax(q k^T / sqrt(hs) + mask) v. (B, nh, T, hs) x 3 -> same.

    Position i sees j <= i, and with a window only i - window < j. O(T^2) memory.
    The reference for what follows.
    """
    T, hs = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)                       # (B, nh, T, T)
    i, j = torch.arange(T, device=q.device)[:, None], torch.arange(T, device=q.device)
    visible = (j <= i) if window is None else (j <= i) & (i - window < j)  # (T, T)
    # -inf, not a large negative number: a hot model drives finite masks over and sees the future
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1) @ v     # (B, nh, T, hs)


def fused_attention(q, k, v, window: int | None = None):
    """The same function without ever holding a T x T matrix; shapes as `attention`. Any device, any float
    type: bfloat16 is computed in float32 (TF32 on CUDA), for a rounded score is an exponent that is off."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        return FusedAttention.apply(q.to(wide), k.to(wide), v.to(wide), window).to(q.dtype)


TILE = 2 ** 21          # scores that are computed at once: 8 MB, which should stay in the processor's cache


class FusedAttention(torch.autograd.Function):
    """Attention by tiles of scores: time O(T^2), or O(T window); memory O(T).

    Forward, a block of query rows meets all the keys it sees at once, so its softmax needs no running
    maximum. Backward, a block of keys meets all the queries that see it: dK and dV of the block are then
    complete, and dQ adds up. The probabilities are computed again from L = log2(sum of 2^scores), one
    number per row. Tiles, and parts of tiles, that no one can see are skipped, not masked. Softmax is
    taken to base 2 (q carries the factor log2 e), because processors compute 2^x faster than e^x.
    """

    @staticmethod
    def forward(ctx, q, k, v, window):
        ctx.shape, ctx.window = q.shape, window
        q = q * (math.log2(math.e) / math.sqrt(q.size(-1)))
        q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))         # (B*nh, T, hs)
        out, L = torch.empty_like(v), q.new_empty(len(q), 1, q.size(1))     # (B*nh, T, hs), (B*nh, 1, T)
        for heads, start, stop, (buffer, _) in _tiles(q, window):
            first = 0 if window is None else max(0, start - window + 1)     # the first key that any row sees
            scores = _product(q[heads, start:stop], k[heads, first:stop], buffer)       # (n, rows, keys)
            doubtful = start if window is None else first                   # keys before it are seen by all
            i, j = torch.arange(start, stop)[:, None], torch.arange(doubtful, stop)
            scores[:, :, doubtful - first:].masked_fill_(_hidden(i, j, window).to(q.device), -math.inf)
            top = scores.amax(-1, keepdim=True)                             # (n, rows, 1)
            scores.sub_(top).exp2_()
            total = scores.sum(-1, keepdim=True)
            out[heads, start:stop] = torch.bmm(scores, v[heads, first:stop]).div_(total)
            L[heads, 0, start:stop] = (top + total.log2()).squeeze(-1)
        ctx.save_for_backward(q, k, v, out, L)
        return out.view(ctx.shape)

    @staticmethod
    def backward(ctx, grad_out):
        (q, k, v, out, L), window, T = ctx.saved_tensors, ctx.window, ctx.shape[-2]
        grad_out = grad_out.reshape(out.shape)
        delta = (grad_out * out).sum(-1)[:, None]                           # (B*nh, 1, T)
        dq, dk, dv = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
        for heads, start, stop, (buffer, other) in _tiles(q, window):
            last = T if window is None else min(T, stop + window - 1)       # the last query that sees any key
            queries, keys = (heads, slice(start, last)), (heads, slice(start, stop))
            p = _product(k[keys], q[queries], buffer)                       # (n, keys, queries): S^T
            p.sub_(L[heads, :, start:last]).exp2_()                         # P^T = 2^(S^T - L)
            doubtful = stop if window is None else last                     # queries from it on see all keys
            i, j = torch.arange(start, doubtful), torch.arange(start, stop)[:, None]
            p[:, :, :doubtful - start].masked_fill_(_hidden(i, j, window).to(q.device), 0)
            dv[keys] = torch.bmm(p, grad_out[queries])                      # dV = P^T dO
            ds = _product(v[keys], grad_out[queries], other)                # dP^T = V dO^T
            ds.sub_(delta[heads, :, start:last]).mul_(p)                    # dS^T = P^T * (dP^T - delta)
            dk[keys] = torch.bmm(ds, q[queries])                            # dK = dS^T Q
            dq[queries] += torch.bmm(ds.transpose(1, 2), k[keys])           # dQ = dS K
        dk /= math.log2(math.e)         # the true dK is dS^T Q / sqrt(hs), and q here is Q log2(e) / sqrt(hs)
        dq /= math.sqrt(q.size(-1))     # the true dQ is dS K / sqrt(hs)
        return dq.view(ctx.shape), dk.view(ctx.shape), dv.view(ctx.shape), None


def _tiles(q, window):
    """Yields (a slice of the heads, start, stop of a block of positions,
    two buffers that hold a tile each)."""
    n, T, _ = q.shape
    reach = min(T, window or T)
    block = 64 if reach <= 512 else 128      # long blocks are faster, but waste more at their ends
    together = min(n, max(1, TILE // (block * min(T, reach + block))))
    buffers = q.new_empty(2, together * block * min(T, reach + block))   # once: asking for memory takes time
    for head in range(0, n, together):
        for start in range(0, T, block):
            yield slice(head, min(head + together, n)), start, min(start + block, T), buffers


def _product(a, b, buffer):
    """a (n, I, hs), b (n, J, hs) -> a b^T (n, I, J), written into the buffer."""
    shape = len(a), a.size(1), b.size(1)
    return torch.bmm(a, b.transpose(1, 2), out=buffer[:math.prod(shape)].view(shape))


def _hidden(i, j, window):
    """Where query i does not see key j."""
    return (j > i) if window is None else (j > i) | (j <= i - window)


# ----------------------------------------------------------------------------------------------------------
# 3. The block: CausalSelfAttention, MLP, Block                                                 [GPT-2 §2.3]


class CausalSelfAttention(nn.Module):
    """Multi-head attention: (B, T, C) -> (B, T, C). With a cache the T tokens follow those that it holds."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.n_head, self.layer = config.n_head, layer
        self.window = config.window if layer % 2 else None         # dense and banded in turn [GPT-3 §2.1]
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, cache: KVCache | None = None):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)     # (B, nh, T, hs)
                   for part in self.c_attn(x).split(C, dim=2))
        y = (fused_attention(q, k, v, self.window) if cache is None else
             cache.attend(self.layer, q, k, v, self.window))                          # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)                                        # heads side by side
        return self.dropout(self.c_proj(y))


class MLP(nn.Module):
    """Two layers, four times as wide between them, each position alone: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        # the tanh form of GELU, as in all code that OpenAI released:
        # 0.5x(1 + tanh(sqrt(2/pi)(x + 0.044715x^3)))
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.post_norm = config.post_norm
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, cache: KVCache | None = None):
        if self.post_norm:                                  # GPT-1: the stream itself is normalized
            x = self.ln_1(x + self.attn(x, cache))
            return self.ln_2(x + self.mlp(x))
        x = x + self.attn(self.ln_1(x), cache)              # GPT-2 moved the normalization to the input of
        return x + self.mlp(self.ln_2(x))                   # each sub-block, and added one at the end [§2.3]


# ----------------------------------------------------------------------------------------------------------
# 4. The model: GPT, KVCache                                                                    [GPT-2 §2.3]


class GPT(nn.Module):
    """Token ids in, logits over the next token out. Raises UserError if the heads do not divide the width."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        if config.n_embd % config.n_head:
            raise UserError(f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)    # token embeddings, also the output layer
        self.wpe = nn.Embedding(config.block_size, config.n_embd)    # position embeddings
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.Identity() if config.post_norm else nn.LayerNorm(config.n_embd)
        self.apply(self._init_weights)
        if config.post_norm:
            return                                                   # GPT-1: N(0, 0.02) everywhere
        nn.init.normal_(self.wpe.weight, std=0.01)                   # as in OpenAI's code
        # 2 * n_layer sub-layers add to the residual stream; scaled down, their sum keeps the variance of one
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))

    @staticmethod
    def _init_weights(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def hidden(self, idx, cache: KVCache | None = None):
        """What the head reads: (B, T) -> (B, T, C). With a cache, idx continues what the cache holds."""
        T = idx.size(1)
        if cache is not None and cache.used and T > 1:
            return torch.cat([self.hidden(token, cache) for token in idx.split(1, dim=1)], dim=1)
        if cache is None:
            if T > self.config.block_size:
                raise UserError(f"{T} tokens do not fit into a context of {self.config.block_size}")
            positions = torch.arange(T, device=idx.device)             # (T,)
        else:
            positions = cache.positions(T)                             # (B or 1, T)
        x = self.dropout(self.wte(idx) + self.wpe(positions))          # (B, T, C)
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            cache.advance(T)
        return self.ln_f(x)

    def forward(self, idx, targets=None, cache: KVCache | None = None):
        """(B, T) ids -> logits (B, T, V) for the token behind each position, and the loss if targets are
        given: mean cross-entropy in nats over the targets (B, T) that are not -1."""
        logits = F.linear(self.hidden(idx, cache), self.wte.weight)    # the output layer is wte: tied weights
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss

    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self):
        return self.wte.weight.device


class KVCache:
    """Keys and values of the tokens that have been read, so that each is computed once.

    A prompt comes first, padded on the right, then one token per row at a time. A layer keeps its keys in a
    ring: position p in slot p % size, where size is the whole length, or in a banded layer only the window.
    lengths[b] tokens of row b have been read; rows may differ.
    """

    def __init__(self, model: GPT, lengths, max_length: int):
        """lengths (B,): the true lengths of the prompts that will be read first."""
        B, c, sizes = len(lengths), model.config, [block.attn.window or max_length for block in model.h]
        self.k = [torch.zeros(B, c.n_head, min(size, max_length), c.n_embd // c.n_head, device=model.device,
                              dtype=model.wte.weight.dtype) for size in sizes]
        self.v = [torch.zeros_like(k) for k in self.k]
        self.lengths = lengths
        self.used = 0                          # tokens read, of the longest row, pads included

    def select(self, rows):
        """Keep only these rows of the batch."""
        self.k, self.v = [k[rows] for k in self.k], [v[rows] for v in self.v]
        self.lengths = self.lengths[rows]

    def positions(self, T: int):
        """Of the next T tokens: (B or 1, T)."""
        return self.lengths[:, None] if self.used else torch.arange(T, device=self.lengths.device)[None]

    def advance(self, T: int):
        """The T tokens have passed all layers."""
        if self.used:
            self.lengths = self.lengths + T
        self.used += T

    def attend(self, layer: int, q, k, v, window: int | None):
        """Store the keys and values of a prompt, or of one token, and let its queries look.
        (B, nh, T, hs) x 3 -> the same."""
        size, hs = self.k[layer].shape[2:]
        newest = self.lengths[:, None] - int(not self.used)                                # (B, 1)
        slots = torch.arange(min(size, self.used + 1) if self.used else size, device=q.device)
        held = newest - (newest - slots) % size          # (B, slots): what position each holds; below 0: none
        if not self.used:
            index = held.clamp(min=0)[:, None, :, None].expand(-1, q.size(1), -1, hs)     # (B, nh, size, hs)
            self.k[layer], self.v[layer] = k.gather(2, index), v.gather(2, index)
            return fused_attention(q, k, v, window)
        rows = torch.arange(len(q), device=q.device)
        self.k[layer][rows, :, self.lengths % size] = k[:, :, 0]                          # (B, nh, hs)
        self.v[layer][rows, :, self.lengths % size] = v[:, :, 0]
        keys, values = self.k[layer][:, :, :len(slots)], self.v[layer][:, :, :len(slots)]
        scores = q @ keys.transpose(-2, -1) / math.sqrt(hs)                               # (B, nh, 1, slots)
        return scores.masked_fill((held < 0)[:, None, None], -math.inf).softmax(dim=-1) @ values


# ----------------------------------------------------------------------------------------------------------
# 5. Sampling: sample_next_token, generate, generate_steps, complete, beam_search


def truncate_logits(logits, top_k: int | None = None, top_p: float | None = None):
    """(B, V) -> (B, V) with -inf outside the k most likely tokens, and outside the smallest set of most
    likely tokens whose probabilities reach top_p (nucleus sampling). The most likely token always stays."""
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.size(-1)), dim=-1).values[:, -1:]           # (B, 1)
        logits = logits.masked_fill(logits < kth, -math.inf)
    if top_p is not None:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        beyond = probabilities.cumsum(dim=-1) - probabilities >= top_p    # reached before this token
        beyond[:, 0] = False
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), -math.inf)
    return logits


def sample_next_token(logits, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
                      generator: torch.Generator | None = None):
    """(B, V) logits -> (B,) ids. All randomness of generation is here;
    temperature 0 takes the most likely."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = truncate_logits(logits / temperature, top_k, top_p).softmax(dim=-1).cumsum(dim=-1)   # (B, V)
    # one random number per row finds its token; torch.multinomial draws one per token of the vocabulary
    u = torch.rand(len(logits), 1, generator=generator, device=logits.device)                         # (B, 1)
    u = u * cumulative[:, -1:] * (1 - torch.finfo(torch.float32).eps)   # stays below the sum when rounded
    return torch.searchsorted(cumulative, u, right=True).squeeze(1)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside this block; behind it, whatever it was before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def set_dropout(model: nn.Module, p: float):
    """Change the dropout of a model that exists."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


@torch.no_grad()
def generate_steps(model: GPT, idx, max_new_tokens: int, lengths=None, temperature: float = 1.0,
                   top_k: int | None = None, top_p: float | None = None, stop_tokens: tuple[int, ...] = (),
                   pad_token: int = 0, generator: torch.Generator | None = None,
                   return_logprobs: bool = False):
    """Yields, per step, the next token of every row (B,) and, if asked for, its log-probability (B,) under
    the model at this temperature, before any truncation (else None). idx (B, P) holds prompts padded on the
    right, lengths (B,) their true lengths (default: P). A row ends with the first of its stop tokens; then
    come pad_token and 0.

    Positions are learned, so a full context cannot slide: when a row reaches the end of the context, every
    row keeps the last half of its context and is read anew.
    """
    B, device, limit = idx.size(0), model.device, model.config.block_size
    lengths = torch.full((B,), idx.size(1), device=device) if lengths is None else lengths
    texts = [row[:n].tolist() for row, n in zip(idx, lengths)]
    stops = torch.tensor(stop_tokens, dtype=torch.long, device=device)
    going = torch.arange(B, device=device)                             # the rows that are still read, and
    ended = torch.zeros(B, dtype=torch.bool, device=device)            # which of these have ended meanwhile
    cache = None
    with evaluating(model):
        for _ in range(max_new_tokens):
            if cache is None or cache.used == limit:
                keep = limit - 1 if cache is None else limit // 2
                padded, kept = to_tensors([texts[i][-keep:] for i in going.tolist()], 0, device)
                cache = KVCache(model, kept, min(limit, padded.size(1) + max_new_tokens))
                hidden = model.hidden(padded, cache)[torch.arange(len(going)), kept - 1]         # (rows, C)
            else:
                hidden = model.hidden(tokens[:, None], cache)[:, -1]
            logits = F.linear(hidden, model.wte.weight)                                          # (rows, V)
            tokens = sample_next_token(logits, temperature, top_k, top_p, generator)             # (rows,)
            all_tokens, logprobs = torch.full((B,), pad_token, device=device), None
            all_tokens[going] = tokens.masked_fill(ended, pad_token)
            if return_logprobs:
                chosen = (logits / (temperature or 1)).log_softmax(dim=-1).gather(1, tokens[:, None])
                chosen = chosen.squeeze(1)                                                       # (rows,)
                logprobs = chosen.new_zeros(B).index_copy(0, going, chosen.masked_fill(ended, 0.0))
            yield all_tokens, logprobs
            for i, token in zip(going.tolist(), tokens.tolist()):
                texts[i].append(token)
            ended = ended | torch.isin(tokens, stops)
            if ended.all():
                return
            if ended.sum() > len(going) // 4:   # reading on for nobody costs more than moving the others
                rest = (~ended).nonzero().squeeze(1)
                going, tokens, ended = going[rest], tokens[rest], ended[rest]
                cache.select(rest)


def generate(model: GPT, idx, max_new_tokens: int, *args, return_logprobs: bool = False, **kwargs):
    """Continue every prompt: (B, P) -> (B, R), R <= max_new_tokens. With return_logprobs also (B, R)
    log-probabilities. The other arguments are those of `generate_steps`."""
    steps = generate_steps(model, idx, max_new_tokens, *args, return_logprobs=return_logprobs, **kwargs)
    tokens, logprobs = zip(*steps)
    tokens = torch.stack(tokens, dim=1)                                    # (B, R)
    return (tokens, torch.stack(logprobs, dim=1)) if return_logprobs else tokens


def to_tensors(rows: list[list[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (B, T) padded on the right, and their lengths (B,)."""
    ids, lengths = right_pad(rows, pad)
    return torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)


def complete(model: GPT, tokenizer: Tokenizer, prompts: list[list[int]], stops: tuple[int, ...],
             max_new_tokens: int, seed: int = 0, **sampling) -> list[tuple[str, bool]]:
    """Continue many prompts of ids until a stop token: (text, whether a stop token came) for each."""
    generator, answers = torch.Generator(model.device).manual_seed(seed), []
    for start in range(0, len(prompts), 256):
        ids, lengths = to_tensors(prompts[start:start + 256], tokenizer.pad, model.device)
        for row in generate(model, ids, max_new_tokens, lengths, stop_tokens=stops,
                            pad_token=tokenizer.pad, generator=generator, **sampling).tolist():
            end = next((i for i, token in enumerate(row) if token in stops), None)
            text = tokenizer.decode(token for token in row[:end] if token != tokenizer.pad)
            answers.append((text.strip(), end is not None))
    return answers


@torch.no_grad()
def beam_search(model: GPT, idx, max_new_tokens: int, beams: int = 4, alpha: float = 0.6,
                stop_token: int | None = None) -> list[int]:
    """The most likely continuation of one prompt, ids (P,), that keeping the best `beams` at each step finds.

    Hypotheses are compared by log P / ((5 + n) / 6)^alpha, n their length, so that short ones do not always
    win; beams 4 and alpha 0.6 are GPT-3's [§2.4]. Raises UserError if the context is too small.
    """
    if len(idx) + max_new_tokens > model.config.block_size:
        raise UserError(f"{len(idx)} + {max_new_tokens} tokens do not fit into a context of "
                        f"{model.config.block_size}")
    penalty = lambda n: ((5 + n) / 6) ** alpha
    lengths, tokens = torch.tensor([len(idx)], device=idx.device), idx[None]
    cache = KVCache(model, lengths, len(idx) + max_new_tokens)
    alive, finished = [(0.0, [])], []                                      # (log P, ids so far)
    for _ in range(max_new_tokens):
        with evaluating(model):
            logits = F.linear(model.hidden(tokens, cache)[:, -1], model.wte.weight)           # (alive, V)
        scores = torch.tensor([[score] for score, _ in alive], device=logits.device)          # (alive, 1)
        totals = scores + logits.log_softmax(dim=-1)
        best, places = totals.flatten().topk(min(2 * beams, totals.numel()))
        parents, grown = [], []
        for rank, (score, place) in enumerate(zip(best.tolist(), places.tolist())):
            parent, token = divmod(place, logits.size(1))
            ids = alive[parent][1] + [token]
            if token == stop_token:
                finished += [(score / penalty(len(ids)), ids)] if rank < beams else []
            elif len(grown) < beams:
                parents.append(parent)
                grown.append((score, ids))
        alive = grown
        # no living one can still win: log P only falls, and the penalty never exceeds that of the full length
        if not alive or finished and max(finished)[0] >= alive[0][0] / penalty(max_new_tokens):
            break
        cache.select(torch.tensor(parents, device=model.device))
        tokens = torch.tensor([ids[-1:] for _, ids in alive], device=model.device)
    return max(finished + [(score / penalty(len(ids)), ids) for score, ids in alive])[1]


# ----------------------------------------------------------------------------------------------------------
# 6. Optimizers: Muon, make_optimizers, schedule


def orthogonalize(matrices, steps: int = 5):
    """Newton-Schulz: move every singular value of (N, rows, columns) matrices towards 1, keeping the vectors.

    Each step applies x -> ax + bx^3 + cx^5 to the singular values, with coefficients that are steep at 0 and
    end up anywhere in 0.7 … 1.2. In the precision that it is given: bfloat16 is slow on CPUs.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)               # all singular values are now <= 1
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)                                # (N, rows, rows), rows the smaller side
        x = torch.baddbmm(a * x, b * gram + c * gram @ gram, x)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: for the weight matrices inside the blocks. [Jordan et al. 2024]

    The update of a matrix has the singular vectors of its momentum but singular values near 1, so directions
    that the gradient rarely shows learn as fast as the loud ones. Matrices of one shape go through together.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])       # Nesterov: look one step ahead
                by_shape.setdefault(p.shape, []).append((p, update))
            for (rows, columns), members in by_shape.items():
                updates = orthogonalize(torch.stack([update for _, update in members]))
                scale = group["lr"] * max(1, rows / columns) ** 0.5   # the same change per output, any shape
                for (p, _), update in zip(members, updates):
                    p.sub_(update, alpha=scale)


def make_optimizers(model: nn.Module, lr: float, muon_lr: float | None = None, betas=(0.9, 0.95),
                    weight_decay: float = 0.0) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or, with muon_lr, Muon for the matrices in the blocks and AdamW for the rest.
    Decay is for matrices and embeddings, never for gains and biases. Each group remembers its peak rate."""
    parameters = dict(model.named_parameters())
    muon = {n: p for n, p in parameters.items() if muon_lr and p.ndim == 2 and ".h." in f".{n}"}
    rest = [p for n, p in parameters.items() if n not in muon]
    groups = [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
              {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
    optimizers = [torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)]
    if muon:
        optimizers.append(Muon(muon.values(), lr=muon_lr))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def schedule(step: int, steps: int, warmup: int, final: float = 0.1) -> float:
    """The share of the peak learning rate at a step: up linearly over `warmup`,
    then a cosine down to `final`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizers: list[torch.optim.Optimizer], share: float):
    """Every group to this share of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


# ----------------------------------------------------------------------------------------------------------
# 7. Checkpoints and logs: save_checkpoint, load_checkpoint, RunLog


def save_tensors(path: str | Path, content: dict):
    """Tensors, numbers, text and containers of these, as one file that appears whole or not at all."""
    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except RuntimeError as error:       # what torch.save makes of a full disk
        raise UserError(f"could not write {path} (is the disk full?): {error}") from None


def load_tensors(path: str | Path) -> dict:
    """What save_tensors wrote. Nothing in the file is executed (weights_only)."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:                   # a damaged file can fail in any way
        raise UserError(f"{path} is not a checkpoint, or it is damaged; delete it to start anew") from None


def save_checkpoint(path: str | Path, model: nn.Module, tokenizer: Tokenizer, settings: dict, **state):
    """One file with all that a run needs: weights, configuration, tokenizer, and `state`.
    `settings` says what the run was asked for; see `load_checkpoint`."""
    save_tensors(path, {"config": dataclasses.asdict(model.config), "model": model.state_dict(),
                        "tokenizer": tokenizer.to_json(), "settings": settings, **state})


def load_checkpoint(path: str | Path, settings: dict | None = None) -> dict | None:
    """The content of a checkpoint: "model" is a state dict, "config" a GPTConfig, "tokenizer" a Tokenizer.

    With `settings`: None unless the file exists and was made with just these. Raises UserError for what is
    missing or not a checkpoint of ours.
    """
    if not Path(path).exists():
        if settings is not None:
            return None
        raise UserError(f"no checkpoint at {path}; `python gpt.py` or `python rlhf.py` makes one")
    content = load_tensors(path)
    try:
        content["config"] = GPTConfig(**content["config"])
        content["tokenizer"] = Tokenizer.from_json(content["tokenizer"])
        return content if settings in (None, content["settings"]) else None
    except (KeyError, TypeError):
        raise UserError(f"{path} is not a checkpoint of papergpt; delete it to start anew") from None


def load_model(path: str | Path) -> tuple[GPT, Tokenizer]:
    """A trained GPT and its tokenizer, from a checkpoint, a Hugging Face folder or by a name in RELEASED.
    Raises UserError if file and shape do not fit."""
    if Path(path).is_dir() or path in RELEASED:
        return load_pretrained(path)
    content = load_checkpoint(path)
    model = GPT(content["config"])
    try:
        model.load_state_dict(content["model"])
    except RuntimeError:
        raise UserError(f"{path} holds the weights of another kind of model") from None
    return model.to(pick_device()).eval(), content["tokenizer"]


def pick_device() -> str:
    """CUDA where there is one, else the CPU, whose float32 is the reference."""
    torch.set_float32_matmul_precision("high")      # TF32 on CUDA; changes nothing on the CPU
    return "cuda" if torch.cuda.is_available() else "cpu"


class RunLog:
    """One live line on the terminal, and every row as JSON in a file whose first line is the settings."""

    def __init__(self, path: str | Path, settings: dict, steps: int, done: int = 0):
        """`done` steps of `steps` are done already: their rows stay, later ones of a stopped run go."""
        path = Path(path)
        old = path.read_text().splitlines()[1:] if done and path.exists() else []
        kept = [line for line in old if json.loads(line)["step"] <= done]
        with atomic_write(path) as file:
            file.write("\n".join([json.dumps(settings), *kept, ""]).encode())
        self.file = open(path, "a", buffering=1)
        self.steps, self.started, self.done, self.live = steps, time.time(), done, False

    def row(self, step: int, show: bool = True, **values: float):
        """Log a step. It replaces the live line (always on a terminal; in a file only rows with `show`)."""
        self.file.write(
            json.dumps({"step": step, **{k: round(float(v), 5) for k, v in values.items()}}) + "\n")
        elapsed = time.time() - self.started
        left = elapsed / (step - self.done) * (self.steps - step)
        line = f"step {step:5d}/{self.steps}  " + "  ".join(
            f"{name} {_short(value)}" for name, value in values.items())
        line += f"  {elapsed:.0f} s" + (f", {left:.0f} s left" if left >= 1 else "")
        if sys.stdout.isatty():
            print("\r\x1b[K" + line[:shutil.get_terminal_size().columns - 1], end="", flush=True)
            self.live = True
        if show:
            print("" if sys.stdout.isatty() else line, flush=True)
            self.live = False

    def close(self):
        if self.live:
            print()
        self.file.close()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def remembered(path: Path, made_from: object, fresh: bool, work: Callable[[], dict]) -> dict:
    """What work() returned when it last ran with the same `made_from`, kept as JSON. The file also vouches
    for other files that work() writes: it goes before they change."""
    known = json.loads(path.read_text()) if path.exists() and not fresh else {}
    if known.get("made_from") != made_from:
        path.unlink(missing_ok=True)
        known = {**work(), "made_from": made_from}
        with atomic_write(path) as file:
            file.write(json.dumps(known).encode())
    return known


def print_table(rows: list[dict], path: str | Path | None = None):
    """Rows as an aligned table; with a path also as a JSON list,
    so that scripts and the README can quote it."""
    if path:
        with atomic_write(path) as file:
            file.write(json.dumps(rows, indent=1).encode())
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [
        [("" if (v := row.get(c)) is None else f"{v:.3f}" if isinstance(v, float) else str(v))
         for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(line, widths))))


# ----------------------------------------------------------------------------------------------------------
# 8. Training and evaluation: train, evaluate, completion_logprob, choose


@dataclass(slots=True)
class TrainConfig:
    """How to train on a token stream."""
    steps: int = 1500           # optimizer steps
    batch_size: int = 12        # sequences per forward pass
    accumulate: int = 1         # forward passes per optimizer step
    lr: float = 0.004           # AdamW's peak rate: embeddings, gains, biases
    muon_lr: float = 0.02       # Muon's peak rate: the matrices in the blocks
    warmup: int = 50            # steps of linear warm-up; then a cosine down to a tenth
    weight_decay: float = 0.0   # on matrices and embeddings that AdamW trains
    grad_clip: float = 1.0      # largest norm of the gradient
    eval_every: int = 200       # steps between evaluations and checkpoints
    seed: int = 0


def train(model: GPT, tokenizer: Tokenizer, train_stream: np.ndarray, val_stream: np.ndarray,
          config: TrainConfig, path: str | Path, settings: dict, fresh: bool = False,
          watch: Callable[[nn.Module, Tokenizer], dict] = lambda model, tokenizer: {}) -> dict:
    """Train by next-token prediction; returns {"loss", "bits_per_byte"} on the validation stream.
    watch(model, tokenizer) gives more numbers for the log at every evaluation.

    `path` is the checkpoint, written at every evaluation with all that decides the future: weights,
    optimizers, step, the place in the data, random state. A run that was stopped goes on from it and
    ends as if it had not been stopped; one that was finished is only loaded. `settings` must match,
    else training starts anew.
    """
    path, device = Path(path), model.device
    optimizers = make_optimizers(model, config.lr, config.muon_lr, weight_decay=config.weight_decay)
    batches = Batches(train_stream, config.batch_size, model.config.block_size, config.seed)
    torch.manual_seed(config.seed)
    step, result = (0, None) if fresh else resume(path, settings, model, optimizers, batches)
    if step == config.steps:
        print(f"reusing {path}")
        return result
    log = RunLog(path.with_suffix(".jsonl"), settings, config.steps, done=step)
    tokens_per_step = config.batch_size * config.accumulate * model.config.block_size
    loss_sum, training_time, clock = 0.0, 0.0, time.time()
    model.train()
    try:
        while step < config.steps:
            # ---------------------------------------------------------------- one optimizer step
            set_lr(optimizers, schedule(step, config.steps, config.warmup))
            for _ in range(config.accumulate):
                x, y = (torch.from_numpy(a).to(device) for a in batches.next())      # (B, T)
                with mixed_precision(device):
                    loss = model(x, y)[1] / config.accumulate      # gradients add up; the loss is a mean
                loss.backward()
                loss_sum += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            # ---------------------------------------------------------------- looking, not touching
            training_time += time.time() - clock
            if step % config.eval_every == 0 or step == config.steps:
                result = evaluate(model, tokenizer, val_stream)
                save_checkpoint(path, model, tokenizer, settings, step=step, result=result,
                                data=batches.state,
                                rng=[torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
                                optimizers=[o.state_dict() for o in optimizers])
            if step % 10 == 0 or step == config.steps:
                evaluated = step % config.eval_every == 0 or step == config.steps
                count = (step - 1) % 10 + 1
                speed = tokens_per_step * count / training_time
                extra = {"val_loss": result["loss"], "bits/byte": result["bits_per_byte"],
                         **watch(model, tokenizer)} if evaluated else {}
                log.row(step, show=evaluated, loss=loss_sum / count, **extra, **{"tokens/s": speed})
                loss_sum = training_time = 0.0
            clock = time.time()
    finally:
        log.close()
    return result


def resume(path: Path, settings: dict, model: GPT, optimizers: list,
           batches: Batches) -> tuple[int, dict | None]:
    """Put everything back to where a checkpoint with these settings left it: (its step, its result).
    (0, None) without one."""
    saved = load_checkpoint(path, settings)
    if saved is None:
        return 0, None
    print(f"{path} stands at step {saved['step']}")
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizers"]):
        optimizer.load_state_dict(state)
    batches.state = saved["data"]
    torch.set_rng_state(saved["rng"][0])
    torch.cuda.set_rng_state_all(saved["rng"][1:])
    return saved["step"], saved["result"]


def mixed_precision(device):
    """bfloat16 matrix products on CUDA, where they are fast and safe; plain float32 everywhere else."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" and torch.cuda.is_bf16_supported())


@torch.no_grad()
def evaluate(model: GPT, tokenizer: Tokenizer, stream: np.ndarray,
             max_tokens: int = 32_768) -> dict[str, float]:
    """{"loss": nats per token, "bits_per_byte"} over consecutive windows of a stream, dropout off.

    Bits per byte = total nats / ln 2 / bytes of the text: unlike the loss it does not depend on the
    tokenizer. A long stream is read at evenly spaced windows, about max_tokens in all.
    """
    T = min(model.config.block_size, len(stream) - 1)
    if T < 1:
        raise UserError("the validation text is too short: it needs at least two tokens")
    starts = np.arange(0, len(stream) - T, T)
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), max(1, max_tokens // T))).astype(int)]
    nats, tokens, n_bytes = 0.0, 0, 0
    for chunk in np.array_split(starts, math.ceil(len(starts) / 32)):
        windows = torch.from_numpy(
            np.stack([stream[s:s + T + 1] for s in chunk]).astype(np.int64)).to(model.device)
        x, y = windows[:, :-1], windows[:, 1:]
        with evaluating(model):
            nats += model(x, y)[1].item() * y.numel()
        tokens += y.numel()
        n_bytes += len(tokenizer.decode_bytes(i for i in y.flatten().tolist() if i < len(tokenizer.ranks)))
    return {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / max(1, n_bytes)}



def completion_logprobs(model: nn.Module, tokenizer: Tokenizer,
                        pairs: list[tuple[str, str]]) -> list[tuple[float, int]]:
    """For each (context, completion): the sum of log P(token | what is before it) over the completion, in
    nats, and its number of tokens. Context and completion are tokenized as one text, since a merge may cross
    the seam; a token that does belongs to the completion. What is too long loses its front. A first token
    that nothing stands before (GPT-1 has no <|endoftext|>) has no probability and is not counted."""
    limit, rows, counts = model.config.block_size, [], []
    for context, completion in pairs:
        start = [] if tokenizer.eot is None else [tokenizer.eot]
        whole, before = start + tokenizer.encode(context + completion), start + tokenizer.encode(context)
        alike = next((i for i, (a, b) in enumerate(zip(whole, before)) if a != b),
                     min(len(whole), len(before)))
        rows.append(whole[-limit:])
        counts.append(min(len(whole) - alike, len(rows[-1]) - 1))
    results = []
    for first in range(0, len(rows), 64):
        part = rows[first:first + 64]
        ids, lengths = to_tensors(part, 0, model.device)
        inside = torch.arange(ids.size(1), device=model.device)                           # (T,)
        begins = lengths - torch.tensor(counts[first:first + 64], device=model.device)
        inside = (inside >= begins[:, None]) & (inside < lengths[:, None])                # (B, T)
        with torch.no_grad(), evaluating(model):
            states = model.hidden(ids)[:, :-1][inside[:, 1:]]                             # (N, C)
            nats = F.cross_entropy(F.linear(states, model.wte.weight), ids[inside], reduction="none")
        sums = nats.new_zeros(len(part)).index_add(0, inside.nonzero()[:, 0], -nats)
        results += zip(sums.tolist(), counts[first:first + 64])
    return results


def completion_logprob(model: nn.Module, tokenizer: Tokenizer, context: str,
                       completion: str) -> tuple[float, int]:
    """completion_logprobs of one."""
    return completion_logprobs(model, tokenizer, [(context, completion)])[0]


def choose(model: nn.Module, tokenizer: Tokenizer, cases: list[list[tuple[str, str]]],
           per_token: bool = True, relative_to: str | None = None) -> list[int]:
    """For each case, a list of (context, completion): the place of the likeliest completion, by its
    log-probability per token or in all; or, with relative_to, by P(completion | context) over
    P(completion | relative_to), which takes away what is likely anyway. [GPT-3 §2.4]
    Completions must not be empty."""
    pairs = [pair for case in cases for pair in case]
    scores = completion_logprobs(model, tokenizer, pairs)
    if relative_to is not None:
        anyway = completion_logprobs(model, tokenizer, [(relative_to, completion) for _, completion in pairs])
        values = iter([total - other for (total, _), (other, _) in zip(scores, anyway)])
    else:
        values = iter([total / (count if per_token else 1) for total, count in scores])
    chosen = []
    for case in cases:
        own = [next(values) for _ in case]
        chosen.append(own.index(max(own)))
    return chosen


# ----------------------------------------------------------------------------------------------------------
# 9. Weights of the real world: RELEASED, load_pretrained, export_pretrained

# Hugging Face's names are OpenAI's, and so are ours, but for these two of GPT-1.
RENAMED = {"tokens_embed.weight": "wte.weight", "positions_embed.weight": "wpe.weight"}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")      # OpenAI kept them as (inputs, outputs)


# The weights that OpenAI released, by our names for them, and where they are to be had.
RELEASED = {"gpt1": "openai-community/openai-gpt",
            **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}}


def download_released(name: str) -> Path:
    """One of RELEASED as a Hugging Face folder in the cache, from the hub or what HF_ENDPOINT names."""
    hub, folder = os.environ.get("HF_ENDPOINT") or "https://huggingface.co", cache_folder() / name
    weights = "model.safetensors" if importlib.util.find_spec("safetensors") else "pytorch_model.bin"
    # large files are stored apart; what is in the repository itself is a note with their checksum
    note = download(f"{hub}/{RELEASED[name]}/raw/main/{weights}", folder / f"{weights}.note").read_bytes()
    checksum = re.search(rb"sha256:([0-9a-f]{64})", note)
    if not checksum:
        raise UserError(f"{hub} has no checksum for {weights} of {name}")
    for file in ("config.json", "vocab.json", "merges.txt", weights):
        download(f"{hub}/{RELEASED[name]}/resolve/main/{file}", folder / file,
                 checksum[1].decode() if file == weights else None)
    return folder


def load_pretrained(name_or_folder: str | Path) -> tuple[GPT, Tokenizer | GPT1Tokenizer]:
    """GPT-2 or GPT-1, by name (RELEASED; downloaded once) or from a Hugging Face folder: config.json,
    pytorch_model.bin or model.safetensors (the second needs the safetensors library), vocab.json and
    merges.txt. Without these two, the tokenizer is GPT-2's own. Nothing in the files is executed.
    Raises UserError for what is missing or does not fit."""
    folder = Path(name_or_folder)
    if name_or_folder in RELEASED and not folder.exists():
        folder = download_released(name_or_folder)
    try:
        c = json.loads((folder / "config.json").read_text())
        first = c["model_type"] == "openai-gpt"
        config = GPTConfig(c["vocab_size"], c["n_positions"], c["n_layer"], c["n_head"], c["n_embd"],
                           post_norm=first)
        usual = {"n_inner": (None, 4 * c["n_embd"]), "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
                 "layer_norm_epsilon": (1e-5,), "tie_word_embeddings": (True,), "scale_attn_weights": (True,),
                 "scale_attn_by_inverse_layer_idx": (False,)}
        known = c["model_type"] in ("gpt2", "openai-gpt") and all(
            c.get(name, values[0]) in values for name, values in usual.items())
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder}/config.json is not that of a GPT") from None
    if not known:
        raise UserError(f"{folder} holds a {c['model_type']} of a form that is not GPT-1's or GPT-2's")
    state = {}
    for name, tensor in _read_tensors(folder).items():
        name = name.removeprefix("transformer.")
        name = RENAMED.get(name, name)
        if name != "lm_head.weight" and not name.endswith((".attn.bias", "masked_bias", "position_ids")):
            state[name] = tensor.t() if name.endswith(TRANSPOSED) else tensor
    model = GPT(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first_line = str(error).splitlines()[1].strip()
        raise UserError(f"{folder}: the weights do not fit its config.json ({first_line})") from None
    if not (folder / "vocab.json").exists() and not first:
        return model.to(pick_device()).eval(), Tokenizer.gpt2()
    kind = GPT1Tokenizer if first else Tokenizer
    return model.to(pick_device()).eval(), kind.from_huggingface(folder)


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    plain, safe = folder / "pytorch_model.bin", folder / "model.safetensors"
    if safe.exists():
        try:
            from safetensors.torch import load_file
            return load_file(safe)
        except ImportError:
            if not plain.exists():
                raise UserError(f"to read {safe}: pip install safetensors") from None
        except Exception:           # the library has an error of its own, outside of the usual ones
            raise UserError(f"{safe} is damaged") from None
    return load_tensors(plain)


def export_pretrained(model: GPT, tokenizer: Tokenizer, folder: str | Path):
    """Write a GPT-2 folder for load_pretrained and for transformers' AutoModelForCausalLM and AutoTokenizer.
    Raises UserError for what GPT-2's form cannot hold: post-norm (GPT-1) and bands (GPT-3)."""
    c, folder = model.config, Path(folder)
    if c.post_norm or c.window:
        raise UserError("only models of GPT-2's form can be exported")
    if tokenizer.vocab_size > c.vocab_size:
        raise UserError("this model came from such a folder: copy that")
    tokenizer.to_huggingface(folder)
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": c.vocab_size,
              "n_positions": c.block_size, "n_ctx": c.block_size, "n_layer": c.n_layer, "n_head": c.n_head,
              "n_embd": c.n_embd, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              **{f"{part}_pdrop": c.dropout for part in ("attn", "embd", "resid")},
              "tie_word_embeddings": True, "bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    state = {f"transformer.{name}": (tensor.t() if name.endswith(TRANSPOSED) else tensor).contiguous().cpu()
             for name, tensor in model.state_dict().items()}
    with atomic_write(folder / "config.json") as file:
        file.write(json.dumps(config, indent=1).encode())
    save_tensors(folder / "pytorch_model.bin", state)


# ----------------------------------------------------------------------------------------------------------
# 10. GPT-1: LSTM, transfer, Classifier, fine_tune, zero_shot, FineTuning, gpt1           [GPT-1 §3.2, §4, §5]


class LSTM(nn.Module):
    """A recurrent network to compare with: one layer in the place of all blocks. The paper's has 2,048 units;
    ours gets as many as make it as large as the blocks. It has no positions, and AdamW trains all of it.
    [GPT-1 §5]"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        C, self.config = config.n_embd, config
        b, blocks = 5 * C + 8, 12 * C * C * config.n_layer     # 4w^2 + bw parameters are to equal the blocks'
        width = int((math.sqrt(b * b + 16 * blocks) - b) / 8)
        self.wte = nn.Embedding(config.vocab_size, C)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(C, width, batch_first=True)
        self.c_proj = nn.Linear(width, C)
        nn.init.normal_(self.wte.weight, std=0.02)

    def hidden(self, idx, cache=None):
        return self.c_proj(self.lstm(self.dropout(self.wte(idx)))[0])      # (B, T, C)

    forward, num_params, device = GPT.forward, GPT.num_params, GPT.device


def transfer(model: nn.Module, layers: int | None) -> nn.Module:
    """A copy of a pretrained model, of which only the embeddings and the first `layers` blocks are kept and
    the rest is new; -1 keeps nothing, None everything. [GPT-1 §5, Fig. 2 left]"""
    if layers is None:
        return copy.deepcopy(model)
    kept = tuple(["wte.", "wpe.", *(f"h.{i}." for i in range(layers))]) if layers >= 0 else ()
    new = type(model)(model.config).to(model.device)
    new.load_state_dict({n: t for n, t in model.state_dict().items() if n.startswith(kept)}, strict=False)
    return new


def grow_vocabulary(model: nn.Module, tokens: int) -> nn.Module:
    """The same model, which now has `tokens` tokens; the new ones start at random."""
    old, model.config = model.wte.weight.data, dataclasses.replace(model.config, vocab_size=tokens)
    model.wte = nn.Embedding(tokens, old.size(1), device=old.device)
    nn.init.normal_(model.wte.weight, std=0.02)
    model.wte.weight.data[:len(old)] = old
    return model


class Classifier(nn.Module):
    """A language model with the three new tokens of GPT-1's input formats, and a linear head on what it has
    understood when it reads the last of them, the extract token. [GPT-1 §3.2, §3.3]"""

    def __init__(self, model: nn.Module, tokens: int, classes: int | None, dropout: float):
        """The model is changed: it now has `tokens` tokens. classes None: each sequence gets one score."""
        super().__init__()
        C = model.config.n_embd
        self.model, self.classes = grow_vocabulary(model, tokens), classes
        self.head = nn.Linear(C, classes or 1, device=model.device)                      # W_y
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.dropout = nn.Dropout1d(dropout)
        set_dropout(model, dropout)

    def forward(self, ids, lengths):
        """(B, S, T) ids, S sequences per case, padded on the right, and their lengths (B, S) ->
        logits (B, classes) or (B, S), and the auxiliary loss L1: the mean over sequences of the mean
        cross-entropy per token. Pads cannot matter: nothing before them sees them."""
        B, S, T = ids.shape
        ids, lengths = ids.flatten(0, 1), lengths.flatten()
        hidden = self.model.hidden(ids)                                                   # (B*S, T, C)
        extracts = hidden[torch.arange(B * S, device=ids.device), lengths - 1]            # (B*S, C)
        # one dropout mask for all sequences of a case, as in OpenAI's code: channels are what Dropout1d drops
        extracts = self.dropout(extracts.view(B, S, -1).transpose(1, 2)).transpose(1, 2)  # (B, S, C)
        logits = self.head(extracts.sum(dim=1)) if self.classes else self.head(extracts).squeeze(-1)
        inside = torch.arange(1, T, device=ids.device) < lengths[:, None]                 # (B*S, T-1)
        nats = F.cross_entropy(F.linear(hidden[:, :-1][inside], self.model.wte.weight), ids[:, 1:][inside],
                               reduction="none")
        share = (1 / (lengths - 1)).repeat_interleave(lengths - 1)    # every sequence counts the same
        return logits, (nats * share).sum() / (B * S)


@dataclass(slots=True)
class FinetuneConfig:
    """Constants of GPT-1's fine-tuning."""
    epochs: int = 3              # paper: 3
    batch_size: int = 8          # cases; paper: 32
    lr: float = 5e-4             # paper: 6.25e-5, of 117M parameters; linear decay to 0
    warmup: float = 0.002        # share of the steps; paper: 0.2 %
    lm_coef: float = 0.5         # lambda; paper: 0.5
    dropout: float = 0.0         # paper: 0.1; our small model was pretrained without and is thrown off by it
    weight_decay: float = 0.01   # paper: 0.01


def fine_tune(classifier: Classifier, encode: Callable, cases: list[Labeled], config: FinetuneConfig,
              seed: int):
    """L3 = L2 + lambda L1: the cross-entropy of the classes, and of the texts' own next tokens.
    encode(list of cases) gives ids, lengths and labels. [GPT-1 §3.2, eq. 5]"""
    rng, cases = random.Random(seed), list(cases)
    torch.manual_seed(seed)
    optimizers = make_optimizers(classifier, config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay)
    steps, step = config.epochs * math.ceil(len(cases) / config.batch_size), 0
    classifier.train()
    for _ in range(config.epochs):
        rng.shuffle(cases)
        for start in range(0, len(cases), config.batch_size):
            progress = step / steps
            set_lr(optimizers, min(1.0, (progress + 1 / steps) / config.warmup) * (1 - progress))
            ids, lengths, labels = encode(cases[start:start + config.batch_size])
            logits, lm_loss = classifier(ids, lengths)
            (F.cross_entropy(logits, labels) + config.lm_coef * lm_loss).backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            step += 1


@torch.no_grad()
def classifier_accuracy(classifier: Classifier, encode: Callable, cases: list[Labeled]) -> float:
    """The share of cases whose most likely class is the right one."""
    right = 0
    with evaluating(classifier):
        for start in range(0, len(cases), 128):
            ids, lengths, labels = encode(cases[start:start + 128])
            right += (classifier(ids, lengths)[0].argmax(dim=1) == labels).sum().item()
    return right / len(cases)


def encoder(inputs: Callable, tokenizer: Tokenizer, limit: int, device) -> Callable:
    """A function from cases to what a Classifier reads: ids (B, S, T), lengths (B, S), labels (B,).
    `inputs` is one of data.py's input formats."""
    def encode(cases):
        rows = [inputs(tokenizer, *case.texts, limit) for case in cases]
        ids, lengths = to_tensors([row for case in rows for row in case], tokenizer.pad, device)
        labels = torch.tensor([case.label for case in cases], device=device)
        return ids.view(len(rows), -1, ids.size(1)), lengths.view(len(rows), -1), labels
    return encode


def zero_shot(model: nn.Module, tokenizer: Tokenizer, world: World, count: int = 200) -> dict[str, float]:
    """What a language model can do before any fine-tuning, by the paper's heuristics: {task: accuracy}.

    acceptability (CoLA): is the mean log-probability per token above the median? Half of the sentences say
    nonsense ("Mia lives in soup.");
    sentiment (SST-2): which of two words comes next; question answering (RACE): the answer with the highest
    mean log-probability; schemas (DPRD): each referent in the pronoun's place, and the mean log-probability
    of what follows. [GPT-1 §5, Fig. 2 right]
    """
    rng = random.Random("zero shot")
    reviews = gpt1_task(world, "classification", "test", count, 1)
    questions = gpt1_task(world, "multiple choice", "test", count, 1)
    schemas = [world.fitting(rng, "test") for _ in range(count)]
    sentences = []
    for i in range(count):                                      # every other one is nonsense
        n, (topic, other) = rng.choice(world.people), rng.sample(list(TOPICS), 2)
        sentences.append(world.state(rng, n, topic, None if i % 2 else rng.choice(TOPICS[other][0])))
    fluent = [total / n for total, n in completion_logprobs(model, tokenizer, [("", s) for s in sentences])]
    chosen = {
        "sentiment": ([case.label for case in reviews], choose(model, tokenizer, [
            [(f"Q: Was it good? {case.texts[0]}\nA: The review is", f" {mood}.") for mood in ("sad", "happy")]
            for case in reviews])),
        "question answering": ([case.label for case in questions], choose(model, tokenizer, [
            [(f"Q: {context} {question}\nA:", f" {answer}") for answer in answers]
            for context, question, answers in (case.texts for case in questions)])),
        "schemas": ([right for *_, right in schemas], choose(model, tokenizer, [
            [(f"{before} {referent}", behind) for referent in referents]
            for before, behind, referents, _ in schemas]))}
    return {"acceptability": float(np.mean([(f > np.median(fluent)) == i % 2 for i, f in enumerate(fluent)])),
            **{name: float(np.mean(np.equal(*answers))) for name, answers in chosen.items()}}


@dataclass(slots=True)
class GPT1Settings:
    """Options of `python gpt.py gpt1`."""
    train: str | None = None     # your own task: lines of `sentence TAB class` to fine-tune on
    test: str | None = None      # and lines to test on (default: the four tasks of the embedded world)
    data: str = "wide-world"     # what to pretrain on, as in `python gpt.py pretrain`
    name: str = "gpt1"           # results go to runs/NAME
    steps: int = 1500            # optimizer steps of pretraining
    cases: int = 600             # cases of each of the world's tasks to fine-tune on, and as many to test on
    seeds: int = 3               # runs of each fine-tuning; the median counts
    block_size: int = 128        # context in tokens
    fresh: bool = False          # train everything anew

# What is compared, and the paper's mean over its tasks (Table 5; accuracies, correlations and F1 mixed):
# (pretrained model, layers that are kept, with the auxiliary loss?, the paper's number)
GPT1_RUNS = {"pretrained": ("gpt", None, True, 0.747), "no auxiliary LM": ("gpt", None, False, 0.750),
             "LSTM": ("lstm", None, True, 0.691), "from scratch": ("gpt", -1, True, 0.599)}


class FineTuning:
    """The tasks and the pretrained models of one run, and the accuracy of each fine-tuning: computed once,
    then kept in runs/NAME/finetune.json."""

    def __init__(self, s: GPT1Settings):
        self.s, self.folder, self.config = s, Path("runs") / s.name, FinetuneConfig()
        world = World(0)
        if s.train:
            self.cases = {"own": (load_labeled(s.train), load_labeled(s.test))}
            labels = {case.label for part in self.cases["own"] for case in part}
            if len(labels) < 2:
                raise UserError(f"{s.train} and {s.test} know only one class")
            self.formats = {"own": (classification_input, 1 + max(labels))}
        else:
            self.cases = {task: [gpt1_task(world, task, split, s.cases, 0) for split in ("train", "test")]
                          for task in GPT1_TASKS}
            self.formats = GPT1_TASKS
        self.models = {}
        for stage, kind, title in (("gpt", GPT, "a transformer of GPT-1's form"),
                                   ("lstm", LSTM, "an LSTM with as many parameters")):
            print(f"== pretraining: {title}", flush=True)
            self.models[stage], self.tokenizer, *_ = pretrained(
                PretrainSettings(data=s.data, block_size=s.block_size, steps=s.steps, post_norm=True,
                                 fresh=s.fresh), self.folder, stage, kind,
                lambda model, tokenizer: zero_shot(model, tokenizer, world) if s.data in WEBS else {})
        made_from = [str([dataclasses.astuple(case) for parts in self.cases.values() for part in parts
                          for case in part]), str(self.config)]
        self.made_from = hashlib.sha256("".join(made_from).encode() + b"".join(
            tensor.cpu().numpy().tobytes() for model in self.models.values()
            for tensor in model.state_dict().values())).hexdigest()
        self.path = self.folder / "finetune.json"
        known = json.loads(self.path.read_text()) if self.path.exists() and not s.fresh else {}
        self.known = known["accuracy"] if known.get("made_from") == self.made_from else {}

    def accuracies(self, name: str, task: str, stage: str, layers: int | None,
                   auxiliary: bool) -> list[float]:
        """Of all seeds, on the held-out cases of one task."""
        print(f"{task:16s} {name:16s}", end="", flush=True)
        started, found = time.time(), []
        for seed in range(self.s.seeds):
            key = f"{task}: {stage}, layers {layers}, auxiliary LM {auxiliary}, seed {seed}"
            if key not in self.known:
                self.known[key] = self.fine_tuned(task, stage, layers, auxiliary, seed)
                with atomic_write(self.path) as file:
                    file.write(json.dumps({"made_from": self.made_from, "accuracy": self.known},
                                          indent=1).encode())
            found.append(self.known[key])
            print(f" {found[-1]:.3f}", end="", flush=True)
        print(f"   {time.time() - started:.0f} s")
        return found

    def fine_tuned(self, task: str, stage: str, layers: int | None, auxiliary: bool, seed: int) -> float:
        """Fine-tune one model on one task: its accuracy on the held-out cases."""
        (inputs, classes), (train_cases, test_cases) = self.formats[task], self.cases[task]
        encode = encoder(inputs, self.tokenizer, self.s.block_size, self.models[stage].device)
        torch.manual_seed(seed)
        classifier = Classifier(transfer(self.models[stage], layers), self.tokenizer.vocab_size + NEW_TOKENS,
                                classes, self.config.dropout)
        config = self.config if auxiliary else dataclasses.replace(self.config, lm_coef=0.0)
        fine_tune(classifier, encode, train_cases, config, seed)
        return classifier_accuracy(classifier, encode, test_cases)


def gpt1(s: GPT1Settings):
    """Pretrain, then fine-tune, with and without each thing that the paper takes away. [GPT-1 §4, §5]"""
    require(s, 1, "steps", "cases", "seeds")
    require(s, 8, "block_size")
    if bool(s.train) != bool(s.test):
        raise UserError("--train and --test belong together")
    run = FineTuning(s)
    print("\n== fine-tuning: the accuracy of every seed")
    found = {name: {task: run.accuracies(name, task, *arguments) for task in run.cases}
             for name, (*arguments, _) in GPT1_RUNS.items()}
    L = run.models["gpt"].config.n_layer
    # the paper looks at two tasks, of just these kinds
    analysed = [task for task in ("entailment", "multiple choice") if task in run.cases] or list(run.cases)
    layers = {k: {task: run.accuracies(f"{k} of {L} layers" if k else "embeddings only", task, "gpt", k, True)
                  for task in analysed} for k in range(L)}
    print("\naccuracy on held-out cases: the median of the seeds, and their range")
    print_table([accuracy_row(name, found[name], None if s.train else paper)
                 for name, (*_, paper) in GPT1_RUNS.items()]
                + [accuracy_row(f"{k} of {L} layers" if k else "embeddings only", layers[k]) for k in layers],
                run.folder / "table.json")
    draw_gpt1(run.folder, found, {-1: found["from scratch"], **layers, L: found["pretrained"]})


def accuracy_row(name: str, by_task: dict[str, list[float]], paper: float | None = None) -> dict:
    """A row of the table: medians with ranges, and their mean where all tasks were run."""
    medians = {task: float(np.median(accuracies)) for task, accuracies in by_task.items()}
    texts = {task: f"{medians[task]:.3f} ({min(a):.2f}-{max(a):.2f})" for task, a in by_task.items()}
    row = {"model": name, **texts}
    if paper:
        row |= {"mean": float(np.mean(list(medians.values()))), "Table 5": paper}
    return row


def pyplot():
    """matplotlib's, or None, with a word of advice, where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("\nfor the figure: pip install matplotlib, then run again (nothing is trained twice)")
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    return plt


def save_figure(figure, path: Path):
    """Write a figure as PNG, whole or not at all, and say where."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    print(f"\nfigure: {path}")


def draw_gpt1(folder: Path, found: dict, layers: dict):
    """Table 5 as bars, and Figure 2: layers transferred, and zero-shot accuracy along pretraining."""
    if not (plt := pyplot()):
        return
    figure, (bars, transferred, zero) = plt.subplots(1, 3, figsize=(16, 4), constrained_layout=True)
    for i, (name, by_task) in enumerate(found.items()):
        bars.bar(np.arange(len(by_task)) + 0.2 * i, [np.median(a) for a in by_task.values()], 0.2, label=name)
    bars.set_xticks(np.arange(len(by_task)) + 0.3, list(by_task))
    bars.set_title("accuracy after fine-tuning")
    bars.set_ylim(0, 1.25)
    bars.legend(ncols=2, fontsize=8)
    for task in layers[0]:
        ranges = [(min(a), max(a)) for a in (by_task[task] for by_task in layers.values())]
        line, = transferred.plot(list(layers), [np.median(by_task[task]) for by_task in layers.values()],
                                 marker="o", label=task)
        transferred.fill_between(list(layers), *zip(*ranges), alpha=0.15, color=line.get_color())
    transferred.set_xticks(list(layers), ["nothing", "embeddings", *(f"+ {k}" for k in layers if k > 0)])
    transferred.set_xlabel("layers")
    transferred.set_title("what is transferred (Fig. 2 left)")
    transferred.legend()
    for stage, style in (("gpt", "-"), ("lstm", "--")):
        rows = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "sentiment" in row]
        for number, (task, chance) in enumerate({"acceptability": 0.5, "sentiment": 0.5,
                                                 "question answering": 0.25, "schemas": 0.5}.items()):
            zero.axhline(chance, color=f"C{number}", lw=0.5, ls=":")
            zero.plot([row["step"] for row in rows], [row[task] for row in rows], style, color=f"C{number}",
                      label=task if stage == "gpt" else None)
    zero.set_title("zero-shot along pretraining (Fig. 2 right)\n— transformer  -- LSTM  ··· chance")
    zero.set_xlabel("pretraining steps")
    zero.legend()
    save_figure(figure, folder / "gpt1.png")
    plt.close(figure)

# ----------------------------------------------------------------------------------------------------------
# 11. GPT-2: zero_shot_tasks, gpt2                                                                  [GPT-2 §3]

# What the paper prints for 117M and for 1542M parameters.
GPT2_TABLE = {
    "bits per byte": (1.16, 0.93),                  # enwik8
    "cities, 10 choices": (0.834, 0.8905),          # CBT, named entities
    "common nouns, 10 choices": (0.8765, 0.933),    # CBT, common nouns
    "last word, accuracy": (0.4599, 0.6324),        # LAMBADA, with a filter of stop words
    "last word, perplexity": (35.13, 8.63),
    "schemas, full": (None, None),                  # Winograd; printed for partial scoring only
    "schemas, partial": (None, 0.707),
    "reading, F1": (None, 0.55),                    # CoQA
    "summaries, ROUGE": (None, 0.214),              # CNN and Daily Mail
    "to foreign, BLEU": (None, 0.05),               # WMT-14 English-French
    "to English, BLEU": (None, 0.115),
    "questions, exact": (None, 0.041),              # Natural Questions
    "questions, surest tenth": (None, 0.631),       # there: the surest hundredth
}


def zero_shot_tasks(model: GPT, tokenizer: Tokenizer, world: World, count: int) -> dict[str, float]:
    """The paper's tasks, each as a text to be continued or to be compared, and scored as it scores them. No
    weight changes."""
    line_end = (tokenizer.encode("\n")[0], tokenizer.eot)

    def answers(prompts, **sampling):
        """Greedy, unless told otherwise, up to the end of the line."""
        rows = [[tokenizer.eot, *tokenizer.encode(prompt)] for prompt in prompts]
        return [text for text, _ in complete(model, tokenizer, rows, line_end, 24,
                                             **{"temperature": 0.0, **sampling})]

    def gap_accuracy(task, partial):
        """P(choice) P(what is behind | choice), or only the second: Trinh & Le's full and partial scoring."""
        cases = gpt2_task(world, task, count)
        chosen = choose(model, tokenizer, [
            [(f"{before} {choice}", behind) if partial else (before, f" {choice}{behind}")
             for choice in choices] for before, choices, behind, _ in cases], per_token=False)
        return float(np.mean([choice == case[-1] for choice, case in zip(chosen, cases)]))

    scores = {"cities, 10 choices": gap_accuracy("cities", False),
              "common nouns, 10 choices": gap_accuracy("common nouns", False)}
    texts, words = zip(*gpt2_task(world, "last word", count))
    first = [text.split(" ")[0].rstrip(".") for text in answers(texts)]
    scores["last word, accuracy"] = float(np.mean([f == word.strip() for f, word in zip(first, words)]))
    totals = [total for total, _ in completion_logprobs(model, tokenizer, list(zip(texts, words)))]
    scores["last word, perplexity"] = math.exp(-np.mean(totals))
    scores["schemas, full"] = gap_accuracy("schemas", False)
    scores["schemas, partial"] = gap_accuracy("schemas", True)
    texts, right = zip(*gpt2_task(world, "reading", count))
    scores["reading, F1"] = float(np.mean([ngram_f1(a, b) for a, b in zip(answers(texts), right)]))
    texts, right = zip(*gpt2_task(world, "summaries", count))
    written = answers([f"{text}\nTL;DR:" for text in texts], temperature=1.0, top_k=2)      # k = 2, as there
    scores["summaries, ROUGE"] = float(np.mean([rouge(a, b) for a, b in zip(written, right)]))
    for direction in ("to foreign", "to English"):
        texts, right = zip(*gpt2_task(world, direction, count))
        scores[f"{direction}, BLEU"] = bleu(answers(texts), right)
    texts, topics = zip(*gpt2_task(world, "questions", count))
    written = answers(texts)
    exact = np.array([world.meaning.get(text) == (*topic, world.facts[topic])
                      for text, topic in zip(written, topics)])
    sure = completion_logprobs(model, tokenizer, [(t, f" {w}") for t, w in zip(texts, written)])
    surest = np.argsort([-total for total, _ in sure])[:max(1, count // 10)]
    scores["questions, exact"] = float(exact.mean())
    scores["questions, surest tenth"] = float(exact[surest].mean())
    return scores


@dataclass(slots=True)
class GPT2Settings:
    """Options of `python gpt.py gpt2`."""
    name: str = "gpt2"         # results go to runs/NAME
    steps: int = 1500          # optimizer steps of pretraining, of every size
    cases: int = 300           # held-out cases of every task
    seed: int = 0
    fresh: bool = False        # train everything anew


def gpt2(s: GPT2Settings):
    """Six sizes, the same text: what a language model does without being taught to. [GPT-2 Fig. 1, §3]"""
    require(s, 1, "steps", "cases")
    world, folder, columns = World(s.seed), Path("runs") / s.name, {}
    parameters = {}
    for size in OUR_SIZES:
        print(f"== {size}", flush=True)
        c = PRESETS[size]
        model, tokenizer, result, *_ = pretrained(
            PretrainSettings(data="wide-world", n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
                             steps=s.steps, seed=s.seed, fresh=s.fresh), folder, size)
        parameters[size] = model.num_params()
        columns[size] = {"bits per byte": result["bits_per_byte"],
                         **zero_shot_tasks(model, tokenizer, world, s.cases)}
    print("\n== the tokenizer: any text, byte for byte, without an unknown token")
    for text in ("Zoe lives in Oslo.", "ZOE LIVES IN OSLO.", " 1234", "I'll I'LL", "naïve café 東京 🙂",
                 "\x00\r\n\t"):
        ids = tokenizer.encode(text)
        again = "the same again" if tokenizer.decode(ids) == text else "NOT the same"
        print(f"{len(ids):3d} tokens  {again}  "
              + "|".join(tokenizer.decode([i]) for i in ids).encode("unicode_escape").decode())
    # chance, or an answer without understanding: the story's first sentence, the right form with a wrong word
    first_sentence = [rouge(split_sentences(a)[0], b) for a, b in gpt2_task(world, "summaries", s.cases)]
    wrong_word = [ngram_f1(f"{b.rsplit(' ', 1)[0]} so", b) for _, b in gpt2_task(world, "reading", s.cases)]
    baselines = {"cities, 10 choices": 0.1, "common nouns, 10 choices": 0.1, "schemas, full": 0.5,
                 "schemas, partial": 0.5, "questions, exact": 1 / 12, "questions, surest tenth": 1 / 12,
                 "last word, accuracy": 1 / len(ECHOED), "last word, perplexity": float(len(ECHOED)),
                 "summaries, ROUGE": float(np.mean(first_sentence)),
                 "reading, F1": float(np.mean(wrong_word))}
    print("\n== zero-shot")
    print_table([{"task": task, **{size: column[task] for size, column in columns.items()},
                  "baseline": baselines.get(task), "117M": paper[0], "1542M": paper[1]}
                 for task, paper in GPT2_TABLE.items()], folder / "table.json")
    print("baseline: chance, or an answer without understanding; 117M and 1542M: the paper, on its own tasks")
    better = {task: [column[task] * (-1 if task in ("bits per byte", "last word, perplexity") else 1)
                     for column in columns.values()] for task in GPT2_TABLE}
    kinds = {"better with every step in size": lambda a: all(x < y for x, y in zip(a, a[1:])),
             "better at the end than at the start": lambda a: a[0] < a[-1], "not better": lambda a: True}
    for task, scores in better.items():
        kind = next(kind for kind, holds in kinds.items() if holds(scores))
        print(f"{task:26s} {kind}")
    draw_gpt2(folder, parameters, columns)


def draw_gpt2(folder: Path, parameters: dict[str, int], columns: dict[str, dict[str, float]]):
    """Figure 1: every task against the number of parameters."""
    if not (plt := pyplot()):
        return
    tasks = [task for task in GPT2_TABLE if "perplexity" not in task]
    figure, axes = plt.subplots(2, math.ceil(len(tasks) / 2), figsize=(18, 6), constrained_layout=True)
    for axis, task in zip(axes.flat, tasks):
        axis.semilogx(list(parameters.values()), [column[task] for column in columns.values()], marker="o")
        axis.set_xticks(list(parameters.values()), list(parameters))
        axis.minorticks_off()
        axis.set_title(task, fontsize=10)
        if task != "bits per byte":
            axis.set_ylim(0, 1.05)
    for axis in axes.flat[len(tasks):]:
        axis.axis("off")
    figure.suptitle("zero-shot scores against parameters")
    save_figure(figure, folder / "gpt2.png")
    plt.close(figure)


# ----------------------------------------------------------------------------------------------------------
# 12. GPT-3: few_shot_accuracy, scorings, synthetic_tasks, banded_attention, data_effect, gpt3     [GPT-3 §2]

SHOTS = (0, 1, 2, 4, 8, 16, 32)                  # K: examples in the prompt
# What the paper prints for 175B: zero-, one-, few-shot (Table 3.9, Table 3.10).
SYNTHETIC = {"2D+": (0.769, 0.996, 1.000), "1DC": (0.098, 0.143, 0.213), "CL": (0.0366, 0.217, 0.379),
             "A1": (0.0228, 0.0862, 0.151), "A2": (0.0891, 0.259, 0.397), "RI": (0.0826, 0.454, 0.672),
             "RW": (0.0009, 0.0048, 0.0044)}


def weights_hash(model: nn.Module) -> str:
    """A fingerprint of all weights."""
    tensors = (tensor.cpu().numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def few_shot_accuracy(model: GPT, tokenizer: Tokenizer, world: World, K: int, count: int,
                      described: bool = False, shuffled: bool = False) -> float:
    """How often the likeliest of four completions is right, for held-out rules of which the prompt shows K
    examples, drawn at random for each case. shuffled: the examples' completions are random ones of their
    four, so there is nothing to be learned from them."""
    rng, cases, right = random.Random(f"{K} shots"), [], []
    for _ in range(count):
        description, (query, *drawn) = rule(world, rng, "test")
        examples = [(context, rng.choice(choices) if shuffled else completion)
                    for context, completion, choices in drawn[:K]]
        prompt = few_shot_prompt(examples, query[0], description if described else "").lstrip()
        cases.append([(prompt, completion) for completion in query[2]])
        right.append(query[2].index(query[1]))
    return float(np.mean(np.equal(choose(model, tokenizer, cases), right)))


def in_context(s: GPT3Settings, folder: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Pretrain three sizes, with several seeds: {size: {kind of prompt: for each K the accuracies}}."""
    found = {}
    for size in ("24k", "45k", "180k"):
        c, found[size] = PRESETS[size], {"examples": [], "with description": [], "shuffled labels": []}
        for seed in range(s.seeds):
            print(f"== {size}, seed {seed}", flush=True)
            model, tokenizer, *_ = pretrained(PretrainSettings(
                data="in-context", block_size=192, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
                steps=s.steps, seed=seed, fresh=s.fresh), folder / f"seed{seed}", size)
            world, before = World(seed), weights_hash(model)
            for kind, accuracies in found[size].items():
                accuracies.append([few_shot_accuracy(model, tokenizer, world, K, s.cases,
                                                     kind == "with description", kind == "shuffled labels")
                                   for K in SHOTS])
            if weights_hash(model) != before:
                raise RuntimeError("evaluation changed the weights")
    return {size: {kind: np.transpose(by_seed).tolist() for kind, by_seed in kinds.items()}
            for size, kinds in found.items()}


def scorings(s: GPT3Settings, folder: Path) -> list[dict]:
    """Questions about held-out facts with four sentences to choose from, by the number of solved ones in the
    prompt and by the three ways to compare answers. [GPT-3 §2.4]"""
    c, world, rows = PRESETS["180k"], World(0), []
    model, tokenizer, *_ = pretrained(PretrainSettings(
        data="in-context", block_size=192, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
        steps=s.steps), folder / "seed0", "180k")
    solved = [(f"\nQ: {question}\nA:", f" {answers[case.label]}") for case in
              gpt1_task(world, "multiple choice", "train", 200, 2) for _, question, answers in (case.texts,)]
    questions = gpt1_task(world, "multiple choice", "test", s.cases, 2)
    for K in (0, 1, 4):
        rng, cases = random.Random(f"{K} solved"), []
        for _, question, answers in (case.texts for case in questions):
            prompt = few_shot_prompt(rng.sample(solved, K), f"\nQ: {question}\nA:").lstrip()
            cases.append([(prompt, f" {answer}") for answer in answers])
        rows.append({"K": str(K), **{name: float(np.mean(np.equal(
            choose(model, tokenizer, cases, **options), [case.label for case in questions])))
            for name, options in (("per token", {}), ("in all", {"per_token": False}),
                                  ('over P(answer | "A:")', {"relative_to": "A:"}))}})
    return rows


def synthetic_tasks(s: GPT3Settings, folder: Path) -> list[dict]:
    """The paper's synthetic tasks, on a model that reads bytes, for merges hide the letters. Free-form
    answers by beam search, width 4, length penalty 0.6, to the end of the line. [GPT-3 §2.4, §3.9]"""
    c, world, rows = PRESETS["340k"], World(s.seed), []
    model, tokenizer, *_ = pretrained(PretrainSettings(
        data="tasks", vocab_size=256 + len(SPECIAL_TOKENS), block_size=256, n_layer=3, n_head=c.n_head,
        n_embd=c.n_embd, steps=s.task_steps, seed=s.seed, fresh=s.fresh), folder / "tasks", "tasks")
    newline = tokenizer.encode("\n")[0]
    for task in PRACTISED:
        row = {"task": task}
        for K in (0, 1, 6):
            rng, right = random.Random(f"{task} {K}"), 0
            for _ in range(s.cases // 2):
                examples = [gpt3_task(world, rng, "train", task) for _ in range(K)]
                context, answer = gpt3_task(world, rng, "test", task)
                prompt = [tokenizer.eot, *tokenizer.encode(few_shot_prompt(examples, context).lstrip())]
                ids = beam_search(model, torch.tensor(prompt, device=model.device), 12, stop_token=newline)
                right += tokenizer.decode(ids).strip() == answer.strip()
            row[f"K = {K}"] = right / (s.cases // 2)
        rows.append(row | dict(zip(("175B zero-shot", "one-shot", "few-shot"), SYNTHETIC.get(task, ()))))
    return rows


def training_seconds(configs: list[GPTConfig], repeats: int = 5) -> list[float]:
    """Seconds of a forward and backward pass over one full context, the least of several, taken in turns."""
    models, least = [GPT(config) for config in configs], [math.inf] * len(configs)
    for _ in range(repeats):
        for number, model in enumerate(models):
            idx, started = torch.zeros(1, model.config.block_size, dtype=torch.long), time.perf_counter()
            model(idx, idx)[1].backward()
            least[number] = min(least[number], time.perf_counter() - started)
    return least


def training_memory(config: GPTConfig) -> float:
    """Peak MB of a forward and backward pass over one full context; call it in a fresh process."""
    model, idx = GPT(config), torch.zeros(1, config.block_size, dtype=torch.long)
    model(idx[:, :2], idx[:, :2])[1].backward()                # what PyTorch loads on first use
    before = peak_memory()
    for _ in range(2):
        model(idx, idx)[1].backward()
    return (peak_memory() - before) / 2**20


def banded_attention(s: GPT3Settings, folder: Path) -> list[dict]:
    """Dense against alternating dense and banded layers, trained alike; and what a long context costs."""
    c, world, rows, configs = PRESETS["180k"], World(0), [], []
    for name, window in (("dense", None), ("alternating", 24)):
        print(f"== 180k, {name}", flush=True)
        model, tokenizer, result, *_ = pretrained(PretrainSettings(
            data="in-context", block_size=192, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd,
            window=window, steps=s.steps, fresh=s.fresh and window is not None),      # dense: trained above
            folder / "seed0", name if window else "180k")
        configs.append(model.config)
        rows.append({"layers": name, **result,
                     "K = 32": few_shot_accuracy(model, tokenizer, world, 32, s.cases)})
    for T in (1024, 4096):
        long = [dataclasses.replace(c, block_size=T, window=c.window and 256) for c in configs]
        for row, config, seconds in zip(rows, long, training_seconds(long)):
            cache = KVCache(GPT(config), torch.tensor([1]), T)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row |= {f"ms at {T}": 1000 * seconds, f"MB at {T}": pool.apply(training_memory, (config,)),
                        f"cache MB at {T}": sum(k.nbytes for k in cache.k + cache.v) / 2**20}
    return rows


def data_effect(s: GPT3Settings, folder: Path) -> tuple[list[dict], list[dict]]:
    """One model, equal tokens: the raw crawl, the cleaned one, and a mixture of it with good text. Returns
    the report of the cleaning, and the losses. [GPT-3 App. A, C]"""
    world = World(s.seed)
    config = TrainConfig(steps=s.data_steps, eval_every=max(1, s.data_steps // 5), seed=s.seed)
    size = 4 * s.data_steps * config.batch_size * 128        # characters, about as many as will be read
    source = folder / "clean"

    def prepare():
        read, good, leaked, others = world_crawl(world, s.pages, source)
        report = clean(read, good, leaked + others, source, s.seed)
        tokenizer, epochs = Tokenizer(train_bpe(good, 1152 - len(SPECIAL_TOKENS))), {}
        tokenizer.save(source / "tokenizer.json")
        cleaned = lambda: load_text(source / "clean.jsonl")
        mixture = mix({"cleaned crawl": (cleaned, 0.6), "good texts": (lambda: good, 0.4)}, size, epochs)
        streams = {"raw": write_stream(itertools.islice(read(), size // 600), tokenizer, source / "raw"),
                   "cleaned": write_stream(cleaned(), tokenizer, source / "cleaned"),
                   "mixture": write_stream(mixture, tokenizer, source / "mixture")}
        return {"report": report, "streams": streams, "epochs": epochs, "leaked": leaked, "others": others}

    known = remembered(source / "made.json", [s.pages, s.seed, size, fingerprint("wide-world")], s.fresh,
                       prepare)
    tokenizer, rows, losses = Tokenizer.load(source / "tokenizer.json"), [], {}
    held_out = np.array([i for text in web(world, 1500, "held out", WEBS["wide-world"])
                         for i in (*tokenizer.encode(text), tokenizer.eot)], np.int64)
    for name, stream in known["streams"].items():
        print(f"== 180k on the {name} text", flush=True)
        torch.manual_seed(s.seed)
        model = GPT(dataclasses.replace(PRESETS["180k"], vocab_size=tokenizer.vocab_size)).to(pick_device())
        train(model, tokenizer, open_stream(source / name / "train.bin", stream["dtype"]), held_out, config,
              source / f"{name}.pt", {"made_from": known["made_from"], **dataclasses.asdict(config)}, s.fresh)
        row = {"text": name, "epochs": config.steps * config.batch_size * 128 / stream["train_tokens"],
               "bits per byte, good text": evaluate(model, tokenizer, held_out)["bits_per_byte"]}
        for kind in ("leaked", "others"):
            scores = completion_logprobs(model, tokenizer, [("", test) for test in known[kind]])
            losses[name, kind] = -np.array([total for total, _ in scores])
            row[f"{kind} tests, nats"] = float(losses[name, kind].mean())
        rows.append(row)
    for row in rows:      # test by test against the model of the cleaned crawl, which has seen none of them
        gains = [losses["cleaned", kind] - losses[row["text"], kind] for kind in ("leaked", "others")]
        row["leak is worth"] = float(gains[0].mean() - gains[1].mean())
        row["standard error"] = math.sqrt(sum(gain.var() / len(gain) for gain in gains))
    print("epochs of the mixture's sources: "
          + ", ".join(f"{name} {epochs:.2f}" for name, epochs in known["epochs"].items()))
    return known["report"], rows


@dataclass(slots=True)
class GPT3Settings:
    """Options of `python gpt.py gpt3`."""
    name: str = "gpt3"         # results go to runs/NAME
    steps: int = 600           # optimizer steps of each model that learns rules in context
    seeds: int = 3             # models of each size
    cases: int = 200           # held-out cases for each K
    task_steps: int = 1000     # optimizer steps of the model for the synthetic tasks
    pages: int = 60_000        # of the crawl that is cleaned
    data_steps: int = 800      # optimizer steps on raw and on cleaned text
    seed: int = 0              # of the synthetic tasks and of the crawl; the rest has seeds 0, 1 …
    fresh: bool = False        # train everything anew


def gpt3(s: GPT3Settings):
    """Learning from examples in the prompt, banded attention, and what cleaning a crawl is worth. [GPT-3]"""
    require(s, 1, "steps", "seeds", "task_steps", "data_steps")
    require(s, 2, "cases")
    require(s, 100, "pages")
    folder = Path("runs") / s.name
    found = in_context(s, folder)
    print("\n== accuracy on held-out rules by the number of examples: median of the seeds, and the"
          " widest range of any K")
    print_table([{"size": size, "prompt": kind,
                  **{f"K = {K}": float(np.median(a)) for K, a in zip(SHOTS, by_K)},
                  "widest range": max(max(a) - min(a) for a in by_K)}
                 for size, kinds in found.items() for kind, by_K in kinds.items()], folder / "table.json")
    print("no weight has changed: the hash of all weights is the same before and after")
    print("\n== questions with four answers (chance 0.25), by examples and by how answers are compared")
    print_table(scorings(s, folder), folder / "scorings.json")
    print("\n== GPT-3's synthetic tasks, held out; the last three columns are the paper's 175B")
    tasks = synthetic_tasks(s, folder)
    print_table(tasks, folder / "tasks.json")
    print("\n== dense or alternating with banded layers, equal training")
    bands = banded_attention(s, folder)
    print_table(bands, folder / "bands.json")
    print("\n== the data pipeline")
    report, losses = data_effect(s, folder)
    print_table(report, folder / "pipeline.json")
    print()
    print_table(losses, folder / "losses.json")
    draw_gpt3(folder, found, tasks, losses)


def draw_gpt3(folder: Path, found: dict, tasks: list[dict], losses: list[dict]):
    """Figure 1.2, the synthetic tasks, and the loss on good text along training on each crawl."""
    if not (plt := pyplot()):
        return
    figure, (shots, bars, curves) = plt.subplots(1, 3, figsize=(16, 4), constrained_layout=True)
    styles = {"examples": "-", "with description": "--", "shuffled labels": ":"}
    for number, (size, kinds) in enumerate(found.items()):
        for kind, by_shots in kinds.items():
            shots.plot(range(len(SHOTS)), [np.median(a) for a in by_shots], styles[kind], color=f"C{number}",
                       label=size if kind == "examples" else None)
    shots.set_xticks(range(len(SHOTS)), SHOTS)
    shots.set_xlabel("examples in the prompt, K")
    shots.set_title("accuracy on held-out rules (Fig. 1.2)\n"
                    "— examples  -- with description  ··· shuffled labels")
    shots.legend()
    for i, K in enumerate((0, 1, 6)):
        bars.bar(np.arange(len(tasks)) + 0.27 * i, [row[f"K = {K}"] for row in tasks], 0.27, label=f"K = {K}")
    bars.set_xticks(np.arange(len(tasks)) + 0.27, [row["task"] for row in tasks])
    bars.set_title("synthetic tasks, exact match")
    bars.legend()
    for row in losses:
        lines = (folder / "clean" / f"{row['text']}.jsonl").read_text().splitlines()
        points = [(r["step"], r["bits/byte"]) for r in map(json.loads, lines) if "bits/byte" in r]
        curves.plot(*zip(*points), marker="o", label=row["text"])
    curves.set_title("bits per byte of good held-out text")
    curves.set_xlabel("steps, equal tokens")
    curves.legend()
    save_figure(figure, folder / "gpt3.png")
    plt.close(figure)


# ----------------------------------------------------------------------------------------------------------
# 13. Commands: pretrain, sample, sizes, export, bench


@dataclass(slots=True)
class PretrainSettings:
    """Options of `python gpt.py pretrain`."""
    data: str = "world"         # a file, a folder, a URL, "tinyshakespeare", "world" or "wide-world"
    name: str = "pretrain"      # results go to runs/NAME
    vocab_size: int = 1152      # tokens of the tokenizer that is trained on the data
    block_size: int = 128       # context in tokens
    n_layer: int = 3
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    post_norm: bool = False     # GPT-1's form
    window: int | None = None   # GPT-3's: every other layer sees only so many tokens back
    steps: int = 1500
    batch_size: int = 12        # sequences per forward pass
    accumulate: int = 1         # forward passes per optimizer step
    lr: float = 0.004           # AdamW's peak learning rate
    muon_lr: float = 0.02       # Muon's peak learning rate
    seed: int = 0
    fresh: bool = False         # train anew even if a matching checkpoint exists


def documents_of(source: str, seed: int) -> Iterator[str]:
    """The documents of a text, or of the world."""
    return web(World(seed), WORLD_DOCUMENTS, 0, WEBS[source]) if source in WEBS else load_text(source)


def pretrained(s: PretrainSettings, folder: Path, stage: str = "pretrain",
               kind: Callable[[GPTConfig], nn.Module] = GPT,
               watch: Callable[[nn.Module, Tokenizer], dict] = lambda model, tokenizer: {}
               ) -> tuple[nn.Module, Tokenizer, dict, np.ndarray, np.ndarray]:
    """Tokenizer, token stream and model for some text, trained or reused; everything is kept in `folder`, the
    model, a GPT or what else `kind` makes, as <stage>.pt.
    Returns (model, tokenizer, {"loss", "bits_per_byte"}, train stream, validation stream)."""
    require(s, 1, "n_layer", "n_head", "n_embd", "window", "steps", "batch_size", "accumulate")
    require(s, 2, "block_size")
    if s.dropout >= 1:
        raise UserError(f"--dropout must be below 1, not {s.dropout}")
    settings = {k: v for k, v in dataclasses.asdict(s).items() if k not in ("name", "fresh")}
    settings["data"] = fingerprint(s.data)
    tokenizer_file, started = folder / "tokenizer.json", time.time()

    def write():
        sample, size = [], 0
        for document in documents_of(s.data, s.seed):   # ten megabytes are enough to learn merges from
            sample.append(document)
            size += len(document)
            if size > 10_000_000:
                break
        tokenizer = Tokenizer(train_bpe(sample, s.vocab_size - len(SPECIAL_TOKENS)))
        tokenizer.save(tokenizer_file)
        known = write_stream(documents_of(s.data, s.seed), tokenizer, folder)
        print(f"tokenizer of {tokenizer.vocab_size} and "
              f"{known['train_tokens'] + known['val_tokens']:,} tokens from {known['bytes']:,} bytes "
              f"in {known['documents']:,} documents, {time.time() - started:.1f} s")
        return known

    known = remembered(folder / "stream.json", {k: settings[k] for k in ("data", "vocab_size", "seed")},
                       s.fresh, write)
    tokenizer = Tokenizer.load(tokenizer_file)
    train_stream, val_stream = (open_stream(folder / f"{split}.bin", known["dtype"])
                                for split in ("train", "val"))
    torch.manual_seed(s.seed)
    model = kind(GPTConfig(tokenizer.vocab_size, s.block_size, s.n_layer, s.n_head, s.n_embd, s.dropout,
                           s.post_norm, s.window)).to(pick_device())
    print(f"model of {model.num_params():,} parameters, {s.n_embd} wide, context {s.block_size}")
    config = TrainConfig(steps=s.steps, batch_size=s.batch_size, accumulate=s.accumulate, lr=s.lr,
                         muon_lr=s.muon_lr, warmup=min(50, s.steps // 10), seed=s.seed)
    settings |= {**dataclasses.asdict(config), "kind": kind.__name__}
    result = train(model, tokenizer, train_stream, val_stream, config,
                   folder / f"{stage}.pt", settings, s.fresh, watch)
    return model, tokenizer, result, train_stream, val_stream


def fingerprint(source: str) -> str:
    """What a text is called and what changes with it: size and date of its files,
    or what the world writes."""
    if source in WEBS:
        sample = f"{WORLD_DOCUMENTS} " + "".join(web(World(0), 500, 0, WEBS[source]))
        return f"{source} {hashlib.sha256(sample.encode()).hexdigest()[:16]}"
    path = Path(source)
    files = (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else
             [path] if path.exists() else [])
    marks = "".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in files)
    return f"{source} {hashlib.sha256(marks.encode()).hexdigest()[:16]}"


def pretrain(s: PretrainSettings):
    """Train a GPT on a text and show what it writes. [GPT-2 §2]"""
    folder = Path("runs") / s.name
    model, tokenizer, result, _, _ = pretrained(s, folder)
    print_table([{"data": s.data, "parameters": model.num_params(), **result}], folder / "table.json")
    generator = torch.Generator(model.device).manual_seed(s.seed)
    start = torch.tensor([[tokenizer.eot]] * 3, device=model.device)
    for row in generate(model, start, min(100, s.block_size - 1), generator=generator):
        print("\n---\n" + tokenizer.decode(row).replace("<|endoftext|>", "\n"))


@dataclass(slots=True)
class SampleSettings:
    """Options of `python gpt.py sample`."""
    model: str = "runs/pretrain/pretrain.pt"    # a checkpoint, a Hugging Face folder, gpt1, gpt2 … gpt2-xl
    prompt: str = ""            # the text to continue
    tokens: int = 100           # how many tokens to write
    samples: int = 1            # how many texts
    temperature: float = 1.0    # 0 takes the most likely token
    top_k: int | None = None    # only the k most likely tokens
    top_p: float | None = None  # only the most likely tokens that together reach this probability
    seed: int = 0


def sample(s: SampleSettings):
    """Continue a text with a trained model."""
    require(s, 1, "tokens", "samples", "top_k")
    model, tokenizer = load_model(s.model)
    generator = torch.Generator(model.device).manual_seed(s.seed)
    start = [] if tokenizer.eot is None else [tokenizer.eot]                  # GPT-1 has no such token
    ids = start + tokenizer.encode(s.prompt)
    if not ids:
        raise UserError("this model needs a --prompt to begin with")
    prompt = torch.tensor([ids] * s.samples, device=model.device)
    for row in generate(model, prompt, s.tokens, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p,
                        stop_tokens=tuple(start), generator=generator).tolist():
        row = row[:row.index(tokenizer.eot)] if tokenizer.eot in row else row
        text = tokenizer.decode(ids[len(start):] + row)
        print(text + ("\n---" if s.samples > 1 else ""))


@dataclass(slots=True)
class SizesSettings:
    """Options of `python gpt.py sizes`."""
    batch_size: int = 1         # sequences per step, for the memory of activations


# What the papers print: parameters, and tokens of pretraining where they say.
PRINTED = {"gpt1": ("117M", None), "gpt2": ("117M", None), "gpt2-medium": ("345M", None),
           "gpt2-large": ("762M", None), "gpt2-xl": ("1542M", None), "gpt3-small": ("125M", 300e9),
           "gpt3-medium": ("350M", 300e9), "gpt3-large": ("760M", 300e9), "gpt3-xl": ("1.3B", 300e9),
           "gpt3-2.7b": ("2.7B", 300e9), "gpt3-6.7b": ("6.7B", 300e9), "gpt3-13b": ("13.0B", 300e9),
           "gpt3-175b": ("175.0B", 300e9)}


class WithoutValues(torch.overrides.TorchFunctionMode):
    """New weights are not filled: on the meta device there is nothing to fill, and trying takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def sizes(s: SizesSettings):
    """The papers' models in numbers: parameters, memory, compute, none of it allocated. [GPT-3 App. D]"""
    rows = []
    for name, config in PRESETS.items():
        with torch.device("meta"), WithoutValues():
            model = GPT(config)
        (paper, tokens), n = PRINTED.get(name, (None, None)), model.num_params()
        flops = flops_per_token(model)
        rows.append({"model": name, "paper": paper, "parameters": f"{n:,}",
                     "weights GB": 4 * n / 1e9, "training GB": 16 * n / 1e9,
                     "activations GB": 4 * s.batch_size * activations(config) / 1e9,
                     "GFLOP/token": flops / 1e9,
                     "training FLOP": f"{flops * tokens:.2e}" if tokens else None})
    print_table(rows, Path("runs") / "sizes" / "table.json")
    print("float32; training: weights, gradients and AdamW's two moments; activations: what a training step\n"
          f"keeps for its backward pass, {s.batch_size} full sequence(s); GFLOP: forward and backward")


def flops_per_token(model: GPT) -> float:
    """Forward and backward: 6 per weight that multiplies (all but the positions), and attention's two
    products over half of the context on average, 6 C T per layer (less where a layer has a band)."""
    c = model.config
    seen = sum(min(c.block_size / 2, block.attn.window or math.inf) for block in model.h)
    return 6 * (model.num_params() - model.wpe.weight.numel()) + 12 * c.n_embd * seen


def activations(c: GPTConfig) -> int:
    """Numbers that one sequence keeps for the backward pass: per token and layer 17 C (each sub-layer's input
    and its normalized form; q, k, v and the output of attention, also side by side; the MLP's 4 C twice),
    the last state and its normalized form, and the log-probabilities."""
    return c.block_size * (c.n_layer * 17 * c.n_embd + 2 * c.n_embd + c.vocab_size)


@dataclass(slots=True)
class ExportSettings:
    """Options of `python gpt.py export`."""
    model: str = "runs/pretrain/pretrain.pt"    # a checkpoint
    folder: str = "runs/export"                 # where to write config.json, weights and tokenizer


def export(s: ExportSettings):
    """Write a trained model as a folder that transformers opens."""
    export_pretrained(*load_model(s.model), s.folder)
    print(f"{s.folder}: AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained open it")


@dataclass(slots=True)
class BenchSettings:
    """Options of `python gpt.py bench`."""
    repeats: int = 5            # timed runs of each; the median counts


# (B, nh, T, hs), window
ATTENTION_CASES = [((16, 4, 256, 32), None), ((4, 12, 1024, 64), None), ((1, 12, 4096, 64), None),
                   ((1, 12, 1024, 64), 256), ((1, 12, 2048, 64), 256), ((1, 12, 4096, 64), 256),
                   ((1, 12, 8192, 64), 256)]


def bench(s: BenchSettings):
    """Attention, forward and backward: time and peak memory of the equation, PyTorch's and ours."""
    rows = []
    for shape, window in ATTENTION_CASES:
        names = ["pytorch", "ours"] if shape[2] > 4096 else ["equation", "pytorch", "ours"]
        tensors, seconds = attention_inputs(shape), {name: [] for name in names}
        for _ in range(s.repeats + 1):   # in turns, so that a slow moment of the machine hits all of them
            for name in names:
                started = time.perf_counter()
                attention_run(name, window, *tensors)
                seconds[name].append(time.perf_counter() - started)
        row = {"B, nh, T, hs": str(shape), "window": window}
        for name in names:
            row[f"{name} ms"] = round(1000 * float(np.median(seconds[name][1:])), 1)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # a fresh process each
            for name in names:
                row[f"{name} MB"] = round(pool.apply(attention_memory, (name, shape, window)))
        row["ours / pytorch"] = round(row["ours ms"] / row["pytorch ms"], 2)
        rows.append(row)
        print(row, flush=True)
    print_table(rows, Path("runs") / "bench" / "table.json")


def attention_inputs(shape) -> list[torch.Tensor]:
    """q, k, v and the gradient of the output."""
    return [torch.randn(shape, requires_grad=i < 3) for i in range(4)]


def attention_run(name: str, window: int | None, q, k, v, grad):
    """Forward and backward once: the equation, PyTorch's attention, or ours."""
    if name == "equation":
        out = attention(q, k, v, window)
    elif name == "ours":
        out = fused_attention(q, k, v, window)
    else:
        i = torch.arange(q.size(2))
        band = None if window is None else (i <= i[:, None]) & (i[:, None] - window < i)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=band, is_causal=window is None)
    torch.autograd.grad(out, (q, k, v), grad)


def attention_memory(name: str, shape, window: int | None) -> float:
    """Megabytes that one run adds to the peak of this process; call it in a fresh one."""
    tensors = attention_inputs(shape)
    attention_run(name, window, *attention_inputs((1, 1, 2, shape[3])))   # what PyTorch loads on first use
    before = peak_memory()
    attention_run(name, window, *tensors)
    return (peak_memory() - before) / 2**20


def peak_memory() -> int:
    """The most bytes that this process has held.
    Linux's getrusage counts the parent's too, /proc does not."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    import resource                 # not on Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    command_line({"pretrain": (PretrainSettings, pretrain), "gpt1": (GPT1Settings, gpt1),
                  "gpt2": (GPT2Settings, gpt2), "gpt3": (GPT3Settings, gpt3),
                  "sample": (SampleSettings, sample), "sizes": (SizesSettings, sizes),
                  "export": (ExportSettings, export),
                  "bench": (BenchSettings, bench)}, default="pretrain")
