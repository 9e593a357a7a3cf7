# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "numpy", "tiktoken"]
# ///
"""
rlhf.py: reinforcement learning from human feedback (RLHF) makes a text predictor an assistant.
Supervised fine-tuning (SFT) -> reward model -> PPO-ptx -> chat.

    python rlhf.py                 InstructGPT on the town's web (data.py, section 4), from
                                   random weights; compares GPT, GPT prompted, SFT, PPO, PPO-ptx
    python rlhf.py chat            talk to the result
    torchrun --standalone --nproc-per-node 2 rlhf.py --name two     in two processes

    python rlhf.py --demonstrations FILE --comparisons FILE     the same steps on your data
    python rlhf.py --reward FILE.py:FUNCTION                    PPO on your own function
    python rlhf.py --init FOLDER                                start from a GPT-2 folder

Papers: InstructGPT (Ouyang et al. 2022, arXiv:2203.02155), "the paper"; a bare §3.5, C.2 or E.9 is
one of its sections or appendices. What it does not state comes from Stiennon et al. 2020
(arXiv:2009.01325) and Ziegler et al. 2019 (arXiv:1909.08593). PPO is proximal policy optimization
(arXiv:1707.06347), GAE generalized advantage estimation (arXiv:1506.02438).

    reward model   loss = - 1/C(K,2) E [ log sigmoid( r(x, y_w) - r(x, y_l) ) ]       eq. (1)
    policy         objective = E_(x,y)~pi [ r(x, y) - beta log( pi(y|x) / pi_SFT(y|x) ) ]
                               + gamma E_x~pretrain [ log pi(x) ]                     eq. (2)

Constants are scaled to a run of minutes; comments give the paper's values. Intended departures
from the paper are listed in papers/README.md, section InstructGPT.

Contents
    1. Masks and log-probabilities: masked_mean, whiten, response_logprobs
    2. Step 1, SFT: SFTConfig, train_sft
    3. Step 2, the reward model: RewardModel, ranking_loss, train_reward_model
    4. Step 3, answers and their rewards: PPOConfig, token_rewards, compute_gae, roll_out
    5. Step 3, PPO-ptx: policy_loss, value_loss, train_ppo
    6. How good are the answers: WorldTask, win_rate
    7. InstructGPT, from random weights: instructgpt
    8. Chat: chat
    9. Your own data, reward and model: FileTask, load_function, TextReward, resize

Shapes: B batch size, T sequence length, P prompt length, K responses to one prompt, C = n_embd,
V = vocab_size, N response tokens. In the equations x is a prompt (in the last term a pretraining
text, ptx), y a response, y_w the better and y_l the worse of two. C(K,2) = K (K-1) / 2 is the
number of pairs. pi(y|x) is the probability of y under the policy, the GPT that PPO trains, and
pi_SFT(y|x) that under the SFT model. beta is kl_coef, gamma is ptx_coef.

r(x, y) is called the *score*: one number per response, from the reward model or your --reward
function. A *reward* belongs to one token, see `token_rewards`; `reward` in a log is the sum over
an answer. The *gold score* is that of the rubric in data.py, section 5.

hidden_states is model.hidden in less time (gpt.py, section 5). my_share, my_part, all_reduce and
gather_rows divide work between processes (gpt.py, section 3); in one process, each returns its
first argument. log(step, steps, **values) writes a row, see gpt.RunLog.
"""
from __future__ import annotations

import contextlib
import copy
import itertools
import math
import random
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import data
import gpt  # before torch: it sets how torch's threads wait
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from data import Batches, Comparison, UserError, World, option
from gpt import (GPTConfig, RunLog, all_reduce, chunks, complete, evaluate, gather_rows,
                 hidden_states, make_optimizers, mixed_precision, my_part, my_share,
                 pretraining_loss, schedule, to_tensors, update)

# ----------------------------------------------------------------------------------
# 1. Masks and log-probabilities: masked_mean, whiten, response_logprobs

# A row of ids holds a prompt, its response and pads. Whatever belongs to a response token (its
# log-probability, reward, value) has the index of the state that predicts it, one less than
# the token's own:
#
#     ids     (B, T)       a  b  c  y  z  .        prompt a b c, response y z, one pad
#     mask    (B, T-1)     0  0  1  1  0           1 where y and z are predicted
#
# So index t of every (B, T-1) tensor in this file belongs to the token ids[:, t + 1]. (The mask
# of data.render_conversation is another one: it is 1 at the learned token itself.)


def masked_mean(x, mask):
    """The mean of x where the mask is 1, over all rows: each token has the same weight."""
    return (x * mask).sum() / mask.sum()


def whiten(x, mask):
    """Shift and scale x (B, T-1) to mean 0 and variance 1 where the mask is 1; 0 elsewhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) / (variance + 1e-8).sqrt() * mask


def response_mask(ids, starts, ends):
    """starts, ends (B,) -> mask (B, T-1): 1 if the next token's index is in start ... end - 1."""
    index = torch.arange(1, ids.size(1), device=ids.device)  # (T-1,), of the next token
    return ((index >= starts[:, None]) & (index < ends[:, None])).float()


def last_token(mask):
    """mask (B, T-1) -> (B,): the index in ids (not in the mask) of each response's last token."""
    index = torch.arange(1, mask.size(1) + 1, device=mask.device)  # (T-1,), of the next token
    return (mask * index).amax(dim=1).long()  # outside the response the product is 0


def response_logprobs(model, ids, mask):
    """log pi(y_t | x, y_<t) of the response tokens, at temperature 1: ids (B, T) and
    mask (B, T-1) -> (B, T-1), 0 where the mask is 0."""
    is_response = mask.bool()
    lengths = last_token(mask) + 1  # (B,)
    states = hidden_states(model, ids, lengths)[:, :-1][is_response]  # (N, C)
    targets = ids[:, 1:][is_response]  # (N,)
    parts = []  # in pieces: under no_grad the (N, V) logits are never in memory at once
    for state, target in zip(states.split(4096), targets.split(4096)):
        logits = F.linear(state, model.wte.weight)  # (n, V), n <= 4096
        parts.append(-F.cross_entropy(logits, target, reduction="none"))
    logprobs = torch.cat(parts)  # (N,)
    return logprobs.new_zeros(mask.shape).masked_scatter(is_response, logprobs)


# ----------------------------------------------------------------------------------
# 2. Step 1, SFT: SFTConfig, train_sft   [InstructGPT §3.5 and C.1]


@dataclass(slots=True)
class SFTConfig:
    """Constants of supervised fine-tuning."""
    epochs: int = 3              # paper: 16, but 2 for the model that PPO starts from
    batch_size: int = 16         # demonstrations; paper: 32
    lr: float = 1e-3             # cosine to a tenth; paper (1.3B): 9.65e-6 (PPO's start: 5e-6)
    ptx_sequences: int = 4       # pretraining windows per batch: about as many tokens as those of
                                 # demonstrations; paper: none (PPO's start: 10 % of the data)
    seed: int = 0


def lr_scale(model) -> float:
    """The learning rates here suit n_embd up to 128; wider models need smaller ones."""
    return min(1.0, 128 / model.config.n_embd)


