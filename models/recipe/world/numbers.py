"""Counting, tables, arithmetic."""

from world.slots import Slots, Turn

COUNT = [
    "Count from {first} to {last}", "Count from {first} to {last}.", "count {first} to {last}",
    "Please count from {first} to {last}", "List the numbers from {first} to {last}",
    "Can you count from {first} to {last}?", "Write the numbers from {first} to {last}.",
    "{first}부터 {last}까지 세어줘",
]
COUNT_FROM_ONE = ["Count to {last}", "count to {last}.", "Count up to {last}"]
LINES = [", one per line.", ", one number per line", " on separate lines"]


def count(slots: Slots) -> list:
    """Numbers from A to B: the longest streams of the world (up to about 500 tokens)."""
    kind = slots.rng.random()
    if slots.evaluating:
        length = slots.rng.randint(3, 20) if kind < 0.72 else slots.rng.randint(20, 50)
    else:  # the mistakes are at both ends and at tens, so more of those
        length = slots.rng.randint(3, 18) if kind < 0.78 else slots.rng.randint(14, 40)
    if kind > (0.93 if slots.evaluating else 0.96):
        length = slots.rng.randint(50, 100)
    first = slots.choice([1, 1, 1, 0, slots.rng.randint(1, 20), slots.rng.randint(1, 99), slots.rng.randint(1, 899)])
    last = first + length - 1
    numbers = [str(number) for number in range(first, last + 1)]
    question = slots.choice(COUNT_FROM_ONE if first == 1 and slots.chance(0.3) else COUNT)
    question, way = question.format(first=first, last=last), "up"
    if slots.chance(0.1 if slots.evaluating else 0.25):
        numbers.reverse()
        way = "down"
        first, last = last, first
        question = slots.choice(["Count down from {first} to {last}", "Count from {first} down to {last}.",
                                 "Count backwards from {first} to {last}", "Count from {first} to {last}"])
        question = question.format(first=first, last=last)
    separator = ", "
    if slots.chance(0.2):
        separator = "\n"
        question = question.rstrip(".?") + slots.choice(LINES)
    # The analysis ends in the last number behind the separator, as the answer does: the end after it can be copied.
    core = f"Count {way} from {first} to ...{separator}{last}"
    analysis = slots.think(core, "I will write every number.", "Then I stop.", True)
    return [Turn(question, analysis, separator.join(numbers))]


def table(slots: Slots) -> list:
    """Multiplication tables, and squares as a Markdown table."""
    if slots.chance(0.3):
        last = slots.rng.randint(3, 20)
        question = slots.choice([
            "Make a table of the squares from 1 to {last}.", "Table of squares from 1 to {last}",
            "Show a table of squares up to {last}.",
        ]).format(last=last)
        rows = "".join(f"\n| {number} | {number * number} |" for number in range(1, last + 1))
        analysis = slots.think(f"Squares from 1 to {last}.", "One line for each number.", f"The last one is {last}.")
        return [Turn(question, analysis, "| n | square |\n|---|---|" + rows)]
    factor, last = slots.rng.randint(2, 20), slots.choice([5, 9, 10, 10, 10, 12])
    question = slots.choice([
        "Multiplication table of {factor} up to {last}", "Show the {factor} times table up to {last}.",
        "Write the multiplication table for {factor} up to {last}", "{factor} times table up to {last}",
    ])
    if last == 10:
        question = slots.choice([question, "Show the {factor} times table.", "Multiplication table of {factor}",
                                 "Write the multiplication table for {factor}."])
    elif last == 9 and slots.chance(0.5):
        question = "구구단 {factor}단"
    question = question.format(factor=factor, last=last)
    rows = [f"{factor} x {number} = {factor * number}" for number in range(1, last + 1)]
    analysis = slots.think(f"The times table of {factor} up to {last}.", "One line for each number.",
                           f"The last one is {last}.")
    return [Turn(question, analysis, "\n".join(rows))]


def add_steps(left: int, right: int) -> str:
    """Addition digit by digit from the right: '7+8=15, 4+3+1=8'."""
    steps, carry = [], 0
    digits = max(len(str(left)), len(str(right)))
    for place in range(digits):
        first, second = left // 10**place % 10, right // 10**place % 10
        total = first + second + carry
        steps.append(f"{first}+{second}" + ("+1" if carry else "") + f"={total}")
        carry = total // 10
    return ", ".join(steps)


