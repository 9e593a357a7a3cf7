"""
Tables of papers/instructgpt.py about the training data: agreement and folds (who ranks), batching
(of comparisons) and epochs (of SFT).

Paper: InstructGPT (arXiv:2203.02155) §3.4, §3.5, §4.1, E.2.
"""
import copy
import itertools
import random

import numpy as np
import torch

import data
import rlhf
from data import Comparison, Tokenizer
from papers.claims import mean_and_error
from papers.instructgpt_run import Run
from rlhf import RewardConfig, RewardModel, SFTConfig

# What one more word in an answer is worth to each of five groups of labelers. The core's labelers
# are all alike: without these tastes no group could show an effect. Twice two groups are alike, so
# in four of five folds a group of the taste that is left out is among those that train.
TASTES = (0.15, 0.15, -0.15, -0.15, 0.0)
EPOCHS = (1, 2, 4, 8)  # of SFT


def ranked(world, answered: list, tastes: tuple[float, ...] = (0.0,),
           seed: str | None = None) -> list[Comparison]:
    """Comparisons of (instruction, answers), ranked by the rubric. Those in which all answers are
    equal are left out.

    tastes: of the groups of labelers who rank, each one prompt, in turn; the utility of an answer
    is its gold score and the group's taste for words. With a seed there is noise as in data.label.
    """
    rng = random.Random(seed)
    comparisons = []
    for taste, (instruction, answers) in zip(itertools.cycle(tastes), answered):
        utilities = []
        for text, ended in answers:
            gold = data.gold(world, instruction, text, ended)
            utilities.append(gold + taste * len(text.split()))
        if seed is not None:
            utilities = data.add_noise(utilities, rng)
        comparison = data.compare(instruction.messages, answers, utilities)
        if len(set(comparison.ranks)) > 1:
            comparisons.append(comparison)
    return comparisons


def share_alike(run: Run, answered: list) -> float:
    """How often two labelers order a pair of answers of different gold scores alike."""
    one = random.Random(f"rank {run.options.seed} 1")
    two = random.Random(f"rank {run.options.seed} 2")
    alike = []
    for instruction, answers in answered:
        ranks = data.label(run.task.world, instruction, answers, one).ranks
        others = data.label(run.task.world, instruction, answers, two).ranks
        for i, j in itertools.combinations(range(len(answers)), 2):
            if ranks[i] == ranks[j]:  # equally good: a tie for both
                continue
            alike.append((ranks[i] < ranks[j]) == (others[i] < others[j]))
    return float(np.mean(alike))