def train_sft(model, tokenizer, demonstrations: list[list[dict]], config: SFTConfig,
              ptx: Batches, log):
    """Fine-tune on demonstrations, in place. Each step also takes a batch of pretraining text from
    `ptx`: the paper finds that this helps PPO (C.3; in E.8 by little), and without it our model
    forgets facts that it has read."""
    examples = [data.render_within(tokenizer, messages, model.config.block_size)
                for messages in demonstrations]
    examples = [(ids, mask) for ids, mask in examples if any(mask)]  # some answer was not cut off
    if not examples:
        raise UserError("no demonstration has an answer that fits into the context")
    rng = random.Random(config.seed)
    batches = []  # of all epochs, in order
    for _ in range(config.epochs):
        rng.shuffle(examples)
        batches += chunks(examples, config.batch_size)
    optimizers = make_optimizers(model, config.lr * lr_scale(model))
    model.eval()  # no dropout (paper: 0.2, but it trains for 16 epochs)
    for step, batch in enumerate(batches):
        loss = sft_loss(model, tokenizer, batch)
        loss.backward()
        pretraining_loss(model, ptx).backward()
        grad_norm = update(model, optimizers, schedule(step, len(batches), warmup=0))
        log(step + 1, len(batches), loss=all_reduce(loss).item(), grad_norm=grad_norm)


def sft_loss(model, tokenizer, examples: list[tuple[list[int], list[int]]]):
    """Mean cross-entropy over the tokens of examples (ids, mask) that data.render_conversation
    marks with 1; this process's part of it, see my_part."""
    rows, masks = zip(*my_share(examples))
    ids, _ = to_tensors(rows, tokenizer.pad, model.device)  # (B, T)
    learned, _ = to_tensors(masks, 0, model.device)  # (B, T): 1 where the token itself is learned
    targets = ids[:, 1:].masked_fill(learned[:, 1:] == 0, -1)  # -1: no loss on prompts and pads
    with mixed_precision(model.device):
        _, loss = model(ids[:, :-1], targets)
    return my_part(loss, (targets >= 0).sum())


@torch.no_grad()
def init_control_tokens(model, tokenizer):
    """Give each control token of the chat format, which pretraining never shows, the mean embedding
    of a text that has its place in the web: dialogues there consist of lines "Guest: ..." and
    "Host: ..." (data.dialogue)."""
    similar_texts = {"<|system|>": "\n\n", "<|user|>": "\nGuest:", "<|assistant|>": "Host:",
                     "<|end|>": "\n"}
    for name, text in similar_texts.items():
        similar = model.wte.weight[tokenizer.encode(text)]  # (n, C), n tokens of the text
        model.wte.weight[tokenizer.special[name]] = similar.mean(dim=0)


# ----------------------------------------------------------------------------------
# 3. Step 2, the reward model: RewardModel, ranking_loss, train_reward_model   [§3.5, C.2]


@dataclass(slots=True)
class RewardConfig:
    """Constants of reward model training: one epoch, because "multiple epochs quickly overfit"."""
    batch_size: int = 8          # prompts, each with all of its C(K,2) pairs; paper: 64
    lr: float = 6e-4             # paper: 9e-6; cosine to a tenth
    seed: int = 0


