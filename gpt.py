"""
gpt.py: the model. GPT-1, GPT-2 and GPT-3 are one class: post_norm makes it GPT-1, window GPT-3.

    python gpt.py                                train on the town's web (data.py, section 4)
    python gpt.py pretrain --data my.txt         the same on a file or a folder
    python gpt.py sample --prompt "Mia lives"    continue a text; --model gpt2: OpenAI's weights
    python gpt.py export                         write the model as a folder for transformers
    torchrun --standalone --nproc-per-node 2 gpt.py pretrain --name pretrain-two    in two processes

Papers: Attention (Vaswani et al., arXiv:1706.03762); GPT-1 (Radford et al. 2018); GPT-2 (Radford et
al. 2019); GPT-3 (arXiv:2005.14165); FlashAttention-2 (arXiv:2307.08691); Muon (Jordan et al. 2024,
kellerjordan.github.io/posts/muon).

Contents
    1. The model: GPTConfig, attention, CausalSelfAttention, MLP, Block, GPT
    2. The family: PRESETS
    3. Several processes: join_processes, my_share, all_reduce, my_part, gather_rows
    4. Sampling with a cache: sample_next_token, KVCache, generate, to_tensors, complete
    5. For speed: fused_attention, hidden_states, Muon
    6. Training: make_optimizers, schedule, update, train, pretraining_loss, evaluate
    7. Scoring text: completion_logprobs, choose
    8. Checkpoints and published weights: load_model, load_pretrained, export_pretrained
    9. Commands: RunLog, print_table, pretrain, sample, export

Shapes: B batch size, T sequence length, S keys, P prompt length, N tokens where a mask is 1,
C = n_embd, nh = n_head, hs = C / nh, V = vocab_size, W processes. idx holds token ids. Control
tokens mark parts of a text, such as its end (data.py, section 1). A UserError ends the program with
one line that says what is wrong (data.py, section 7). my_share, my_part, all_reduce and gather_rows
divide work between processes (section 3); in one process, each returns its first argument.
"""
from __future__ import annotations

import atexit
import json
import math
import os
import time
import warnings
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
# Set before torch is imported: how long idle OpenMP threads spin before they sleep. The default of
# 300,000 is slow beside another program, 1,000 is slow alone (papers/README.md, Speed).
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

from data import (IS_MAIN, Batches, Tokenizer, UserError, atomic_write, command_line, documents_of,
                  is_out_of_memory, option, reading, run_folder, tokenize_text, write_json)

# ----------------------------------------------------------------------------------
# 1. The model: GPTConfig, attention, CausalSelfAttention, MLP, Block, GPT


@dataclass(slots=True)
class GPTConfig:
    """The shape of a model; the defaults are GPT-2's smallest, the runs here train
    PRESETS["laptop"] (section 2). Each option(default, help) is a field and a command-line option
    (data.py, section 7)."""
    vocab_size: int = option(50257, "number of tokens, control tokens included", at_least=1)
    block_size: int = option(1024, "context length in tokens", at_least=2)
    n_layer: int = option(12, "number of blocks", at_least=1)
    n_head: int = option(12, "attention heads of each block", at_least=1)
    n_embd: int = option(768, "width of the residual stream", at_least=1)
    dropout: float = option(0.0, "on the embeddings and on the output of each sub-layer")
    post_norm: bool = option(False, "GPT-1: LayerNorm after each sub-layer, none at the end")
    window: int | None = option(
        None, "GPT-3: every other layer sees only that many of the last tokens", at_least=1)

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")


def attention(q, k, v, window: int | None = None, positions=None):
    """softmax(q k^T / sqrt(hs) + mask) v: q (B, nh, T, hs), k and v (B, nh, S, hs) ->
    (B, nh, T, hs). [Vaswani et al. 2017 eq. 1]

    The query at position i sees the keys i - window < j <= i; without a window, all j <= i.
    Queries are at positions 0 ... T - 1, or with a KVCache (section 4) at `positions` (B, T).
    """
    S, hs = k.shape[-2:]
    if positions is None:
        positions = torch.arange(q.size(2), device=q.device)[None]  # (1, T)
    i = positions[:, None, :, None]  # (B or 1, 1, T, 1), the same for all heads
    j = torch.arange(S, device=q.device)  # (S,)
    is_hidden = (j > i) | (j <= i - (window or S))  # (B or 1, 1, T, S); a window of S hides nothing
    # -inf, not a finite number: softmax gives it weight 0, however negative visible scores are
    mask = torch.zeros_like(is_hidden, dtype=q.dtype).masked_fill(is_hidden, -math.inf)
    scores = (q / math.sqrt(hs)) @ k.mT  # (B, nh, T, S)
    scores += mask  # in place: faster than masked_fill
    return scores.softmax(dim=-1) @ v  # (B, nh, T, hs)


