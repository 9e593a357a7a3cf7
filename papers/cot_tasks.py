"""
Problems of several steps as text, a dial, coin flips and last letters, and ways to ask a model.

Every problem is a row of months, and something happens in each. The answer is the state after the
last month (of the letters: all of them). A problem can be answered in six forms:

    Q: Dial 8: May 1, June 3.
    direct      A: The answer is 2.
    chain       A: Start 8. May 1 = 9. June 3 = 2. The answer is 2.
    equation    A: 8 + 1 + 3. The answer is 2.
    dots        A: . . . . . . . . . . . . . The answer is 2.
    after       A: The answer is 2. Start 8. May 1 = 9. June 3 = 2.
    trigger     A: Let's think step by step. Start 8. May 1 = 9. June 3 = 2. Therefore, the
                answer is 2.

Why so: the dial has ten marks and is turned by 1 to 3, so a step is one of thirty facts to learn,
whatever came before it. The order of the months can be learned, so the model finds the next event
by its month and need not count positions. The three tasks write a step in the same way. Every word
is one token, so a model does not see the letters of a name and must learn each name's last one.

Papers: Wei et al. 2022 (arXiv:2201.11903) §3.3 and §5; Kojima et al. 2022 (arXiv:2205.11916).
"""
import random
import re
import zlib
from dataclasses import dataclass

from data import GUESTS, MEN, WOMEN, World
from papers.models import continuations

MONTHS = ("January February March April May June July August September October November "
          "December").split()
TRAINED = (1, 2, 3, 4)  # steps of the problems in the training text
LONGER = (5, 6, 8)  # steps that only the test has
TESTED = (*TRAINED, *LONGER)
TRIGGER = "Let's think step by step."

NAMES = {name[-1]: name for name in WOMEN + MEN + GUESTS}  # last letter -> a name that has it


@dataclass
class Problem:
    """A question, its steps and its answer. asked: what decides the answer, a text for each step
    (the first one with the start). Problems with the same `asked` count as one problem."""
    question: str
    steps: list[str]
    answer: str
    asked: tuple[str, ...]
    equation: str = ""


def months(rng: random.Random, count: int) -> list[str]:
    """`count` successive months, the first one random."""
    first = rng.randrange(len(MONTHS))
    return [MONTHS[(first + i) % len(MONTHS)] for i in range(count)]


# ------------------------------------------------------------------------------
# The three tasks


def dial(rng: random.Random, count: int) -> Problem:
    """A dial with the marks 0 to 9 is turned: a sum modulo 10. The months are not part of what is
    asked."""
    start = rng.randrange(10)
    mark = start
    turns = []
    events, steps = [], [f"Start {start}."]
    for month in months(rng, count):
        turn = rng.randrange(1, 4)
        mark = (mark + turn) % 10
        turns.append(str(turn))
        events.append(f"{month} {turn}")
        steps.append(f"{month} {turn} = {mark}.")
    question = f"Dial {start}: {', '.join(events)}."
    equation = " + ".join([str(start), *turns])
    asked = (f"{start} + {turns[0]}", *turns[1:])
    return Problem(question, steps, str(mark), asked, equation + ".")


def coin(rng: random.Random, count: int) -> Problem:
    """A coin is flipped or left alone. The months are part of what is asked, or there would be too
    few problems. So training may show the same flips as a held-out problem, in other months."""
    start = rng.choice(("heads", "tails"))
    side = start
    events, steps = [], [f"Start {start}."]
    for month in months(rng, count):
        event = rng.choice(("flip", "wait"))
        if event == "flip":
            side = "tails" if side == "heads" else "heads"
        events.append(f"{month} {event}")
        steps.append(f"{month} {event} = {side}.")
    question = f"Coin {start}: {', '.join(events)}."
    return Problem(question, steps, side, (f"{start}, {events[0]}", *events[1:]))


def letters(rng: random.Random, count: int) -> Problem:
    """The last letters of names, no letter twice. The paper writes them as one word; here each
    is a token, so even a direct answer is written one letter at a time."""
    answer = rng.sample(sorted(NAMES), count)
    names = [NAMES[letter] for letter in answer]
    events, steps = [], []
    for month, name, letter in zip(months(rng, count), names, answer):
        events.append(f"{month} {name}")
        steps.append(f"{month} {name} = {letter}.")
    question = f"Letters: {', '.join(events)}."
    return Problem(question, steps, " ".join(answer), tuple(names))


TASKS = {"dial": dial, "coin": coin, "letters": letters}


def draw(world: World, rng: random.Random, split: str, task: str, count: int) -> Problem:
    """A random problem of `count` steps. A fifth of what can be asked is held out for the test,
    by a checksum. No training problem begins with a held-out one of two or more steps (with one
    of a single step it may)."""
    def is_held_out(asked: tuple[str, ...]) -> bool:
        return zlib.crc32(f"{world.seed} {' '.join(asked)}".encode()) % 5 == 0

    lengths = [count] if split == "test" else [*range(2, count), count]
    while True:
        problem = TASKS[task](rng, count)
        held_out = [is_held_out(problem.asked[:length]) for length in lengths]
        if any(held_out) == (split == "test"):
            return problem