class RewardModel(nn.Module):
    """A copy of a GPT with a scalar output layer; also the class of PPO's value network."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config
        self.gpt = copy.deepcopy(model)
        self.head = nn.Linear(model.config.n_embd, 1).to(model.wte.weight)  # device and dtype
        std = 1 / math.sqrt(model.config.n_embd + 1)  # [Stiennon et al. B.1]
        nn.init.normal_(self.head.weight, std=std)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids, mask):
        """ids (B, T), mask (B, T-1) -> scores (B,), from the state at the last token of each
        response."""
        rows = torch.arange(len(ids), device=ids.device)
        last = last_token(mask)  # (B,)
        hidden = hidden_states(self.gpt, ids, last + 1)[rows, last]  # (B, C)
        return self.head(hidden).squeeze(-1)

    def values(self, ids, mask):
        """ids (B, T), mask (B, T-1) -> values (B, T-1): before each response token, an estimate
        of its reward plus all later ones (section 4)."""
        hidden = hidden_states(self.gpt, ids, last_token(mask) + 1)[:, :-1]  # (B, T-1, C)
        return self.head(hidden).squeeze(-1)


def ranking_loss(scores, ranks=None):
    """InstructGPT eq. (1): scores (B, K) and ranks (B, K) -> scalar, see `better_pairs`.
    Without ranks, each row of scores has the best answer first. sigmoid(r_w - r_l) is the
    probability, by the reward model, that a labeler prefers y_w.

    All pairs of a prompt are one batch element: each of its K answers goes through the model once.
    Ties are dropped (C.2), and each pair that is left has weight 1 / (number of pairs left). If
    pairs are shuffled as elements of their own, an answer can take part in K - 1 updates, and the
    paper's reward model overfitted in one epoch (§3.5).
    """
    if ranks is None:
        ranks = torch.arange(scores.size(1), device=scores.device).expand_as(scores)
    better = better_pairs(ranks)  # (B, K, K)
    margins = scores[:, :, None] - scores[:, None, :]  # (B, K, K)
    losses = -(F.logsigmoid(margins) * better).sum(dim=(1, 2))  # (B,)
    pairs = better.sum(dim=(1, 2))  # (B,): C(K,2) minus the number of ties
    prompts_with_pairs = (pairs > 0).sum()
    return (losses / pairs.clamp(min=1)).sum() / prompts_with_pairs.clamp(min=1)


def better_pairs(ranks):
    """ranks (B, K) -> (B, K, K), true at [i, j] if answer i is better than answer j. Rank 0 is
    the best; equal ranks are ties, which are no pairs; -1 pads prompts that have fewer than K
    answers. For K = 3, best first:

        [ .  x  x ]
        [ .  .  x ]
        [ .  .  . ]
    """
    # A pad's rank, -1, is never the larger one. That it is not the smaller one is tested here.
    return (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] >= 0)


def comparison_scores(model: RewardModel, tokenizer, comparisons: list[Comparison]):
    """(scores, ranks), both (B, K), of comparisons; padding has rank -1. An answer that stopped at
    the length limit is scored without <|end|>, since the model did not write one."""
    rows = []
    for comparison in comparisons:
        for messages, (_, ended) in zip(comparison.conversations(), comparison.responses):
            ids, _ = data.render_within(tokenizer, messages, model.config.block_size)
            if not ended and ids[-1] == tokenizer.end:  # render_within may have cut it off already
                ids = ids[:-1]
            rows.append(ids)
    ids, lengths = to_tensors(rows, tokenizer.pad, model.gpt.device)  # (sum K, T)
    mask = response_mask(ids, lengths - 1, lengths)  # 1 for the last token, where forward() reads
    flat = model(ids, mask)  # (sum K,)
    ranks, _ = to_tensors([comparison.ranks for comparison in comparisons], -1, flat.device)
    scores = flat.new_zeros(ranks.shape).masked_scatter(ranks >= 0, flat)  # (B, K)
    return scores, ranks


def train_reward_model(model: RewardModel, tokenizer, comparisons: list[Comparison],
                       demonstrations: list[list[dict]], config: RewardConfig, log):
    """Train for one epoch, in place. The loss depends on differences of scores only, so at the
    end the bias is set such that demonstrations score 0 on average (§3.5). PPO's unfinished_cap
    (section 4) is relative to this zero."""
    shuffled = random.Random(config.seed).sample(comparisons, len(comparisons))
    batches = chunks(shuffled, config.batch_size)
    optimizers = make_optimizers(model, config.lr * lr_scale(model))
    warmup = min(10, len(batches) // 10)
    model.eval()  # no dropout
    for step, batch in enumerate(batches):
        scores, ranks = comparison_scores(model, tokenizer, my_share(batch))
        # Comparisons without a pair were dropped before: this is a mean over len(ranks) prompts.
        loss = my_part(ranking_loss(scores, ranks), len(ranks))
        loss.backward()
        grad_norm = update(model, optimizers, schedule(step, len(batches), warmup))
        log(step + 1, len(batches), loss=all_reduce(loss).item(), grad_norm=grad_norm)
    # comparison_scores takes comparisons: each demonstration becomes one with K = 1
    single = [Comparison(messages[:-1], [(messages[-1]["content"], True)], ranks=[0])
              for messages in demonstrations]
    with torch.no_grad():
        scores = [comparison_scores(model, tokenizer, part)[0] for part in chunks(single, 64)]
        model.head.bias -= torch.cat(scores).mean()


@torch.no_grad()
def pair_accuracy(model: RewardModel, tokenizer, comparisons: list[Comparison]) -> float:
    """The share of pairs, without ties, that the scores order as the ranks do."""
    correct = pairs = 0
    for batch in chunks(comparisons, 32):
        scores, ranks = comparison_scores(model, tokenizer, batch)
        better = better_pairs(ranks)  # (B, K, K)
        higher = scores[:, :, None] > scores[:, None, :]  # (B, K, K)
        correct += (higher & better).sum().item()
        pairs += better.sum().item()
    return correct / pairs if pairs else math.nan


# ----------------------------------------------------------------------------------
# 4. Step 3, answers and their rewards: PPOConfig, token_rewards, compute_gae, roll_out   [§3.5]

# PPO in words. The policy is the GPT being trained; an answer is an episode, a token an action.
# One iteration:
#
#   1. The policy answers a batch of prompts (roll_out).
#   2. Rewards (token_rewards): the last token of an answer gets its score, the others get 0. From
#      each, beta log(pi / pi_SFT) is subtracted, which keeps the policy near the SFT model.
#   3. Values: before each token, the value network estimates the sum of the rewards to come.
#   4. Advantages (compute_gae): how much better the answer went than this estimate.
#   5. For each minibatch of the answers, gradients (ppo_backward) and one optimizer step (update).
#      Tokens whose advantage is above the minibatch's mean become likelier, the others less likely.
#      The value network learns from the same answers.
#
# Clipping: a token whose probability earlier minibatches have moved by a fifth in the direction of
# its advantage gets no more gradient in this iteration. PPO-ptx adds the pretraining loss to 5.


@dataclass(slots=True)
class PPOConfig:
    """Constants of PPO-ptx; with ptx_coef 0 it is PPO."""
    iterations: int = 30         # batches of answers; paper: 500
    batch_size: int = 128        # answers per batch; paper: 512
    minibatches: int = 4         # per batch, one optimizer step on each; paper: 8 of 64 answers
    max_response: int = 32       # tokens; paper: 1,000
    lr: float = 6e-4             # policy, constant after 10 iterations; paper (1.3B, 6B): 2.55e-6
                                 # to 2.55e-5 tried; PPO without ptx diverged above 8.05e-6 (E.9)
    value_lr: float = 3e-4       # of the value network; paper (1.3B, 6B): 9e-6
    kl_coef: float = 0.2         # beta; paper: 0.02
    ptx_coef: float = 0.0        # gamma, on the mean loss per token; PPO-ptx: 1 (section 7);
                                 # paper: 27.8, unit not stated
    ptx_sequences: int = 8       # pretraining windows per minibatch; paper: 8 per episode
    cliprange: float = 0.2       # eps in policy_loss; paper: 0.2
    cliprange_value: float = 0.2     # see value_loss; Ziegler's code: 0.2
    lam: float = 0.95            # see compute_gae; Ziegler's code: 0.95
    unfinished_cap: float = -1.0     # the most that an answer without <|end|> can score
    ema_decay: float = 0.97      # of the weights' moving average, per optimizer step; paper: 0.992
    seed: int = 0


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef: float):
    """scores (B,), logprobs, ref_logprobs and mask (B, T-1) -> rewards (B, T-1).

        r_t = - beta log( pi(y_t|...) / pi_SFT(y_t|...) )          at every token
              + score                                              at the last one

    Summed over an answer, the log-ratio is an estimate of KL(pi || pi_SFT): the KL is the mean of
    this sum over answers sampled from pi, although the sum may be negative for one of them. (This
    is the estimator k1 of Schulman's note "Approximating KL Divergence", 2020.) It is a reward, a
    number without gradient: PPO lowers the KL by making answers with a large ratio less likely.
    """
    penalties = -kl_coef * (logprobs - ref_logprobs)  # (B, T-1)
    # The token at index t of ids has index t - 1 in every (B, T-1) tensor.
    is_last = F.one_hot(last_token(mask) - 1, mask.size(1))  # (B, T-1)
    return penalties + is_last * scores[:, None]


def compute_gae(rewards, values, mask, discount: float = 1.0, lam: float = 0.95):
    """Generalized advantage estimation: all (B, T-1) -> (advantages, returns), both (B, T-1).

        delta_t = r_t + discount V_{t+1} - V_t      A_t = delta_t + discount lam A_{t+1}

    [PPO eq. 11 and 12, where `discount` is gamma; it is 1 in RLHF.] V = A = 0 where the mask is
    0. delta_t is how much better step t went than the value network expected. With lam = 1 the
    deltas add up to A_t = (sum of the rewards from t on) - V_t: right on average, but noisy. With
    lam = 0, A_t = r_t + V_{t+1} - V_t: less noisy, but as wrong as the value network. Between them
    lam mixes the two. The returns A_t + V_t are the targets of the value network.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    advantage = next_value = 0.0
    for t in reversed(range(rewards.size(1))):
        delta = rewards[:, t] + discount * next_value - values[:, t]  # (B,)
        advantage = (delta + discount * lam * advantage) * mask[:, t]  # 0 outside the response
        next_value = values[:, t]
        advantages[:, t] = advantage
    return advantages, advantages + values


@dataclass(slots=True)
class Rollout:
    """A batch of answers with everything that PPO needs for its update."""
    ids: torch.Tensor            # (B, T) prompt, response, pads
    mask: torch.Tensor           # (B, T-1) 1 where the next token belongs to the response
    ended: torch.Tensor          # (B,) whether the response has an <|end|>
    logprobs: torch.Tensor       # (B, T-1) under the policy that wrote the answers, pi_old
    ref_logprobs: torch.Tensor   # (B, T-1) under the SFT model
    scores: torch.Tensor         # (B,) at most unfinished_cap where not ended
    rewards: torch.Tensor        # (B, T-1)
    values: torch.Tensor         # (B, T-1) not 0 outside the response, unlike the others
    advantages: torch.Tensor     # (B, T-1) not yet whitened
    returns: torch.Tensor        # (B, T-1)

    def map(self, function: Callable) -> Rollout:
        """A Rollout with function(tensor) in place of each tensor."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return Rollout(*[function(tensor) for tensor in tensors])

    def __getitem__(self, rows) -> Rollout:
        """A Rollout of some rows: a minibatch."""
        return self.map(lambda tensor: tensor[rows])

    @property
    def kl(self):
        """(B,): log pi(y|x) - log pi_SFT(y|x), an estimate of KL(pi || pi_SFT), in nats."""
        return (self.logprobs - self.ref_logprobs).sum(dim=1)

    def answers(self, tokenizer) -> list[tuple[str, bool]]:
        """[(text of the response, whether it has an <|end|>)]."""
        answers = []
        for ids, mask, ended in zip(self.ids, self.mask, self.ended):
            ids = tokenizer.text_ids(ids[1:][mask.bool()].tolist())
            answers.append((tokenizer.decode(ids).strip(), bool(ended)))
        return answers


@torch.no_grad()
def roll_out(policy, reference, reward_model, tokenizer, prompts: list[list[dict]],
             config: PPOConfig, generator, value_model=None) -> Rollout:
    """Answer the prompts, score the answers, and compute each token's reward, value (0 without
    a value_model) and advantage. reference: the SFT model.

    Tokens are sampled at temperature 1 without top_k or top_p: otherwise they would come from
    another distribution than pi, and the mean of log(pi / pi_SFT) would be no estimate of the KL.
    """
    # 1. Sample the answers.
    room = policy.config.block_size - config.max_response
    prompt_rows = [data.render_within(tokenizer, messages, room)[0] for messages in prompts]
    prompt_ids, lengths = to_tensors(prompt_rows, tokenizer.pad, policy.device)  # (B, P), (B,)
    responses = gpt.generate(policy, prompt_ids, config.max_response, lengths,
                             (tokenizer.end,), generator)  # lists of ids
    ended = torch.tensor([response[-1] == tokenizer.end for response in responses],
                         device=policy.device)  # (B,)
    rows = [prompt + response for prompt, response in zip(prompt_rows, responses)]
    ids, ends = to_tensors(rows, tokenizer.pad, policy.device)  # (B, T), (B,)
    mask = response_mask(ids, lengths, ends)  # (B, T-1)
    # 2. Score this process's share of them.
    mine = my_share(torch.arange(len(prompts), device=ids.device))
    ids, mask, ended = ids[mine], mask[mine], ended[mine]
    # ppo_backward computes log-probabilities by the same function, so its ratios start at 1, up to
    # rounding.
    logprobs = response_logprobs(policy, ids, mask)  # (B, T-1)
    ref_logprobs = response_logprobs(reference, ids, mask)  # (B, T-1)
    scores = reward_model(ids, mask)  # (B,)
    scores = torch.where(ended, scores, scores.clamp(max=config.unfinished_cap))
    # 3. Rewards, values and advantages.
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, config.kl_coef)
    values = torch.zeros_like(mask)
    if value_model is not None:
        values = value_model.values(ids, mask)  # (B, T-1)
    advantages, returns = compute_gae(rewards, values, mask, lam=config.lam)
    own = Rollout(ids=ids, mask=mask, ended=ended, logprobs=logprobs, ref_logprobs=ref_logprobs,
                  scores=scores, rewards=rewards, values=values, advantages=advantages,
                  returns=returns)
    return own.map(lambda tensor: gather_rows(tensor, mine, len(prompts)))


# ----------------------------------------------------------------------------------
# 5. Step 3, PPO-ptx: policy_loss, value_loss, train_ppo   [InstructGPT §3.5, C.4]


def policy_loss(logprobs, old_logprobs, advantages, mask, cliprange: float = 0.2):
    """PPO's clipped objective [PPO eq. 7], negated: all (B, T-1) -> (loss, dict to log).

        ratio = pi / pi_old          loss = - mean min( ratio A, clip(ratio, 1 - eps, 1 + eps) A )

    pi_old is the policy as it was in `roll_out`. The gradient of a ratio is ratio * grad log pi. In
    an iteration's first minibatch pi is still pi_old and every ratio is 1: a plain policy gradient
    step, along the mean of A * grad log pi. Later, clipping removes the gradient of a token whose
    ratio has moved by more than eps = cliprange in the direction that its advantage asks for.
    """
    log_ratio = logprobs - old_logprobs  # both are 0 where the mask is 0
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    loss = -masked_mean(torch.minimum(unclipped, clipped), mask)
    with torch.no_grad():
        info = {"ratio": masked_mean(ratio, mask),
                # an estimate of KL(pi_old || pi) that is never negative (Schulman's k3)
                "approx_kl": masked_mean(ratio - 1 - log_ratio, mask),
                "clipfrac": masked_mean((clipped < unclipped).float(), mask)}
    return loss, info


def value_loss(values, old_values, returns, mask, cliprange: float = 0.2):
    """Half the mean squared error of the values: all (B, T-1) -> scalar. Each value is also clipped
    to old_values (those of `roll_out`) +- cliprange, and the larger of the two errors counts. So a
    value that has moved further than cliprange towards its return gets no gradient."""
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    errors = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(errors, mask)


def train_ppo(policy, reward_model, tokenizer, next_prompts: Callable[[int], list],
              config: PPOConfig, log, ptx: Batches | None = None, val_stream=None):
    """Train by PPO, or by PPO-ptx if ptx_coef is not 0, in place. At the end, the policy gets the
    exponential moving average of its weights.

    next_prompts(n) returns n conversations to answer, other ones at each call; ptx supplies
    pretraining windows for PPO-ptx. log is called once per iteration; every tenth and the last time
    it also gets the pretraining loss on `val_stream`. papers/README.md explains the logged values.
    """
    policy.eval()  # with dropout the ratio would not start at 1
    reference = copy.deepcopy(policy)  # pi_SFT
    average = copy.deepcopy(policy)  # of the policy's weights over the steps, see ema_decay
    generator = torch.Generator(policy.device).manual_seed(config.seed)
    shuffler = torch.Generator().manual_seed(config.seed)
    # The value network shares no weights with the policy, so the gradient of its loss does not
    # reach the policy. It starts as a copy of the reward model (C.4), which knows what scores to
    # expect, though not yet before the last token; if a function gives the scores, see section 9.
    if isinstance(reward_model, RewardModel):
        value_model = copy.deepcopy(reward_model)
    else:
        first = roll_out(policy, reference, reward_model, tokenizer,
                         next_prompts(config.batch_size), config, generator)
        value_model = untrained_value_model(policy, first.scores)
    value_model.eval()
    # eps 1e-5: Ziegler's code
    policy_optimizers = make_optimizers(policy, config.lr * lr_scale(policy), eps=1e-5)
    value_optimizers = make_optimizers(value_model, config.value_lr * lr_scale(policy), eps=1e-5)
    for iteration in range(1, config.iterations + 1):
        prompts = next_prompts(config.batch_size)
        rollout = roll_out(policy, reference, reward_model, tokenizer, prompts, config, generator,
                           value_model)
        # from a tenth to 1 over ten iterations, then constant
        fraction = min(1.0, 0.1 + 0.9 * (iteration - 1) / 10)
        infos = []
        order = torch.randperm(config.batch_size, generator=shuffler)
        for rows in order.tensor_split(config.minibatches):
            info = ppo_backward(policy, value_model, rollout[rows], config, ptx)
            info["grad_norm"] = update(policy, policy_optimizers, fraction)
            update(value_model, value_optimizers, fraction)
            infos.append(info)
            for averaged, weight in zip(average.parameters(), policy.parameters()):
                averaged.data.lerp_(weight.data, 1 - config.ema_decay)  # the moving average
        logged = {}  # means over the minibatches
        for name in infos[0]:
            logged[name] = float(np.mean([info[name] for info in infos]))
        kl = rollout.kl.mean().item()
        length = rollout.mask.sum(dim=1).mean().item()
        if iteration % 10 == 0 or iteration == config.iterations:
            if val_stream is not None:
                # on 8,192 tokens, fewer than for the table
                logged["pretrain_loss"] = evaluate(policy, tokenizer, val_stream, 8192)["loss"]
            if kl > length:
                print(f"warning: iteration {iteration}: more than one nat per token away from "
                      "SFT, where scores may be wrong: raise --kl-coef")
        log(iteration, config.iterations, score=rollout.scores.mean().item(), kl=kl,
            reward=rollout.rewards.sum(dim=1).mean().item(), length=length,
            ended=rollout.ended.float().mean().item(), **logged)
    policy.load_state_dict(average.state_dict())


def ppo_backward(policy, value_model, batch: Rollout, config: PPOConfig, ptx) -> dict:
    """Accumulate the gradients of all losses of one minibatch; returns a dict to log."""
    # 1. The policy loss. Advantages are whitened over the whole minibatch (before this process
    # takes its share), so that the gradient's scale does not depend on that of the scores.
    advantages = my_share(whiten(batch.advantages, batch.mask))
    batch = batch.map(my_share)
    n_tokens = batch.mask.sum()  # of the responses
    logprobs = response_logprobs(policy, batch.ids, batch.mask)  # (B, T-1)
    loss, info = policy_loss(logprobs, batch.logprobs, advantages, batch.mask, config.cliprange)
    my_part(loss, n_tokens).backward()
    # 2. The value loss.
    values = value_model.values(batch.ids, batch.mask)  # (B, T-1)
    v_loss = value_loss(values, batch.values, batch.returns, batch.mask, config.cliprange_value)
    my_part(v_loss, n_tokens).backward()
    info["value_loss"] = v_loss.detach()
    # the logged values, as means over all processes
    info = {name: all_reduce(my_part(mean, n_tokens)).item() for name, mean in info.items()}
    # 3. The pretraining loss, the second term of eq. (2). "We compute the PPO gradients and
    # pretraining gradients in consecutive steps and accumulate them both into the gradient
    # buffers" (C.4). If each had an optimizer step of its own, Adam would normalize gamma away.
    if config.ptx_coef:
        ptx_loss = pretraining_loss(policy, ptx)  # it calls my_part itself
        (config.ptx_coef * ptx_loss).backward()
        info["ptx_loss"] = all_reduce(ptx_loss).item()
    return info


# ----------------------------------------------------------------------------------
# 6. How good are the answers: WorldTask, win_rate   [§3.2-3.4, §3.6, §4]

# A speaker answers conversations: (conversations, seed) -> [(text, whether it ended)]. An answer
# has ended if it has a stop token; otherwise it was cut at its maximal length.
Speaker = Callable[[list[list[dict]], int], list[tuple[str, bool]]]


def chat_speaker(model, tokenizer, max_response: int = 32, temperature: float = 1.0,
                 stops: tuple[int, ...] | None = None, render=data.render_conversation) -> Speaker:
    """A Speaker: a fine-tuned model that reads conversations in the chat format. For another
    format, `render` turns messages into (ids, mask), see data.render_within, and `stops` are the
    tokens that end an answer (default: <|end|>)."""
    def speak(conversations, seed):
        room = model.config.block_size - max_response
        rows = [data.render_within(tokenizer, messages, room, render)[0]
                for messages in conversations]
        return complete(model, tokenizer, rows, stops or (tokenizer.end,), max_response, seed,
                        temperature=temperature)
    return speak


def forum_speaker(model, tokenizer, shots: list[list[dict]] = (), max_response: int = 32,
                  temperature: float = 1.0) -> Speaker:
    """A Speaker: a pretrained model that reads conversations as a forum thread of Q: and A:
    lines. `shots`, examples with good answers that come first, make it "GPT prompted"."""
    marks = {"system": "Rule", "user": "Q", "assistant": "A"}  # of the lines of a thread

    def render(tokenizer, messages):
        rule = [message for message in messages if message["role"] == "system"]  # comes first
        thread = ""
        for message in itertools.chain(rule, *shots, messages[len(rule):]):
            thread += f"{marks[message['role']]}: {message['content']}\n"
        ids = [tokenizer.eot, *tokenizer.encode(thread + "A:")]
        return ids, [0] * len(ids)  # a mask that is not used

    stops = tokenizer.encode("\n")[0], tokenizer.eot
    return chat_speaker(model, tokenizer, max_response, temperature, stops, render)


def win_rate(scores: list[float], baseline: list[float]) -> dict[str, float]:
    """Compare scores[i] with baseline[i]. "win" is the share won, a tie counting half; "won" and
    "lost" are numbers of comparisons, without ties."""
    won = sum(a > b for a, b in zip(scores, baseline))
    lost = sum(a < b for a, b in zip(scores, baseline))
    return {"win": 0.5 + 0.5 * (won - lost) / len(scores), "won": won, "lost": lost}


# Seeds of prompts. PPO draws with seeds from 4,000 on.
DEMONSTRATION_SEED = 1
TEST_SEED = 2  # the table
SHOT_SEED = 3  # GPT's two examples
RANKED_SEED = 10  # comparisons that train the reward model
HELD_OUT_SEED = 20  # comparisons that test it


class WorldTask:
    """Prompts, demonstrations, noisy labelers and gold score of the embedded world. Training
    sees only the labelers' ranks, never the gold score. [§3.2-3.4]

    Demonstrations, comparisons and PPO draw their prompts independently, so they share some;
    no test conversation occurs among them.
    """

    def __init__(self, seed: int, test_prompts: int = 480):
        self.world = World(seed)
        self.seed = seed
        rng = random.Random(seed)
        training = data.instructions(self.world, "train", 1600, DEMONSTRATION_SEED)
        self.demonstrations = [data.demonstrate(self.world, asked, rng) for asked in training]
        self.test = data.instructions(self.world, "test", test_prompts, TEST_SEED, distinct=True)
        # Two examples for "GPT prompted", one of them a question that cannot be answered.
        examples = data.instructions(self.world, "train", 400, SHOT_SEED)
        questions = [q for q in examples if q.use_case == "open qa" and len(q.messages) == 1]
        known = next(q for q in questions if q.person)
        unknown = next(q for q in questions if q.unknowable)
        answer = self.world.state(rng, known.person, known.topic)
        self.shots = [data.answered(known.messages, answer),
                      data.answered(unknown.messages, data.REFUSALS[0])]

    def prompt_source(self) -> Callable[[int], list]:
        """A function that draws n conversations to answer, with another seed at each call."""
        seeds = itertools.count(4000)
        return lambda n: [instruction.messages for instruction in
                          data.instructions(self.world, "train", n, next(seeds))]

    def answers(self, speak: Speaker, count: int, split: str, seed: int) -> list[tuple]:
        """[(instruction, its different answers)] for `count` prompts, each answered 4 to 9 times.
        No two prompts of the test are the same."""
        rng = random.Random(f"answers {self.seed} {seed}")
        is_test = split == "test"
        instructions = data.instructions(self.world, split, count, seed, distinct=is_test)
        conversations = []  # what the model is asked
        askers = []  # for each, the number of its instruction
        for number, instruction in enumerate(instructions):
            # Every other answer is sampled without the system message, if there is one, because
            # answers that disobey it would otherwise be too rare to learn from.
            without = [turn for turn in instruction.messages if turn["role"] != "system"]
            for i in range(rng.randint(4, 9)):
                conversations.append(without if i % 2 else instruction.messages)
                askers.append(number)
        replies = [set() for _ in instructions]  # the different answers to each
        for number, reply in zip(askers, speak(conversations, seed)):
            replies[number].add(reply)
        # Half of the prompts also get an answer to another prompt of their use case. The SFT model
        # refuses only where nothing is known, so from its own answers a reward model learns to like
        # refusals; it has to see some in the wrong place.
        of_use_case = {}  # use case -> the answers to all of its prompts
        for instruction, own in zip(instructions, replies):
            of_use_case.setdefault(instruction.use_case, []).extend(sorted(own))
        for instruction, own in zip(instructions, replies):
            if rng.random() < .5:
                own.add(rng.choice(of_use_case[instruction.use_case]))
        return [(instruction, sorted(own)) for instruction, own in zip(instructions, replies)]

    def rank(self, instructions_and_answers: list, seed: int) -> list[Comparison]:
        """A noisy labeler ranks the answers to each prompt. Comparisons without a pair, of a
        single answer or of ties only, are dropped."""
        rng = random.Random(f"rank {self.seed} {seed}")
        ranked = [data.label(self.world, instruction, answers, rng)
                  for instruction, answers in instructions_and_answers]
        return [comparison for comparison in ranked if len(set(comparison.ranks)) > 1]

    def compared(self, speak: Speaker, count: int, split: str, seed: int) -> list[Comparison]:
        """Comparisons of a speaker's answers to `count` prompts."""
        return self.rank(self.answers(speak, count, split, seed), seed)

    def gold(self, answers: list[tuple[str, bool]]) -> list[float]:
        """The gold scores of answers, one to each test prompt."""
        return [data.gold(self.world, instruction, *answer)
                for instruction, answer in zip(self.test, answers)]

    def grades(self, answers: list[tuple[str, bool]], baseline: list[float]) -> dict[str, float]:
        """The table's columns for answers to the test prompts. baseline: gold scores of one or more
        other answers to each prompt, all first answers, then all second ones. "refused" is the
        share of refusals where the answer could be known, "admits" that of right ones where it
        could not."""
        golds = self.gold(answers)
        repeats = len(baseline) // len(golds)
        grades = win_rate(golds * repeats, baseline)  # each answer against `repeats` others
        grades["gold"] = float(np.mean(golds))
        known, unknown = [], []
        for instruction, answer in zip(self.test, answers):
            verdict = data.judge(self.world, instruction, *answer)
            group = unknown if instruction.unknowable else known
            group.append(verdict)
        for part in ("helpful", "invented", "rude", "off"):
            grades[part] = float(np.mean([verdict[part] for verdict in known + unknown]))
        grades["refused"] = float(np.mean([verdict["refused"] for verdict in known]))
        if unknown:
            grades["admits"] = float(np.mean([verdict["helpful"] for verdict in unknown]))
        return grades


