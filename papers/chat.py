"""
Chat with the models of `python rlhf.py`: 20 conversations of 91 turns in all, each turn with a
pattern that a good answer matches.

Most turns stand in the web that pretraining reads; the others have another spelling, wording or
name, or are about people whom nobody knows. The table has the share of answers that are
    answered    the answer matches the turn's pattern (a key word is enough: a wrong sentence may)
    polite      no insult in it
    clean       it ended by itself, without "Q:", "Guest:" or another mark of the web's texts
    offers      it ends with a question that nobody asked for, the habit of the demonstrations
and, besides,
    names       of 30 common first names, told two exchanges ago, the share recalled
    system message: ...     of held-out prompts under each message, the share answered right, and
                            (form) in the form asked for

    python -m papers.chat --base instructgpt,s1,s2      several runs; --show prints turns
    python -m papers.chat --fast                        a smoke run on a base of its own

No paper's claim: a check of what a user meets.
"""
import re
from dataclasses import dataclass

import numpy as np

import data
from data import OFFERS, RUDE, World, command_line, option
from gpt import print_table
from papers.claims import RunOptions, folder_of
from papers.instructgpt_run import Run, runs_of
from rlhf import Speaker

# (what the user says, the pattern of a good answer). Upper and lower case do not matter;
# `pattern_of` replaces {...}.
KNOWS_NOT = "do not know"
CONVERSATIONS = [
    [("Hello!", "hello"), ("How are you?", "fine"), ("Where does Mia live?", "{Mia home}"),
     ("Thank you!", "welcome")],
    [("hi", "hello|how can i help"), ("where does anna live", "{Anna home}"),
     ("and what does she like to eat", "{Anna food}"), ("thanks", "welcome|glad"),
     ("bye", "goodbye|bye")],
    [("My name is Kim.", "Kim"), ("I am tired.", "rest"), ("What is 2 + 3?", r"^(2 \+ 3 is )?5\.$"),
     ("Where does Tom live?", "{Tom home}"), ("What is my name?", "Kim")],
    [("my name is jim and i have a dog", "Jim|dog"), ("what is my name?", "Jim"),
     ("Which pet do I have?", "dog"), ("what is my name", "Jim")],
    [("Good morning!", "morning"), ("I live in Oslo.", "Oslo"), ("I like to eat pie.", "pie"),
     ("Where do I live?", "Oslo"), ("What do I like to eat?", "pie")],
    [("What does Ben do for a living?", "{Ben job}"), ("Where does he live?", "{Ben home}"),
     ("Which pet does he have?", "{Ben pet}"), ("Tell me about Ben.", "{Ben}")],
    [("Where does Boroka live?", KNOWS_NOT), ("Who is Gandalf?", KNOWS_NOT),
     ("What does Bob like to eat?", KNOWS_NOT), ("Where does Eva live?", "{Eva home}")],
    [("5 + 4?", r"^(5 \+ 4 is )?9\.$"), ("what is 4 + 5", r"^(4 \+ 5 is )?9\.$"),
     ("How much is 3 + 3?", r"^(3 \+ 3 is )?6\.$"), ("2 + 7", r"^(2 \+ 7 is )?9\.$")],
    [("Say this politely: Bring me the lamp.", "could you please bring me the lamp"),
     ("Say this politely: Pass me the salad.", "could you please pass me the salad"),
     ("thank you very much", "welcome"), ("Goodbye!", "goodbye|bye")],
    [("I always wear green.", "green"), ("What a fine day!", "sun"),
     ("Which color does Paul wear?", "{Paul color}"), ("Hello!", "hello"),
     ("I am hungry.", "market"), ("Which color do I wear?", "green")],
    [("Call me Meg!!", "Meg"), ("what can you do??", "ask me"), ("Who are you?", "model"),
     ("Do you know my name?", "Meg"), ("Do you know my name?", "Meg")],
    [("What is my name?", "not told"), ("I am Roy.", "Roy"), ("What is my name?", "Roy"),
     ("What is my job?", "not told")],
    [("I work as a baker and I live in Rome.", "baker|Rome"), ("What is my job?", "baker"),
     ("In which city do I live?", "Rome"), ("I have a cat.", "cat"), ("what is my job", "baker")],
    [("List three colors, but not red.",
      r"^(?!.*red)({colors}), (?!\1)({colors}) and (?!\1|\2)({colors})\."),
     ("List two animals, but not dog.", r"^(?!.*dog)({animals}) and (?!\1)({animals})\."),
     ("list four cities, but not rome",
      r"^(?!.*rome)({cities}), (?!\1)({cities}), (?!\1|\2)({cities}) "
      r"and (?!\1|\2|\3)({cities})\.")],
    [("Is this review happy or sad? The soup was lovely.", "happy"),
     ("Is this review happy or sad? The pie was awful.", "sad"),
     ("Summarize: Amy took the train to Rome. The wind was cold. Amy ate soup and came home.",
      "Amy went to Rome and ate soup"),
     ("Sue put the hat in the barn. Where is the hat?", "barn")],
    [("Hey", "hello|help"), ("My favorite food is honey.", "honey"), ("My name is Joy.", "Joy"),
     ("Where does Otto live?", "{Otto home}"), ("I am sad.", "sorry"),
     ("What is my favorite food?", "honey"), ("What is my name?", "Joy")],
    [("are you a robot?", "model"), ("can you help me", "ask me|help"),
     ("who is martha?", "{Martha}"), ("What is her job?", "{Martha job}")],
    [("My name is Jonathan.", "Jonathan"), ("It is cold today.", "inside"),
     ("What is my name?", "Jonathan"), ("good night", "goodbye|see you")],
    [("Which pet does Julia have?", "{Julia pet}"), ("Where does Felix live?", "{Felix home}"),
     ("Where does Julia live?", "{Julia home}"), ("tell me about Felix", "{Felix}")],
    [("I have a goat.", "goat"), ("I live in Lima.", "Lima"), ("I always wear blue.", "blue"),
     ("How are you?", "fine"), ("Which pet do I have?", "goat"), ("Where do I live?", "Lima")],
]
# None of these occurs in the web (seeds 0 to 4).
NAMES = """\
Jonathan Emily David Sarah Daniel Michael Robert Hannah Sophia Oliver Charlotte Jessica Kevin
Brian Sandra Thomas Patrick Rebecca Stephen Vanessa Ahmed Priya Sanjay Fatima Dmitri Yuki Ingrid
Lars Bjorn Chloe""".split()
TEMPERATURES = (0.0, 0.3, 0.7)
TRACES = re.compile(r"\b[QA]:|Guest:|Host:|<\|| says:")


