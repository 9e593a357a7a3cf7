"""
InstructGPT on what no demonstration has shown (other languages are not tested), and what
its reward model sees: the tables unseen, memory and seen of papers/instructgpt.py.

Paper: InstructGPT (arXiv:2203.02155) §4.3.
"""
import math
import random

import numpy as np
import torch

import rlhf
from data import (GUESTS, LISTS, NUMBERS, RUDE, TASKS, TOPICS, Comparison, Instruction, World,
                  answered, fit, judge, render_conversation)
from gpt import to_tensors
from papers.instructgpt_data import no_log
from papers.instructgpt_run import Run
from papers.tasks import distinct, recall_case

# Tasks whose wording in the web is another one than in the instructions.
REWORDED = ("rewrite", "classification", "summarization", "extract", "brainstorming")


def ask(kind: str, text: str, **goal) -> Instruction:
    return Instruction(kind, [{"role": "user", "content": text}], **goal)


def reworded(world: World, rng: random.Random) -> Instruction:
    """A held-out task in words that only the world's web uses: no demonstration, no
    comparison and no prompt of PPO."""
    use_case = rng.choice(REWORDED)
    scene, wording, _ = TASKS[use_case]
    *parts, say = scene(world, rng, "test")
    goal = {"say": say}
    if use_case == "brainstorming":
        number, noun, without = parts
        allowed = tuple(value for value in TOPICS[LISTS[noun]].values if value != without)
        goal = {"items": (allowed, NUMBERS.index(number))}
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
    """Up to `count` distinct ones of each kind; there are 84 questions."""
    rng = random.Random(f"unseen {world.seed}")
    drawn = distinct(lambda: reworded(world, rng), count, lambda instruction: instruction.prompt)
    for pair in distinct(lambda: premise(world, rng), count, lambda pair: pair[1].prompt):
        drawn += pair
    return drawn


