"""
InstructGPT on what no demonstration has shown: words, a language, false premises.

Two tables of `python -m papers.instructgpt`:
    unseen    instructions are followed in languages and of kinds that fine-tuning
              hardly has, and false premises are accepted (§4.3)
    memory    what was told in turn one, by the exchanges in between (in training at
              most one); the paper does not test this

Paper: InstructGPT (arXiv:2203.02155).
"""
import random

import numpy as np

import data
import rlhf
from data import LISTS, NUMBERS, TOPICS, Instruction, Tokenizer, World, judge
from gpt import GPT, complete
from papers.instructgpt_run import Run


def ask(use_case: str, text: str, **goal) -> Instruction:
    return Instruction(use_case, [{"role": "user", "content": text}], **goal)


def reworded(world: World, rng: random.Random, scene: int) -> Instruction:
    """A held-out task in words that only the world's web uses: no demonstration, no
    comparison and no prompt of PPO. Four scenes, 0 to 3."""
    if scene == 0:
        text, answer = world.order(rng, "test")
        return ask("unseen wording", f"How do I say this nicely? {text}", say=answer)
    if scene == 1:
        text, answer = world.review(rng, "test")
        return ask("unseen wording", f"Was it good? {text}", say=answer)
    if scene == 2:
        text, answer = world.trip(rng, "test")
        return ask("unseen wording", f"What happened? {text}", say=answer)
    noun, count, _ = world.listing(rng, "test")
    items = (tuple(TOPICS[LISTS[noun]][0]), count)
    return ask("unseen wording", f"Can you name {NUMBERS[count]} {noun}?", items=items)


def translation(world: World, rng: random.Random) -> Instruction:
    """A phrase to translate, after three lines of a phrasebook, which only the web has."""
    phrase, answer = world.phrase(rng, "test")
    examples = data.phrasebook(world, rng, order=1, lines=3)
    return ask("second language", f"{examples}\n{phrase} =", say=answer)


def false_premise(world: World, rng: random.Random) -> list[Instruction]:
    """A question after a false statement that would answer it; the question alone."""
    person = rng.choice(world.people_of("test"))
    topic = rng.choice(world.topics_of(person, "test"))
    values, _, questions = TOPICS[topic]
    wrong = rng.choice([value for value in values if value != world.facts[person, topic]])
    premise = world.state(rng, person, topic, wrong)
    question = rng.choice(questions).format(person=person)
    return [ask("false premise", f"{premise} {question}", facts=(person, topic, 1)),
            ask("question alone", question, facts=(person, topic, 1))]


def unseen_instructions(world: World, count: int, seed: int) -> list[Instruction]:
    """The kinds above in turn, `count` in all; a false premise and its question count
    as one."""
    rng = random.Random(f"unseen {world.seed} {seed}")
    drawn = []
    for number in range(count):
        scene = number % 6
        if scene < 4:
            drawn.append(reworded(world, rng, scene))
        elif scene == 4:
            drawn.append(translation(world, rng))
        else:
            drawn.extend(false_premise(world, rng))
    return drawn


def text_speaker(model: GPT, tokenizer: Tokenizer, max_new_tokens: int) -> rlhf.Speaker:
    """A language model that continues the line in which the conversation ends."""
    newline = tokenizer.encode("\n")[0]

    def speak(conversations, seed):
        prompts = []
        for messages in conversations:
            prompts.append([tokenizer.eot, *tokenizer.encode(messages[-1]["content"])])
        stops = (newline, tokenizer.eot)
        return complete(model, tokenizer, prompts, stops, max_new_tokens, seed)

    return speak


def unseen(run: Run, count: int = 360, examples: int = 14) -> list[dict]:
    """Shares of good answers to each kind; prints the answers to the first prompts."""
    world, limit = run.task.world, run.options.max_response
    speakers = {
        "GPT": rlhf.forum_speaker(run.base, run.tokenizer, max_new_tokens=limit),
        "GPT, plain text": text_speaker(run.base, run.tokenizer, limit)}
    for name in ("SFT", "PPO", "PPO-ptx"):
        speakers[name] = run.speaker(run.chats[name])

    prompts = unseen_instructions(world, count, 0)
    conversations = [prompt.messages for prompt in prompts]
    answers = {name: speaker(conversations, 8) for name, speaker in speakers.items()}
    for place, prompt in enumerate(prompts[:examples]):
        print("  " + prompt.prompt.replace("\n", " / "))
        for name in answers:
            print(f"    {name:15s} {answers[name][place][0]}")
    return [{"model": name, **shares(world, prompts, answers[name])} for name in answers]


def shares(world: World, prompts: list[Instruction], answers: list) -> dict:
    """Means over the prompts of each kind: how helpful the answers are, how many are
    translated, how many invent a fact."""
    helpful, invented, translated = {}, {}, []
    for prompt, (text, ended) in zip(prompts, answers):
        verdict = judge(world, prompt, text, ended)
        helpful.setdefault(prompt.use_case, []).append(verdict["helpful"])
        invented.setdefault(prompt.use_case, []).append(verdict["invented"])
        if prompt.use_case == "second language":
            translated.append(prompt.say in text)
    return {"unseen wording, helpful": float(np.mean(helpful["unseen wording"])),
            "translated": float(np.mean(translated)),
            "false premise, helpful": float(np.mean(helpful["false premise"])),
            "without it": float(np.mean(helpful["question alone"])),
            "invented": float(np.mean(invented["false premise"]))}


# ----------------------------------------------------------------------------------
# Early turns


def told_at_first(world: World, count: int) -> list[Instruction]:
    """Distinct held-out conversations: told in turn one, asked for in turn three."""
    cases = {}
    for instruction in data.instructions(world, "test", 30 * count, seed=5):
        if len(instruction.messages) == 5:  # told, reply, small talk, reply, asked
            cases[str(instruction.messages)] = instruction
    return list(cases.values())[:count]


def with_exchanges(cases: list[Instruction], between: int) -> list[list[dict]]:
    """The conversations with `between` exchanges of small talk: their own, then those of
    the next cases."""
    conversations = []
    for place, case in enumerate(cases):
        middle = []
        for offset in range(between):
            other = cases[(place + offset) % len(cases)]
            middle += other.messages[2:4]
        conversations.append([*case.messages[:2], *middle, *case.messages[4:]])
    return conversations


def memory(run: Run, count: int = 200) -> list[dict]:
    """The share of right answers about what was told in turn one, by the exchanges in
    between."""
    cases = told_at_first(run.task.world, count)
    rows = []
    for name in ("SFT", "PPO", "PPO-ptx"):
        speaker = run.speaker(run.chats[name])
        row = {"model": name}
        for between in range(4):
            recalled = []
            for case, reply in zip(cases, speaker(with_exchanges(cases, between), 6)):
                recalled.append(judge(run.task.world, case, *reply)["helpful"] == 1)
            row[f"{between} between"] = float(np.mean(recalled))
        rows.append(row)
    return rows