# ------------------------------------------------------------------------------
# Forms of the answer, and the training text


def solve(problem: Problem, form: str) -> str:
    """A problem's answer in one of the forms. There are as many dots as the chain has words
    and signs."""
    chain = " ".join(problem.steps)
    conclusion = f"The answer is {problem.answer}."
    tokens = re.findall(r"\w+|[^\w\s]", chain)
    forms = {
        "direct": conclusion,
        "chain": f"{chain} {conclusion}",
        "equation": f"{problem.equation} {conclusion}",
        "dots": ". " * len(tokens) + conclusion,
        "after": f"{conclusion} {chain}",
        "trigger": f"{TRIGGER} {chain} Therefore, the answer is {problem.answer}.",
    }
    return forms[form]


def forms_of(task: str) -> list[str]:
    """The forms in which the training text answers a task. Only the dial has an equation, and
    the trigger phrase never stands before a coin: whether it works there is a question."""
    forms = ["direct", "chain", "dots", "after"]
    if task == "dial":
        forms.append("equation")
    if task != "coin":
        forms.append("trigger")
    return forms


def solved(problem: Problem, form: str) -> str:
    """A question with its answer."""
    return f"Q: {problem.question}\nA: {solve(problem, form)}"


def document(world: World, rng: random.Random) -> str:
    """One to three problems of a task, all answered in one form; with the trigger phrase only one,
    because the phrase is asked without exemplars."""
    task = rng.choice(list(TASKS))
    form = rng.choice(forms_of(task))
    count = 1 if form == "trigger" else rng.choice((1, 2, 3))
    parts = []
    for _ in range(count):
        problem = draw(world, rng, "train", task, rng.choice(TRAINED))
        parts.append(solved(problem, form))
    return "\n\n".join(parts)


def few_shot_prompt(world: World, rng: random.Random, task: str, form: str,
                    problem: Problem) -> str:
    """Two exemplars in the wanted form, of two and three steps, and a question."""
    parts = []
    for count in (2, 3):
        exemplar = draw(world, rng, "train", task, count)
        parts.append(solved(exemplar, form))
    return "\n\n".join([*parts, f"Q: {problem.question}\nA:"])


def answer_in(text: str) -> str:
    """What stands behind the first "answer is", up to a full stop; "" if nothing does."""
    found = re.search(r"answer is ([^.]*)", text)
    return found.group(1).strip() if found else ""


# ------------------------------------------------------------------------------
# Asking a model


def complete(model, tokenizer, prompts: list[str], stop: str,
             solutions: list[str]) -> list[str]:
    """Continuations at temperature 0, up to the sign `stop` or the end of the document. They may be
    a little longer than the longest solution."""
    longest = max(len(tokenizer.encode(solution)) for solution in solutions)
    return continuations(model, tokenizer, prompts, longest + 4, stop)


def think_first(model, tokenizer, prompts: list[str], solutions: list[str]) -> list[str]:
    """Two prompts (Kojima et al. §3): one for the reasoning, and one with the reasoning in it,
    for the answer."""
    reasonings = []
    for text in complete(model, tokenizer, prompts, "\n", solutions):
        steps, _, _ = text.partition(" Therefore")
        reasonings.append(f" {steps} Therefore, the answer is")
    longer_prompts = [prompt + reasoning for prompt, reasoning in zip(prompts, reasonings)]
    answers = complete(model, tokenizer, longer_prompts, ".", solutions)
    return [f"{reasoning} {answer}." for reasoning, answer in zip(reasonings, answers)]


def ask(model, tokenizer, world: World, task: str, way: str,
        problems: list[Problem]) -> list[str]:
    """What the model answers to the problems, asked in one way."""
    if way == "zero-shot trigger":
        prompts = [f"Q: {problem.question}\nA: {TRIGGER}" for problem in problems]
        solutions = [solve(problem, "trigger") for problem in problems]
        return think_first(model, tokenizer, prompts, solutions)
    if way == "zero-shot direct":
        prompts = [f"Q: {problem.question}\nA: The answer is" for problem in problems]
        solutions = [problem.answer for problem in problems]
        answers = complete(model, tokenizer, prompts, ".", solutions)
        return [f"The answer is {answer}." for answer in answers]
    rng = random.Random(f"exemplars {world.seed}")
    prompts = [few_shot_prompt(world, rng, task, way, problem) for problem in problems]
    solutions = [solve(problem, way) for problem in problems]
    # Steps after the answer cannot change it, so the model need not write them.
    stop = "." if way in ("direct", "after") else "\n"
    return complete(model, tokenizer, prompts, stop, solutions)