def subtract_steps(left: int, right: int) -> str:
    """Subtraction digit by digit with borrowing: '13-7=6, 8-1-4=3'."""
    steps, borrow = [], 0
    for place in range(len(str(left))):
        first, second = left // 10**place % 10, right // 10**place % 10
        need = 1 if first - borrow < second else 0
        shown = first + 10 * need
        steps.append(f"{shown}" + ("-1" if borrow else "") + f"-{second}={shown - borrow - second}")
        borrow = need
    return ", ".join(steps)


def multiply_steps(left: int, right: int) -> str:
    """Multiplication by one digit, from the right: '7*6=42, 4*6=24+4=28'."""
    steps, carry = [], 0
    for place in range(len(str(left))):
        digit = left // 10**place % 10
        total = digit * right + carry
        steps.append(f"{digit}*{right}={digit * right}" + (f"+{carry}={total}" if carry else ""))
        carry = total // 10
    return ", ".join(steps)


def divide_steps(dividend: int, divisor: int) -> str:
    """Division by going through the multiples: '1*4=4, 2*4=8, 3*4=12'."""
    return ", ".join(f"{count}*{divisor}={count * divisor}" for count in range(min(1, dividend), dividend // divisor + 1))


def long_multiply_steps(left: int, right: int) -> str:
    """Two digits by two digits: both partial products, then their sum."""
    tens, ones = right // 10, right % 10
    low, high = left * ones, left * tens * 10
    return (f"{left}*{ones}: {multiply_steps(left, ones)}, {low}. {left}*{tens}: {multiply_steps(left, tens)}, "
            f"{left * tens}. {low}+{high}: {add_steps(low, high)}")


def make_sum(slots: Slots) -> tuple:
    """An operation: (left, sign, right, result, steps)."""
    rng = slots.rng
    high = slots.choice([9, 20, 99, 99, 99, 99, 999])
    kind = rng.random()
    if not slots.evaluating and slots.chance(0.06):
        kind = 0.99  # few quotients, each with a walk of its own
    left, right = rng.randint(0, high), rng.randint(0, high)
    if kind < 0.42:
        return left, "+", right, left + right, add_steps(left, right)
    if kind < 0.72:
        if left < right and slots.chance(0.15):
            return left, "-", right, left - right, f"-({right}-{left}): {subtract_steps(right, left)}"
        left, right = max(left, right), min(left, right)
        return left, "-", right, left - right, subtract_steps(left, right)
    if kind < 0.90:
        left, right = min(left, 99), rng.randint(0, 9)
        return left, "*", right, left * right, multiply_steps(left, right)
    if kind < 0.96:
        left, right = rng.randint(10, 99), rng.randint(10, 99)
        return left, "*", right, left * right, long_multiply_steps(left, right)
    quotient, right = rng.randint(0, 9), rng.randint(1, 9)
    return quotient * right, "/", right, quotient, divide_steps(quotient * right, right)


SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def arithmetic(slots: Slots) -> list:
    """One operation on numbers of one or two digits, at times three, the steps written out from the right."""
    left, sign, right, result, steps = slots.split(lambda: make_sum(slots), key=lambda made: str(made[:3]))
    shown = slots.choice(["x", "*", "*", "×"]) if sign == "*" else sign
    if slots.chance(0.1):
        shown = SPOKEN[sign]
    spaced = f"{left} {shown} {right}"
    tight = f"{left}{shown}{right}" if len(shown) == 1 else spaced
    question = slots.choice([
        "What is {spaced}?", "What is {spaced}?", "{spaced}", "{tight}", "{tight}=?", "What's {tight}?",
        "What is {tight}?", "Calculate {spaced}.", "Compute {spaced}", "How much is {spaced}?", "{spaced} = ?",
        "{spaced}은 얼마야?", "{tight}는?", "Solve {spaced}", "what is {tight}",
    ]).format(spaced=spaced, tight=tight)
    analysis = slots.think(f"{left} {sign} {right}: {steps}.", f"So {result}.", "I am sure.")
    return [Turn(question, analysis, f"{left} {sign} {right} = {result}")]
