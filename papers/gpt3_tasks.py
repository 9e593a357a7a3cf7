"""
GPT-3's tasks as text: rules that hold in one document only, and the paper's synthetic tasks.

A case is a context and its completion; a prompt is K solved cases and one more context. Each task
holds out a part of its cases: "train" cases are in the text that a model is trained on, "test"
cases are what it is asked.

Paper: GPT-3 (arXiv:2005.14165) §2.4 (prompts), §3.9.1 and §3.9.2.
"""
import operator
import random

import data
from data import ECHOED, HAPPY, LISTS, MEN, SAD, TOPICS, WOMEN, World


def few_shot_prompt(examples: list[tuple[str, str]], context: str = "",
                    description: str = "") -> str:
    """A task as text: its description, K solved examples (context, completion), a context to
    complete.

    K = 0 is zero-shot, K = 1 one-shot. Contexts begin with the line break that separates them; the
    first one of a text loses it.
    """
    solved = "".join(example + completion for example, completion in examples)
    return (description + solved + context).lstrip()


# ------------------------------------------------------------------------------
# Rules: each holds in one document only, so a model can know a held-out one from its prompt alone

# The signs that the words of each topic may stand for.
SIGNS = {
    "home": ["ball", "book", "key", "lamp"],
    "job": ["hat", "coin", "letter", "spoon"],
    "food": ["box", "drawer", "basket", "kitchen"],
    "pet": ["garden", "cellar", "barn", "bag"],
    "color": ["star", "moon", "cloud", "river"],
}


def rule(world: World, rng: random.Random, split: str):
    """A rule: each topic's words stand for one of the topic's four signs.

    A fifth of the combinations of signs is held out. Returns the rule in words, and all words in
    random order as (context, completion, the four completions to choose from).
    """
    picked = world.pick(rng, split, *SIGNS.values())
    signs = dict(zip(SIGNS, picked))

    parts = [f"{noun} {signs[topic]}" for noun, topic in LISTS.items()]
    description = ", ".join(parts) + ":"

    cases = []
    for topic, (words, _, _) in TOPICS.items():
        choices = [f" {sign}" for sign in SIGNS[topic]]
        for word in words:
            cases.append((f"\n{word} =", f" {signs[topic]}", choices))
    return description, rng.sample(cases, len(cases))


def rule_document(world: World, rng: random.Random) -> str:
    """Many examples of one rule: the sub-tasks that repeat within a document of Figure 1.1."""
    description, cases = rule(world, rng, "train")
    count = rng.choice((12, 24, 36))
    examples = [(context, completion) for context, completion, _ in cases[:count]]
    if rng.random() >= .5:
        description = ""
    return few_shot_prompt(examples, description=description)


PROMPTS = ("examples", "with description", "random labels")


def rule_cases(world: World, K: int, count: int, prompt_kind: str):
    """Held-out rules of which the prompt shows K examples: for each case four (prompt, completion)
    and the index of the right one.

    "with description" puts the rule in words before the examples. "random labels" gives each
    example one of its four completions at random, so that nothing can be learned from them.
    """
    rng = random.Random(f"{K} shots")
    cases = []
    for _ in range(count):  # about 130 different rules in 200 cases
        description, (query, *others) = rule(world, rng, "test")
        examples = []
        for context, completion, choices in others[:K]:
            if prompt_kind == "random labels":
                completion = rng.choice(choices)
            examples.append((context, completion))

        context, completion, choices = query
        if prompt_kind != "with description":
            description = ""
        prompt = few_shot_prompt(examples, context, description)
        cases.append(([(prompt, choice) for choice in choices], choices.index(completion)))
    return cases


# ------------------------------------------------------------------------------
# Synthetic tasks, byte for byte in the form of the files that OpenAI released

# The paper's names: 2D+ is the addition of two-digit numbers, 1DC three operations on single
# digits, CL cycled letters, A1 and A2 anagrams of all but the outer one or two letters on each
# side, RI random insertions, RW reversed words.
ARITHMETIC = {"1D+": (1, "plus"), "1D-": (1, "minus"), "2D+": (2, "plus")}
SCRAMBLED = ("CL", "A1", "A2", "RI", "RW")
ALL_WORDS = {word.lower() for word in ECHOED + WOMEN + MEN + HAPPY + SAD}
LONG_WORDS = sorted(word for word in ALL_WORDS if len(word) > 4)
OPERATIONS = {"plus": operator.add, "minus": operator.sub,
              "+": operator.add, "-": operator.sub, "*": operator.mul}
