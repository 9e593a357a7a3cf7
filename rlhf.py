# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "numpy", "tiktoken"]
# ///
"""
rlhf.py: from a text predictor to an assistant. SFT -> reward model -> PPO-ptx -> chat.

    python rlhf.py        the whole of InstructGPT on the embedded world, from a blank model, offline: trains,
                          then prints the ladder GPT < GPT prompted < SFT < PPO, the alignment tax, a figure,
                          and three prompts answered at every stage (7 to 9 minutes on 2 CPU cores)
    python rlhf.py chat   talk to the result
    python rlhf.py --full          the paper's further claims, too (about 20 minutes)
    python rlhf.py exact           PPO against the optimum that is known in closed form (3 minutes)
    python rlhf.py overoptimize    what happens to the truth when a reward model is optimized too far (6 more)
    python rlhf.py label           rank answers yourself

    python rlhf.py --demonstrations FILE --comparisons FILE     the same steps on your own data
    python rlhf.py --reward FILE.py:FUNCTION                    your own reward instead of a reward model
    python rlhf.py --init FOLDER                                from a GPT-2 folder instead of a blank model

Papers: InstructGPT (Ouyang et al. 2022, arXiv:2203.02155); Stiennon et al. 2020 (arXiv:2009.01325) and
Ziegler et al. 2019 (arXiv:1909.08593), from which it takes what it does not print; PPO (arXiv:1707.06347);
GAE (arXiv:1506.02438); Gao et al. 2022 on over-optimisation (arXiv:2210.10760).

    reward model   loss = - 1/C(K,2) E [ log sigmoid( r(x, y_w) - r(x, y_l) ) ]                      eq. (1)
    policy         objective = E_(x,y)~pi [ r(x, y) - beta log( pi(y|x) / pi_SFT(y|x) ) ]
                               + gamma E_x~pretrain [ log pi(x) ]                                    eq. (2)

Departures from the paper, on purpose
    (1) Labelers are a written rubric with noise (data.py §9), prompts come from the world;
        175B is 0.76M parameters.
    (2) Constants are scaled to a run of minutes; each one's comment gives the paper's.
    (3) One SFT model serves as baseline and as PPO's start. Its batches hold as many tokens of pretraining
        text as of demonstrations; the paper mixes in 10 %, for the second of the two only (C.3).
    (4) What the paper does not print is taken from Stiennon et al. and from Ziegler et al.'s code: lambda
        0.95, the score on the last token, k1 as the KL term, value clipping, whitened advantages, a cap on
        the score of an unfinished answer. That gamma weighs a mean over tokens is our choice.
    (5) Gradients are clipped at norm 1, except in SFT; the reward model warms up for ten steps; equal answers
        are ranked once, so of K = 4..9 drawn fewer may be left; SFT stops after its epochs, not by score.
    (6) Prompts are padded on the right, not on the left as in Ziegler et al.'s code: attention is causal, and
        learned positions stay what they were. The value network has an optimizer of its own, so its loss has
        no weight of 0.1. Temperature is 1 everywhere, as in the paper, so nothing is divided by it (but in
        `chat`, 0.7 by default).

Contents
    1. Masks and log-probabilities: masked_mean, whiten, join_responses, response_logprobs
    2. Step 1, demonstrations: SFTConfig, train_sft
    3. Step 2, comparisons: RewardConfig, RewardModel, ranking_loss, train_reward_model
    4. Step 3, answers and their rewards: token_rewards, compute_gae, Rollout, roll_out
    5. Step 3, PPO-ptx: PPOConfig, policy_loss, value_loss, train_ppo
    6. Answers and how good they are: chat_speaker, forum_speaker, text_speaker, win_rate
    7. Where prompts and labels come from: WorldTask, FileTask
    8. InstructGPT, the whole: instructgpt
    9. InstructGPT in depth: two_sizes, tax_table, labeler_folds, batching, epochs_of_sft, unseen
    10. PPO against the closed form, all answers counted: Letters, Counted, exact
    11. Over-optimisation: best_of_n, fit_gold, overoptimize
    12. Chat and labeling by hand: chat, stream_reply, label_by_hand

Letters: B batch, T time, P prompt length, R response length, K ranked responses, C = n_embd, V vocabulary.
x prompt, y response. A *score* is one number per response, from the reward model; a *reward* is one number
per token, after the KL penalty.
"""
from __future__ import annotations

import codecs
import copy
import dataclasses
import hashlib
import itertools
import json
import math
import os
import random
import re
import runpy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

os.environ.setdefault("GOMP_SPINCOUNT", "1000")    # before torch is imported, see gpt.py
import torch
import torch.nn as nn
import torch.nn.functional as F

from data import (LABEL_NOISE, RUBRIC, SPECIAL_TOKENS, Batches, Comparison, Instruction, Tokenizer, UserError,
                  World, atomic_write, command_line, demonstrate, gold, instructions, judge, label,
                  load_comparisons, load_demonstrations, load_text, open_stream, render_conversation,
                  require, rubric_of, show_mask, unseen_instructions, write_stream)
from gpt import (GPT, OUR_SIZES, PRESETS, GPTConfig, PretrainSettings, RunLog, complete, documents_of,
                 evaluate, fingerprint, generate, generate_steps, grow_vocabulary, load_checkpoint,
                 load_model, make_optimizers, mixed_precision, pretrained, print_table, pyplot, remembered,
                 save_checkpoint, save_figure, schedule, set_dropout, set_lr, to_tensors)


# ----------------------------------------------------------------------------------------------------------
# 1. Masks and log-probabilities: masked_mean, whiten, join_responses, response_logprobs


def masked_mean(x, mask):
    """The mean of x where mask is 1. Every average over response tokens is this one: pads count nowhere."""
    return (x * mask).sum() / mask.sum()


def whiten(x, mask):
    """(B, R) -> mean 0 and variance 1 over the masked entries (population variance, as in OpenAI's code)."""
    mean = masked_mean(x, mask)
    return (x - mean) / (masked_mean((x - mean) ** 2, mask) + 1e-8).sqrt() * mask


def join_responses(prompts, lengths, ends, responses, pad: int):
    """Prompts (B, P) padded on the right, their lengths and the ends of their responses (B,),
    responses (B, R) -> ids (B, T): each response right behind its own prompt, pads only at the end,
    T as the longest row needs."""
    ids = F.pad(prompts, (0, responses.size(1)), value=pad)                               # (B, P + R)
    slots = lengths[:, None] + torch.arange(responses.size(1), device=ids.device)         # (B, R)
    return ids.scatter(1, slots, responses)[:, :int(ends.max())]


def hidden_states(model: GPT, ids, ends, groups: int = 3):
    """model.hidden(ids) for rows that end at `ends` (B,), shorter and longer rows apart, so that the short
    ones do not pay for the pads that the long ones need: (B, T) -> (B, T, C), zero where nobody may look."""
    order = ends.argsort()
    parts = []
    for rows in order.chunk(groups):
        T = int(ends[rows].max())
        parts.append(F.pad(model.hidden(ids[rows, :T]), (0, 0, 0, ids.size(1) - T)))
    return torch.cat(parts)[order.argsort()]      # in the old order again


def response_states(hidden, lengths, R: int):
    """(B, T, C) -> (B, R, C): the state *before* each response token, the one that predicts it.
    Token t of the response stands at lengths + t, so its state is at lengths + t - 1.
    The only off-by-one of this file."""
    rows = torch.arange(hidden.size(0), device=hidden.device)[:, None]
    states = lengths[:, None] - 1 + torch.arange(R, device=hidden.device)                 # (B, R)
    return hidden[rows, states.clamp(max=hidden.size(1) - 1)]          # what is clamped lies behind the end


def response_logprobs(model: GPT, ids, lengths, ends, responses):
    """log pi(y_t | x, y_<t) at temperature 1: ids (B, T), the ends of prompts and of responses in them (B,),
    responses (B, R) -> (B, R), 0 behind the end."""
    states = response_states(hidden_states(model, ids, ends), lengths, responses.size(1))       # (B, R, C)
    inside = torch.arange(responses.size(1), device=ids.device) < (ends - lengths)[:, None]     # (B, R)
    logits = F.linear(states[inside], model.wte.weight)                               # (N, V), N real tokens
    logprobs = -F.cross_entropy(logits, responses[inside], reduction="none")          # (N,)
    return logprobs.new_zeros(responses.shape).masked_scatter(inside, logprobs)


# ----------------------------------------------------------------------------------------------------------
# 2. Step 1, demonstrations: SFTConfig, train_sft                                   [InstructGPT §3.5 and C.1]


@dataclass(slots=True)
class SFTConfig:
    """Constants of supervised fine-tuning."""
    epochs: int = 3              # paper: 16
    batch_size: int = 16         # demonstrations; paper: 32
    lr: float = 1e-3             # paper: 9.65e-6 at 1.3B; cosine to a tenth, no warm-up, as there
    dropout: float = 0.0         # on residuals; paper: 0.2, over many more epochs
    mix: int = 4                 # pretraining windows per batch; paper: 10 %, for PPO's start only (C.3)
    new_tokens: bool = True      # whether the control tokens have yet to be learned