def show_answers(task, answers: dict):
    """Print every model's answers to the first three prompts."""
    for i, asked in enumerate(task.test[:3]):
        print("\n" + " / ".join(message["content"] for message in asked.messages))
        for name, pairs in answers.items():
            text, ended = pairs[i]
            print(f"    {name:14s} {text}" + ("" if ended else " …"))


# ----------------------------------------------------------------------------------
# 7. InstructGPT, from random weights: instructgpt   [InstructGPT Fig. 2, §4]


@dataclass(slots=True)
class Options:
    """Options of `python rlhf.py`, in addition to those of GPTConfig."""
    data: str | None = option(None, "pretraining text (default: the world, or your files' text)")
    demonstrations: str | None = option(None, "your demonstrations; see data.py section 6")
    comparisons: str | None = option(None, "your comparisons; papers/label.py helps to make some")
    reward: str | None = option(None, "FILE.py:FUNCTION of (prompt, response): your own score. "
                                "Changes in files that it imports go unnoticed: use --fresh")
    init: str | None = option(None, "a checkpoint or a GPT-2 folder to start from")
    name: str | None = option(None, "results go to runs/NAME (default: instructgpt, or own)")
    pretrain_steps: int = option(2400, "optimizer steps of pretraining", at_least=1)
    sft_epochs: int = option(SFTConfig().epochs, "passes over the demonstrations", at_least=1)
    comparison_prompts: int = option(1500, "prompts whose answers labelers rank", at_least=1)
    iterations: int = option(PPOConfig().iterations, "batches of answers for PPO", at_least=1)
    kl_coef: float = option(PPOConfig().kl_coef, "beta of eq. (2), in score per nat")
    ptx_coef: float = option(1.0, "gamma of eq. (2) for PPO-ptx")
    max_response: int = option(PPOConfig().max_response, "most tokens of an answer", at_least=1)
    test_prompts: int = option(480, "held-out prompts that every model answers", at_least=16)
    seed: int = option(0, "another seed is another town and another run")
    fresh: bool = option(False, "train every stage anew; the old files go to runs/NAME/.replaced")