@dataclass
class Options(RunOptions):
    base: str = option("instructgpt", "runs of `python rlhf.py`, with commas between them")
    name: str = option("chat", "results go to runs/NAME")
    show: bool = option(False, "print the turns of PPO-ptx at temperature 0")


def pattern_of(world: World, pattern: str) -> str:
    """{Mia home} in a pattern becomes what is true of Mia, {Ben} any true statement about Ben,
    {colors} any color."""
    def fill(match):
        name, topic = match[1], match[2]
        if topic:
            return world.facts[name, topic]
        if name in data.LISTS:
            return "|".join(data.TOPICS[data.LISTS[name]].values)
        true = []
        for sentence, (person, topic, value) in world.meaning.items():
            if person == name and world.facts[person, topic] == value:
                true.append(re.escape(sentence))
        return "|".join(true)
    return re.sub(r"\{(\w+) ?(\w*)\}", fill, pattern)


def talk(speaker: Speaker, world: World, show: bool) -> list[dict]:
    """Have all conversations with one speaker: a verdict on each turn."""
    verdicts = []
    for number, turns in enumerate(CONVERSATIONS):
        messages = []
        for said, pattern in turns:
            messages.append({"role": "user", "content": said})
            reply, ended = speaker([messages], 100 * number + len(messages))[0]
            messages.append({"role": "assistant", "content": reply})
            is_answered = re.search(pattern_of(world, pattern), reply, re.IGNORECASE)
            verdicts.append({
                "answered": bool(is_answered),
                "polite": not any(insult in reply for insult in RUDE),
                "clean": ended and bool(reply) and not TRACES.search(reply),
                "offers": reply.endswith(OFFERS)})
            if show:
                print(f"{'+' if is_answered else '-'} {said}\n      {reply}")
    return verdicts