class CausalSelfAttention(nn.Module):
    """Multi-head attention: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.n_head = config.n_head
        self.layer = layer  # its place in a KVCache (section 4)
        # "alternating" [GPT-3 §2.1]; that the odd layers have the window is our choice
        self.window = config.window if layer % 2 else None
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # makes q, k and v
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)  # mixes the heads
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, cache=None):
        heads = self.c_attn(x).unflatten(2, (3 * self.n_head, -1))  # (B, T, 3 nh, hs)
        q, k, v = heads.transpose(1, 2).chunk(3, dim=1)  # (B, nh, T, hs) each
        if cache is not None:
            k, v = cache.store(self.layer, k, v)  # all so far: (B, nh, S, hs) each
            y = attention(q, k, v, self.window, cache.positions)
        elif x.is_cuda or x.size(1) > 128:  # not in the CPU runs here, whose context is 128
            y = fused_attention(q, k, v, self.window)  # the same in less memory, see section 5
        else:
            y = attention(q, k, v, self.window)
        y = y.transpose(1, 2).flatten(2)  # (B, T, C): concatenate the heads
        return self.dropout(self.c_proj(y))


class MLP(nn.Module):
    """Linear, GELU, linear, applied to each position separately: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        # the tanh approximation of GELU, as in OpenAI's code of GPT-1 and GPT-2
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, 4C)
        return self.dropout(self.c_proj(x))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.post_norm = config.post_norm
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):
        if self.post_norm:  # GPT-1: normalize the residual stream after each sub-layer
            x = self.ln_1(x + self.attn(x, cache))
            x = self.ln_2(x + self.mlp(x))
        else:  # GPT-2: normalize the input of each sub-layer [§2.3]
            x = x + self.attn(self.ln_1(x), cache)
            x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """Token ids (B, T) -> logits (B, T, V) over the next token. Parameters are named as in
    transformers, after OpenAI's variables. [GPT-1 §3.1; GPT-2 §2.3]"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.knows_chat = False  # whether it was tuned on conversations (set by load_model)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # tokens; tied to the output
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # positions
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.Identity() if config.post_norm else nn.LayerNorm(config.n_embd)
        self.init_weights()

    def hidden(self, idx, cache=None):
        """The hidden states before the output layer: ids (B, T) -> (B, T, C). With a KVCache
        (section 4) the ids continue the tokens in it. UserError if T exceeds block_size."""
        T = idx.size(1)
        if T > self.config.block_size:
            raise UserError(f"{T} tokens do not fit into a context of {self.config.block_size}")
        if cache is None:
            positions = torch.arange(T, device=idx.device)  # (T,)
        else:
            positions = cache.advance(T)  # (B, T)
        x = self.dropout(self.wte(idx) + self.wpe(positions))  # (B, T, C)
        for block in self.h:
            x = block(x, cache)
        return self.ln_f(x)

    def forward(self, idx, targets=None):
        """ids (B, T) -> (logits (B, T, V), loss). The loss is None without targets (B, T), else
        their mean cross-entropy in nats; targets of -1 are ignored."""
        x = self.hidden(idx)  # (B, T, C)
        logits = F.linear(x, self.wte.weight)  # (B, T, V), with the weights of the embedding
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss

    def init_weights(self):
        """Matrices from a normal distribution with std 0.02, biases 0; LayerNorm weights stay at
        PyTorch's 1 [GPT-1 §4.1]. For GPT-2 and GPT-3, position embeddings have std 0.01, as in
        OpenAI's code, and each c_proj (two per block, into the residual stream)
        0.02 / sqrt(2 n_layer), so that the variance that all of them together add to the stream
        does not depend on n_layer [GPT-2 §2.3 says 1/sqrt(N), N the number of residual layers]."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if self.config.post_norm:
            return
        nn.init.normal_(self.wpe.weight, std=0.01)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self):
        return self.wte.weight.device


# ----------------------------------------------------------------------------------
# 2. The family: PRESETS   [GPT-2 Table 2; GPT-3 Table 2.1]

# "laptop" is the default of the commands. GPT-1 trained with dropout 0.1, also of the attention
# weights [§4.1]: class GPT has none there, and a preset none at all unless you set it. GPT-2's
# n_head is that of the released models.
PRESETS = {
    "laptop": GPTConfig(vocab_size=1024, block_size=128, n_layer=3, n_head=4, n_embd=128),
    "gpt1": GPTConfig(vocab_size=40478, block_size=512, post_norm=True),
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
}
# Two misprints of Table 2.1 are corrected: XL has 16 heads (24 of size 128 would make 1.5B
# parameters, not 1.3B), and 13B has n_embd 5120 (5140 is not a multiple of 40). The paper does
# not state the window; 256 is our choice.
for _name, _layers, _heads, _width in (
        ("small", 12, 12, 768), ("medium", 24, 16, 1024), ("large", 24, 16, 1536),
        ("xl", 24, 16, 2048), ("2.7b", 32, 32, 2560), ("6.7b", 32, 32, 4096),
        ("13b", 40, 40, 5120), ("175b", 96, 96, 12288)):
    PRESETS[f"gpt3-{_name}"] = GPTConfig(block_size=2048, n_layer=_layers, n_head=_heads,
                                         n_embd=_width, window=256)

# ----------------------------------------------------------------------------------
# 3. Several processes: join_processes, my_share, all_reduce, my_part, gather_rows
#
# torchrun starts the same program W times on one machine, each on its own GPU or CPU thread.
# All processes hold the same model and draw the same batches. The slow parts (answers, their
# scores, gradients) are divided: each process computes its share of the rows, and `update`
# sums the gradients. W processes train like one, up to rounding and dropout. A first reader may
# assume W = 1.


def join_processes():
    """Under torchrun, start the process group and wait until every process has called this.
    What the main process has written before its call, the others can read after theirs."""
    if not dist.is_torchelastic_launched():
        return
    if not dist.is_initialized():
        # PyTorch imports the module below sooner or later. Imported after the process group exists,
        # its default arguments would hold the group, whose threads would outlive
        # destroy_process_group and abort the exit.
        import torch.distributed.nn.functional  # noqa: F401
        gpu = None
        if pick_device() == "cuda":
            gpu = torch.device("cuda", torch.cuda.current_device())
        # 12 hours, because the others wait while the main process makes the tokens
        dist.init_process_group(timeout=timedelta(hours=12), device_id=gpu)
        atexit.register(dist.destroy_process_group)  # ends its threads before Python exits
    dist.barrier()


def my_share(batch):
    """The rows of a batch that this process computes: every W-th. A batch of fewer than W rows
    is not divided, because the mean over an empty share would be nan."""
    if not dist.is_initialized() or len(batch) < dist.get_world_size():
        return batch
    return batch[dist.get_rank()::dist.get_world_size()]


def all_reduce(x):
    """The sum of a tensor over all processes, without gradient; of one process x itself."""
    if dist.is_initialized():
        x = x.detach().clone()  # dist.all_reduce overwrites it
        try:
            dist.all_reduce(x)
        except RuntimeError as error:
            raise UserError(f"the processes of this job have lost each other ({error}); the "
                            "same command goes on from what is saved") from error
    return x


def my_part(mean, count):
    """This process's part of the mean over the whole batch, mean * count / (sum of all counts).
    `mean` is that of this process's `count` tokens (or rows). The parts of all processes add up to
    the whole mean, and so do their gradients."""
    count = torch.as_tensor(count, dtype=mean.dtype, device=mean.device)
    return mean * (count / all_reduce(count))


def gather_rows(own, mine, n_rows: int):
    """Results (n, ...) of this process's rows, whose indices are `mine` (n,) -> results of all
    rows, (n_rows, ...)."""
    if len(mine) == n_rows:  # a single process, or a batch that my_share has not divided
        return own
    whole = own.new_zeros(n_rows, *own.shape[1:])
    whole[mine] = own
    return all_reduce(whole)  # the rows of the other processes are 0 here


# ----------------------------------------------------------------------------------
# 4. Sampling with a cache: sample_next_token, KVCache, generate, to_tensors, complete