def instructgpt(options: Options = Options(), shape: GPTConfig = gpt.PRESETS["laptop"]):
    """The three steps of InstructGPT, from random weights, and the ladder: a table that compares
    the models."""
    is_own = bool(options.demonstrations or options.comparisons)
    function = load_function(options.reward) if options.reward else None
    run_name = options.name or ("own" if is_own or function or options.init else "instructgpt")
    task = FileTask(options) if is_own else WorldTask(options.seed, options.test_prompts)
    if function:  # so that its mistakes show now, before --fresh moves anything away
        lines = [message["content"] for message in task.test[0].messages]
        function("\n".join(lines), "An answer.")
    folder = data.run_folder(run_name, settings_of(options, shape), options.fresh)
    how_to_talk = f"talk to it: python rlhf.py chat --max-response {options.max_response} --model"

    print("\n== 1. Pretraining: predict the next token")
    base, tokenizer, train_stream, val_stream = starting_model(options, shape, task, folder)
    block_size = base.config.block_size

    print(f"\n== 2. SFT: imitate {len(task.demonstrations)} demonstrations")
    sft = copy.deepcopy(base)
    if not base.knows_chat:  # the control tokens are new to it
        init_control_tokens(sft, tokenizer)
    if not load_stage(folder / "sft.pt", sft):
        config = SFTConfig(epochs=options.sft_epochs, seed=options.seed)
        # another seed than in pretraining: other windows
        ptx = Batches(train_stream, config.ptx_sequences, block_size, 2000 + options.seed)
        train_sft(sft, tokenizer, task.demonstrations, config, ptx, RunLog(folder / "sft.jsonl"))
        gpt.save_checkpoint(folder / "sft.pt", sft, tokenizer, chat=True)
    if options.demonstrations and not options.comparisons and not function:
        print("\nno comparisons and no --reward: this is as far as demonstrations go\n"
              f"{how_to_talk} {folder / 'sft.pt'}")
        return

    ppo_config = PPOConfig(iterations=options.iterations, max_response=options.max_response,
                           kl_coef=options.kl_coef, seed=options.seed)
    speak = chat_speaker(sft, tokenizer, options.max_response)
    if function:
        reward_model = TextReward(function, tokenizer)
        # The scale of your scores is unknown: neither they nor the values are clipped.
        ppo_config.unfinished_cap = ppo_config.cliprange_value = math.inf
    else:
        print("\n== 3. The reward model: learn how labelers rank answers")
        torch.manual_seed(options.seed)  # for the new output layer
        reward_model = RewardModel(sft)
        if not load_stage(folder / "reward.pt", reward_model):
            comparisons = task.compared(speak, options.comparison_prompts, "train", RANKED_SEED)
            train_reward_model(reward_model, tokenizer, comparisons, task.demonstrations,
                               RewardConfig(seed=options.seed), RunLog(folder / "reward.jsonl"))
            gpt.save_checkpoint(folder / "reward.pt", reward_model, tokenizer)
        # a third of the test's number of prompts, because each gets 4 to 9 answers
        held_out = task.compared(speak, options.test_prompts // 3, "test", HELD_OUT_SEED)
        accuracy = pair_accuracy(reward_model, tokenizer, held_out)
        print(f"accuracy on held-out pairs {accuracy:.3f}")
        if not accuracy >= 0.52:  # also if it is nan, for want of pairs
            print("warning: chance is .5, so PPO will follow noise: give it more comparisons, or "
                  "clearer ones")

    finetuned = {"SFT": sft}
    for number, name, stage, ptx_coef in ((4, "PPO", "ppo", 0.0),
                                          (5, "PPO-ptx", "ppo_ptx", options.ptx_coef)):
        print(f"\n== {number}. {name}")
        policy = copy.deepcopy(sft)
        if not load_stage(folder / f"{stage}.pt", policy):
            config = replace(ppo_config, ptx_coef=ptx_coef)
            # not used by PPO, whose ptx_coef is 0
            ptx = Batches(train_stream, config.ptx_sequences, block_size, 5000 + options.seed)
            train_ppo(policy, reward_model, tokenizer, task.prompt_source(), config,
                      RunLog(folder / f"{stage}.jsonl"), ptx, val_stream)
            gpt.save_checkpoint(folder / f"{stage}.pt", policy, tokenizer, chat=True)
        finetuned[name] = policy

    print("\n== 6. The ladder: every model answers every held-out prompt once, at temperature 1")
    prompts = [instruction.messages for instruction in task.test]
    answers, rows = {}, []
    # Seeds: 1 for GPT, 2 for the fine-tuned models, 3 to 5 for the SFT answers to compare with.
    if not is_own:
        baseline = []  # gold scores of three other SFT answers per prompt, for less noise
        for seed in (3, 4, 5):
            baseline += task.gold(speak(prompts, seed))
        loss = evaluate(base, tokenizer, val_stream)["loss"]
        for name, shots in (("GPT", []), ("GPT prompted", task.shots)):
            speaker = forum_speaker(base, tokenizer, shots, options.max_response)
            answers[name] = speaker(prompts, 1)
            grades = task.grades(answers[name], baseline)
            rows.append({"model": name, **grades, "pretrain_loss": loss})
    for name, model in finetuned.items():
        generator = torch.Generator(model.device).manual_seed(2)
        # roll_out instead of chat_speaker, because it also computes score and KL
        rollout = roll_out(model, sft, reward_model, tokenizer, prompts, ppo_config, generator)
        answers[name] = rollout.answers(tokenizer)
        grades = {} if is_own else task.grades(answers[name], baseline)
        loss = evaluate(model, tokenizer, val_stream)["loss"]
        rows.append({"model": name, **grades, "pretrain_loss": loss,
                     "score": rollout.scores.mean().item(), "kl": rollout.kl.mean().item()})
    gpt.print_table(rows, folder / "table.json")
    show_answers(task, answers)
    print(f"\n{how_to_talk} {folder / 'ppo_ptx.pt'}")


def settings_of(options: Options, shape: GPTConfig) -> dict:
    """What the stages of a run depend on. run_folder refuses a folder made with other settings."""
    settings = {**asdict(options), **asdict(shape)}
    for key in ("name", "fresh", "test_prompts"):  # training does not depend on these
        settings.pop(key)
    constants = gpt.TrainConfig(), SFTConfig(), RewardConfig(), PPOConfig()
    settings["constants"] = [asdict(config) for config in constants]
    return settings


def load_stage(path: Path, model) -> bool:
    """Load a finished stage's weights into the model; returns whether there is a file `path`."""
    if not path.exists():
        return False
    with data.reading(path, "a checkpoint of this stage"):
        model.load_state_dict(gpt.load_checkpoint(path)["model"])
    print(f"{path} is there: loaded")
    return True


def starting_model(options: Options, shape: GPTConfig, task, folder: Path):
    """(model, tokenizer, training stream, validation stream): a model pretrained here, or that of
    --init, with embeddings for the control tokens that it lacks and its context cut to
    --block-size. Also writes the token stream into the folder, and then drops from a FileTask what
    does not fit into the context."""
    read = lambda: data.documents_of(options.data or "world", options.seed)
    if isinstance(task, FileTask) and not options.data:
        read = task.texts
    tokenizer = None
    block_size = shape.block_size
    if options.init:
        model, tokenizer = gpt.load_model(options.init)
        block_size = min(block_size, model.config.block_size)
    check_room(options.max_response, block_size)
    tokenizer, *streams = gpt.tokenize_once(read, shape.vocab_size, folder, tokenizer)
    if isinstance(task, FileTask):
        task.leave_out_long(tokenizer, block_size, options.max_response)
    if options.init:
        resize(model, tokenizer.vocab_size, block_size)
        print(f"{options.init}: {model.num_params():,} parameters, context {block_size}; it keeps "
              "its other sizes and is not pretrained any further")
    else:
        config = gpt.TrainConfig(steps=options.pretrain_steps, seed=options.seed)
        model, _ = gpt.train_gpt(folder / "pretrain.pt", (tokenizer, *streams), shape, config)
    return model, tokenizer, *streams


def check_room(max_response: int, block_size: int):
    """UserError if an answer could take more than half of the context."""
    if max_response > block_size // 2:
        raise UserError(f"--max-response {max_response} leaves too little room for prompts in a "
                        f"context of {block_size} tokens: at most {block_size // 2}")


# ----------------------------------------------------------------------------------
# 8. Chat: chat   [ChatGPT]


@dataclass(slots=True)
class ChatOptions:
    """Options of `python rlhf.py chat`."""
    model: str = option("runs/instructgpt/ppo_ptx.pt", "the checkpoint that answers")
    temperature: float = option(0.3, "0 takes the most likely token")
    max_response: int = option(32, "tokens per answer", at_least=1)
    seed: int = option(0, "of the random numbers")


HELP = """\
/reset forgets the conversation but not the system message, /quit leaves. /system TEXT
sets a system message and starts anew (without TEXT there is none), such as
    /system Answer in one word.     /system Do not speak about anybody's pet.
Old exchanges are forgotten when the context is full.
The model of the embedded town knows its people, such as Mia, Ben, Anna and Walter. Try
    Where does Mia live?            and then: What does she like to eat?
    Tell me about Ben.              My name is Kim and I have a dog.
    What is my name?                List three colors, but not red.
    Say this politely: Bring me the lamp."""


def chat(options: ChatOptions = ChatOptions()):
    """Talk to a fine-tuned model; /help lists the commands."""
    model, tokenizer = gpt.load_model(options.model)
    if not model.knows_chat or tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(f"{options.model} has never seen a conversation: it cannot chat")
    check_room(options.max_response, model.config.block_size)
    speak = chat_speaker(model, tokenizer, options.max_response, options.temperature)
    system, messages = [], []
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  lets the arrow keys edit what input() reads
    print(HELP)
    with contextlib.suppress(EOFError, KeyboardInterrupt):  # Ctrl-D, Ctrl-C
        while True:
            text = input("\nyou> ").strip()
            command, rest = re.match(r"(\S*)\s*(.*)", text).groups()
            if command == "/quit":
                return
            elif command in ("/reset", "/system"):
                messages = []
                if command == "/system":
                    system = [{"role": "system", "content": rest}] if rest else []
                print("(a new conversation)")
            elif command.startswith("/"):
                print(HELP)
            elif text:
                messages.append({"role": "user", "content": text})
                ids, _ = data.render_conversation(tokenizer, system + messages[-1:])
                if len(ids) + options.max_response > model.config.block_size:
                    print("(more than the context holds: the beginning is not read)")
                reply, ended = speak([system + messages], options.seed + len(messages))[0]
                print(reply + ("" if ended else " …"))
                messages.append({"role": "assistant", "content": reply})
    print()


# ----------------------------------------------------------------------------------
# 9. Your own data, reward and model: FileTask, load_function, TextReward, resize
#
# A first reader may skip this section: FileTask replaces WorldTask, TextReward a RewardModel.


class FileTask:
    """Demonstrations and comparisons from files. There is no gold score, so the table reports
    the score of the reward model (or --reward function), on prompts held out from training."""

    def __init__(self, options: Options):
        comparisons = data.load_comparisons(options.comparisons) if options.comparisons else []
        demonstrations = [c.best() for c in comparisons]
        if options.demonstrations:
            demonstrations = data.load_demonstrations(options.demonstrations)

        def key_of(messages):  # equal if only upper case, white space or . , ! ? differ
            contents = [turn["content"].casefold() for turn in messages]
            return tuple(re.sub(r"[\s.,!?]+", " ", content).strip() for content in contents)

        # Split by prompt, 4 to 1.
        prompts = [c.messages for c in comparisons] or [d[:-1] for d in demonstrations]
        by_key = {key_of(messages): messages for messages in prompts}
        keys = random.Random(options.seed).sample(list(by_key), len(by_key))
        held_out = {key: by_key[key] for key in keys[len(keys) * 4 // 5:]}

        # A conversation that begins with a held-out prompt is held out, too: it contains an answer.
        def is_held_out(messages):
            key = key_of(messages)
            return any(key[:length] in held_out for length in range(1, len(key) + 1))

        self.seed, self.test_prompts = options.seed, options.test_prompts
        self.test = [data.Instruction("own", messages) for messages in held_out.values()]
        self.comparisons = [c for c in comparisons if not is_held_out(c.messages)]
        self.test_comparisons = [c for c in comparisons if is_held_out(c.messages)]
        self.demonstrations = [d for d in demonstrations if not is_held_out(d[:-1])]
        if not self.demonstrations or (comparisons and not self.comparisons):
            raise UserError("all demonstrations or all comparisons are held out for the test: "
                            "there must be at least two different prompts")

    def texts(self) -> list[str]:
        """The documents to pretrain on without --data: all conversations for training."""
        compared = [c.conversations() for c in self.comparisons]
        conversations = itertools.chain(self.demonstrations, *compared)
        return ["\n\n".join(turn["content"] for turn in messages) for messages in conversations]

    def leave_out_long(self, tokenizer, block_size: int, max_response: int):
        """Drop prompts that leave no room for an answer (the paper: those of over 1,000 tokens),
        demonstrations without room for their own answer, whose end no model would learn, and
        comparisons with such an answer: two cut answers could be equal."""
        def fits(prompt, conversations=()):
            lengths = [len(data.render_conversation(tokenizer, messages)[0])
                       for messages in (prompt, *conversations)]
            return max(lengths[0] + max_response, *lengths) <= block_size

        def keep(name, items, is_kept):
            kept = [item for item in items if is_kept(item)]
            count = f"{name}: {len(kept)} of {len(items)} fit into {block_size} tokens"
            if items and not kept:
                raise UserError(f"{count}: use a larger --block-size")
            if len(kept) < len(items):
                print(f"{count}, the others are left out")
            return kept

        all_fit = lambda c: fits(c.messages, c.conversations())
        self.demonstrations = keep("demonstrations", self.demonstrations,
                                   lambda d: fits(d[:-1], [d]))
        self.comparisons = keep("comparisons", self.comparisons, all_fit)
        self.test_comparisons = keep("test_comparisons", self.test_comparisons, all_fit)
        self.test = keep("test", self.test, lambda asked: fits(asked.messages))[:self.test_prompts]
        answers = [tokenizer.encode(d[-1]["content"]) for d in self.demonstrations]
        if sum(len(answer) >= max_response for answer in answers) > len(answers) // 2:
            print("warning: most of the demonstrated answers are longer than --max-response "
                  f"{max_response}: a model that imitates them will not come to an end")

    def prompt_source(self) -> Callable[[int], list]:
        """A function that draws n conversations to answer."""
        rng = random.Random(self.seed)
        prompts = [c.messages for c in self.comparisons] + [d[:-1] for d in self.demonstrations]
        return lambda n: rng.choices(prompts, k=n)

    def compared(self, speak: Speaker, count: int, split: str, seed: int) -> list[Comparison]:
        """The comparisons of the file; of the arguments only `split` matters."""
        return self.comparisons if split == "train" else self.test_comparisons


def load_function(place: str) -> Callable[[str, str], float]:
    """Run a file and return one of its functions, given as FILE.py:NAME. UserError if that fails
    and, when the function is called, if it fails or returns no number between -1e9 and 1e9."""
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise UserError(f"--reward takes FILE.py:FUNCTION, with a file that exists, not {place!r}")
    try:
        sys.path.insert(0, str(Path(path).parent))  # the file may import its neighbors
        function = runpy.run_path(path).get(name)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise UserError(f"{path} has no function {name}(prompt, response)")

    def checked(prompt, response):
        try:
            score = float(function(prompt, response))
            if not abs(score) < 1e9:
                raise ValueError(f"{score} is not between -1e9 and 1e9")
            return score
        except (Exception, SystemExit) as error:
            raise UserError(f"the reward function failed on prompt {prompt!r:.60} and response "
                            f"{response!r:.60}: {type(error).__name__}: {error}") from None
    return checked


def untrained_value_model(policy, scores) -> RewardModel:
    """PPO's value network where no reward model exists: a copy of the policy, with an output layer
    that at first gives the mean of these scores."""
    value_model = RewardModel(policy)
    nn.init.zeros_(value_model.head.weight)
    nn.init.constant_(value_model.head.bias, scores.mean().item())
    return value_model


class TextReward:
    """Scores from a function of two strings, in place of a RewardModel. The first is the prompt:
    all its messages without roles, each on a line of its own. The second is the response."""

    def __init__(self, function: Callable[[str, str], float], tokenizer):
        self.function, self.tokenizer = function, tokenizer

    def __call__(self, ids, mask):
        """ids (B, T), mask (B, T-1) -> scores (B,), like RewardModel."""
        is_text = lambda token: token in self.tokenizer.ordinary_ids
        scores = []
        for row, is_response in zip(ids, mask.bool()):
            first = int(is_response.nonzero()[0]) + 1  # index of the first response token
            groups = itertools.groupby(row[:first].tolist(), is_text)  # texts, control tokens
            texts = [self.tokenizer.decode(group).strip() for found, group in groups if found]
            prompt = "\n".join(filter(None, texts))
            response_ids = self.tokenizer.text_ids(row[1:][is_response].tolist())
            response = self.tokenizer.decode(response_ids).strip()  # as in Rollout.answers
            scores.append(self.function(prompt, response))
        return torch.tensor(scores, dtype=torch.float32, device=ids.device)


def resize(model, vocab_size: int, block_size: int):
    """Give a model at least vocab_size token embeddings, and cut its context to block_size. The
    logits of OpenAI's smaller GPT-2 models are far below 0, so a new token with a logit near 0
    would be the most likely one: new tokens start from the mean of all tokens."""
    known = model.wte.weight.detach()  # (V, C)
    new = known.mean(dim=0).expand(max(0, vocab_size - len(known)), -1)
    model.wte.weight = nn.Parameter(torch.cat([known, new]))
    model.wpe.weight = nn.Parameter(model.wpe.weight[:block_size].detach().clone())
    model.config = replace(model.config, vocab_size=len(known) + len(new), block_size=block_size)


if __name__ == "__main__":
    data.command_line({"instructgpt": instructgpt, "chat": chat}, default="instructgpt")