def agreement(run: Run) -> list[dict]:
    """On SFT's answers to held-out prompts: how often two labelers agree about a pair, and the
    reward model with one of them and with the rubric itself."""
    speak = run.speaker(run.sft)
    answered = run.task.answers(speak, run.options.test_prompts // 3, "test", rlhf.HELD_OUT_SEED)
    noisy = run.task.rank(answered, rlhf.HELD_OUT_SEED)
    exact = ranked(run.task.world, answered)
    return [{"two labelers": share_alike(run, answered),
             "model, labeler": rlhf.pair_accuracy(run.reward_model, run.tokenizer, noisy),
             "model, rubric": rlhf.pair_accuracy(run.reward_model, run.tokenizer, exact)}]


def labeler_folds(run: Run) -> list[dict]:
    """Five groups of labelers, each with a taste: train on the comparisons of four groups, test on
    those of these and of the fifth."""
    task = run.task
    prompts = run.options.comparison_prompts
    # One demonstration will do: they only set the bias, which changes no pair's order.
    answered = task.answers(run.speaker(run.sft), min(800, prompts), "train", 30)
    held_out = task.answers(run.speaker(run.sft), min(200, prompts), "test", 30)

    rows = []
    for fold, taste in enumerate(TASTES):
        training = TASTES[:fold] + TASTES[fold + 1:]
        torch.manual_seed(fold)
        model = RewardModel(run.sft)
        comparisons = ranked(task.world, answered, training, f"train {fold}")
        rlhf.train_reward_model(model, run.tokenizer, comparisons, task.demonstrations[:1],
                                RewardConfig(seed=fold), no_log)
        row = {"fold": str(fold)}
        for name, tastes in (("training labelers", training), ("others", (taste,))):
            comparisons = ranked(task.world, held_out, tastes, f"test {fold}")
            row[name] = rlhf.pair_accuracy(model, run.tokenizer, comparisons)
        rows.append({**row, "prompts": len(comparisons)})
    return rows


def no_log(step: int, steps: int, **values):
    """The log of a training run of which only the result is needed."""


@torch.no_grad()
def comparison_losses(model: RewardModel, tokenizer: Tokenizer, comparisons: list):
    """The ranking loss of each prompt: (prompts,)."""
    losses = []
    for comparison in comparisons:
        scores, ranks = rlhf.comparison_scores(model, tokenizer, [comparison])
        losses.append(rlhf.ranking_loss(scores, ranks).item())
    return np.array(losses)


def pairs_of(comparisons: list[Comparison]) -> list[Comparison]:
    """Every pair that is no tie, as a comparison of its own."""
    pairs = []
    for comparison in comparisons:
        ranks, responses = comparison.ranks, comparison.responses
        for i in range(len(ranks)):
            for j in range(i):
                if ranks[i] != ranks[j]:
                    pairs.append(Comparison(comparison.messages, [responses[i], responses[j]],
                                            [ranks[i], ranks[j]]))
    return pairs


def batching(run: Run) -> list[dict]:
    """A prompt with all its pairs as one element of a batch, or each pair as an element of its own,
    shuffled, so that prompts with more answers weigh more; both with as many pairs per step. The
    validation loss weighs prompts equally. "more" is what shuffling adds to the validation
    loss after as many epochs; its standard error is over prompts."""
    task = run.task
    prompts = min(400, run.options.comparison_prompts)
    speak = run.speaker(run.sft)
    training = task.rank(task.answers(speak, prompts, "train", 31), 31)
    held_out = task.rank(task.answers(speak, prompts // 2, "test", 31), 31)

    rows = []
    validation = {}  # (batches of, epoch) -> (prompts,)
    for name, comparisons in (("one element per prompt", training),
                              ("shuffled pairs", pairs_of(training))):
        torch.manual_seed(run.options.seed)
        model = RewardModel(run.sft)
        batch_size = round(RewardConfig().batch_size * len(comparisons) / len(training))
        for epoch in (1, 2, 3):  # each with a new schedule and new optimizers
            losses = []  # of all steps
            rlhf.train_reward_model(model, run.tokenizer, comparisons, task.demonstrations[:1],
                                    RewardConfig(batch_size=batch_size, seed=epoch),
                                    lambda step, steps, loss, **_: losses.append(loss))
            validation[name, epoch] = comparison_losses(model, run.tokenizer, held_out)
            more = validation[name, epoch] - validation["one element per prompt", epoch]
            mean, error = mean_and_error(more)
            rows.append({
                "batches of": name, "epoch": epoch,
                "training loss": float(np.mean(losses[-20:])),  # of the last 20 steps
                "validation loss": float(validation[name, epoch].mean()),
                "validation accuracy": rlhf.pair_accuracy(model, run.tokenizer, held_out),
                "more": mean, "standard error": error, "prompts": len(held_out)})
    return rows


def epochs_of_sft(run: Run) -> list[dict]:
    """After 1 to 8 epochs of SFT: the validation loss, the reward model's score, the gold score.
    "more": the score minus that after the first number of epochs, on the same prompts with the same
    random numbers; the standard error is over prompts."""
    rng = random.Random(0)
    held_out = []
    for prompt in run.task.test:
        demonstration = data.demonstrate(run.task.world, prompt, rng)
        context = run.base.config.block_size
        held_out.append(data.render_within(run.tokenizer, demonstration, context))

    rows = []
    for epochs in EPOCHS:
        model = copy.deepcopy(run.base)
        config = SFTConfig(epochs=epochs, seed=run.options.seed)
        rlhf.init_control_tokens(model, run.tokenizer)
        rlhf.train_sft(model, run.tokenizer, run.task.demonstrations, config,
                       run.pretraining(config.ptx_sequences), no_log)
        rollout, _, golds = run.score(model)
        with torch.no_grad():
            loss = rlhf.sft_loss(model, run.tokenizer, held_out).item()
        scores = rollout.scores.cpu().numpy()
        if not rows:
            first = scores
        more, error = mean_and_error(scores - first)
        rows.append({"epochs": epochs, "validation loss": loss, "score": float(scores.mean()),
                     "more": more, "standard error": error, "gold": float(golds.mean())})
    return rows