def sample_next_token(logits, u, temperature: float = 1.0, top_k: int | None = None,
                      top_p: float | None = None):
    """logits (B, V) -> ids (B,). top_k keeps the k most likely tokens; top_p, of these, the
    smallest set of most likely tokens whose probabilities sum to top_p or more. Ties with the least
    likely kept token are kept, too.

    u (B,), uniform in [0, 1), is the random part. `generate` draws it for each row and step, so
    that a row's random numbers do not depend on when other rows end.
    """
    if not logits.amax(dim=-1).isfinite().all():  # nan or inf; -inf excludes a token
        raise UserError("the model computes nan or inf: its training has diverged")
    if temperature < 0.01:  # practically 0: the most likely token
        return logits.argmax(dim=-1)
    logits = keep_likeliest(logits / temperature, top_k, top_p)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)  # (B, V)
    # Take the first token whose cumulative probability exceeds u. Rounding may leave the last sum,
    # the total, a little below 1: scale u to stay below it.
    u = u[:, None] * cumulative[:, -1:] * (1 - torch.finfo(torch.float32).eps)  # (B, 1)
    return torch.searchsorted(cumulative, u, right=True).squeeze(1)


def keep_likeliest(logits, top_k: int | None, top_p: float | None):
    """Set the logits (B, V) of all tokens that top_k and top_p exclude to -inf."""
    if top_k is not None:
        kth_largest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < kth_largest, -math.inf)
    if top_p is not None:
        ordered = logits.sort(dim=-1, descending=True).values  # (B, V)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities  # sum over all likelier tokens
        kept = (before < top_p).sum(dim=-1, keepdim=True).clamp(min=1)  # (B, 1)
        smallest_kept = ordered.gather(1, kept - 1)  # (B, 1)
        logits = logits.masked_fill(logits < smallest_kept, -math.inf)
    return logits


class KVCache:
    """Keys and values of all tokens read so far, so that they are not computed anew for every new
    token.

    The token at position p of a row is stored in slot p, and a query sees the slots up to its
    own position. Prompts are padded on the right; a row's first new token overwrites its first
    pad. Prompts of 3 tokens and 1 token, then one more token for each:

        row 0    a b c         a b c d
        row 1    x . .         x y . .
    """

    def __init__(self, model, batch_size: int, max_length: int):
        c = model.config
        shape = (c.n_layer, batch_size, c.n_head, max_length, c.n_embd // c.n_head)
        self.k = model.wte.weight.new_zeros(shape)  # (n_layer, B, nh, slots, hs)
        self.v = model.wte.weight.new_zeros(shape)
        # (B,): the number of tokens of each row, which is also the position of its next token
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=model.device)
        self.positions = None  # (B, T): of the tokens that are being read; set by `advance`
        self.used = 0  # slots in use: the length of the longest row

    def advance(self, T: int):
        """Count T more tokens in each row; sets and returns their positions (B, T), which all
        layers read."""
        self.positions = self.lengths[:, None] + torch.arange(T, device=self.lengths.device)
        self.lengths = self.lengths + T
        self.used += T
        return self.positions

    def store(self, layer: int, k, v):
        """Store k and v (B, nh, T, hs) of new tokens; returns those of all tokens so far, both
        (B, nh, S, hs)."""
        slots = self.positions[:, None, :, None].expand_as(k)  # (B, nh, T, hs)
        self.k[layer].scatter_(2, slots, k)
        self.v[layer].scatter_(2, slots, v)
        return self.k[layer][:, :, :self.used], self.v[layer][:, :, :self.used]

    def select(self, kept):
        """Keep the rows with these indices, in this order; an index may occur several times."""
        self.k = self.k.index_select(1, kept)
        self.v = self.v.index_select(1, kept)
        self.lengths = self.lengths[kept]
        self.used = int(self.lengths.max())


@torch.no_grad()
def generate(model, idx, max_new_tokens: int, lengths=None,
             stop_tokens: tuple[int, ...] = (), generator=None, **sampling) -> list[list[int]]:
    """Continue prompts idx (B, P), padded on the right -> a list of new tokens for each row: up
    to and including the first stop token, at most max_new_tokens.

    lengths (B,) are the prompts' lengths without pads (default: P). `sampling`: temperature,
    top_k and top_p of `sample_next_token`.

    Position embeddings are absolute, so a full cache cannot drop its oldest token: the positions of
    all others would change, and with them their keys and values. Instead, all rows that have not
    ended are cut to their last block_size // 2 tokens and read again. Of a prompt the last
    block_size - 1 tokens are read, which leaves one slot for a new token.

    Puts the model into eval mode.
    """
    model.eval()
    limit = model.config.block_size
    if lengths is None:
        lengths = torch.full((len(idx),), idx.size(1))
    stops = torch.tensor(stop_tokens, dtype=torch.long, device=idx.device)
    new = idx.new_zeros(len(idx), max_new_tokens)  # (B, max_new_tokens)
    uniform = torch.rand(new.shape, generator=generator, device=idx.device)
    mine = my_share(torch.arange(len(idx), device=idx.device))  # this process's rows
    rows = mine  # those that have not ended; the cache holds just these
    cache = None  # the first step reads the prompts
    newest = None  # (rows,): the tokens of the last step
    for step in range(max_new_tokens):
        if cache is None or cache.used == limit:
            keep = limit - 1 if cache is None else limit // 2
            texts = [torch.cat([idx[i, :lengths[i]], new[i, :step]])[-keep:] for i in rows]
            cache, x = read_texts(model, texts, max_new_tokens)
        else:
            x = model.hidden(newest[:, None], cache)[:, 0]  # (rows, C)
        logits = F.linear(x, model.wte.weight)  # (rows, V)
        newest = sample_next_token(logits, uniform[rows, step], **sampling)  # (rows,)
        new[rows, step] = newest
        going_on = (~torch.isin(newest, stops)).nonzero().squeeze(1)  # indices into `rows`
        if len(going_on) == 0:
            break
        if len(going_on) < len(rows):
            rows, newest = rows[going_on], newest[going_on]
            cache.select(going_on)
    answers = []
    for row in gather_rows(new[mine], mine, len(idx)).tolist():
        stopped = [i for i, token in enumerate(row) if token in stop_tokens]
        answers.append(row[:stopped[0] + 1] if stopped else row)
    return answers


def read_texts(model, texts: list, max_new_tokens: int):
    """Read texts, tensors of ids, into a new KVCache with room for new tokens. Returns the cache
    and the hidden state at the end of each text, (rows, C)."""
    ids, ends = to_tensors(texts, 0, model.device)  # (rows, T), (rows,)
    # Prompts that are answered several times are read once. (Two that differ only in pads may
    # share one row, too: their ends differ.)
    ids, text_of_row = ids.unique(dim=0, return_inverse=True)  # (distinct, T), (rows,)
    slots = min(model.config.block_size, ids.size(1) + max_new_tokens)
    cache = KVCache(model, len(ids), slots)
    x = model.hidden(ids, cache)[text_of_row, ends - 1]  # (rows, C)
    cache.select(text_of_row)
    cache.lengths = ends  # hidden() has counted the pads, too
    return cache, x


