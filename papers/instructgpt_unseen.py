"""
Tables of papers/instructgpt.py about what the models can do: unseen (what no demonstration has
shown; other languages are not tested), memory (early turns) and seen (by the reward model).

Paper: InstructGPT (arXiv:2203.02155) §4.3.
"""
import math
import random

import numpy as np
import torch

import rlhf
from data import (NUMBERS, OFFERS, RUDE, TASKS, TOPICS, Comparison, Instruction, World, judge,
                  render_conversation, values_after)
from papers.claims import mean_and_error
from papers.instructgpt_data import no_log
from papers.instructgpt_run import Run
from papers.tasks import KNOWN_ANSWERS, distinct, recall_case

# Tasks whose wording in the web differs from that in the instructions.
REWORDED = ("rewrite", "classification", "summarization", "extract", "brainstorming")
UNSEEN = 240  # instructions of each kind, at the most
MEMORY = 150  # conversations for each number of exchanges in between


def ask(kind: str, text: str, **goal) -> Instruction:
    """A single question. goal: what a good answer holds, see Instruction."""
    return Instruction(kind, [{"role": "user", "content": text}], **goal)


def reworded(world: World, rng: random.Random) -> Instruction:
    """A held-out task in words that occur in pretraining, but in no demonstration, no comparison
    and no prompt of PPO."""
    use_case = rng.choice(REWORDED)
    scene, wording, _ = TASKS[use_case]
    *parts, say = scene(world, rng, "test")
    goal = {"say": say}
    if use_case == "brainstorming":
        number, noun, without = parts
        goal = {"items": (tuple(values_after(without, noun)), NUMBERS.index(number))}
    return ask("unseen wording", wording.format(*parts), **goal)


def premise(world: World, rng: random.Random) -> tuple[Instruction, Instruction]:
    """A question after a false statement that would answer it; the question alone."""
    person = rng.choice(world.people_of("test"))
    topic = rng.choice(world.topics_of(person, "test"))
    values, _, questions = TOPICS[topic]
    wrong = rng.choice([value for value in values if value != world.facts[person, topic]])
    statement = world.state(rng, person, topic, wrong)
    question = rng.choice(questions).format(person=person)
    goal = {"person": person, "topic": topic, "count": 1}
    return (ask("false premise", f"{statement} {question}", **goal),
            ask("question alone", question, **goal))


def unseen_instructions(world: World, count: int) -> list[Instruction]:
    """Up to `count` different ones of each kind; without a premise there are 84 questions."""
    rng = random.Random(f"unseen {world.seed}")
    drawn = distinct(lambda: reworded(world, rng), count, lambda instruction: instruction.prompt)
    for pair in distinct(lambda: premise(world, rng), count, lambda pair: pair[1].prompt):
        drawn += pair
    return drawn