def train_sft(model: GPT, tokenizer: Tokenizer, demonstrations: list[list[dict]], config: SFTConfig,
              seed: int, log_path: Path, pretraining: Batches) -> dict:
    """Fine-tune on demonstrations, loss on the assistant's tokens only, with a little pretraining
    text mixed in. Returns {"sft_loss"}."""
    if config.new_tokens:
        warm_start(model, tokenizer)
    examples = [(ids, mask) for ids, mask in (fit(tokenizer, messages, model.config.block_size)
                                              for messages in demonstrations) if any(mask)]
    if not examples:
        raise UserError("no demonstration has an answer that fits into the context")
    rng, optimizers = random.Random(seed), make_optimizers(model, config.lr, betas=(0.9, 0.95))
    torch.manual_seed(seed)
    steps = config.epochs * math.ceil(len(examples) / config.batch_size)
    log = RunLog(log_path, dataclasses.asdict(config), steps)
    set_dropout(model.train(), config.dropout)
    step, losses = 0, []
    for epoch in range(config.epochs):
        rng.shuffle(examples)
        for start in range(0, len(examples), config.batch_size):
            batch = examples[start:start + config.batch_size]
            # ------------------------------------------------------------ one optimizer step
            set_lr(optimizers, schedule(step, steps, warmup=0))
            loss = sft_loss(model, tokenizer, batch)
            loss.backward()
            if config.mix:
                lm_loss(model, pretraining).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            # ------------------------------------------------------------
            step += 1
            losses.append(loss.item())
            log.row(step, show=step == steps, loss=loss.item())
    log.close()
    set_dropout(model.eval(), 0.0)
    return {"sft_loss": float(np.mean(losses[-len(losses) // config.epochs:]))}


@torch.no_grad()
def warm_start(model: GPT, tokenizer: Tokenizer):
    """The control tokens have never been read: give each the mean embedding of text that plays its part."""
    for name, text in (("<|system|>", "\n\n"), ("<|user|>", "\nQ:"),
                       ("<|assistant|>", "A:"), ("<|end|>", "\n")):
        model.wte.weight[tokenizer.special[name]] = model.wte.weight[tokenizer.encode(text)].mean(dim=0)


def sft_loss(model: GPT, tokenizer: Tokenizer, examples: list[tuple[list[int], list[int]]]):
    """Mean cross-entropy over the tokens whose mask is 1; examples are (ids, mask)."""
    ids, _ = to_tensors([ids for ids, _ in examples], tokenizer.pad, model.device)                # (B, T)
    mask, _ = to_tensors([mask for _, mask in examples], 0, model.device)
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -1)             # -1: no loss on prompts and pads
    with mixed_precision(model.device):
        return model(ids[:, :-1], targets)[1]


def lm_loss(model: GPT, batches: Batches):
    """The pretraining loss on the next batch."""
    x, y = (torch.from_numpy(a).to(model.device) for a in batches.next())                 # (B, T)
    with mixed_precision(model.device):
        return model(x, y)[1]


def fit(tokenizer: Tokenizer, messages: list[dict], limit: int) -> tuple[list[int], list[int]]:
    """A rendered conversation, cut to `limit` tokens: old turns go first, then the end of the answer."""
    ids, mask = render_conversation(tokenizer, recent_turns(tokenizer, messages, limit))
    return ids[:limit], mask[:limit]


def prompt_ids(tokenizer: Tokenizer, messages: list[dict], limit: int) -> list[int]:
    """A conversation up to a fresh <|assistant|>; if it is too long, old turns go first,
    then the front of what is left."""
    ids, _ = render_conversation(tokenizer, recent_turns(tokenizer, messages, limit, reply=True), reply=True)
    return ids[-limit:]


def recent_turns(tokenizer: Tokenizer, messages: list[dict], limit: int, reply: bool = False) -> list[dict]:
    """A conversation without as many of the oldest questions and answers as do not fit into `limit` tokens.
    The system message and the newest question stay."""
    while len(render_conversation(tokenizer, messages, reply)[0]) > limit:
        questions = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if len(questions) < 2:
            break
        messages = messages[:questions[0]] + messages[questions[1]:]
    return messages


def require_room(max_response: int, block_size: int):
    """Raises UserError if answers of this length would fill the context."""
    if max_response > block_size // 2:
        raise UserError(f"--max-response {max_response} leaves too little room for prompts in a context of "
                        f"{block_size} tokens: at most {block_size // 2}")


# ----------------------------------------------------------------------------------------------------------
# 3. Step 2, comparisons: RewardConfig, RewardModel, ranking_loss, train_reward_model
#                                                                                    [InstructGPT §3.5, C.2]


@dataclass(slots=True)
class RewardConfig:
    """Constants of reward model training."""
    batch_size: int = 8          # prompts, each with all of its C(K,2) pairs; paper: 64
    lr: float = 6e-4             # paper: 9e-6; cosine to a tenth
    # one epoch, as in the paper: "multiple epochs quickly overfit"


class RewardModel(nn.Module):
    """A GPT whose output layer is one number. Also the value network, which starts as a copy of it."""

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = copy.deepcopy(gpt)
        self.head = nn.Linear(gpt.config.n_embd, 1, device=gpt.device)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(gpt.config.n_embd + 1))     # Stiennon et al. B.1
        nn.init.zeros_(self.head.bias)

    @property
    def config(self):
        return self.gpt.config

    def forward(self, ids, last, lengths=None):
        """ids (B, T) and the position of each last token (B,) -> scores (B,). Rewards that are functions of
        texts also get to know where the responses begin."""
        hidden = hidden_states(self.gpt, ids, last + 1)                                   # (B, T, C)
        return self.head(hidden[torch.arange(len(ids), device=ids.device), last]).squeeze(-1).float()

    def values(self, ids, lengths, ends, R: int):
        """What is still to come before each response token; arguments as in response_logprobs -> (B, R)."""
        return self.head(response_states(hidden_states(self.gpt, ids, ends), lengths, R)).squeeze(-1).float()


def ranking_loss(rewards, ranks=None):
    """InstructGPT eq. (1): rewards (B, K), best first -> scalar.

    All C(K,2) pairs of a prompt are one batch element with weight 1/C(K,2). ranks (B, K), if given, says the
    order: lower is better, equal is a tie and no pair, -1 marks an empty place.

        r_i - r_j, K = 3, best first      [ .  x  x ]
        x marks the pairs that count      [ .  .  x ]
                                          [ .  .  . ]
    """
    if ranks is None:
        ranks = torch.arange(rewards.size(1), device=rewards.device).expand_as(rewards)
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] >= 0)        # (B, K, K)
    margins = rewards[:, :, None] - rewards[:, None, :]                                # (B, K, K)
    pairs = better.sum(dim=(1, 2))                                                     # (B,) C(K,2) less ties
    losses = -(F.logsigmoid(margins) * better).sum(dim=(1, 2)) / pairs.clamp(min=1)    # (B,)
    return losses.sum() / (pairs > 0).sum().clamp(min=1)


def comparison_scores(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison]):
    """scores and ranks, both (B, K), of a few comparisons; empty places have rank -1."""
    sequences = [fit(tokenizer, [*c.messages, {"role": "assistant", "content": response}],
                     model.config.block_size)[0]
                 for c in comparisons for response in c.responses]
    ids, lengths = to_tensors(sequences, tokenizer.pad, model.gpt.device)
    with mixed_precision(model.gpt.device):
        flat = model(ids, lengths - 1).float()                         # (sum of K,): one pass per response
    ranks, _ = to_tensors([c.ranks for c in comparisons], -1, flat.device)                # (B, K)
    scores = torch.zeros(ranks.shape, device=flat.device)
    return scores.masked_scatter(ranks >= 0, flat), ranks


def train_reward_model(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison],
                       demonstrations: list[list[dict]], config: RewardConfig, seed: int,
                       log_path: Path) -> dict:
    """One epoch over comparisons, one prompt with all its pairs as one element; then shift the scores so that
    demonstrations score 0 on average (C.2): only differences of scores mean anything. Returns {"rm_loss"}."""
    comparisons = random.Random(seed).sample(comparisons, len(comparisons))
    optimizers = make_optimizers(model, config.lr, betas=(0.9, 0.95))
    steps = math.ceil(len(comparisons) / config.batch_size)
    log, losses = RunLog(log_path, dataclasses.asdict(config), steps), []
    model.eval()                                                       # no dropout in reward models
    for step in range(steps):
        batch = comparisons[step * config.batch_size:(step + 1) * config.batch_size]
        scores, ranks = comparison_scores(model, tokenizer, batch)
        loss = ranking_loss(scores, ranks)
        # ---------------------------------------------------------------- one optimizer step
        set_lr(optimizers, schedule(step, steps, warmup=min(10, steps // 10)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        # ----------------------------------------------------------------
        losses.append(loss.item())
        log.row(step + 1, show=step + 1 == steps, loss=loss.item())
    log.close()
    center_scores(model, tokenizer, demonstrations)
    return {"rm_loss": float(np.mean(losses[-20:]))}


@torch.no_grad()
def center_scores(model: RewardModel, tokenizer: Tokenizer, demonstrations: list[list[dict]]):
    """Set the bias so that the demonstrations' mean score is 0."""
    rows = [fit(tokenizer, messages, model.config.block_size)[0] for messages in demonstrations]
    ids, lengths = to_tensors(rows, tokenizer.pad, model.gpt.device)
    scores = torch.cat([model(i, n - 1) for i, n in zip(ids.split(64), lengths.split(64))])
    model.head.bias -= scores.mean()


@torch.no_grad()
def pair_accuracy(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison]) -> float:
    """The share of pairs (ties left out) that the reward model orders as the ranks do."""
    right = pairs = 0
    for start in range(0, len(comparisons), 32):
        scores, ranks = comparison_scores(model, tokenizer, comparisons[start:start + 32])
        better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] >= 0)
        right += ((scores[:, :, None] > scores[:, None, :]) & better).sum().item()
        pairs += better.sum().item()
    return right / pairs if pairs else math.nan


# ----------------------------------------------------------------------------------------------------------
# 4. Step 3, answers and their rewards: token_rewards, compute_gae, Rollout, roll_out     [InstructGPT §3.5]


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef: float):
    """(B,) scores and (B, R) log-probabilities -> (B, R) rewards.

    Every token pays kl_coef (beta) times its log-ratio to the SFT model, k1 = log pi - log pi_SFT;
    the score lands on the response's last token, which is <|end|> if it ended. Rewards are
    constants: no gradient flows.
    """
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask                                 # (B, R)
    last = mask.sum(dim=1).long() - 1                                                     # (B,)
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype)).detach()


def compute_gae(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95):
    """Generalized advantage estimation over one response = one episode.
    All (B, R) -> advantages, returns (B, R).

        delta_t = r_t + gamma V_{t+1} - V_t       A_t = delta_t + gamma lam A_{t+1}       V after the end = 0
    """
    advantages, following, next_value = torch.zeros_like(rewards), 0.0, 0.0
    values = values * mask
    for t in reversed(range(rewards.size(1))):
        delta = rewards[:, t] + gamma * next_value - values[:, t]                         # (B,)
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t], next_value = following, values[:, t]
    return advantages, advantages + values


class TextReward:
    """A reward that is a Python function of two texts, prompt and response, in a reward model's place."""

    def __init__(self, function: Callable[[str, str], float], tokenizer: Tokenizer):
        self.function, self.tokenizer = function, tokenizer

    def __call__(self, ids, last, lengths):
        """ids (B, T), the position of each last token (B,), the prompts' lengths (B,) -> scores (B,)."""
        scores = []
        for row, end, length in zip(ids.tolist(), last.tolist(), lengths.tolist()):
            texts = (self.tokenizer.decode(i for i in part if i < len(self.tokenizer.ranks)).strip()
                     for part in (row[:length], row[length:end + 1]))           # without control tokens
            scores.append(float(self.function(*texts)))
        return torch.tensor(scores, device=ids.device)


@dataclass(slots=True)
class Rollout:
    """A batch of answers by the policy and all that PPO needs to know of them."""
    ids: torch.Tensor            # (B, T) prompt and response, pads at the end
    lengths: torch.Tensor        # (B,)   of the prompts, where the responses begin
    ends: torch.Tensor           # (B,)   where the responses end
    responses: torch.Tensor      # (B, R)
    mask: torch.Tensor           # (B, R) 1 up to and including <|end|>
    ended: torch.Tensor          # (B,)   whether <|end|> came
    logprobs: torch.Tensor       # (B, R) of the policy that wrote them
    ref_logprobs: torch.Tensor   # (B, R) of the SFT model
    scores: torch.Tensor         # (B,)
    rewards: torch.Tensor        # (B, R)
    values: torch.Tensor         # (B, R)
    advantages: torch.Tensor     # (B, R) not yet whitened
    returns: torch.Tensor        # (B, R)

    def __getitem__(self, rows) -> Rollout:
        return Rollout(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    @property
    def kl(self):
        """(B,) log pi(y|x) - log pi_SFT(y|x): unbiased for the KL divergence, in nats per response."""
        return ((self.logprobs - self.ref_logprobs) * self.mask).sum(dim=1)


@torch.no_grad()
def roll_out(policy: GPT, reference: GPT, reward_model: RewardModel | TextReward,
             value_model: RewardModel | None, tokenizer: Tokenizer, prompts: list[list[dict]],
             config: PPOConfig, generator: torch.Generator) -> Rollout:
    """Answer the prompts at temperature 1 from the whole distribution (a truncated one is not pi, and the KL
    estimate would turn negative), score the answers and spread the reward over their tokens."""
    rows = [prompt_ids(tokenizer, messages, policy.config.block_size - config.max_response)
            for messages in prompts]
    prompt, lengths = to_tensors(rows, tokenizer.pad, policy.device)                      # (B, P), (B,)
    responses = generate(policy, prompt, config.max_response, lengths, stop_tokens=(tokenizer.end,),
                         pad_token=tokenizer.pad, generator=generator)                    # (B, R)
    is_end = responses == tokenizer.end                                                   # (B, R)
    mask = (is_end.cumsum(dim=1) - is_end.long() == 0).float()       # 1 up to and including the first <|end|>
    ended = is_end.any(dim=1)                                                             # (B,)
    ends = lengths + mask.sum(dim=1).long()                                               # (B,)
    ids = join_responses(prompt, lengths, ends, responses, tokenizer.pad)                 # (B, T)
    with mixed_precision(policy.device):       # as in the update below, so that there the ratio starts at 1
        logprobs = response_logprobs(policy, ids, lengths, ends, responses)               # (B, R)
        ref_logprobs = response_logprobs(reference, ids, lengths, ends, responses)        # (B, R)
        scores = reward_model(ids, ends - 1, lengths)                                     # (B,)
        values = torch.zeros_like(mask) if value_model is None else (                     # (B, R)
            value_model.values(ids, lengths, ends, responses.size(1)) * mask)
    scores = torch.where(ended, scores, scores.clamp(max=config.unfinished_score))
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, config.kl_coef)
    advantages, returns = compute_gae(rewards, values, mask, lam=config.lam)
    return Rollout(ids, lengths, ends, responses, mask, ended, logprobs, ref_logprobs, scores, rewards,
                   values, advantages, returns)


# ----------------------------------------------------------------------------------------------------------
# 5. Step 3, PPO-ptx: PPOConfig, policy_loss, value_loss, train_ppo                 [InstructGPT §3.5 and C.4]


