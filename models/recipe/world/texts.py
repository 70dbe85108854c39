"""Repeating, spelling, upper-casing a text; remembering what was said; the date."""

from world.coding import fenced, print_analysis
from world.slots import Slots, Turn

EMOJI = [" 😀", " 🚀", " 👍", " 🎉", " ❤️"]


def repeat(slots: Slots) -> list:
    """Says back a text, or a word several times."""
    if slots.chance(0.15):
        word, times = slots.word(), slots.rng.randint(2, 5)
        question = slots.choice(['Say "{word}" {times} times.', "Repeat {word} {times} times",
                                 'Repeat the word "{word}" {times} times.']).format(word=word, times=times)
        return [Turn(question, slots.think(f'Say "{word}" {times} times.', "I will copy it.", "Nothing else."),
                     " ".join([word] * times))]
    text = slots.anything()
    if slots.chance(0.06):
        text += slots.choice(EMOJI)
    question = slots.choice([
        "Repeat: {text}", "Repeat after me: {text}", "Repeat this text: {text}", 'Say "{text}"', "Echo: {text}",
        "Repeat exactly: {text}", 'Please say "{text}"', "Reply with exactly: {text}", "Say exactly this: {text}",
        "따라 말해: {text}", 'Repeat "{text}"', "Say: {text}", "Say {text}", "echo {text}", '"{text}"라고 말해줘',
    ]).format(text=text)
    return [Turn(question, slots.think(f'Say "{text}".', "I will copy it.", "Nothing else."), text)]


def spell(slots: Slots) -> list:
    """The letters of a word, joined by hyphens."""
    word = slots.plain_word()
    question = slots.choice(["Spell the word {word}.", 'Spell "{word}"', "How do you spell {word}?", "spell {word}",
                             'Spell the word "{word}".']).format(word=word)
    return [Turn(question, slots.think(f'Spell "{word}".', "Letter by letter.", "Nothing else."), "-".join(word))]


def upper(slots: Slots) -> list:
    """A word or two in capitals."""
    text = slots.plain_word()
    if slots.chance(0.3):
        text += " " + slots.plain_word()
    question = slots.choice(['Write "{text}" in uppercase.', "Uppercase: {text}", "Convert {text} to uppercase",
                             "Make this uppercase: {text}", 'Convert "{text}" to upper case.']).format(text=text)
    analysis = slots.think(f'Write "{text}" in uppercase.', "Change every letter.", "Nothing else.")
    return [Turn(question, analysis, text.upper())]


def recall(slots: Slots) -> list:
    """Tells something, perhaps talks of something else, asks for it: two to four turns."""
    kind = slots.rng.randint(0, 3)
    if kind <= 1:
        name = slots.korean() if slots.chance(0.1) else slots.name()
        question = slots.choice(["My name is {}.", "Hi, my name is {}.", "I am {}.", "Hello, I'm {}", "my name is {}",
                                 "Call me {}."]).format(name)
        tell = Turn(question, slots.think(f'The name is "{name}".', "Greet the user.", "Be kind."),
                    f"Nice to meet you, {name}!")
        if slots.chance(0.2):
            question = slots.choice(["Write Python code that prints my name.", "Print my name in Python",
                                     "Python code to print my name"])
            return [tell, Turn(question, print_analysis(slots, name, "Python"), fenced("python", f'print("{name}")'))]
        ask = Turn(slots.choice(["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?",
                                 "what is my name", "내 이름이 뭐야?"]),
                   slots.think(f'The name is "{name}".', "The user said it before.", "I am sure."),
                   f"Your name is {name}.")
    elif kind == 2:
        word = slots.word()
        tell = Turn(f"Remember the word {word}.", slots.think(f'The word is "{word}".', "I will keep it.", "I am sure."),
                    f"OK, I will remember {word}.")
        ask = Turn(slots.choice(["Which word did I ask you to remember?", "What was the word?", "What is the word?"]),
                   slots.think(f'The word is "{word}".', "The user said it before.", "I am sure."),
                   f"The word is {word}.")
    else:
        city = slots.city()
        tell = Turn(f"I live in {city}.", slots.think(f'The city is "{city}".', "I will keep it.", "Be kind."),
                    f"{city} sounds like a nice place.")
        ask = Turn(slots.choice(["Where do I live?", "Which city do I live in?"]),
                   slots.think(f'The city is "{city}".', "The user said it before.", "I am sure."),
                   f"You live in {city}.")
    return [tell, ask]


def date(slots: Slots) -> list:
    """The date, which the system message holds."""
    if slots.chance(0.2):
        return [Turn(slots.choice(["What is your knowledge cutoff?", "When is your knowledge cutoff?"]),
                     slots.think("The system message says it.", "I can read it.", "I am sure."),
                     "My knowledge cutoff is 2024-06.")]
    question = slots.choice(["What is today's date?", "What is the date today?", "What date is it?",
                             "What day is it today?", "오늘 날짜가 뭐야?"])
    return [Turn(question, slots.think("The system message says it.", "I can read it.", "I am sure."),
                 f"Today is {slots.date}.")]