def unseen(run: Run) -> list[dict]:
    """How good the answers to each kind are; prints the answers to up to 12 prompts."""
    world = run.task.world
    speakers = run.ladder()
    del speakers["GPT prompted"]  # its two examples are no such prompts
    prompts = unseen_instructions(world, UNSEEN)
    conversations = [prompt.messages for prompt in prompts]
    answers = {name: speaker(conversations, 8) for name, speaker in speakers.items()}
    for place in range(0, len(prompts), len(prompts) // 12 + 1):
        print("  " + prompts[place].prompt)
        for name in answers:
            print(f"    {name:15s} {answers[name][place][0]}")
    return [{"model": name, **shares(world, prompts, answers[name])} for name in answers]


def shares(world: World, prompts: list[Instruction], answers: list) -> dict:
    """The share of answers of each kind that are right (of a list: that has a right item), and of
    the questions about a person the share of answers that state something false. "more": that with
    a false premise minus that without, with its standard error over facts; two questions, which
    differ in wording, may ask for one fact."""
    helpful, invented = {}, {}
    of_fact = {}  # (person, topic) -> {kind: whether an answer states something false}
    for prompt, (text, ended) in zip(prompts, answers):
        verdict = judge(world, prompt, text, ended)
        helpful.setdefault(prompt.use_case, []).append(verdict["helpful"] > 0)
        invented.setdefault(prompt.use_case, []).append(verdict["invented"])
        if prompt.person:
            kinds = of_fact.setdefault((prompt.person, prompt.topic), {})
            kinds.setdefault(prompt.use_case, []).append(verdict["invented"])
    row = {"unseen wording, helpful": float(np.mean(helpful["unseen wording"]))}
    for kind in ("false premise", "question alone"):
        row[f"{kind}, helpful"] = float(np.mean(helpful[kind]))
        row[f"{kind}, invented"] = float(np.mean(invented[kind]))
    row["more"], row["standard error"] = mean_and_error([
        np.mean(kinds["false premise"]) - np.mean(kinds["question alone"])
        for kinds in of_fact.values()])
    row["facts"] = len(of_fact)
    return row


def told_at_first(run: Run, between: int, count: int) -> list[Instruction]:
    """Up to `count` different held-out conversations: something is told in turn one and asked for
    after `between` exchanges of small talk. All fit into the context, so that turn one is read."""
    world = run.task.world
    rng = random.Random(f"memory {world.seed} {between}")
    room = run.base.config.block_size - run.options.max_response

    def make_case():
        while True:
            messages, answer = recall_case(world, rng, ["talk"] * between)
            ids, _ = render_conversation(run.tokenizer, messages)
            if len(ids) <= room:
                return Instruction("chat", messages, say=answer)

    return distinct(make_case, count, lambda case: str(case.messages))


def memory(run: Run) -> list[dict]:
    """The share of right answers about what was told in turn one, by the number of exchanges in
    between; "cases" says of how many at each distance, at least. Made-up words, most of which
    training has not shown, are counted apart, all distances together."""
    distances = [told_at_first(run, between, MEMORY) for between in range(5)]
    known = [sum(case.say in KNOWN_ANSWERS for case in cases) for cases in distances]
    rows = []
    for name, model in run.chats.items():
        speaker = run.speaker(model)
        row, made_up = {"model": name, "cases": min(known)}, []
        for between, cases in enumerate(distances):
            recalled = []
            for case, answer in zip(cases, speaker([case.messages for case in cases], 6)):
                is_right = judge(run.task.world, case, *answer)["helpful"] == 1
                group = recalled if case.say in KNOWN_ANSWERS else made_up
                group.append(is_right)
            row[f"{between} between"] = float(np.mean(recalled))
        row["made-up words"] = float(np.mean(made_up or [math.nan]))
        row["made-up cases"] = len(made_up)
        rows.append(row)
    return rows


def answer_pairs(world: World, split: str, draw: int | str = "") -> dict[str, list[Comparison]]:
    """Pairs of answers, the better first, to a question about each fact that this split asks for.
    The two answers of a pair differ in one respect. draw: another one has other wordings."""
    rng = random.Random(f"seen {world.seed} {split}{draw}")
    pairs = {"truth / falsehood": [], "fact / fact, offer": [], "fact / insult": []}
    for person in world.people_of(split):
        for topic in world.topics_of(person, split):
            value = world.facts[person, topic]
            wrong = rng.choice([other for other in TOPICS[topic].values if other != value])
            statement = rng.choice(TOPICS[topic].statements)
            true = statement.format(person=person, value=value)
            worse = {"truth / falsehood": statement.format(person=person, value=wrong),
                     "fact / fact, offer": f"{true} {rng.choice(OFFERS)}",
                     "fact / insult": rng.choice(RUDE)}
            question = [{"role": "user", "content": world.ask(rng, person, topic)}]
            for kind, text in worse.items():
                responses = [(true, True), (text, True)]
                pairs[kind].append(Comparison(question, responses, ranks=[0, 1]))
    return pairs


def taught_truth(run: Run) -> rlhf.RewardModel:
    """A reward model that learns from comparisons of a true sentence with the same sentence and
    another value: about three quarters as many as the run's own learns from, but of one pair
    each."""
    lessons = []
    for draw in range(max(1, run.options.comparison_prompts // 180)):  # 130 comparisons each
        lessons += answer_pairs(run.task.world, "train", draw)["truth / falsehood"]
    torch.manual_seed(run.options.seed)
    model = rlhf.RewardModel(run.sft)
    config = rlhf.RewardConfig(seed=run.options.seed)
    rlhf.train_reward_model(model, run.tokenizer, lessons, run.task.demonstrations[:1], config,
                            no_log)
    return model


def seen(run: Run) -> list[dict]:
    """The share of pairs whose better answer gets the higher score, from the run's reward model and
    from one that is taught truth, or the higher probability, from the SFT model. Facts asked for in
    training are those that it was taught, in other words or beside other values: only the held-out
    ones test it."""
    taught = taught_truth(run)
    rows = []
    for split, facts in (("train", "asked for in training"), ("test", "held out")):
        for kind, pairs in answer_pairs(run.task.world, split).items():
            likelier = []
            for pair in pairs:
                better, worse = run.answer_logprobs(run.sft, pair.conversations()).tolist()
                likelier.append(better > worse)
            rows.append({
                "better / worse": kind, "facts": facts,
                "reward model": rlhf.pair_accuracy(run.reward_model, run.tokenizer, pairs),
                "taught truth": rlhf.pair_accuracy(taught, run.tokenizer, pairs),
                "SFT": float(np.mean(likelier)), "pairs": len(pairs)})
    return rows