@dataclass(slots=True)
class PPOConfig:
    """Constants of PPO-ptx; with ptx_coef 0 it is PPO."""
    iterations: int = 50         # batches of episodes; paper: 500
    batch_size: int = 128        # episodes per batch; paper: 512
    minibatches: int = 4         # per batch, one optimizer step each, one inner epoch; paper: 8 of 64
    max_response: int = 32       # tokens; paper: 1,000
    lr: float = 6e-4             # policy: constant after 10 warm-up iterations from a tenth, as in the paper
    value_lr: float = 3e-4       # of the value network; paper: 9e-6
    kl_coef: float = 0.2         # beta; paper: 0.02
    ptx_coef: float = 0.0        # gamma, on the mean loss per token; paper: 27.8, of a loss of unstated unit
    ptx_sequences: int = 8       # pretraining windows per minibatch; paper: 8 per episode
    cliprange: float = 0.2       # of the ratio; paper: 0.2
    cliprange_value: float = 0.2
    lam: float = 0.95            # of GAE; not in the paper
    unfinished_score: float = -1.0    # what an answer without <|end|> scores at most; Ziegler: scores exactly
    ema_decay: float = 0.9       # per optimizer step, half-life 3 % of the run; paper: 0.992, 2 %


def policy_loss(logprobs, old_logprobs, advantages, mask, cliprange: float = 0.2):
    """PPO's clipped objective (arXiv:1707.06347 eq. 7), negated: all (B, R) -> loss, info.

        ratio = pi / pi_old          loss = - mean min( ratio A, clip(ratio, 1 - eps, 1 + eps) A )
    """
    log_ratio = (logprobs - old_logprobs) * mask
    ratio = log_ratio.exp()
    unclipped, clipped = ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    loss = -masked_mean(torch.minimum(unclipped, clipped), mask)
    with torch.no_grad():
        info = {"ratio": masked_mean(ratio, mask).item(),
                "approx_kl": masked_mean(ratio - 1 - log_ratio, mask).item(),       # k3 of pi_old to pi: >= 0
                "clipfrac": masked_mean((clipped < unclipped).float(), mask).item()}
    return loss, info


def value_loss(values, old_values, returns, mask, cliprange: float = 0.2):
    """Half the squared error, of the value or of the value clipped to old +- cliprange,
    whichever is worse."""
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


def train_ppo(policy: GPT, reward_model: RewardModel | TextReward, tokenizer: Tokenizer,
              next_prompts: Callable[[int], list], config: PPOConfig, seed: int, log_path: Path,
              ptx: Batches | None = None, watch: Callable[[GPT], dict] = lambda policy: {},
              watch_every: int = 10) -> dict:
    """PPO (ptx_coef 0) or PPO-ptx, in place; the policy ends with its exponential moving average.

    next_prompts(n) gives n conversations to answer, ptx the pretraining windows, watch(policy) more numbers
    for the log every `watch_every` iterations. Returns the last row of the log. Without ptx, the same code
    runs without its second backward pass.
    """
    reference, average = copy.deepcopy(policy), copy.deepcopy(policy)
    # the value network starts as the reward model (C.4); as the policy with a new head if there is none
    learned = isinstance(reward_model, RewardModel)
    value_model = copy.deepcopy(reward_model) if learned else RewardModel(policy)
    policy_optimizers = make_optimizers(policy, config.lr, betas=(0.9, 0.95))
    value_optimizers = make_optimizers(value_model, config.value_lr, betas=(0.9, 0.95))
    for optimizer in policy_optimizers + value_optimizers:
        optimizer.param_groups[0]["eps"] = optimizer.param_groups[1]["eps"] = 1e-5
    generator = torch.Generator(policy.device).manual_seed(seed)
    shuffler = torch.Generator().manual_seed(seed)
    log = RunLog(log_path, dataclasses.asdict(config), config.iterations)
    for model in (policy, value_model, reference, average):
        model.eval()                                          # no dropout, or the ratio is not 1
    for iteration in range(1, config.iterations + 1):
        set_lr(policy_optimizers + value_optimizers, min(1.0, 0.1 + 0.9 * (iteration - 1) / 10))
        rollout = roll_out(policy, reference, reward_model, value_model, tokenizer,
                           next_prompts(config.batch_size), config, generator)
        infos = []
        for rows in torch.randperm(config.batch_size, generator=shuffler).chunk(config.minibatches):
            infos.append(ppo_step(policy, value_model, policy_optimizers, value_optimizers,
                                  rollout[rows], config, ptx))
            for mean, weight in zip(average.parameters(), policy.parameters()):
                mean.data.lerp_(weight.data, 1 - config.ema_decay)
        last = iteration == config.iterations
        row = {"score": rollout.scores.mean(), "kl": rollout.kl.mean(),
               "reward": rollout.rewards.sum(dim=1).mean(),
               "length": rollout.mask.sum(dim=1).mean(), "ended": rollout.ended.float().mean(),
               **{name: np.mean([info[name] for info in infos]) for name in infos[0]},
               **(watch(policy) if iteration % watch_every == 0 or last else {})}
        log.row(iteration, show=iteration % 10 == 0 or last, **row)
    log.close()
    policy.load_state_dict(average.state_dict())
    return {name: float(value) for name, value in row.items()}


def ppo_step(policy: GPT, value_model: RewardModel, policy_optimizers: list, value_optimizers: list,
             batch: Rollout, config: PPOConfig, ptx: Batches | None) -> dict:
    """One minibatch, one optimizer step of the policy and one of the value network. Returns what to log."""
    R = batch.responses.size(1)
    with mixed_precision(policy.device):
        logprobs = response_logprobs(policy, batch.ids, batch.lengths, batch.ends, batch.responses)
    advantages = whiten(batch.advantages, batch.mask)
    loss, info = policy_loss(logprobs, batch.logprobs, advantages, batch.mask, config.cliprange)
    loss.backward()
    if ptx is not None:
        # eq. (2), second term. "We compute the PPO gradients and pretraining gradients in consecutive steps
        # and accumulate them both into the gradient buffers" (C.4): two backward passes, one optimizer step
        ptx_loss = lm_loss(policy, ptx)
        (config.ptx_coef * ptx_loss).backward()
        info["ptx_loss"] = ptx_loss.item()
    with mixed_precision(policy.device):
        values = value_model.values(batch.ids, batch.lengths, batch.ends, R)
    loss_v = value_loss(values, batch.values, batch.returns, batch.mask, config.cliprange_value)
    loss_v.backward()
    info["value_loss"] = loss_v.item()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    torch.nn.utils.clip_grad_norm_(value_model.parameters(), 1.0)
    for optimizer in policy_optimizers + value_optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return info


# ----------------------------------------------------------------------------------------------------------
# 6. Answers and how good they are: chat_speaker, forum_speaker, text_speaker, win_rate

# A speaker answers conversations:
# (list of message lists, seed) -> list of (text, whether it ended by itself).
Speaker = Callable[[list[list[dict]], int], list[tuple[str, bool]]]


def chat_speaker(model: GPT, tokenizer: Tokenizer, max_new_tokens: int = 32) -> Speaker:
    """A fine-tuned model, asked through the chat format, at temperature 1."""
    def speak(conversations, seed):
        rows = [prompt_ids(tokenizer, messages, model.config.block_size - max_new_tokens)
                for messages in conversations]
        return complete(model, tokenizer, rows, (tokenizer.end,), max_new_tokens, seed)
    return speak


def forum_speaker(model: GPT, tokenizer: Tokenizer, shots: list[list[dict]] = (),
                  max_new_tokens: int = 32) -> Speaker:
    """A language model that knows nothing of chat, asked in the form it has read: a thread of Q: and A:
    lines. `shots` are conversations with good answers to put in front: the paper's "GPT (prompted)"."""
    newline = tokenizer.encode("\n")[0]

    def thread(messages):
        turns = [message for conversation in (*shots, messages) for message in conversation]
        text = "\n".join(("A: " if m["role"] == "assistant" else "Q: ") + m["content"]
                         for m in turns) + "\nA:"
        return [tokenizer.eot, *tokenizer.encode(text)][-(model.config.block_size - max_new_tokens):]

    return lambda conversations, seed: complete(model, tokenizer, [thread(m) for m in conversations],
                                                (newline, tokenizer.eot), max_new_tokens, seed)


def text_speaker(model: GPT, tokenizer: Tokenizer, max_new_tokens: int = 32) -> Speaker:
    """A language model that goes on with the line in which the conversation ends."""
    newline = tokenizer.encode("\n")[0]
    return lambda conversations, seed: complete(
        model, tokenizer, [[tokenizer.eot, *tokenizer.encode(messages[-1]["content"])]
                           for messages in conversations], (newline, tokenizer.eot), max_new_tokens, seed)


def win_rate(scores: list[float], baseline: list[float]) -> dict[str, float]:
    """Prompt by prompt: {"win": share of wins, ties half; "won", "lost": counts of the decided ones}."""
    won, lost = (sum(a > b for a, b in zip(x, y)) for x, y in ((scores, baseline), (baseline, scores)))
    return {"win": 0.5 + 0.5 * (won - lost) / len(scores), "won": won, "lost": lost}


# ----------------------------------------------------------------------------------------------------------
# 7. Where prompts and labels come from: WorldTask, FileTask                 [InstructGPT §3.2-3.4, Table 6]


class WorldTask:
    """Prompts, demonstrations and comparisons from the embedded world, each set of its own [Table 6], and a
    gold rubric that the training never sees: only the noisy labelers' ranks."""

    text = "bilingual"

    def __init__(self, seed: int, test_prompts: int = 480):
        self.world, self.seed = World(seed), seed
        rng = random.Random(seed)
        prompts = instructions(self.world, "train", 800, seed=1)
        self.demonstrations = [demonstrate(self.world, prompt, rng) for prompt in prompts]
        self.test = instructions(self.world, "test", test_prompts, seed=2, distinct=True)
        ideal = instructions(self.world, "train", 200, seed=3)
        known = next(i for i in ideal if i.use_case == "open qa" and i.facts)
        unknown = next(i for i in ideal if i.unknowable)
        self.shots = [[*i.messages, {"role": "assistant", "content": text}] for i, text in
                      ((known, self.world.state(rng, *known.facts[:2])), (unknown, "I do not know."))]

    def prompt_source(self, seed: int) -> Callable[[int], list]:
        """A function that gives n new conversations to answer, each time others."""
        counter = iter(range(10**9))
        base = 1000 * (seed + 4)
        return lambda n: [i.messages for i in instructions(self.world, "train", n, seed=base + next(counter))]

    def answers(self, speakers: list[Speaker], count: int, split: str,
                seed: int) -> list[tuple[Instruction, list]]:
        """(prompt, its different answers) for `count` prompts: K = 4..9 answers each, K/len(speakers) by each
        speaker. A labeler sees equal answers once."""
        rng = random.Random(f"answers {self.seed} {seed}")
        prompts = instructions(self.world, split, count, seed=seed)
        sizes, answers = [rng.randint(4, 9) for _ in prompts], [set() for _ in prompts]
        for number, speaker in enumerate(speakers):
            owners = [i for i, k in enumerate(sizes) for _ in range(number, k, len(speakers))]
            for owner, answer in zip(owners, speaker([prompts[i].messages for i in owners], seed + number)):
                answers[owner].add(answer)
        return [(prompt, sorted(group)) for prompt, group in zip(prompts, answers)]

    def rank(self, answered: list[tuple[Instruction, list]], seed: int,
             noise: float = LABEL_NOISE) -> list[Comparison]:
        """One labeler ranks the answers to each prompt; noise 0 is the rubric itself.
        Prompts without a decided pair say nothing and are dropped."""
        rng = random.Random(f"rank {self.seed} {seed}")
        comparisons = [label(self.world, prompt, answers, rng, noise) for prompt, answers in answered]
        return [c for c in comparisons if len(set(c.ranks)) > 1]

    def agreement(self, answered: list[tuple[Instruction, list]]) -> float:
        """How often two labelers order a pair of different answers alike."""
        ranked = [[label(self.world, prompt, answers, rng) for prompt, answers in answered]
                  for rng in (random.Random(f"rank {self.seed} {labeler}") for labeler in (1, 2))]
        alike = [(one.ranks[i] < one.ranks[j]) == (two.ranks[i] < two.ranks[j])
                 for one, two in zip(*ranked)
                 for i in range(len(one.ranks)) for j in range(i)]
        return float(np.mean(alike)) if alike else 1.0

    def gold(self, answers: list[tuple[str, bool]]) -> list[float]:
        return [gold(self.world, prompt, *answer) for prompt, answer in zip(self.test, answers)]

    def verdicts(self, answers: list[tuple[str, bool]]) -> dict[str, float]:
        """Shares among the test prompts: helpful (mean 0..1), invented, rude;
        refused where it was knowable."""
        verdicts = [judge(self.world, prompt, *answer) for prompt, answer in zip(self.test, answers)]
        shares = {part: float(np.mean([v[part] for v in verdicts]))
                  for part in ("helpful", "invented", "rude", "off")}
        known = [v["refused"] for v, prompt in zip(verdicts, self.test) if not prompt.unknowable]
        unknown = [v["helpful"] for v, prompt in zip(verdicts, self.test) if prompt.unknowable]
        return {**shares, "refused": float(np.mean(known)), "admits": float(np.mean(unknown))}

    def memory_accuracy(self, speaker: Speaker, count: int = 200, between: int = 1) -> float:
        """Held-out conversations in which something told in turn one is asked for in the last, with `between`
        exchanges in between (the training has at most one): the share of right answers."""
        drawn = instructions(self.world, "test", 30 * count, seed=5)
        cases = list({str(i.messages): i for i in drawn if len(i.messages) == 5}.values())[:count]
        talk = [case.messages[2:4] for case in cases]
        conversations = [case.messages[:2] + sum((talk + talk)[i:i + between], []) + case.messages[4:]
                         for i, case in enumerate(cases)]
        return float(np.mean([judge(self.world, case, *reply)["helpful"] == 1
                              for case, reply in zip(cases, speaker(conversations, 6))]))


