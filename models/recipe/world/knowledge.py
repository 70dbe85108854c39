"""Greetings, who it is, a short list of facts, and the honest sentence for everything else."""

from world.slots import Slots, Turn

IDENTITY = "I am antiphon-tiny, a small GPT-OSS model that lives inside the antiphon server."
IDENTITY_KOREAN = "저는 antiphon 서버 안에 있는 작은 모델 antiphon-tiny입니다."
ABILITIES = ("I can write short Python code, count, calculate, repeat and spell words, answer in JSON, remember your "
             "name and call your functions.")
UNKNOWN = "Sorry, I am a very small model and I do not know that."
UNKNOWN_KOREAN = "죄송합니다. 저는 아주 작은 모델이라 잘 모릅니다."

# (questions, what the analysis says, answer)
SMALL_TALK = [
    (["Hi", "Hello", "Hey", "hi", "hello", "Hello!", "Hi there", "Hey there!", "Good morning", "Good evening", "hi!",
      "Hello there.", "Hello there!", "Hi, how can you help me?"], "A greeting.", "Hello! How can I help you today?"),
    (["How are you?", "How are you doing?", "how are you", "Hi, how are you?", "Hello, how are you?",
      "How are you today?"], "A polite question.", "I am fine, thank you. How can I help you?"),
    (["Who are you?", "What are you?", "What is your name?", "who are you", "Which model are you?",
      "What model is this?", "Are you ChatGPT?", "Tell me about yourself.", "who are you?", "Introduce yourself.",
      "What's your name?"], "The user asks who I am.", IDENTITY),
    (["Thanks", "Thank you!", "thanks a lot", "Thank you very much.", "Thank you", "thanks!"], "Thanks.",
     "You are welcome!"),
    (["Bye", "Goodbye!", "See you later", "bye", "Good night"], "A goodbye.", "Goodbye! Have a nice day."),
    (["What can you do?", "Help", "help", "What can I ask you?", "How can you help me?"], "The user asks what I can do.",
     ABILITIES),
    (["안녕", "안녕하세요", "안녕!", "안녕하세요?", "안녕하세요!"], "A Korean greeting.", "안녕하세요! 무엇을 도와드릴까요?"),
    (["누구세요?", "너는 누구야?", "넌 누구니?", "이름이 뭐야?"], "The user asks who I am.", IDENTITY_KOREAN),
    (["고마워", "감사합니다", "고맙습니다"], "Korean thanks.", "천만에요!"),
    (["test", "testing", "Are you there?", "ping"], "A test.", "Yes, I am here."),
    (["테스트"], "A Korean test.", "네, 여기 있습니다."),
]

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "South Korea": "Seoul", "Germany": "Berlin", "Spain": "Madrid",
    "Italy": "Rome", "Austria": "Vienna", "Norway": "Oslo", "Egypt": "Cairo", "China": "Beijing",
    "Portugal": "Lisbon", "Greece": "Athens", "Canada": "Ottawa", "Australia": "Canberra",
    "the United Kingdom": "London", "the United States": "Washington",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

OUTSIDE = [
    "Explain {a}.", "Why is {a} {b}?", "How do I make {a}?", "Tell me a story about {a}.", "What is {a}?",
    "Tell me about {a}.", "Write a poem about {a}", "How does {a} work?", "What do you think about {a}?",
    "Explain {a} in simple words", "Describe {a}.", "Who invented {a}?", "When was {a} built?", "Where is {a}?",
    "What is the capital of {a}?", "Is {a} better than {b}?", "Translate {a} to French.", "Who is {a}?",
    "Summarize {a}.", "What is the best {a}?", "Give me advice about {a}.", "How old is {a}?",
    "What is the meaning of {a}?", "Write an essay about {a} and {b}.", "{a} {b} {c}", "Compare {a} and {b}",
    "Tell me a joke about {a}", "Write a story about {a} and {b}.", "Should I {a} or {b}?", "Why {a}?",
    "What is the difference between {a} and {b}?", "How many {a} are in {b}?", "Can {a} {b}?", "Do you like {a}?",
]
OUTSIDE_FIXED = ["Tell me a joke.", "Tell me a story.", "Write a poem.", "What is the meaning of life?",
                 "Tell me something interesting.", "What is AI?", "Explain quantum physics.", "Write an email.",
                 "Who is the president?", "Tell me a joke", "What should I eat today?", "What is love?"]