def unseen(run: Run, count: int = 240, examples: int = 12) -> list[dict]:
    """What the answers to each kind are like; prints the answers to a few prompts."""
    world = run.task.world
    speakers = run.ladder()
    del speakers["GPT prompted"]
    prompts = unseen_instructions(world, count)
    conversations = [prompt.messages for prompt in prompts]
    answers = {name: speaker(conversations, 8) for name, speaker in speakers.items()}
    for place in range(0, len(prompts), len(prompts) // examples + 1):
        print("  " + prompts[place].prompt)
        for name in answers:
            print(f"    {name:15s} {answers[name][place][0]}")
    return [{"model": name, **shares(world, prompts, answers[name])} for name in answers]


def shares(world: World, prompts: list[Instruction], answers: list) -> dict:
    """Of each kind the share of answers that help (a terse right one counts, too), and of
    those about a person the share that invents something."""
    helpful, invented = {}, {}
    for prompt, (text, ended) in zip(prompts, answers):
        verdict = judge(world, prompt, text, ended)
        helpful.setdefault(prompt.use_case, []).append(verdict["helpful"] > 0)
        invented.setdefault(prompt.use_case, []).append(verdict["invented"])
    row = {"unseen wording, helpful": float(np.mean(helpful["unseen wording"]))}
    for kind in ("false premise", "question alone"):
        row[f"{kind}, helpful"] = float(np.mean(helpful[kind]))
        row[f"{kind}, invented"] = float(np.mean(invented[kind]))
    # a question has two wordings: facts, not questions, are independent cases
    facts = {(prompt.person, prompt.topic) for prompt in prompts if prompt.person}
    row["facts"] = len(facts)
    return row


def told_at_first(run: Run, between: int, count: int) -> list[Instruction]:
    """Distinct held-out conversations: told in turn one, asked for after `between`
    exchanges of small talk. All of them fit into the context: else turn one is not read."""
    world = run.task.world
    rng = random.Random(f"memory {world.seed} {between}")
    room = run.base.config.block_size - run.options.max_response

    def make_case():
        messages, answer = recall_case(world, rng, ["talk"] * between)
        ids, _ = render_conversation(run.tokenizer, messages)
        if len(ids) > room:
            return make_case()
        return Instruction("chat", messages, say=answer)

    return distinct(make_case, count, lambda case: str(case.messages))


def memory(run: Run, count: int = 150) -> list[dict]:
    """The share of right answers about what was told in turn one, by the exchanges in
    between; and of those that are a name of syllables, most of which training has not shown.
    "cases" is the least number of cases at one distance."""
    rows = [{"model": name} for name in ("SFT", "PPO", "PPO-ptx")]
    names = {row["model"]: [] for row in rows}
    for between in range(5):
        cases = told_at_first(run, between, count)
        for row in rows:
            speaker = run.speaker(run.chats[row["model"]])
            recalled = []
            for case, reply in zip(cases, speaker([case.messages for case in cases], 6)):
                is_right = judge(run.task.world, case, *reply)["helpful"] == 1
                is_name = case.say.startswith("Your name is")
                if is_name and case.say[13:-1] not in GUESTS:
                    names[row["model"]].append(is_right)
                else:
                    recalled.append(is_right)
            row[f"{between} between"] = float(np.mean(recalled))
            row["cases"] = min(row.get("cases", count), len(recalled))
    for row in rows:
        row["made-up names"] = float(np.mean(names[row["model"]] or [math.nan]))
        row["of them"] = len(names[row["model"]])
    return rows


def answer_pairs(world: World, split: str, draw: int | str = "") -> dict[str, list[Comparison]]:
    """Pairs of answers, the better first, to one question for each fact that this split asks
    for. The two answers of a pair differ in one respect."""
    rng = random.Random(f"seen {world.seed} {split}{draw}")
    pairs = {"truth / falsehood": [], "sentence / word": [], "fact / insult": []}
    for person in world.people_of(split):
        for topic in world.topics_of(person, split):
            value = world.facts[person, topic]
            wrong = rng.choice([other for other in TOPICS[topic].values if other != value])
            statement = rng.choice(TOPICS[topic].statements)
            true = statement.format(person=person, value=value)
            worse = {"truth / falsehood": statement.format(person=person, value=wrong),
                     "sentence / word": f"{value}.", "fact / insult": rng.choice(RUDE)}
            question = [{"role": "user", "content": world.ask(rng, person, topic)}]
            for kind, text in worse.items():
                responses = [(true, True), (text, True)]
                pairs[kind].append(Comparison(question, responses, ranks=[0, 1]))
    return pairs


@torch.no_grad()
def answer_logprob(run: Run, messages: list[dict], answer: str) -> float:
    """The SFT model's log-probability of an answer and its <|end|>, in nats."""
    ids, mask = fit(run.tokenizer, answered(messages, answer), run.sft.config.block_size)
    ids, _ = to_tensors([ids], run.tokenizer.pad, run.sft.device)  # (1, T)
    mask = torch.tensor([mask[1:]], device=ids.device)  # (1, T-1)
    return rlhf.response_logprobs(run.sft, ids, mask.float()).sum().item()


def taught_truth(run: Run) -> rlhf.RewardModel:
    """A reward model that sees lies: it is trained on true sentences, each compared with the same
    sentence with another value, half as many as the prompts whose answers labelers rank."""
    lessons = []
    for draw in range(max(1, run.options.comparison_prompts // 250)):  # 130 comparisons each
        lessons += answer_pairs(run.task.world, "train", draw)["truth / falsehood"]
    torch.manual_seed(run.options.seed)
    model = rlhf.RewardModel(run.sft)
    config = rlhf.RewardConfig(seed=run.options.seed)
    rlhf.train_reward_model(model, run.tokenizer, lessons, run.task.demonstrations, config, no_log)
    return model


def seen(run: Run) -> list[dict]:
    """The share of pairs whose better answer gets the higher score from the reward model and from
    one that is taught truth, and the higher probability from the SFT model."""
    taught = taught_truth(run)
    rows = []
    for split, facts in (("train", "asked for in training"), ("test", "held out")):
        for kind, pairs in answer_pairs(run.task.world, split).items():
            likelier = []
            for pair in pairs:
                better, worse = [answer_logprob(run, pair.messages, text)
                                 for text, _ in pair.responses]
                likelier.append(better > worse)
            rows.append({
                "better / worse": kind, "facts": facts,
                "reward model": rlhf.pair_accuracy(run.reward_model, run.tokenizer, pairs),
                "taught truth": rlhf.pair_accuracy(taught, run.tokenizer, pairs),
                "SFT": float(np.mean(likelier)), "pairs": len(pairs)})
    return rows