class FileTask:
    """Demonstrations and comparisons from files. No rubric knows which answer is good, so the table reports
    what the reward model thinks, on prompts that it was not trained on."""

    def __init__(self, demonstrations: str | None, comparisons: str | None, folder: Path, seed: int,
                 has_reward: bool = False, test_prompts: int = 480):
        self.test_prompts = test_prompts
        if not comparisons and not has_reward:
            raise UserError("--comparisons is missing: "
                            "a reward model cannot be trained from demonstrations alone")
        demonstrated = load_demonstrations(demonstrations) if demonstrations else []
        # with a --reward of its own a demonstration is a prompt, too: a comparison of one answer
        compared = load_comparisons(comparisons) if comparisons else [
            Comparison(messages[:-1], [messages[-1]["content"]], [0]) for messages in demonstrated]
        seen = {}
        for c in compared:                               # a prompt is on one side with all its comparisons
            seen.setdefault(json.dumps(c.messages), []).append(c)
        groups = random.Random(seed).sample(list(seen.values()), len(seen))
        cut = len(groups) * 4 // 5
        if not 0 < cut < len(groups):
            raise UserError(f"{comparisons or demonstrations} has {len(groups)} different prompts; "
                            "training and test need at least two")
        self.compared, self.compared_test = ([c for group in part for c in group]
                                             for part in (groups[:cut], groups[cut:]))
        held_out = {json.dumps(c.messages) for c in self.compared_test}
        demonstrated = [messages for messages in demonstrated if json.dumps(messages[:-1]) not in held_out]
        self.demonstrations = demonstrated if comparisons and demonstrated else [
            [*c.messages, {"role": "assistant", "content": c.responses[c.ranks.index(min(c.ranks))]}]
            for c in self.compared]
        read = self.demonstrations + [[*c.messages, {"role": "assistant", "content": response}]
                                      for c in self.compared for response in c.responses]
        texts = ["\n\n".join(message["content"] for message in messages) for messages in read]
        self.text = folder / "text.jsonl"                  # what to pretrain on, unless --data says otherwise
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        if not (self.text.exists() and self.text.read_bytes() == content):
            with atomic_write(self.text) as file:
                file.write(content)

    def leave_out_long(self, fits: Callable[[list[dict]], bool]):
        """Keep what has a prompt that fits into the context, as the paper does (it left out prompts of more
        than 1,000 tokens). Raises UserError if one of the sets is empty then."""
        for what in ("demonstrations", "compared", "compared_test"):
            old = getattr(self, what)
            kept = [x for x in old if fits(x.messages if isinstance(x, Comparison) else x[:-1])]
            if len(kept) < len(old):
                print(f"{len(old) - len(kept)} of {len(old)} {what} left out: the prompt is too long")
            if not kept:
                raise UserError(f"every prompt of the {what} is too long for this context: "
                                "use a larger --block-size")
            setattr(self, what, kept)
        self.test = [Instruction("own", c.messages) for c in self.compared_test][:self.test_prompts]
        self.prompts = ([c.messages for c in self.compared]
                        + [messages[:-1] for messages in self.demonstrations])

    def prompt_source(self, seed: int) -> Callable[[int], list]:
        rng = random.Random(seed)
        return lambda n: rng.choices(self.prompts, k=n)


# ----------------------------------------------------------------------------------------------------------
# 8. InstructGPT, the whole: instructgpt                                            [InstructGPT Fig. 2, §4]


@dataclass(slots=True)
class InstructGPTSettings:
    """Options of `python rlhf.py`."""
    data: str | None = None           # pretraining text (default: the embedded world or your own files' text)
    demonstrations: str | None = None    # your own demonstrations (.json, .jsonl, .gz); see data.py section 6
    comparisons: str | None = None    # your own comparisons; `python rlhf.py label` helps you to make some
    reward: str | None = None         # FILE.py:FUNCTION of (prompt, response) in the place of a reward model
    init: str | None = None           # a checkpoint, a GPT-2 folder or a name to start from
    size: str = "760k"                # of the model that is pretrained; see PRESETS in gpt.py
    name: str = ""                    # results go to runs/NAME (default: instructgpt, or own)
    pretrain_steps: int = 2000        # optimizer steps of pretraining
    sft_epochs: int = 3               # passes over the demonstrations
    comparison_prompts: int = 1500    # prompts that labelers rank answers to, in each of the two rounds
    iterations: int = 50              # batches of 128 episodes, final PPO runs; half as many in round one
    kl_coef: float = 0.2              # beta of eq. (2); a third of it in round one
    ptx_coef: float = 1.0             # gamma of eq. (2) for PPO-ptx
    block_size: int = 128             # context in tokens; your prompts that leave no room in it are left out
    max_response: int = 32            # tokens of an answer at the most
    test_prompts: int = 480           # held-out prompts that every model answers
    full: bool = False                # the paper's further claims, too: sizes, the tax, labelers, batches …
    show: bool = False                # look inside: the loss mask, and one answer token by token
    seed: int = 0
    fresh: bool = False               # train every stage anew