PRACTISED = (*ARITHMETIC, "1DC", *SCRAMBLED)

# What the paper prints for 175B: zero-, one-, few-shot (Table 3.9, Table 3.10).
PAPER = {
    "2D+": (.769, .996, 1.000),
    "1DC": (.098, .143, .213),
    "CL": (.0366, .217, .379),
    "A1": (.0228, .0862, .151),
    "A2": (.0891, .259, .397),
    "RI": (.0826, .454, .672),
    "RW": (.0009, .0048, .0044),
}


def operands(world: World, rng: random.Random, split: str, *ranges: range) -> list[int]:
    """Numbers that are held out whatever their order: a + b and b + a ask the same."""
    numbers = world.pick(rng, split, *ranges)
    while numbers != sorted(numbers):
        numbers = world.pick(rng, split, *ranges)
    return rng.sample(numbers, len(numbers))


def arithmetic_task(world: World, rng: random.Random, split: str,
                    task: str) -> tuple[str, str]:
    """Two numbers. A fifth of the pairs of numbers is held out."""
    digits, word = ARITHMETIC[task]
    a, b = operands(world, rng, split, range(10 ** digits), range(10 ** digits))
    return f"\n\nQ: What is {a} {word} {b}?\n\nA:", f" {OPERATIONS[word](a, b)}"


def composite_task(world: World, rng: random.Random, split: str) -> tuple[str, str]:
    """Three digits and two operations. The brackets stand as in the released files; in the paper
    they are around the last two."""
    a, b, c = operands(world, rng, split, range(10), range(10), range(10))
    first, second = rng.choice("+-*"), rng.choice("+-*")
    result = OPERATIONS[second](OPERATIONS[first](a, b), c)
    return f"\n\nQ: What is ({a} {first} {b}) {second} {c}?\n\nA:", f" {result}"


def word_task(world: World, rng: random.Random, split: str,
              task: str) -> tuple[str, str]:
    """A scrambled word. For each kind of scrambling a fifth of the words is held out; A1 and A2,
    which scramble some words alike, hold out the same ones."""
    kind = "anagram" if task in ("A1", "A2") else task
    kept = {"A1": 1, "A2": 2}.get(task, 0)  # letters that stay on each side
    picked, inside = None, ""
    while picked != kind or len(set(inside)) < 2:  # of one letter there is nothing to shuffle
        picked, word = world.pick(rng, split, ("CL", "anagram", "RI", "RW"), LONG_WORDS)
        inside = word[kept:len(word) - kept]
    if task == "CL":
        cut = rng.randrange(1, len(word))
        scrambled = word[cut:] + word[:cut]
    elif task == "RI":
        scrambled = "".join(letter + rng.choice(" ./!") for letter in word)[:-1]
    elif task == "RW":
        scrambled = word[::-1]
    else:
        shuffled = inside
        while shuffled == inside:
            shuffled = "".join(rng.sample(inside, len(inside)))
        scrambled = word[:kept] + shuffled + word[len(word) - kept:]
    return f"\n{scrambled} =", f" {word}"


def synthetic_task(world: World, rng: random.Random, split: str,
                   task: str) -> tuple[str, str]:
    """One case of a task by its name in the paper: (context, completion)."""
    if task in ARITHMETIC:
        return arithmetic_task(world, rng, split, task)
    if task == "1DC":
        return composite_task(world, rng, split)
    return word_task(world, rng, split, task)


def task_document(world: World, rng: random.Random) -> str:
    """Several cases of one task, about as many as a short context holds."""
    task = rng.choice(PRACTISED)
    count = rng.choice((4, 8, 12))
    examples = [synthetic_task(world, rng, "train", task) for _ in range(count)]
    return few_shot_prompt(examples)


# What the models are trained on: kinds of documents and their shares.
RULE_WEB = {data.story: .075, data.forum: .042, data.dialogue: .075, data.workbook: .03,
            data.echo: .063, data.lesson: .015, rule_document: .7}
TASK_WEB = {task_document: 1.0}