def to_tensors(rows: list, pad: int, device):
    """Lists or tensors of integers -> one tensor (B, T), filled up with `pad` on the right, and
    their lengths (B,). With the pads on the right, no token of a text sees a pad (so any id will
    do), and every row starts at position 0, as in training."""
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    return ids.to(device), lengths.to(device)


def chunks(items: list, size: int) -> list[list]:
    """Split a list into lists of `size` items; the last may be shorter."""
    return [items[i:i + size] for i in range(0, len(items), size)]


def complete(model, tokenizer, prompts: list[list[int]], stops: tuple[int, ...],
             max_new_tokens: int, seed: int = 0, **sampling) -> list[tuple[str, bool]]:
    """Continue each prompt, a list of ids: [(text, whether a stop token came)], in the order of the
    prompts. A text has no control tokens, and no white space at its ends."""
    generator = torch.Generator(model.device).manual_seed(seed)
    answers = [None] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # few pads
    for batch in chunks(by_length, 256):
        ids, lengths = to_tensors([prompts[i] for i in batch], tokenizer.pad, model.device)
        rows = generate(model, ids, max_new_tokens, lengths, stops, generator, **sampling)
        for i, row in zip(batch, rows):
            ended = row[-1] in stops
            text = tokenizer.decode(tokenizer.text_ids(row[:-1] if ended else row))
            answers[i] = (text.strip(), ended)
    return answers


# ----------------------------------------------------------------------------------
# 5. For speed: fused_attention, hidden_states, Muon   [after FlashAttention-2; Jordan et al. 2024]
#
# A first reader may skip this section. `fused_attention` computes what `attention` does, in less
# memory and, on CPUs from about 250 tokens on, in less time (on CUDA in more). Muon is an optimizer
# for the matrices in the blocks that needs fewer steps than AdamW.


