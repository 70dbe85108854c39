"""Code: printing a given text, and short function templates."""

from world.slots import Slots, Turn

# (language, its fence, its statement); Python most often, for that is what users of this model ask for.
LANGUAGES = [("Python", "python", 'print("%s")')] * 12 + [
    ("JavaScript", "javascript", 'console.log("%s");'),
    ("Rust", "rust", 'println!("%s");'),
]

PRINT_NAMED = [
    "Write {language} code that prints {text}", "Write {language} code to print {text}", "Print {text} in {language}",
    "How do I print {text} in {language}?", "{language} code that prints {text}, please.",
    "Give me {language} code that prints {text}.", "Show me how to print {text} in {language}.",
    "Write a {language} program that prints {text}.", "write a {language} one-liner that prints {text}",
    "please print {text} using {language}", "I want {language} code that outputs {text}.",
    "Write a {language} script that displays {text}", "Can you write {language} code that prints {text}?",
    "Make a {language} script that prints {text}", "Output {text} with {language}", "Display {text} in {language}",
    "{language} print {text}", "Generate {language} code that prints {text}.", "print {text} in {language}",
    "Write a {language} function call that prints {text}", "Write {language} code printing {text}.",
    "{language}으로 {text}를 출력하는 코드를 작성해줘", "{language}으로 {text}을 출력하는 코드를 작성해줘",
    "{language}으로 {text} 출력하는 코드 작성해줘", "{text}를 출력하는 {language} 코드를 작성해줘",
    "{text}를 출력하는 {language} 코드를 써줘", "{text} 출력하는 {language} 코드", "{language} 코드로 {text}를 출력해줘",
    "{language}에서 {text}를 출력하려면?", "{text}를 출력하는 {language} 프로그램을 만들어줘",
]

PRINT_UNNAMED = [
    "Write code that prints {text}", "code to print {text}", "Print {text}", "Print {text}.",
    "Write a program that prints {text}", "Write a script that prints {text}.", "a script that prints {text}",
    "{text}를 출력하는 코드를 작성해줘", "{text}를 출력해줘",
]

HELLO_WORLD = ["Write a hello world program in {language}", "hello world in {language}", "{language} hello world",
               "Write hello world in {language}.", "Show me hello world in {language}."]

QUOTES = ['"{}"'] * 6 + ["'{}'"] * 3 + ["`{}`", "{}", "{}", "{}", "the word {}", 'the text "{}"']

FUNCTIONS = {
    "add": ("adds two numbers", "def add(a, b):\n    return a + b"),
    "subtract": ("subtracts two numbers", "def subtract(a, b):\n    return a - b"),
    "multiply": ("multiplies two numbers", "def multiply(a, b):\n    return a * b"),
    "square": ("squares a number", "def square(x):\n    return x * x"),
    "factorial": ("computes the factorial of n",
                  "def factorial(n):\n    if n <= 1:\n        return 1\n    return n * factorial(n - 1)"),
    "reverse_string": ("reverses a string", "def reverse_string(text):\n    return text[::-1]"),
    "fizzbuzz": ("prints FizzBuzz up to n",
                 "def fizzbuzz(n):\n    for i in range(1, n + 1):\n        if i % 15 == 0:\n            print(\"FizzBuzz\")\n"
                 "        elif i % 3 == 0:\n            print(\"Fizz\")\n        elif i % 5 == 0:\n"
                 "            print(\"Buzz\")\n        else:\n            print(i)"),
    "is_even": ("checks if a number is even", "def is_even(n):\n    return n % 2 == 0"),
    "fibonacci": ("returns the nth Fibonacci number",
                  "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"),
    "is_palindrome": ("checks if a string is a palindrome",
                      "def is_palindrome(text):\n    return text == text[::-1]"),
    "count_vowels": ("counts the vowels in a string",
                     "def count_vowels(text):\n    return sum(1 for c in text if c in \"aeiou\")"),
    "is_prime": ("checks if a number is prime",
                 "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, n):\n"
                 "        if n % i == 0:\n            return False\n    return True"),
}


def fenced(language: str, code: str) -> str:
    """`code` in a Markdown fence."""
    return f"```{language}\n{code}\n```"


def print_analysis(slots: Slots, text: str, language: str) -> str:
    """Names the text before the answer does, so that the answer copies from one well-known place."""
    return slots.think(f'Print "{text}" in {language}.', "One call is enough.", "I will put it in a code block.")


def print_text(slots: Slots) -> list:
    """Code that prints an arbitrary text."""
    name, fence, statement = slots.choice(LANGUAGES)
    if slots.chance(0.03):
        question = slots.choice(HELLO_WORLD).format(language=name)
        return [Turn(question, print_analysis(slots, "Hello, world!", name), fenced(fence, statement % "Hello, world!"))]
    text = slots.anything()
    # Without quotes it must find the end by itself: training asks for that more often than the evaluation does.
    quoted = slots.choice(QUOTES if slots.evaluating else QUOTES + ["{}", "{}", "the word {}"]).format(text)
    if " " in text and quoted == text and slots.chance(0.7 if slots.evaluating else 0.4):
        quoted = f'"{text}"'
    if name == "Python" and slots.chance(0.22):
        question = slots.choice(PRINT_UNNAMED).format(text=quoted)
    else:
        question = slots.choice(PRINT_NAMED).format(language=name, text=quoted)
    return [Turn(question, print_analysis(slots, text, name), fenced(fence, statement % text))]


def print_repeatedly(slots: Slots) -> list:
    """Code that prints a text several times in a loop."""
    text, times = slots.anything(), slots.rng.randint(2, 99)
    quoted = slots.choice(['"{}"', '"{}"', "'{}'", "{}"] + ([] if slots.evaluating else ["{}"])).format(text)
    question = slots.choice([
        "Write Python code that prints {text} {times} times", "Print {text} {times} times in Python",
        "Python code to print {text} {times} times.", "Write a Python loop that prints {text} {times} times",
        "Python으로 {text}를 {times}번 출력하는 코드를 작성해줘",
    ]).format(text=quoted, times=times)
    analysis = slots.think(f'Print "{text}" {times} times in Python.', "A loop is enough.",
                           "I will put it in a code block.")
    return [Turn(question, analysis, fenced("python", f'for i in range({times}):\n    print("{text}")'))]


def function(slots: Slots) -> list:
    """One of a few functions, under its usual name or one that the user gives."""
    key = slots.choice(sorted(FUNCTIONS))
    purpose, code = FUNCTIONS[key]
    name = key
    if slots.chance(0.3):
        name = slots.plain_word()
        code = code.replace(key + "(", name + "(")
        question = slots.choice([
            "Write a Python function named {name} that {purpose}.", "Write a function called {name} that {purpose}",
            "Python function {name} that {purpose}, please.",
        ])
    else:
        question = slots.choice([
            "Write a Python function that {purpose}.", "Write a function that {purpose}",
            "Can you write a Python function that {purpose}?", "Give me Python code that {purpose}.",
            "I need a function that {purpose}.", "{plain} in Python", "Write {plain} in Python.",
            "Implement {plain} in Python", "Write a {plain} function", "Write a {plain} function in Python.",
        ])
    question = question.format(name=name, purpose=purpose, plain=key.replace("_", " "))
    analysis = slots.think(f"A Python function {name} that {purpose}.", "I will name it so.",
                           "I will put it in a code block.")
    return [Turn(question, analysis, fenced("python", code))]