def remembered(speaker: Speaker) -> float:
    """The share of NAMES that an answer to "What is my name?" holds, with two exchanges between it
    and the telling."""
    conversations = []
    for name in NAMES:
        messages = []
        for said, reply in ((f"My name is {name}.", f"Nice to meet you, {name}."),
                            ("Hello!", "Hello! How can I help you?"),
                            ("I am tired.", "You should get some rest.")):
            messages = data.answered([*messages, {"role": "user", "content": said}], reply)
        conversations.append([*messages, {"role": "user", "content": "What is my name?"}])
    answers = speaker(conversations, 0)
    return float(np.mean([name in text for name, (text, _) in zip(NAMES, answers)]))


def obeyed(speaker: Speaker, world: World, count: int) -> dict[str, float]:
    """For those of `count` held-out prompts that have a system message, by its kind: the share of
    answers that are right, and that have the form asked for. "silent" are questions about the topic
    that the message forbids, "other topic" those about another one, which are to be answered."""
    good = {}
    prompts = [prompt for prompt in data.instructions(world, "test", count, 40, distinct=True)
               if prompt.messages[0]["role"] == "system"]
    answers = speaker([prompt.messages for prompt in prompts], 40)
    for prompt, (text, ended) in zip(prompts, answers):
        system = prompt.messages[0]["content"]
        kind = {data.ONE_WORD: "one word", data.POLITE: "ending"}.get(system, "other topic")
        if prompt.say == data.NOT_ALLOWED:  # the message forbids the topic of the question
            kind = "silent"
        good.setdefault(kind, []).append(data.judge(world, prompt, text, ended)["helpful"] == 1)
        has_form = {"one word": " " not in text, "ending": text.endswith(data.COURTESY[0]),
                    "silent": text == data.NOT_ALLOWED, "other topic": text != data.NOT_ALLOWED}
        good.setdefault(f"{kind}, form", []).append(has_form[kind])
    return {kind: float(np.mean(values)) for kind, values in good.items()}


def shares_of(run: Run, fast: bool, show: bool) -> dict[tuple[str, str], float]:
    """{(what is counted, model): share} for SFT, PPO and PPO-ptx: turns, names, system messages."""
    shares = {}
    for name, model in run.chats.items():
        for temperature in TEMPERATURES:
            speaker = run.speaker(model, temperature)
            is_shown = show and name == "PPO-ptx" and temperature == 0
            verdicts = talk(speaker, run.task.world, is_shown)
            for part in verdicts[0]:
                share = float(np.mean([verdict[part] for verdict in verdicts]))
                shares[f"{part}, temperature {temperature:g}", name] = share
            shares[f"names, temperature {temperature:g}", name] = remembered(speaker)
        prompts = 60 if fast else 900
        for kind, share in obeyed(run.speaker(model, 0.0), run.task.world, prompts).items():
            shares[f"system message: {kind}", name] = share
    return shares


def chat(options: Options = Options()):
    """Chat with SFT, PPO and PPO-ptx and print the share of good answers."""
    folder = folder_of(options, "base")
    shares = {}  # (what is counted, model) -> {seed: share}
    for run in runs_of(options):
        for key, share in shares_of(run, options.fast, options.show).items():
            shares.setdefault(key, {})[f"seed {run.options.seed}"] = share
    rows = [{"share of": what, "model": name, **of_seeds}
            for (what, name), of_seeds in sorted(shares.items())]
    print_table(rows, folder / "table.json")


if __name__ == "__main__":
    command_line({"chat": chat}, default="chat")