def fused_attention(q, k, v, window: int | None = None):
    """attention(q, k, v, window) for S = T, by tiles of scores, none of which is kept for the
    backward pass.

    bfloat16 is computed in float32 (on CUDA with TF32, see pick_device): a product in bfloat16
    would round the scores to 8 bits, and softmax exponentiates rounding errors.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    T = q.size(2)
    with torch.autocast(q.device.type, enabled=False):
        flat = [x.to(dtype).flatten(0, 1) for x in (q, k, v)]  # (B*nh, T, hs)
        out = FusedAttention.apply(*flat, min(window or T, T))
    return out.view(q.shape).to(q.dtype)


TILE = 2 ** 21  # scores computed at once: 8 MB, which should stay in the CPU's cache


class FusedAttention(torch.autograd.Function):
    """Attention by tiles of scores: time O(T^2), or O(T window); memory O(T).

    Forward: S = q k^T / sqrt(hs), P = softmax(S), O = P v. (In this class S, P and O are the
    paper's matrices and L its vector, not lengths; the paper omits the scale.) A tile holds a block
    of queries and all the keys that they see, so the softmax is computed at once. (The paper's
    tiles hold only some of these keys; its output is rescaled with each further tile.)

    Backward, from dO, with delta = rowsum(dO * O):

        dv = P^T dO                     dP = dO v^T      dS = P * (dP - delta)
        dq = dS k / sqrt(hs)            dk = dS^T q / sqrt(hs)

    Here a tile holds a block of keys and all the queries that see them: one tile gives dk and
    dv of the block, and dq is summed over tiles. P is recomputed from L, one number per query.

    The code uses base 2, because 2^x is faster than e^x: q is multiplied by log2(e), so the
    scores are S log2(e), e^S is 2^scores, and L = log2(sum of 2^scores) over the keys.
    """

    @staticmethod
    def forward(ctx, q, k, v, window):
        T, hs = q.shape[-2:]
        q = q * (math.log2(math.e) / math.sqrt(hs))  # (B*nh, T, hs)
        out = torch.empty_like(v)
        L = q.new_empty(len(q), 1, T)  # (B*nh, 1, T)
        for heads, start, stop in _tiles(q, window):
            first = max(0, start - window + 1)  # the first key that any query of the block sees
            scores = torch.bmm(q[heads, start:stop], k[heads, first:stop].mT)
            _hide(scores, start, first, window)
            top = scores.amax(-1, keepdim=True)  # (n, rows, 1)
            p = scores.sub_(top).exp2_()  # (n, rows, keys), softmax times total
            total = p.sum(-1, keepdim=True)  # (n, rows, 1)
            out[heads, start:stop] = torch.bmm(p, v[heads, first:stop]).div_(total)
            L[heads, 0, start:stop] = (top + total.log2()).squeeze(-1)
        ctx.window = window
        ctx.save_for_backward(q, k, v, out, L)
        return out

    @staticmethod
    def backward(ctx, grad_out):
        q, k, v, out, L = ctx.saved_tensors
        window = ctx.window
        T, hs = q.shape[-2:]
        delta = (grad_out * out).sum(-1)[:, None]  # (B*nh, 1, T)
        dq, dk, dv = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
        for heads, start, stop in _tiles(q, window):
            last = min(T, stop + window - 1)  # one past the last query that sees any key
            queries = heads, slice(start, last)
            keys = heads, slice(start, stop)
            # tiles are transposed here, (n, keys, queries): each key's row is contiguous
            scores = torch.bmm(k[keys], q[queries].mT)  # S^T
            _hide(scores.mT, start, start, window)
            p = scores.sub_(L[heads, :, start:last]).exp2_()  # P^T = 2^(S^T - L)
            dv[keys] = torch.bmm(p, grad_out[queries])
            ds = torch.bmm(v[keys], grad_out[queries].mT)  # dP^T
            ds.sub_(delta[heads, :, start:last]).mul_(p)  # dS^T
            dk[keys] = torch.bmm(ds, q[queries])
            dq[queries] += torch.bmm(ds.mT, k[keys])
        dk /= math.log2(math.e)  # q is scaled by log2(e) / sqrt(hs), and dk by the latter only
        dq /= math.sqrt(hs)
        return dq, dk, dv, None


def _tiles(q, window: int):
    """Yield (slice of the heads, start and stop of a block of positions) for each tile."""
    n_heads, T, _ = q.shape  # of all rows: B*nh
    if q.is_cuda:  # a small tile would take less time than the start of its kernels
        block, tile = 512, 64 * TILE
    else:  # longer blocks are faster, but compute more scores that the mask then hides
        block, tile = (64 if window <= 512 else 128), TILE
    width = min(T, window + block)  # at most so many keys (or queries) to a block
    per_tile = max(1, tile // (block * width))  # heads
    for head in range(0, n_heads, per_tile):
        for start in range(0, T, block):
            yield slice(head, head + per_tile), start, min(start + block, T)


def _hide(scores, i0: int, j0: int, window: int):
    """Set the scores (n, queries, keys) that the mask hides to -inf. The first query is i0, the
    first key j0 <= i0, and the keys reach beyond i0."""
    n_queries, n_keys = scores.shape[1:]
    if i0 + n_queries <= j0 + window:
        # The last query sees the first key: the window hides nothing, and what is hidden is in one
        # corner of the tile, where queries before the last key meet keys after the first query.
        scores = scores[:, :j0 + n_keys - i0, i0 - j0:]
        j0 = i0
    i = torch.arange(i0, i0 + scores.size(1), device=scores.device)[:, None]
    j = torch.arange(j0, j0 + scores.size(2), device=scores.device)
    scores.masked_fill_((j > i) | (j <= i - window), -math.inf)


def hidden_states(model, ids, lengths):
    """model.hidden(ids), (B, T) -> (B, T, C), for rows of these lengths (B,), in up to 40 % less
    time: the shorter half of the rows and the longer half are computed separately, each cut to its
    longest row. States after a row's end must not be used."""
    # States are kept in float32, also on CUDA, so that logits are computed in float32: logits in
    # bfloat16 would shift log-probabilities by up to .6 nats.
    states = model.wte.weight.new_zeros(*ids.shape, model.config.n_embd)  # (B, T, C)
    for rows in lengths.argsort().chunk(2):
        longest = int(lengths[rows].max())  # of this half
        with mixed_precision(ids.device):
            states[rows, :longest] = model.hidden(ids[rows, :longest]).to(states.dtype)
    return states


def orthogonalize(matrices: list):
    """Move the singular values of matrices towards 1 and keep their singular vectors, by five
    Newton-Schulz iterations. The smaller side of each matrix must be the same, m.

    An iteration multiplies X (m, n) from the left by F = a + b G + c G^2, where G = X X^T, or a
    tall X (n, m) from the right, where G = X^T X. This maps a singular value s to
    a s + b s^3 + c s^5: with these coefficients small values grow 3.4-fold per iteration, and after
    five those of 0.02 ... 1 are in 0.68 ... 1.14, which is good enough. Since the next G is F G F,
    it takes only products of (m, m) matrices, for all X in one batch; X is multiplied at the end.
    (Jordan et al. multiply X each time, in bfloat16, which is slow on CPUs.)
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = [x.size(0) > x.size(1) for x in matrices]
    gram = [x.mT @ x if tall else x @ x.mT for x, tall in zip(matrices, is_tall)]
    gram = torch.stack(gram)  # (number of matrices, m, m)
    # The trace of X X^T is the squared norm of X. Divided by it, singular values are at most 1.
    squared_norm = gram.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] + 1e-14
    gram = gram / squared_norm
    identity = torch.eye(gram.size(1)).to(gram)
    product = identity / squared_norm.sqrt()  # of all factors
    for _ in range(5):
        factor = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
        gram = factor @ gram @ factor
        product = factor @ product
    return [x @ f.mT if tall else f @ x for x, tall, f in zip(matrices, is_tall, product)]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for weight matrices. [Jordan et al. 2024]

    All singular values of an update are near 1, so rare directions of the gradient are learned
    as fast as the dominant ones.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_size = {}  # smaller side -> [(parameter, nesterov)], orthogonalized together
            for p in group["params"]:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                average = self.state[p]["momentum"]  # the moving average of the gradients
                average.lerp_(p.grad, 1 - group["momentum"])
                # the average after one step more with the same gradient
                nesterov = p.grad.lerp(average, group["momentum"])
                by_size.setdefault(min(p.shape), []).append((p, nesterov))
            for members in by_size.values():
                updates = orthogonalize([nesterov for _, nesterov in members])
                for (p, _), update in zip(members, updates):
                    # An orthogonal matrix keeps the length of its input. Spread over more outputs
                    # than inputs, the same length is a smaller root mean square: scale that up.
                    scale = max(1, p.size(0) / p.size(1)) ** 0.5
                    p.sub_(update, alpha=group["lr"] * scale)


# ----------------------------------------------------------------------------------
# 6. Training: make_optimizers, schedule, update, train, pretraining_loss, evaluate


def make_optimizers(model, lr: float, muon_lr: float | None = None,
                    betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.0,
                    eps: float = 1e-8) -> list[torch.optim.Optimizer]:
    """A list: AdamW and, if there is a muon_lr, Muon (orthogonalized momentum, section 5), which
    then trains the matrices in the blocks. Weight decay applies to AdamW's matrices only. Each
    group stores its peak_lr for `update`, which sets the learning rate. [betas: GPT-3 App. B]"""
    matrices, vectors, in_blocks = [], [], []
    for name, p in model.named_parameters():
        if p.ndim < 2:
            vectors.append(p)
        elif muon_lr and name.startswith("h."):  # of GPT.h
            in_blocks.append(p)
        else:
            matrices.append(p)
    groups = [{"params": matrices, "peak_lr": lr, "weight_decay": weight_decay},
              {"params": vectors, "peak_lr": lr, "weight_decay": 0.0}]
    optimizers = [torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)]  # lr: see `update`
    if in_blocks:
        optimizers.append(Muon([{"params": in_blocks, "peak_lr": muon_lr}]))
    return optimizers


def schedule(step: int, steps: int, warmup: int) -> float:
    """The learning rate at a step (from 0) as a fraction of its peak: linear warm-up over
    `warmup` steps, then cosine decay to a tenth. [GPT-3 App. B, where the decay ends earlier, after
    260 of 300 billion tokens]"""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def update(model, optimizers: list, fraction: float, grad_clip: float = 1.0) -> float:
    """Take one optimizer step with the gradients accumulated in all processes, each learning rate
    at `fraction` of its peak, and set the gradients to None. Returns the gradient's norm before
    it was clipped. UserError if it is not finite."""
    if dist.is_initialized():  # sum the gradients of all processes
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        # in one message, which is faster than one for each parameter
        whole = all_reduce(nn.utils.parameters_to_vector(gradients))
        nn.utils.vector_to_parameters(whole, gradients)  # write the sums into the gradients
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip).item()
    if not math.isfinite(norm):
        raise UserError("the gradient is no longer finite: lower the learning rate (or, with a "
                        "reward of your own, its scale)")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * fraction
        optimizer.step()
        optimizer.zero_grad()
    return norm


@dataclass(slots=True)
class TrainConfig:
    """How to pretrain."""
    steps: int = option(1500, "optimizer steps", at_least=1)
    batch_size: int = option(12, "sequences per step, of all processes", at_least=1)
    lr: float = option(0.004, "AdamW's peak rate: embeddings, LayerNorm weights, biases")
    muon_lr: float = option(0.02, "Muon's peak rate: matrices in the blocks (0: AdamW trains them)")
    warmup: int = option(50, "steps of linear warm-up, at most a tenth of all; then a cosine")
    weight_decay: float = option(0.0, "on matrices that AdamW trains")
    grad_clip: float = option(1.0, "largest norm of the gradient", at_least=0.001)
    eval_every: int = option(400, "steps between evaluations and checkpoints", at_least=1)
    seed: int = option(0, "of the world, the weights, the batches and dropout")


def train(model, tokenizer, train_stream: np.ndarray, val_stream: np.ndarray,
          config: TrainConfig, path: Path, log) -> dict[str, float]:
    """Pretrain: predict the next token. Returns what `evaluate` says of the validation stream at
    the end.

    If there is a checkpoint at `path`, training resumes from it and ends as if it had never
    stopped. log(step, steps, **values) writes a row, see RunLog (section 9).
    """
    optimizers = make_optimizers(model, config.lr, config.muon_lr, weight_decay=config.weight_decay)
    batches = Batches(train_stream, config.batch_size, model.config.block_size, config.seed)
    rank = dist.get_rank() if dist.is_initialized() else 0
    step = 0
    result = None
    if path.exists():
        step, result = resume(path, model, optimizers)
        batches.drawn = step  # one batch per step
        print(f"{path} stands at step {step} of {config.steps}")
    warmup = min(config.warmup, config.steps // 10)
    while step < config.steps:
        model.train()  # `evaluate` puts it into eval mode
        # Seed dropout by step, so that a resumed run repeats it, and by process.
        torch.manual_seed(config.seed + 1000 * step + rank)
        loss = pretraining_loss(model, batches)
        loss.backward()
        fraction = schedule(step, config.steps, warmup)
        grad_norm = update(model, optimizers, fraction, config.grad_clip)
        step += 1

        values = {"loss": all_reduce(loss).item(), "grad_norm": grad_norm}
        is_due = step % config.eval_every == 0 or step == config.steps
        if is_due:
            result = evaluate(model, tokenizer, val_stream)
            if not math.isfinite(result["loss"]):  # keep the previous checkpoint
                raise UserError(f"step {step}: the loss is no longer finite: lower the "
                                "learning rate")
            values.update(val_loss=result["loss"], bits_per_byte=result["bits_per_byte"])
        log(step, config.steps, **values)
        if is_due:
            states = [optimizer.state_dict() for optimizer in optimizers]
            save_checkpoint(path, model, tokenizer, step=step, result=result, optimizers=states)
    model.eval()
    return result


def pretraining_loss(model, batches: Batches):
    """The mean loss on the next batch (this process's part of it, see my_part)."""
    x, y = batches.next()  # (B, T)
    x = torch.from_numpy(my_share(x)).to(model.device)  # (B/W, T)
    y = torch.from_numpy(my_share(y)).to(model.device)
    with mixed_precision(model.device):
        _, loss = model(x, y)
    return my_part(loss, len(x))


def mixed_precision(device):
    """A context manager: matrix products in bfloat16 on CUDA if it can, else no change."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@torch.no_grad()
def evaluate(model, tokenizer, stream: np.ndarray, max_tokens: int = 32_768) -> dict[str, float]:
    """{"loss": mean nats per token, "bits_per_byte": ...} over about max_tokens of a stream, in
    evenly spaced windows. Bits per byte can be compared between tokenizers: the loss of all tokens,
    control tokens included, in bits, divided by the bytes of the text. Puts the model into eval
    mode."""
    model.eval()
    T = min(model.config.block_size, len(stream) - 1)
    if T < 1:
        raise UserError("the validation text is too short: it needs at least two tokens")
    # every T-th window: each starts with the last token of the one before
    every_window = np.lib.stride_tricks.sliding_window_view(stream, T + 1)[::T]  # (n, T+1)
    count = min(len(every_window), max(1, max_tokens // T))
    chosen = np.linspace(0, len(every_window) - 1, count).astype(int)  # evenly spaced
    windows = torch.from_numpy(every_window[chosen].astype(np.int64))  # (count, T+1)
    nats = 0.0
    for part in windows.to(model.device).tensor_split(math.ceil(count / 32)):
        x, y = part[:, :-1], part[:, 1:]  # (B, T)
        _, loss = model(x, y)
        nats += loss.item() * y.numel()
    targets = windows[:, 1:].flatten().tolist()
    n_bytes = len(tokenizer.decode_bytes(tokenizer.text_ids(targets)))
    bits_per_byte = nats / math.log(2) / max(1, n_bytes)
    return {"loss": nats / len(targets), "bits_per_byte": bits_per_byte}


# ----------------------------------------------------------------------------------
# 7. Scoring text: completion_logprobs, choose   [GPT-3 §2.4]


@torch.no_grad()
def completion_logprobs(model, tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[float, int]]:
    """For each (context, completion): the log-probability of the completion's tokens given the
    context, summed, in nats, and the number of these tokens.

    Context and completion are tokenized as one text; a token that spans both belongs to the
    completion. A text that is too long is cut at its beginning, so that of a very long completion
    only the last block_size - 1 tokens count. Puts the model into eval mode.
    """
    model.eval()
    results = []
    for batch in chunks(pairs, 64):
        rows, counts = [], []
        for context, completion in batch:
            whole = [tokenizer.eot, *tokenizer.encode(context + completion)]
            before = [tokenizer.eot, *tokenizer.encode(context)]
            common = 0  # how many tokens they share
            while common < len(before) and whole[common] == before[common]:
                common += 1
            row = whole[-model.config.block_size:]
            rows.append(row)
            counts.append(min(len(whole) - common, len(row) - 1))
        ids, ends = to_tensors(rows, 0, model.device)  # (B, T), (B,)
        begins = ends - torch.tensor(counts, device=model.device)
        t = torch.arange(1, ids.size(1), device=model.device)  # (T-1,)
        in_completion = (t >= begins[:, None]) & (t < ends[:, None])  # (B, T-1)
        # The state at t - 1 predicts the token at t. Logits are computed for the N tokens of the
        # completions only.
        x = model.hidden(ids)[:, :-1][in_completion]  # (N, C)
        logits = F.linear(x, model.wte.weight)  # (N, V)
        nats = F.cross_entropy(logits, ids[:, 1:][in_completion], reduction="none")  # (N,)
        results += [(-of_row.sum().item(), len(of_row)) for of_row in nats.split(counts)]
    return results


def choose(model, tokenizer, cases: list[list[tuple[str, str]]],
           per_token: bool = True) -> list[int]:
    """For each case, a list of (context, completion): the index of the pair with the highest
    log-probability, per token or summed. No completion may be empty."""
    pairs = [pair for case in cases for pair in case]
    logprobs = completion_logprobs(model, tokenizer, pairs)
    scores = [total / count if per_token else total for total, count in logprobs]
    of_cases = torch.tensor(scores, dtype=torch.float64).split([len(case) for case in cases])
    return [own.argmax().item() for own in of_cases]


# ----------------------------------------------------------------------------------
# 8. Checkpoints and published weights: load_model, load_pretrained, export_pretrained

RELEASED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # by OpenAI
# OpenAI stores these as (inputs, outputs), nn.Linear as (outputs, inputs)
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# the values of a config.json under which transformers computes what class GPT does
GPT2_FORM = {"model_type": "gpt2", "activation_function": "gelu_new",
             "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
             "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}


def save_checkpoint(path: str | Path, model, tokenizer, **state):
    """Write a checkpoint with config, weights, tokenizer and `state`: what `train` needs to resume,
    or chat=True if the model was fine-tuned on conversations."""
    content = {"config": asdict(model.config), "model": model.state_dict(),
               "tokenizer": tokenizer.to_json(), **state}
    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # what torch.save raises on a full disk
        raise UserError(f"could not write {path} (is the disk full?): {error}") from None


def load_checkpoint(path: str | Path) -> dict:
    """Read what save_checkpoint wrote: "config" is a GPTConfig, "model" a state dict,
    "tokenizer" a Tokenizer. No code in the file is executed (weights_only)."""
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at {path}: train one first, or name another one")
    with reading(path, "a checkpoint of papergpt"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about files that are none of its own
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["config"] = GPTConfig(**content["config"])
        content["tokenizer"] = Tokenizer.from_json(content["tokenizer"])
        return content


def resume(path: Path, model, optimizers: list) -> tuple[int, dict]:
    """Load a checkpoint of `train` into model and optimizers; returns its step and result."""
    saved = load_checkpoint(path)
    with reading(path, "a checkpoint of this run"):
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        return saved["step"], saved["result"]


def load_model(path: str | Path) -> tuple[GPT, Tokenizer]:
    """A GPT and its tokenizer, from a checkpoint or by load_pretrained."""
    if Path(path).is_dir() or path in RELEASED:
        return load_pretrained(path)
    content = load_checkpoint(path)
    with reading(path, "a checkpoint of a language model"):
        model = build_model(content["config"], content["model"], content["tokenizer"])
    model.knows_chat = content.get("chat", False)
    return model.to(pick_device()), content["tokenizer"]


def build_model(config: GPTConfig, state: dict, tokenizer) -> GPT:
    """A GPT with these weights. ValueError if it has no embedding for some text token."""
    if max(tokenizer.eot, *tokenizer.ranks.values()) >= config.vocab_size:
        raise ValueError("the tokenizer has tokens that the model lacks")
    model = GPT(config)
    model.load_state_dict(state)
    return model.eval()


def pick_device() -> str:
    """The name of the device. On CUDA, also select this process's GPU and let float32 products use
    TF32, which rounds their factors to 11 bits."""
    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))  # set by torchrun
    if local_rank >= torch.cuda.device_count():
        raise UserError("there are more processes than GPUs: start fewer")
    torch.cuda.set_device(local_rank)
    return "cuda"


def download(name: str) -> Path:
    """Download an OpenAI model from the Hugging Face hub; returns its folder."""
    try:
        from huggingface_hub import snapshot_download
        files = ["*.json", "model.safetensors", "merges.txt"]
        return Path(snapshot_download(f"openai-community/{name}", allow_patterns=files))
    except Exception as error:  # network, disk, hub, or huggingface_hub is not installed
        raise UserError(f"{name} could not be downloaded: {error}") from None


def load_pretrained(name_or_folder: str | Path) -> tuple[GPT, Tokenizer]:
    """GPT-2 and its tokenizer, by a name in RELEASED (downloaded once) or from a
    Hugging Face folder of config.json, model.safetensors and tokenizer.json."""
    folder = Path(name_or_folder)
    if name_or_folder in RELEASED and not folder.exists():
        folder = download(name_or_folder)
    try:
        config = read_config(folder, GPT2_FORM)
        tokenizer = Tokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))
        model = build_model(config, read_weights(folder), tokenizer)
        settings = folder / "tokenizer_config.json"
        model.knows_chat = settings.exists() and "<|assistant|>" in settings.read_text()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{folder} does not hold a GPT-2: {str(error)[:200]}") from None
    return model.to(pick_device()), tokenizer


def read_config(folder: Path, form: dict, **options) -> GPTConfig:
    """The GPTConfig of a config.json. ValueError if the file contradicts `form`."""
    c = json.loads((folder / "config.json").read_text())
    for name, value in form.items():
        if c.get(name, value) != value:
            raise ValueError(f"{name} is {c[name]!r} instead of {value!r}")
    return GPTConfig(vocab_size=c["vocab_size"], block_size=c["n_positions"], n_layer=c["n_layer"],
                     n_head=c["n_head"], n_embd=c["n_embd"], **options)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict in a model.safetensors file: 8 bytes with the length of a JSON header, the
    header, the raw tensors. After "transformer." the names there are ours."""
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
             "BF16": torch.bfloat16}
    content = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8:start]), memoryview(content)[start:]
    state = {}
    for name, entry in header.items():
        name = name.removeprefix("transformer.")
        if name.endswith(("__metadata__", "lm_head.weight", ".attn.bias", "masked_bias")):
            continue  # metadata, the tied output layer, constant masks (not c_attn.bias)
        begin, end = entry["data_offsets"]
        tensor = torch.frombuffer(numbers[begin:end], dtype=types[entry["dtype"]])
        tensor = tensor.view(entry["shape"])
        state[name] = tensor.t() if name.endswith(TRANSPOSED) else tensor
    return state