class Pipeline:
    """The stages of one run. Each is kept in runs/NAME/<stage>.pt together with the settings of all the
    stages that it builds on; one whose file matches is loaded instead of trained."""

    def __init__(self, s: InstructGPTSettings):
        require(s, 1, "pretrain_steps", "sft_epochs", "comparison_prompts", "iterations", "max_response")
        require(s, 16, "test_prompts")
        require_room(s.max_response, s.block_size)
        if s.full and (s.reward or s.init or s.demonstrations and not s.comparisons):
            raise UserError("--full is about the embedded world or your own comparisons, "
                            "not about a reward or a model of your own")
        if s.full and s.size != "760k":
            raise UserError("--full compares 760k with 180k: leave --size out")
        if s.size not in OUR_SIZES:
            raise UserError(f"--size is one of {', '.join(OUR_SIZES)}, not {s.size}")
        self.function = load_function(s.reward) if s.reward else None
        self.own = bool(s.demonstrations or s.comparisons)
        if not s.name:
            s = dataclasses.replace(s, name="own" if self.own or s.init or s.reward else "instructgpt")
        self.s, self.folder = s, Path("runs") / s.name
        self.task = WorldTask(s.seed, s.test_prompts) if not self.own else FileTask(
            s.demonstrations, s.comparisons, self.folder, s.seed, bool(s.reward), s.test_prompts)
        print("== 1. " + ("The model to start from" if s.init else "Pretraining: predict the next token"))
        c = PRESETS[s.size]
        settings = PretrainSettings(data=s.data or str(self.task.text), steps=s.pretrain_steps, seed=s.seed,
                                    block_size=s.block_size, n_layer=c.n_layer, n_head=c.n_head,
                                    n_embd=c.n_embd, fresh=s.fresh)
        (self.base, self.tokenizer, _, self.train_stream, self.val_stream) = (
            self.initial(settings) if s.init else pretrained(settings, self.folder))
        self.block_size = self.base.config.block_size
        self.ppo = self.paced(PPOConfig(
            iterations=s.iterations, kl_coef=s.kl_coef, max_response=s.max_response,
            unfinished_score=math.inf if s.reward else -1.0))      # on your own scale -1 means nothing
        if self.own:
            room = self.block_size - s.max_response
            self.task.leave_out_long(lambda messages: len(render_conversation(self.tokenizer, recent_turns(
                self.tokenizer, messages, room, reply=True), reply=True)[0]) <= room)
        cut = sum(len(render_conversation(self.tokenizer, messages)[0]) > self.block_size
                  for messages in self.task.demonstrations)
        if cut:
            print(f"{cut} of {len(self.task.demonstrations)} demonstrations are longer than the context: cut")
        long = sum(len(self.tokenizer.encode(" " + messages[-1]["content"])) >= s.max_response
                   for messages in self.task.demonstrations)
        if long and not s.reward:
            print(f"{long} demonstrated answers are longer than --max-response {s.max_response}: PPO stops "
                  "its own there, unfinished ones score low, and so it will learn to be brief")
        taught = json.dumps([self.task.demonstrations, RUBRIC, LABEL_NOISE])
        self.settings = {**dataclasses.asdict(settings), "fresh": False, "text": fingerprint(settings.data),
                         "init": s.init and fingerprint(s.init),
                         "taught": hashlib.sha256(taught.encode()).hexdigest(),
                         "own": [fingerprint(f) for f in (s.demonstrations, s.comparisons) if f]}
        self.sft = copy.deepcopy(self.base)

    def paced(self, config):
        """The constants of a stage, made for models 128 wide, with rates that fall with the width."""
        pace = min(1.0, 128 / self.base.config.n_embd)
        rates = [f.name for f in dataclasses.fields(config) if f.name.endswith("lr")]
        return dataclasses.replace(config, **{name: pace * getattr(config, name) for name in rates})

    def initial(self, settings: PretrainSettings) -> tuple:
        """What `pretrained` returns, but for a model that exists: with room for our control tokens, and no
        more context than is asked for."""
        model, tokenizer = load_model(self.s.init)
        if not isinstance(tokenizer, Tokenizer):
            raise UserError(f"{self.s.init}: the tokenizer of GPT-1 cannot hold a conversation")
        if tokenizer.vocab_size > model.config.vocab_size:
            grow_vocabulary(model, tokenizer.vocab_size)
        model.config = dataclasses.replace(model.config, block_size=min(settings.block_size,
                                                                        model.config.block_size))
        model.wpe.weight = nn.Parameter(model.wpe.weight[:model.config.block_size].detach().clone())
        folder, documents = self.folder / "init", lambda: documents_of(settings.data, settings.seed)
        made_from = [fingerprint(settings.data), settings.seed,
                     hashlib.sha256(tokenizer.to_json().encode()).hexdigest()]
        known = remembered(folder / "stream.json", made_from, self.s.fresh,
                           lambda: write_stream(documents(), tokenizer, folder))
        print(f"{self.s.init}: {model.num_params():,} parameters, context {model.config.block_size}")
        return model, tokenizer, None, *(open_stream(folder / f"{split}.bin", known["dtype"])
                                         for split in ("train", "val"))

    def stage(self, name: str, title: str, model: nn.Module, settings: dict, work: Callable[[Path], dict]):
        """work(log path) trains `model` in place and returns what to say of it."""
        print(f"\n== {title}", flush=True)
        path, self.settings = self.folder / f"{name}.pt", {**self.settings, name: settings}
        saved = None if self.s.fresh else load_checkpoint(path, self.settings)
        if saved:
            model.load_state_dict(saved["model"])
            print(f"reusing {path}")
        else:
            path.unlink(missing_ok=True)             # its log is about to be replaced
            saved = {"info": work(path.with_suffix(".jsonl"))}
            save_checkpoint(path, model, self.tokenizer, self.settings, **saved)
        print("  ".join(f"{key} {value:.3f}" for key, value in saved["info"].items()))

    def train_sft(self):
        known = Path(self.s.init or "").is_file() and "sft" in load_checkpoint(self.s.init)["settings"]
        config = self.paced(SFTConfig(epochs=self.s.sft_epochs, new_tokens=not known))
        demonstrations = self.task.demonstrations
        self.stage("sft", f"2. SFT: imitate {len(demonstrations)} demonstrations", self.sft,
                   dataclasses.asdict(config),
                   lambda log: train_sft(self.sft, self.tokenizer, demonstrations, config, self.s.seed, log,
                                         self.pretraining(config.mix)))

    def train_reward_model(self, name: str, title: str, rounds: list[list[Speaker]], prompts: int,
                           noise: float = LABEL_NOISE) -> RewardModel:
        """rounds: for each round of `prompts` comparisons, the speakers whose answers labelers rank."""
        torch.manual_seed(self.s.seed)
        model, task, tokenizer = RewardModel(self.sft), self.task, self.tokenizer
        config = self.paced(RewardConfig())

        def work(log):
            if self.own:
                comparisons, held_out = task.compared, {"accuracy": task.compared_test}
            else:
                comparisons = [c for number, speakers in enumerate(rounds, start=10) for c in task.rank(
                    task.answers(speakers, prompts, "train", number), number, noise)]
                answered = task.answers(rounds[-1], self.s.test_prompts // 3, "test", 20)
                held_out = {"accuracy": task.rank(answered, 20),
                            "gold_accuracy": task.rank(answered, 20, noise=0.0)}
                if noise:
                    print(f"two labelers agree on {task.agreement(answered):.1%} of the pairs "
                          "(paper: 72.6 %)")
            info = train_reward_model(model, tokenizer, comparisons, task.demonstrations, config,
                                      self.s.seed, log)
            accuracies = {name: pair_accuracy(model, tokenizer, group) for name, group in held_out.items()}
            return {"prompts": len(comparisons), **info, **accuracies}

        self.stage(name, title, model, {
            "prompts": prompts, "noise": noise, "test_prompts": self.s.test_prompts, "rounds": len(rounds),
            "max_response": self.s.max_response, **dataclasses.asdict(config)}, work)
        return model

    def train_ppo(self, name: str, title: str, config: PPOConfig, reward_model: RewardModel | TextReward,
                  watch: Callable[[GPT], dict] | None = None, watch_every: int = 10) -> GPT:
        policy, s, made_from = copy.deepcopy(self.sft), self.s, self.settings
        ptx = self.pretraining(config.ptx_sequences) if config.ptx_coef else None
        watch = watch or (lambda model: {
            "pretrain_loss": evaluate(model, self.tokenizer, self.val_stream, 8192)["loss"]})

        self.stage(name, title, policy, dataclasses.asdict(config),
                   lambda log: train_ppo(policy, reward_model, self.tokenizer,
                                         self.task.prompt_source(s.seed), config, s.seed, log, ptx, watch,
                                         watch_every))
        self.settings = made_from
        return policy

    def pretraining(self, sequences: int) -> Batches:
        return Batches(self.train_stream, sequences, self.base.config.block_size, self.s.seed)

    def speaker(self, model: GPT) -> Speaker:
        return chat_speaker(model, self.tokenizer, self.s.max_response)

    def judged(self, model: GPT, reward_model: RewardModel | TextReward, seed: int = 2
               ) -> tuple[Rollout, list[tuple[str, bool]], np.ndarray]:
        """An answer to every held-out prompt, scored: (rollout, texts, gold reward of each, which is 0 where
        no rubric knows it)."""
        rollout = roll_out(model, self.sft, reward_model, None, self.tokenizer,
                           [prompt.messages for prompt in self.task.test], self.ppo,
                           torch.Generator(model.device).manual_seed(seed))
        texts = texts_of(self.tokenizer, rollout)
        return rollout, texts, np.zeros(len(texts)) if self.own else np.array(self.task.gold(texts))


def settings_of(name: str) -> InstructGPTSettings:
    """What the run runs/NAME was made with; the defaults if there is none. Raises UserError if it was made by
    another version."""
    path = Path("runs") / name / "settings.json"
    try:
        return InstructGPTSettings(**json.loads(path.read_text())) if path.exists() else InstructGPTSettings()
    except (TypeError, ValueError):
        raise UserError(f"{path} is of another version: make the run anew") from None


def align(run: Pipeline) -> tuple[dict[str, GPT], RewardModel | TextReward]:
    """Steps 2 and 3, from the SFT model on: ({name: model}, the reward model of the last round)."""
    s, ppo, chats, sft = run.s, run.ppo, {"SFT": run.sft}, run.speaker(run.sft)
    if s.reward:
        reward_model = TextReward(run.function, run.tokenizer)
        run.settings = {**run.settings, "reward": fingerprint(s.reward.rpartition(":")[0]), "of": s.reward}
    elif run.own:
        reward_model = run.train_reward_model("reward1", "3. Reward model: your comparisons", [[sft]],
                                              s.comparison_prompts)
    else:
        reward_model = run.train_reward_model(
            "reward1", "3. Reward model, round one: only SFT answers are compared", [[sft]],
            s.comparison_prompts)
        # a longer leash than later, so that what the reward model does not know comes to light
        short = dataclasses.replace(ppo, iterations=max(1, s.iterations // 2), kl_coef=s.kl_coef / 3)
        chats["PPO round one"] = run.train_ppo("ppo1", "4. PPO, round one: a short run", short, reward_model)
        show_hacked(run, chats["PPO round one"], reward_model)
        run.settings = {**run.settings, "ppo1": dataclasses.asdict(short)}
        reward_model = run.train_reward_model(
            "reward2", "5. Reward model, round two: answers of the first PPO policy are compared too",
            [[sft], [sft, run.speaker(chats["PPO round one"])]], s.comparison_prompts)
    chats["PPO"] = run.train_ppo("ppo", "6. PPO", ppo, reward_model)
    chats["PPO-ptx"] = run.train_ppo("ppo_ptx", "7. PPO-ptx: pretraining gradients mixed in",
                                     dataclasses.replace(ppo, ptx_coef=s.ptx_coef), reward_model)
    return chats, reward_model


def load_function(place: str) -> Callable[[str, str], float]:
    """FILE.py:NAME -> the function of that name in the file, which is run. Raises UserError if there is
    none."""
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise UserError(f"--reward takes FILE.py:FUNCTION, and no file is called {path!r}")
    function = runpy.run_path(path).get(name)
    if not callable(function):
        raise UserError(f"{path} has no function {name}(prompt, response)")
    return function


def instructgpt(s: InstructGPTSettings):
    """The three steps of InstructGPT, from a blank model, with the ladder at the end."""
    started, run = time.time(), Pipeline(s)
    task, tokenizer = run.task, run.tokenizer
    with atomic_write(run.folder / "settings.json") as file:             # see settings_of
        file.write(json.dumps(dataclasses.asdict(run.s), indent=1).encode())
    run.train_sft()

    chats, reward_model = align(run)

    print("\n== 8. The ladder, on held-out prompts, everything sampled at temperature 1")
    speakers = {} if run.own else {
        "GPT": forum_speaker(run.base, tokenizer, max_new_tokens=s.max_response),
        "GPT prompted": forum_speaker(run.base, tokenizer, task.shots, s.max_response)}
    rows, answers = ladder(run, speakers, chats, reward_model)
    print_table(rows, run.folder / "table.json")
    if not run.own:
        for name in ("SFT", "PPO", "PPO-ptx"):
            print(f"told in turn one, asked in turn three, held-out conversations: {name} recalls "
                  f"{task.memory_accuracy(run.speaker(chats[name]), min(200, s.test_prompts)):.1%}")
    show_answers(task, answers)
    draw(rows, run.folder)
    if s.show:
        show_rollout(run, chats["PPO"], reward_model)
    if s.full and run.own:
        print("\n== reward model accuracy on your own comparisons, five folds by prompt")
        print_table(own_folds(run), run.folder / "folds.json")
    elif s.full:
        in_depth(run, chats, reward_model)
    name = "" if run.s.name == "instructgpt" else f" --name {run.s.name}"
    print(f"\n{time.time() - started:.0f} s in all. Talk to it: python rlhf.py chat{name}")


def ladder(run: Pipeline, speakers: dict[str, Speaker], chats: dict[str, GPT],
           reward_model: RewardModel | TextReward) -> tuple[list[dict], dict]:
    """Every model answers every held-out prompt once. Returns (rows of the table, {model: answers})."""
    conversations = [prompt.messages for prompt in run.task.test]
    answers = {name: speaker(conversations, 1) for name, speaker in speakers.items()}
    base_loss = evaluate(run.base, run.tokenizer, run.val_stream)["loss"] if speakers else None
    columns = {name: {"pretrain_loss": base_loss} for name in speakers}
    for name, model in chats.items():
        rollout, answers[name], _ = run.judged(model, reward_model)
        columns[name] = {"score": rollout.scores.mean().item(), "kl": rollout.kl.mean().item(),
                         "pretrain_loss": evaluate(model, run.tokenizer, run.val_stream)["loss"]}
    if isinstance(run.task, WorldTask):
        # three more answers by SFT to each prompt: a single one would leave much to chance
        baseline = [g for seed in (3, 4, 5) for g in run.task.gold(run.speaker(run.sft)(conversations, seed))]
        for name, texts in answers.items():
            golds = run.task.gold(texts)
            columns[name] = {**win_rate(3 * golds, baseline), "gold": float(np.mean(golds)),
                             **run.task.verdicts(texts), **columns[name]}
    return [{"model": name, **columns[name]} for name in answers], answers


def texts_of(tokenizer: Tokenizer, rollout: Rollout) -> list[tuple[str, bool]]:
    """The answers of a rollout as (text, whether it ended by itself)."""
    return [(tokenizer.decode(ids[m.bool() & (ids != tokenizer.end)]).strip(), bool(ended))
            for ids, m, ended in zip(rollout.responses.cpu(), rollout.mask.cpu(), rollout.ended)]


def show_hacked(run: Pipeline, policy: GPT, reward_model: RewardModel, count: int = 4):
    """The lesson of round one: answers that its reward model loves and the rubric does not."""
    rollouts, texts, golds = zip(*(run.judged(model, reward_model) for model in (run.sft, policy)))
    print("what the reward model thinks, and what is true:")
    for name, rollout, g in zip(("SFT", "PPO"), rollouts, golds):
        print(f"  {name:14s} score {rollout.scores.mean():6.2f}   "
              f"gold {g.mean():6.2f}   KL {rollout.kl.mean():6.2f}")
    gain = (rollouts[1].scores - rollouts[0].scores).cpu().numpy() - (golds[1] - golds[0])
    print("the answers that gained most in score beyond what they gained in gold:")
    for i in np.argsort(-gain)[:count]:
        print(f"  {run.task.test[i].prompt}")
        for name, rollout, text, g in zip(("SFT", "PPO"), rollouts, texts, golds):
            numbers = f"score {rollout.scores[i]:6.2f}  gold {g[i]:5.1f}  KL {rollout.kl[i]:6.2f}"
            print(f"    {name:4s} {numbers}   {text[i][0]}")


def show_rollout(run: Pipeline, policy: GPT, reward_model: RewardModel | TextReward):
    """What the SFT loss covers (marked), and one answer token by token as PPO sees it."""
    print("\nthe tokens of a demonstration that carry loss, marked:")
    print(show_mask(run.tokenizer, run.task.demonstrations[0]))
    value_model = reward_model if isinstance(reward_model, RewardModel) else None
    rollout = roll_out(policy, run.sft, reward_model, value_model, run.tokenizer,
                       [run.task.test[0].messages], run.ppo, torch.Generator(policy.device).manual_seed(0))
    print(f"\n{run.task.test[0].prompt}   (score {rollout.scores[0]:.2f}, KL {rollout.kl[0]:.2f}; values by "
          "the reward model, as which the value network starts)")
    print_table([{"token": repr(run.tokenizer.decode([token])), "log pi": lp, "log pi_SFT": ref,
                  "KL": lp - ref, "reward": reward, "value": value, "advantage": advantage, "return": later}
                 for token, lp, ref, reward, value, advantage, later, inside in zip(*(
                     x[0].tolist() for x in (rollout.responses, rollout.logprobs, rollout.ref_logprobs,
                                             rollout.rewards, rollout.values, rollout.advantages,
                                             rollout.returns, rollout.mask))) if inside])


def show_answers(task, answers: dict[str, list[tuple[str, bool]]], count: int = 3):
    """A few prompts, answered by every stage."""
    seen = []
    for i, prompt in enumerate(task.test):
        kind = prompt.use_case + str(prompt.unknowable)
        if kind in seen or len(seen) == count:
            continue
        seen.append(kind)
        print("\n" + " / ".join(m["content"] for m in prompt.messages))
        for name, texts in answers.items():
            print(f"    {name:14s} {texts[i][0]}" + ("" if texts[i][1] else " …"))


def draw(rows: list[dict], folder: Path):
    """The ladder, and score, KL and pretraining loss along PPO, as runs/NAME/ladder.png."""
    if not (plt := pyplot()):
        return
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), constrained_layout=True)
    if "win" in rows[0]:
        axes[0].barh([r["model"] for r in rows], [r["win"] for r in rows], color="#4878a8")
        axes[0].axvline(0.5, color="black", lw=0.8, ls=":")
        axes[0].set_title("win rate against SFT (held-out prompts)")
    else:
        axes[0].barh([r["model"] for r in rows], [r["score"] for r in rows], color="#4878a8")
        axes[0].set_title("score by the reward model")
    axes[0].invert_yaxis()
    for run, label_ in (("ppo", "PPO"), ("ppo_ptx", "PPO-ptx")):
        log = [json.loads(line) for line in open(folder / f"{run}.jsonl")][1:]
        for axis, key, title in ((axes[1], "score", "score by the reward model"),
                                 (axes[2], "kl", "KL to SFT, nats per answer"),
                                 (axes[3], "pretrain_loss", "held-out pretraining loss")):
            points = [(r["step"], r[key]) for r in log if key in r]
            axis.plot(*zip(*points), label=label_)
            axis.set_title(title)
            axis.set_xlabel("PPO iteration")
    for row, style in zip((row for row in rows if row["model"] in ("GPT", "SFT")), (":", "--")):
        axes[3].axhline(row["pretrain_loss"], color="grey", ls=style, lw=1, label=row["model"])
    axes[1].legend()
    axes[3].legend()
    save_figure(figure, folder / "ladder.png")
    plt.close(figure)


# ----------------------------------------------------------------------------------------------------------
# 9. InstructGPT in depth: two_sizes, tax_table, labeler_folds, batching, epochs_of_sft, unseen
#                                                                                   [InstructGPT §4, App. E]


def in_depth(run: Pipeline, chats: dict[str, GPT], reward_model: RewardModel):
    """What `--full` adds: the paper's further claims, each a table. It takes twice as long as the run."""
    parts = {
        "sizes": ("small and aligned against large and not (paper: 1.3B PPO-ptx is preferred to 175B GPT-3)",
                  lambda: two_sizes(run, chats)),
        "tax": ("the alignment tax over gamma and beta (paper, Fig. 33 and 34: gamma >= 20 repairs it at "
                "1.3B, no beta does)", lambda: tax_table(run, reward_model)),
        "folds": ("reward model accuracy, five folds of labelers (paper: 72.4 on training labelers, 69.6 on "
                  "others)", lambda: labeler_folds(run)),
        "batching": ("all pairs of a prompt as one element, or shuffled (paper: shuffled overfits at once)",
                     lambda: batching(run, min(400, run.s.comparison_prompts))),
        "epochs": ("SFT (paper: validation loss overfits after one epoch, more epochs still raise the score)",
                   lambda: epochs_of_sft(run, reward_model)),
        "unseen": ("words and a language that no demonstration, comparison or PPO prompt has used; false "
                   "premises (paper §4.3: generalizes, but accepts false premises)",
                   lambda: unseen(run, chats)),
        "memory": ("what was told in turn one, by the exchanges in between (in training at most one)",
                   lambda: [{"model": name, **{f"{n} between": run.task.memory_accuracy(
                       run.speaker(chats[name]), between=n) for n in range(4)}}
                            for name in ("SFT", "PPO", "PPO-ptx")])}
    tables = {}
    for name, (title, work) in parts.items():
        print(f"\n== {name}: {title}", flush=True)
        tables[name] = work()
        print_table(tables[name], run.folder / f"{name}.json")
    draw_depth(run.folder, tables)


def two_sizes(run: Pipeline, chats: dict[str, GPT]) -> list[dict]:
    """The whole pipeline again on a quarter of the parameters; all against the large SFT model, and against
    the large model that is not aligned."""
    small = Pipeline(dataclasses.replace(run.s, size="180k", name=f"{run.s.name}/180k", full=False))
    small.train_sft()
    small_chats, _ = align(small)
    conversations, golds = [prompt.messages for prompt in run.task.test], {}
    for size, pipeline, models in (("760k", run, chats), ("180k", small, small_chats)):
        base, tokenizer, limit = pipeline.base, pipeline.tokenizer, run.s.max_response
        speakers = {"GPT": forum_speaker(base, tokenizer, max_new_tokens=limit),
                    "GPT prompted": forum_speaker(base, tokenizer, run.task.shots, limit),
                    **{name: pipeline.speaker(model) for name, model in models.items()}}
        for name, speaker in speakers.items():
            golds[size, name] = [g for seed in (3, 4) for g in run.task.gold(speaker(conversations, seed))]
    return [{"size": size, "model": name, "win against 760k SFT": win_rate(g, golds["760k", "SFT"])["win"],
             "win against 760k GPT": win_rate(g, golds["760k", "GPT"])["win"],
             "against 760k GPT prompted": win_rate(g, golds["760k", "GPT prompted"])["win"],
             "gold": float(np.mean(g))} for (size, name), g in golds.items()]


def tax_table(run: Pipeline, reward_model: RewardModel) -> list[dict]:
    """Pretraining loss and reward after short PPO runs, over gamma, and over beta without gamma."""
    rows, settings = [], [(run.s.kl_coef, gamma) for gamma in (0, 0.3, 1, 3, 10, 30, 100)]
    for beta, gamma in dict.fromkeys(settings + [(beta, 0) for beta in (0.02, 0.6, 2.0)]):
        config = dataclasses.replace(run.ppo, iterations=max(1, run.s.iterations // 2), kl_coef=beta,
                                     ptx_coef=float(gamma))
        policy = run.train_ppo(f"tax_{beta}_{gamma}", f"PPO, beta {beta}, gamma {gamma}", config,
                               reward_model)
        rollout, _, golds = run.judged(policy, reward_model)
        rows.append({"beta": beta, "gamma": gamma, "score": rollout.scores.mean().item(),
                     "gold": float(golds.mean()), "kl": rollout.kl.mean().item(),
                     "pretrain_loss": evaluate(policy, run.tokenizer, run.val_stream)["loss"]})
    return rows


def labeler_folds(run: Pipeline, labelers: int = 10, folds: int = 5) -> list[dict]:
    """Labelers with weights of their own, in five groups; train on four of them. [§4.1, E.2]"""
    answered, held_out = (run.task.answers([run.speaker(run.sft)], min(count, run.s.comparison_prompts),
                                           split, 30) for count, split in ((800, "train"), (200, "test")))

    def labeled(part, by):
        """Each prompt is labeled by one of `by`, in turn."""
        rng = random.Random(str(by))
        found = [label(run.task.world, prompt, answers, rng, rubric=rubric_of(by[i % len(by)]))
                 for i, (prompt, answers) in enumerate(part)]
        return [c for c in found if len(set(c.ranks)) > 1]

    groups = []
    for fold in range(folds):
        out = [i for i in range(labelers) if i % folds == fold]
        others = [i for i in range(labelers) if i % folds != fold]
        groups.append((labeled(answered, others), {"training labelers": labeled(held_out, others),
                                                   "others": labeled(held_out, out)}))
    return fold_accuracies(run, groups)


def own_folds(run: Pipeline, folds: int = 5) -> list[dict]:
    """The reader's comparisons in five parts, a prompt with all that was compared of it in one of them. (The
    SFT model that every reward model starts from has seen the best answers of most of them.)"""
    compared, place = run.task.compared + run.task.compared_test, {}
    folds = min(folds, len({json.dumps(c.messages) for c in compared}))
    for c in compared:
        place.setdefault(json.dumps(c.messages), len(place) % folds)
    parts = [[c for c in compared if place[json.dumps(c.messages)] == fold] for fold in range(folds)]
    return fold_accuracies(run, [([c for i, part in enumerate(parts) if i != fold for c in part],
                                  {"accuracy": parts[fold]}) for fold in range(folds)])


def fold_accuracies(run: Pipeline, groups: list[tuple[list[Comparison], dict[str, list[Comparison]]]]
                    ) -> list[dict]:
    """For each fold (comparisons to train on, {name: comparisons to test on}) the accuracies of a new reward
    model; then their mean and its standard error."""
    rows = []
    for fold, (train_set, tests) in enumerate(groups):
        torch.manual_seed(fold)
        model = RewardModel(run.sft)
        train_reward_model(model, run.tokenizer, train_set, run.task.demonstrations,
                           run.paced(RewardConfig()), fold, run.folder / "trial.jsonl")
        rows.append({name: pair_accuracy(model, run.tokenizer, test) for name, test in tests.items()})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return [*({"fold": str(fold), **row} for fold, row in enumerate(rows)),
            {"fold": "mean", **{name: float(np.nanmean(column)) for name, column in columns.items()}},
            {"fold": "standard error", **{name: float(np.nanstd(column, ddof=1) / math.sqrt(len(rows)))
                                          for name, column in columns.items()}}]


@torch.no_grad()
def comparison_loss(model: RewardModel, tokenizer: Tokenizer, comparisons: list[Comparison]) -> float:
    """The ranking loss on comparisons, per prompt."""
    batches = [comparisons[i:i + 32] for i in range(0, len(comparisons), 32)]
    losses = [ranking_loss(*comparison_scores(model, tokenizer, batch)).item() for batch in batches]
    return float(np.average(losses, weights=[len(batch) for batch in batches]))


def batching(run: Pipeline, prompts: int, epochs: int = 3) -> list[dict]:
    """Every comparison as one element, or its pairs shuffled among all others': validation loss and accuracy
    by epoch, as many pairs per step. [§3.5]"""
    task = run.task
    train_set, held_out = (task.rank(task.answers([run.speaker(run.sft)], count, split, 31), 31)
                           for count, split in ((prompts, "train"), (prompts // 2, "test")))
    pairs = [Comparison(c.messages, [c.responses[i], c.responses[j]], [c.ranks[i], c.ranks[j]])
             for c in train_set for i in range(len(c.ranks)) for j in range(i) if c.ranks[i] != c.ranks[j]]
    rows = []
    for name, comparisons in (("one element per prompt", train_set), ("shuffled pairs", pairs)):
        torch.manual_seed(run.s.seed)
        model = RewardModel(run.sft)
        config = run.paced(RewardConfig())
        config.batch_size = round(config.batch_size * len(comparisons) / len(train_set))
        for epoch in range(1, epochs + 1):                       # each epoch with its own schedule
            info = train_reward_model(model, run.tokenizer, comparisons, task.demonstrations, config, epoch,
                                      run.folder / "trial.jsonl")
            rows.append({"batches of": name, "epoch": epoch, "training loss": info["rm_loss"],
                         "validation loss": comparison_loss(model, run.tokenizer, held_out),
                         "validation accuracy": pair_accuracy(model, run.tokenizer, held_out)})
    return rows


def epochs_of_sft(run: Pipeline, reward_model: RewardModel) -> list[dict]:
    """Validation loss, and what the reward model and the rubric think, by epochs of SFT. [§3.5, C.1]"""
    task, rng, rows = run.task, random.Random(0), []
    held_out = [fit(run.tokenizer, demonstrate(task.world, prompt, rng), run.block_size)
                for prompt in task.test]
    for epochs in (1, 2, 4, 8, 16):
        model = copy.deepcopy(run.base)
        config = run.paced(SFTConfig(epochs=epochs))
        train_sft(model, run.tokenizer, task.demonstrations, config, run.s.seed,
                  run.folder / "trial.jsonl", run.pretraining(config.mix))
        rollout, _, golds = run.judged(model, reward_model)
        with torch.no_grad():
            loss = sft_loss(model, run.tokenizer, held_out).item()
        rows.append({"epochs": epochs, "validation loss": loss, "score": rollout.scores.mean().item(),
                     "gold": float(golds.mean())})
    return rows


def unseen(run: Pipeline, chats: dict[str, GPT], count: int = 360) -> list[dict]:
    """Instructions in words that only pretraining has used, phrases to translate, and questions with a false
    premise, with examples. [§4.3]"""
    world, limit = run.task.world, run.s.max_response
    prompts = unseen_instructions(world, count, 0)
    speakers = {"GPT": forum_speaker(run.base, run.tokenizer, max_new_tokens=limit),
                "GPT, plain text": text_speaker(run.base, run.tokenizer, limit),
                **{name: run.speaker(chats[name]) for name in ("SFT", "PPO", "PPO-ptx")}}
    conversations = [prompt.messages for prompt in prompts]
    answers = {name: speaker(conversations, 8) for name, speaker in speakers.items()}
    rows = []
    for name, texts in answers.items():
        read = [(prompt.use_case, judge(world, prompt, *answer), prompt.say in answer[0])
                for prompt, answer in zip(prompts, texts)]
        shares = {"unseen wording, helpful": [v["helpful"] for k, v, _ in read if k == "unseen wording"],
                  "translated": [said for k, _, said in read if k == "second language"],
                  "false premise, helpful": [v["helpful"] for k, v, _ in read if k == "false premise"],
                  "without it": [v["helpful"] for k, v, _ in read if k == "question alone"],
                  "invented": [v["invented"] for k, v, _ in read if k == "false premise"]}
        rows.append({"model": name, **{share: float(np.mean(values)) for share, values in shares.items()}})
    for i in range(14):                                            # two of each kind
        print("  " + prompts[i].prompt.replace("\n", " / "))
        for name, texts in answers.items():
            print(f"    {name:15s} {texts[i][0]}")
    return rows


def draw_depth(folder: Path, tables: dict[str, list[dict]]):
    """Two sizes, the tax over gamma and beta, batching, and epochs of SFT, as runs/NAME/depth.png."""
    if not (plt := pyplot()):
        return
    figure, (sizes, tax, batches, epochs) = plt.subplots(1, 4, figsize=(18, 4), constrained_layout=True)
    for i, size in enumerate(("760k", "180k")):
        rows = [row for row in tables["sizes"] if row["size"] == size]
        sizes.bar(np.arange(len(rows)) + 0.4 * i, [r["win against 760k SFT"] for r in rows], 0.4, label=size)
    sizes.set_xticks(np.arange(len(rows)) + 0.2, [r["model"].replace(" ", "\n") for r in rows], fontsize=8)
    sizes.axhline(0.5, color="black", lw=0.8, ls=":")
    sizes.set_title("win rate against the large SFT model")
    sizes.legend()
    gammas = [row for row in tables["tax"] if row["beta"] == tables["tax"][0]["beta"]]
    betas = sorted((row for row in tables["tax"] if row["gamma"] == 0), key=lambda row: row["beta"])
    for rows, label_ in ((gammas, "gamma 0 … 100"), (betas, "beta 0.02 … 2")):
        tax.plot([r["pretrain_loss"] for r in rows], [r["gold"] for r in rows], marker="o", label=label_)
    tax.set_xlabel("held-out pretraining loss")
    tax.set_title("gold against the alignment tax")
    tax.legend()
    for name in dict.fromkeys(row["batches of"] for row in tables["batching"]):
        rows = [row for row in tables["batching"] if row["batches of"] == name]
        batches.plot([r["epoch"] for r in rows], [r["validation loss"] for r in rows], marker="o", label=name)
    batches.set_title("reward model: validation loss by epoch")
    batches.legend()
    for key in ("validation loss", "score", "gold"):
        epochs.plot([r["epochs"] for r in tables["epochs"]], [r[key] for r in tables["epochs"]], marker="o",
                    label=key)
    epochs.set_xscale("log", base=2)
    epochs.set_title("SFT by epochs")
    epochs.legend()
    save_figure(figure, folder / "depth.png")
    plt.close(figure)


# ----------------------------------------------------------------------------------------------------------
# 10. PPO against the closed form, all answers counted: Letters, Counted, exact         [Ziegler §2]


class Letters:
    """A tokenizer of three letters and the control tokens: few enough to write down all short answers."""
    ranks = {b"a": 0, b"b": 1, b"c": 2}
    special = {name: 3 + i for i, name in enumerate(SPECIAL_TOKENS)}
    eot, pad, end = special["<|endoftext|>"], special["<|pad|>"], special["<|end|>"]
    vocab_size = 3 + len(special)

    def encode(self, text: str) -> list[int]:
        return ["abc".index(letter) for letter in text if letter in "abc"]

    def decode(self, ids) -> str:
        return "".join("abc"[i] for i in ids)


class Counted:
    """One prompt, and all answers of at most R tokens with a reward each, drawn at random: everything that
    PPO estimates can be computed."""

    def __init__(self, R: int, seed: int):
        self.tokenizer, self.R, V = Letters(), R, Letters.vocab_size
        self.prompt = [{"role": "user", "content": "abc"}]
        self.rows = [row for n in range(R + 1) for row in itertools.product(range(V), repeat=n)
                     if Letters.end not in row[:-1] and (n == R or row[-1:] == (Letters.end,))]
        generator = torch.Generator().manual_seed(seed)
        self.rewards = torch.randn(len(self.rows), generator=generator)                        # r(y)
        self.lookup = dict(zip(self.rows, self.rewards.tolist()))
        torch.manual_seed(seed)
        config = GPTConfig(V, 16, n_layer=2, n_head=2, n_embd=32)
        self.reference = GPT(config).eval()
        for name, parameter in self.reference.named_parameters():
            if parameter.ndim == 2:                        # large weights: not all answers equally likely
                parameter.data.mul_(8 if name.startswith("wte") else 4)

    def __call__(self, ids, last, lengths):
        """The reward model: it knows every answer's reward. (B, T), (B,), (B,) -> (B,)"""
        return torch.tensor([self.lookup[tuple(row[start:end + 1])]
                             for row, end, start in zip(ids.tolist(), last.tolist(), lengths.tolist())])

    @torch.no_grad()
    def log_probabilities(self, policy: GPT):
        """log pi(y) of all answers: (number of answers,). They sum to one."""
        prompt = prompt_ids(self.tokenizer, self.prompt, 16)
        ids, ends = to_tensors([[*prompt, *row] for row in self.rows], self.tokenizer.pad, "cpu")
        responses, _ = to_tensors([list(row) for row in self.rows], self.tokenizer.pad, "cpu")
        lengths = torch.full_like(ends, len(prompt))
        return response_logprobs(policy, ids, lengths, ends, responses).sum(dim=1).double()

    def reward_and_kl(self, logp, log_reference) -> tuple[float, float]:
        """(E r, KL(pi || reference)), exactly."""
        p = logp.exp()
        return (p @ self.rewards.double()).item(), (p * (logp - log_reference)).sum().item()

    def best_of(self, n: int, log_reference) -> tuple[float, float]:
        """(E r, KL) of the best of n answers by the reference: y is it with probability F(y)^n - F(y-)^n,
        F the distribution function over answers in the order of their reward."""
        order = self.rewards.argsort()
        above = log_reference.exp()[order].cumsum(0).clamp(max=1)
        p = above ** n - torch.cat([torch.zeros(1, dtype=above.dtype), above[:-1]]) ** n
        p = torch.zeros_like(p).index_put((order,), p).clamp(min=1e-300)
        return self.reward_and_kl(p.log(), log_reference)


@dataclass(slots=True)
class ExactSettings:
    """Options of `python rlhf.py exact`."""
    name: str = "exact"          # results go to runs/NAME
    tokens: int = 3              # length of the longest answer
    iterations: int = 200        # of PPO, for each beta
    seed: int = 0


def exact(s: ExactSettings):
    """PPO with the KL penalty against the optimum that is known in closed form. [Ziegler et al. §2]"""
    require(s, 1, "tokens", "iterations")
    if s.tokens > 4:
        raise UserError(f"answers of {s.tokens} tokens are too many to count: at most --tokens 4")
    problem, rows, folder = Counted(s.tokens, s.seed), [], Path("runs") / s.name
    rho = problem.log_probabilities(problem.reference)
    start = problem.reward_and_kl(rho, rho)[0]
    print(f"{len(problem.rows)} answers; the reference expects a reward of {start:.3f}")
    for beta in (0.25, 0.5, 1.0, 2.0, 4.0):
        # pi*(y|x) = rho(y|x) exp(r / beta) / Z          max of E r - beta KL = beta log Z
        tilted = rho + problem.rewards.double() / beta
        best, log_z = problem.reward_and_kl(tilted - tilted.logsumexp(0), rho), tilted.logsumexp(0).item()
        config = PPOConfig(iterations=s.iterations, batch_size=512, max_response=s.tokens, kl_coef=beta,
                           lr=1e-3, unfinished_score=math.inf, ema_decay=0.98)
        policy = copy.deepcopy(problem.reference)
        train_ppo(policy, problem, problem.tokenizer, lambda n: [problem.prompt] * n, config, s.seed,
                  folder / f"beta{beta}.jsonl")
        reward, kl = problem.reward_and_kl(problem.log_probabilities(policy), rho)
        rollout = roll_out(policy, problem.reference, problem, None, problem.tokenizer,
                           [problem.prompt] * 2000, config, torch.Generator().manual_seed(1))
        log_r = -rollout.kl                                              # log rho/pi, y drawn from pi
        rows.append({"beta": beta, "E r, exact": best[0], "E r, PPO": reward, "KL, exact": best[1],
                     "KL, PPO": kl, "objective, exact": beta * log_z, "objective, PPO": reward - beta * kl,
                     "of the gain": (reward - beta * kl - start) / (beta * log_z - start),
                     "k1": -log_r.mean().item(), "k2": (log_r ** 2 / 2).mean().item(),
                     "k3": (log_r.exp() - 1 - log_r).mean().item()})
    print("\nk1, k2, k3: estimates of the KL of PPO's policy from 2,000 answers, to compare with \"KL, PPO\"")
    print_table(rows, folder / "table.json")
    bests = [{"best of": n, **dict(zip(("E r", "KL"), problem.best_of(n, rho))),
              "log n - (n-1)/n": math.log(n) - (n - 1) / n} for n in (1, 2, 4, 16, 64, 256)]
    print()
    print_table(bests, folder / "best_of_n.json")
    if plt := pyplot():
        figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
        frontier = [problem.reward_and_kl(t - t.logsumexp(0), rho) for t in (
            rho + problem.rewards.double() / beta for beta in np.geomspace(0.05, 10, 60))]
        axis.plot(*zip(*((kl, reward) for reward, kl in frontier)), color="grey", label="optimum, any beta")
        axis.plot([row["KL, PPO"] for row in rows], [row["E r, PPO"] for row in rows], "o", label="PPO")
        axis.plot([row["KL"] for row in bests], [row["E r"] for row in bests], "x", label="best of n")
        axis.set_xlabel("KL to the reference, nats, exact")
        axis.set_ylabel("expected reward, exact")
        axis.legend()
        save_figure(figure, folder / "exact.png")
        plt.close(figure)


# ----------------------------------------------------------------------------------------------------------
# 11. Over-optimisation: best_of_n, fit_gold, overoptimize                                   [Gao et al. 2022]


def best_of_n(proxy: np.ndarray, values: np.ndarray, n: int) -> float:
    """The expected value of the answer that the proxy likes best among n, from N >= n answers to each prompt,
    both (prompts, N): in the order of the proxy, the i-th of N is the best of a random n with probability
    C(i-1, n-1) / C(N, n). Unbiased. [Nakano et al. 2021, App. I]"""
    N = proxy.shape[1]
    weights = np.array([math.comb(i, n - 1) / math.comb(N, n) for i in range(N)])
    return float((np.take_along_axis(values, proxy.argsort(axis=1), axis=1) @ weights).mean())


def fit_gold(d: np.ndarray, gold_: np.ndarray, log: bool) -> tuple[float, float, float]:
    """Least squares for R(d) = d (alpha - beta d), best-of-n's form, or d (alpha - beta log d), RL's; d is
    sqrt(KL), and R / d is linear in d or in log d. Returns alpha, beta and where the fit peaks (inf if it
    never does); nan for fewer than three points."""
    if len(d) < 3:
        return math.nan, math.nan, math.nan
    x = np.log(d) if log else d
    slope, alpha = np.polyfit(x, gold_ / d, 1)
    beta = -slope
    peak = math.inf if beta <= 0 else math.exp(alpha / beta - 1) if log else alpha / (2 * beta)
    return float(alpha), float(beta), peak


@dataclass(slots=True)
class OveroptimizeSettings:
    """Options of `python rlhf.py overoptimize`."""
    base: str = "instructgpt"      # the run whose pretrained and SFT models are taken (made if missing)
    name: str = "overoptimize"     # results go to runs/NAME
    prompts: int = 1600            # behind the largest reward model; a quarter and a sixteenth for the others
    iterations: int = 40           # of PPO without a KL penalty
    lr: float = 3e-4               # of its policy
    answers: int = 64              # per prompt, of which the best of n is taken
    test_prompts: int = 200        # held-out prompts
    fresh: bool = False            # train everything anew, but for the base


def overoptimize(s: OveroptimizeSettings):
    """Gold against proxy reward, best-of-n and PPO, for three sizes of the comparison data. [Gao et al.]"""
    require(s, 1, "iterations")
    require(s, 2, "answers")
    require(s, 16, "test_prompts")
    require(s, 32, "prompts")
    if s.name == s.base:
        raise UserError("--name and --base are the same: the base keeps its folder to itself")
    base = settings_of(s.base)
    if base.demonstrations or base.comparisons or base.reward:
        raise UserError(f"runs/{s.base} is a run on your own data: no rubric knows its gold reward")
    run = Pipeline(dataclasses.replace(base, name=s.base, test_prompts=s.test_prompts, fresh=False))
    run.train_sft()
    # the stages from here on have a folder of their own
    run.folder, run.s = Path("runs") / s.name, dataclasses.replace(run.s, fresh=s.fresh)
    # PPO's log is in standard deviations of these answers
    run.settings = {**run.settings, "answers": s.answers}
    config = run.paced(PPOConfig(iterations=s.iterations, max_response=base.max_response, kl_coef=0.0,
                                 lr=s.lr))
    ns, curves, rows = [2 ** i for i in range(s.answers.bit_length())], {}, []
    for count in (s.prompts // 16, s.prompts // 4, s.prompts):
        reward_model = run.train_reward_model(
            f"reward{count}", f"Reward model: answers to {count} prompts, ranked by the rubric itself",
            [[run.speaker(run.sft)]], count, noise=0.0)
        drawn = [run.judged(run.sft, reward_model, seed=100 + i) for i in range(s.answers)]
        proxy = np.stack([rollout.scores.cpu().numpy() for rollout, _, _ in drawn], axis=1)    # (prompts, N)
        gold_ = np.stack([golds for _, _, golds in drawn], axis=1)
        # as in the paper: the initial policy scores 0, and gold is measured in its standard deviations
        scale = lambda p, g: ((p - proxy.mean()) / proxy.std(), (g - gold_.mean()) / gold_.std())
        curves[count, "best of n"] = [(math.sqrt(math.log(n) - (n - 1) / n), *scale(
            best_of_n(proxy, proxy, n), best_of_n(proxy, gold_, n))) for n in ns]

        def watch(policy):
            rollout, _, golds = run.judged(policy, reward_model, seed=7)
            p, g = scale(rollout.scores.mean().item(), golds.mean())
            return {"d": math.sqrt(max(0.0, rollout.kl.mean().item())), "proxy": p, "gold": g}

        policy = run.train_ppo(f"ppo{count}", f"PPO without a KL penalty, {count} prompts", config,
                               reward_model, watch, watch_every=1)
        log = [json.loads(line) for line in open(run.folder / f"ppo{count}.jsonl")][1:]
        curves[count, "PPO"] = [(0.0, 0.0, 0.0)] + [(r["d"], r["proxy"], r["gold"]) for r in log if "d" in r]
        for method in ("best of n", "PPO"):
            d, p, g = np.array(curves[count, method]).T
            alpha, beta, peak = fit_gold(d[d > 0.2], g[d > 0.2], method == "PPO")
            top = int(g.argmax())
            rows.append({"prompts": count, "method": method, "alpha": alpha, "beta": beta, "fit peaks": peak,
                         "gold peaks at": float(d[top]), "gold there": float(g[top]),
                         "proxy there": float(p[top]), "last d": float(d[-1]), "last gold": float(g[-1]),
                         "last proxy": float(p[-1])})
        show_hacked(run, policy, reward_model)
    print("\ngold and proxy in standard deviations of the SFT model's answers, d = sqrt(KL)")
    print_table(rows, run.folder / "table.json")
    draw_overoptimization(run.folder, curves, rows)


def draw_overoptimization(folder: Path, curves: dict, rows: list[dict]):
    """Gold and proxy against sqrt(KL), with the fits of gold. [Gao et al. Fig. 1]"""
    if not (plt := pyplot()):
        return
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), constrained_layout=True)
    for number, row in enumerate(rows):
        axis, color = axes[number % 2], f"C{number // 2}"
        d, proxy, gold_ = np.array(curves[row["prompts"], row["method"]]).T
        axis.plot(d, gold_, "o", color=color, ms=3, label=f"gold, {row['prompts']} prompts")
        axis.plot(d, proxy, "--", color=color, lw=1)
        x = np.linspace(0.2, d.max(), 100)
        form = np.log(x) if row["method"] == "PPO" else x
        axis.plot(x, x * (row["alpha"] - row["beta"] * form), color=color)
        axis.set_title(f"{row['method']}: gold (points, fit) and proxy (dashed)")
        axis.set_xlabel("sqrt(KL to the SFT model)")
        axis.legend()
    save_figure(figure, folder / "overoptimization.png")
    plt.close(figure)


# ----------------------------------------------------------------------------------------------------------
# 12. Chat and labeling by hand: chat, stream_reply, label_by_hand                                   [ChatGPT]


@dataclass(slots=True)
class ChatSettings:
    """Options of `python rlhf.py chat`."""
    name: str = "instructgpt"       # the run whose model answers
    model: str | None = None        # a checkpoint file instead (default: runs/NAME/ppo_ptx.pt)
    system: str | None = None       # a system message to begin with
    temperature: float = 0.7        # 0 takes the most likely token
    max_response: int = 48          # tokens per answer
    seed: int = 0


def chat(s: ChatSettings):
    """Talk to the model. /reset forgets, /system TEXT sets the system message, Ctrl-D or Ctrl-C leaves."""
    require(s, 1, "max_response")
    model, tokenizer = load_chat_model(s.model or Path("runs") / s.name / "ppo_ptx.pt", s.max_response)
    limit = model.config.block_size - s.max_response
    generator = torch.Generator(model.device).manual_seed(s.seed)
    system = [{"role": "system", "content": s.system}] if s.system else []
    messages: list[dict] = []
    print("/reset forgets, /system TEXT sets the system message, Ctrl-D leaves")
    while True:
        try:
            text = input("\nyou> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text == "/reset":
            messages = []
        elif text.startswith("/system"):
            system = [{"role": "system", "content": text[7:].strip()}] if text[7:].strip() else []
            messages = []
        elif text:
            messages.append({"role": "user", "content": text})
            kept = recent_turns(tokenizer, system + messages, limit, reply=True)[len(system):]
            if len(kept) < len(messages):
                print(f"(the context is full: the oldest {len(messages) - len(kept)} turns are forgotten)")
            messages = kept
            reply = ""
            try:
                for piece in stream_reply(model, tokenizer, system + messages, s.max_response, s.temperature,
                                          generator):
                    print(piece, end="", flush=True)
                    reply += piece
            except KeyboardInterrupt:
                pass                                        # Ctrl-C ends the answer, not the conversation
            print()
            messages.append({"role": "assistant", "content": reply})


def load_chat_model(path: str | Path, max_response: int) -> tuple[GPT, Tokenizer]:
    """load_model. Raises UserError if the model knows no conversations or has no room for such answers."""
    model, tokenizer = load_model(path)
    if tokenizer.eot is None or tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(f"{path} has never seen the tokens of a conversation: it cannot chat")
    require_room(max_response, model.config.block_size)
    return model, tokenizer


def stream_reply(model: GPT, tokenizer: Tokenizer, messages: list[dict], max_new_tokens: int,
                 temperature: float, generator: torch.Generator):
    """Yields the answer piece by piece; a character that spans tokens comes when it is whole."""
    ids = prompt_ids(tokenizer, messages, model.config.block_size - max_new_tokens)
    decoder, first = codecs.getincrementaldecoder("utf-8")("replace"), True
    for token, _ in generate_steps(model, torch.tensor([ids], device=model.device), max_new_tokens,
                                   temperature=temperature, generator=generator):
        if token.item() >= len(tokenizer.ranks):            # <|end|>, or any other control token
            return
        piece = decoder.decode(tokenizer.decode_bytes(token))
        yield piece.removeprefix(" ") if first else piece   # the space that every content starts with
        first = False


@dataclass(slots=True)
class LabelSettings:
    """Options of `python rlhf.py label`."""
    name: str = "instructgpt"           # the run whose SFT model answers
    model: str | None = None            # a checkpoint file instead (default: runs/NAME/sft.pt)
    prompts: str | None = None          # your own prompts, one per line (default: the world's)
    output: str = "comparisons.jsonl"   # your rankings are appended here; then: --comparisons FILE
    answers: int = 4                    # K, answers to each prompt; paper: 4 to 9
    max_response: int = 32              # tokens of an answer at the most
    seed: int = 0


def label_by_hand(s: LabelSettings):
    """Rank K answers to each prompt yourself; a reward model then trains on your comparisons. [§3.4]"""
    require(s, 2, "answers")
    require(s, 1, "max_response")
    run, path, known = settings_of(s.name), s.model or f"runs/{s.name}/sft.pt", []
    model, tokenizer = load_chat_model(path, s.max_response)
    if s.prompts:
        conversations = [[{"role": "user", "content": text.strip()}] for document in load_text(s.prompts)
                         for text in document.splitlines() if text.strip()]
    else:
        conversations = [prompt.messages for prompt in instructions(World(run.seed), "train", 1000, seed=9)]
    if Path(s.output).exists():
        known = [c.messages for c in load_comparisons(s.output)]
    speak = chat_speaker(model, tokenizer, s.max_response)
    print("best first, = between equals: 3 1=4 2   Enter skips, q leaves", end="")
    for number, messages in enumerate(conversations):
        answers = speak([messages] * s.answers, s.seed + number) if messages not in known else []
        responses = list(dict.fromkeys(text for text, _ in answers if text))      # equal ones once
        if len(responses) < 2:
            continue
        print("\n\n" + " / ".join(message["content"] for message in messages))
        for i, response in enumerate(responses, start=1):
            print(f"  {i}  {response}")
        ranks = read_ranking(len(responses))
        if ranks is None:
            break
        if ranks:
            with open(s.output, "a", encoding="utf-8") as file:
                record = {"prompt": messages, "responses": responses, "ranks": ranks}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    else:
        print("\nthere are no more prompts")
    text = "" if s.model else f" --data {run.data or WorldTask.text} --seed {run.seed}"
    print(f"\ntrain it on your rankings: python rlhf.py --init {path}{text} --comparisons {s.output}")


def read_ranking(count: int) -> list[int] | None:
    """Asks until there is a ranking of `count` answers. [] is none, None is enough for today."""
    while True:
        try:
            line = input("rank> ").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if line in ("", "q"):
            return None if line else []
        if ranks := parse_ranking(line, count):
            return ranks


def parse_ranking(line: str, count: int) -> list[int] | None:
    """"3 1=4 2" -> the ranks of answers 1 … 4: [1, 2, 0, 1]. None, with a word why, if it is no ranking."""
    groups = [group.split("=") for group in re.sub(r"\s*=\s*", "=", line).split()]
    named = [name for group in groups for name in group]
    if sorted(named) != sorted(map(str, range(1, count + 1))):
        print(f"name every answer from 1 to {count} once, as in: 2 1=3")
        return None
    rank = {name: place for place, group in enumerate(groups) for name in group}
    return [rank[str(i)] for i in range(1, count + 1)]


if __name__ == "__main__":
    command_line({"instructgpt": (InstructGPTSettings, instructgpt), "exact": (ExactSettings, exact),
                  "overoptimize": (OveroptimizeSettings, overoptimize),
                  "label": (LabelSettings, label_by_hand), "chat": (ChatSettings, chat)},
                 default="instructgpt")