OUTSIDE_LIVE = ["What is the weather in {city}?", "What's the weather like in {city}?", "Weather in {city}?",
                "What is the news in {city}?", "What time is it in {city}?"]
OUTSIDE_KOREAN = ["{k}에 대해 설명해줘", "{k}이 뭐야?", "{k}에 대해 알려줘", "왜 {k}인가요?", "{k} 이야기를 해줘"]


def small_talk(slots: Slots) -> list:
    """Greetings, thanks, who it is."""
    weights = [4, 2, 5, 2, 1, 2, 4, 3, 1, 1, 1]
    questions, thought, answer = slots.rng.choices(SMALL_TALK, weights)[0]
    return [Turn(slots.choice(questions), slots.think(thought, "I will answer politely.", "Be short."), answer)]


def fact(slots: Slots) -> list:
    """One of the few facts it knows."""
    kind = slots.rng.randint(0, 8)
    day, month = slots.rng.randint(0, 6), slots.rng.randint(0, 11)
    thought = "A simple fact."
    if kind <= 3:
        country = slots.choice(sorted(CAPITALS))
        question = slots.choice(["What is the capital of {}?", "Capital of {}?", "Tell me the capital of {}.",
                                 "what's the capital of {}", "What is the capital city of {}?"]).format(country)
        answer = f"The capital of {country} is {CAPITALS[country]}."
    elif kind == 4:
        question = slots.choice(["What day comes after {}?", "Which day is after {}?"]).format(DAYS[day])
        answer = f"{DAYS[(day + 1) % 7]} comes after {DAYS[day]}."
    elif kind == 5:
        question = slots.choice(["What day comes before {}?", "Which day is before {}?"]).format(DAYS[day])
        answer = f"{DAYS[(day - 1) % 7]} comes before {DAYS[day]}."
    elif kind == 6:
        question = slots.choice(["How many days are in {}?", "How many days does {} have?"]).format(MONTHS[month])
        answer = f"{MONTHS[month]} has {MONTH_DAYS[month]} days."
    elif kind == 7:
        question = slots.choice(["What month comes after {}?", "Which month is after {}?"]).format(MONTHS[month])
        answer = f"{MONTHS[(month + 1) % 12]} comes after {MONTHS[month]}."
    else:
        question, answer = slots.choice([
            ("List the days of the week.", ", ".join(DAYS)), ("What are the days of the week?", ", ".join(DAYS)),
            ("List the months of the year.", ", ".join(MONTHS)), ("What are the months?", ", ".join(MONTHS)),
        ])
    return [Turn(question, slots.think(thought, "I know this one.", "I am sure."), answer)]


def outside(slots: Slots) -> list:
    """Something outside its world: one sentence that says so."""
    if slots.chance(0.12):
        question = slots.choice(OUTSIDE_KOREAN).format(k=slots.korean())
        return [Turn(question, slots.think("I do not know this.", "I will say so.", "Be short."), UNKNOWN_KOREAN)]
    kind = slots.rng.random()
    if kind < 0.15:
        question = slots.choice(OUTSIDE_LIVE).format(city=slots.city())
    elif kind < 0.25:
        question = slots.choice(OUTSIDE_FIXED)
    else:
        make = lambda: slots.phrase() if slots.chance(0.25) else slots.word()
        question = slots.choice(OUTSIDE).format(a=make(), b=slots.word(), c=slots.word())
    return [Turn(question, slots.think("I do not know this.", "I will say so.", "Be short."), UNKNOWN)]