# data.render_conversation as a chat template (Jinja) of transformers
CHAT_TEMPLATE = (
    "<|endoftext|>"
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def export_pretrained(model, tokenizer, folder: str | Path):
    """Write a folder for load_pretrained and for AutoModelForCausalLM and AutoTokenizer of
    transformers, whose pipeline("text-generation") takes messages if the model knows chat."""
    c = model.config
    if c.post_norm or c.window:  # GPT-1, GPT-3
        raise UserError("only models of GPT-2's form can be exported")
    if tokenizer.vocab_size > c.vocab_size:
        raise UserError("this model has no embeddings for our control tokens, so it came from a "
                        "folder that transformers opens: copy that folder")
    folder = Path(folder)
    tokenizer.save(folder / "tokenizer.json")
    write_json(folder / "config.json", {
        **GPT2_FORM, "vocab_size": c.vocab_size, "n_positions": c.block_size,
        "n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd,
        "bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot})
    template = {"chat_template": CHAT_TEMPLATE} if model.knows_chat else {}
    write_json(folder / "tokenizer_config.json", {
        **template, "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"})
    write_json(folder / "generation_config.json", {
        "do_sample": False, "max_new_tokens": min(32, c.block_size // 2),
        "eos_token_id": [tokenizer.eot, tokenizer.end], "pad_token_id": tokenizer.pad})
    header, tensors, size = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in model.state_dict().items():
        tensor = tensor.t() if name.endswith(TRANSPOSED) else tensor
        tensors.append(tensor.cpu().numpy().tobytes())
        begin, size = size, size + len(tensors[-1])
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [begin, size]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors begin at a multiple of 8 bytes
    with atomic_write(folder / "model.safetensors") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(tensors)


# ----------------------------------------------------------------------------------
# 9. Commands: RunLog, print_table, pretrain, sample, export


class RunLog:
    """log(step, steps, **values) appends a JSON row to a file. It prints rows with a val_loss, the
    last one, and one at every fifth of the steps. In a resumed run, the first call deletes the
    file's rows from its own step on."""

    def __init__(self, path: Path):
        self.path, self.file = path, None
        self.started = time.time()

    def __call__(self, step: int, steps: int, **values: float):
        if self.file is None:
            if IS_MAIN and self.path.exists():  # one row per step, from 1 on: keep those before
                kept = self.path.read_bytes().splitlines(keepends=True)[:step - 1]
                os.truncate(self.path, len(b"".join(kept)))
            self.file = open(self.path if IS_MAIN else os.devnull, "a", buffering=1)
        row = {name: round(float(value), 5) for name, value in values.items()}
        self.file.write(json.dumps({"step": step, **row}) + "\n")
        if "val_loss" in values or step == steps or step % max(1, steps // 5) == 0:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            seconds = time.time() - self.started
            print(f"step {step:5d}/{steps}  {shown}  {seconds:.0f} s", flush=True)


def print_table(rows: list[dict], path: Path | None = None):
    """Print rows as an aligned table; with a path also write them as a JSON list."""
    if path:
        write_json(path, rows)
    print(aligned(rows))


def aligned(rows: list[dict]) -> str:
    """Rows as lines of text with aligned columns."""
    columns = []
    for name in dict.fromkeys(key for row in rows for key in row):  # in order, each once
        values = [name, *(row.get(name, "") for row in rows)]
        cells = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in values]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(line) for line in zip(*columns))


def tokenize_once(*arguments):
    """`tokenize_text` for several processes: the first writes the files that the others read."""
    if IS_MAIN:
        tokenize_text(*arguments)
    join_processes()
    return tokenize_text(*arguments)


def train_gpt(path: Path, text: tuple, shape: GPTConfig, config: TrainConfig):
    """Train a new GPT on a text: (tokenizer, training stream, validation stream). Returns the model
    and what `train` returns. The checkpoint is at `path`, the log beside it."""
    tokenizer, train_stream, val_stream = text
    torch.manual_seed(config.seed)
    model = GPT(replace(shape, vocab_size=tokenizer.vocab_size)).to(pick_device())
    print(f"{path}: {model.num_params():,} parameters, context {shape.block_size}", flush=True)
    log = RunLog(path.with_suffix(".jsonl"))
    return model, train(model, tokenizer, train_stream, val_stream, config, path, log)


@dataclass(slots=True)
class PretrainOptions:
    """Options of `pretrain`, in addition to those of TrainConfig and GPTConfig."""
    data: str = option("world", "the embedded world, a file or a folder")
    name: str = option("pretrain", "results go to runs/NAME")
    fresh: bool = option(False, "train anew; the old files go to runs/NAME/.replaced")


def pretrain(options: PretrainOptions = PretrainOptions(), config: TrainConfig = TrainConfig(),
             shape: GPTConfig = PRESETS["laptop"]):
    """Train a GPT on a text and print samples from it. [GPT-2 §2]"""
    settings = {"data": options.data, **asdict(config), **asdict(shape)}
    folder = run_folder(options.name, settings, options.fresh)
    read = lambda: documents_of(options.data, config.seed)
    text = tokenize_once(read, shape.vocab_size, folder)
    model, result = train_gpt(folder / "pretrain.pt", text, shape, config)
    tokenizer = text[0]
    print_table([{"data": options.data, **result}], folder / "table.json")
    generator = torch.Generator(model.device).manual_seed(config.seed)
    start = torch.tensor([[tokenizer.eot]] * 3, device=model.device)
    for row in generate(model, start, 100, generator=generator):
        print("---\n" + tokenizer.decode(row).replace("<|endoftext|>", "\n"))


@dataclass(slots=True)
class SampleOptions:
    """Options of `sample`."""
    model: str = option("runs/pretrain/pretrain.pt", "a checkpoint, a folder, gpt2 ... gpt2-xl")
    prompt: str | None = option(None, "the text to continue")
    tokens: int = option(100, "how many tokens to write", at_least=1)
    temperature: float = option(1.0, "0 takes the most likely token")
    top_k: int | None = option(None, "only the k most likely tokens", at_least=1)
    top_p: float | None = option(None, "keep the most likely tokens up to this probability")
    seed: int = option(0, "of the random numbers")


def sample(options: SampleOptions = SampleOptions()):
    """Continue a text with a trained model."""
    model, tokenizer = load_model(options.model)
    generator = torch.Generator(model.device).manual_seed(options.seed)
    ids = [tokenizer.eot, *tokenizer.encode(options.prompt or "")]
    prompt = torch.tensor([ids], device=model.device)
    [row] = generate(model, prompt, options.tokens, stop_tokens=(tokenizer.eot,),
                     generator=generator, temperature=options.temperature, top_k=options.top_k,
                     top_p=options.top_p)
    print(tokenizer.decode(tokenizer.text_ids(ids + row)))


@dataclass(slots=True)
class ExportOptions:
    """Options of `export`."""
    model: str = option("runs/pretrain/pretrain.pt", "a checkpoint")
    folder: str = option("runs/export", "where to write config.json, weights and tokenizer")


def export(options: ExportOptions = ExportOptions()):
    """Write a trained model as a folder that transformers opens."""
    model, tokenizer = load_model(options.model)
    if any(Path(options.folder).glob("*")):
        raise UserError(f"{options.folder} is not empty: name another --folder")
    export_pretrained(model, tokenizer, options.folder)
    print(f"{options.folder}: AutoModelForCausalLM.from_pretrained opens it")


if __name__ == "__main__":
    command_line({"pretrain": pretrain, "sample": sample, "export": export}, default="pretrain")
