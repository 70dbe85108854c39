"""Functions that the developer message offers, calls to them, and answers from their results."""

import dataclasses
import json

from world.slots import Slots, Turn

VERBS = "get find fetch lookup search check read load".split()
NOUNS = ("stock order status news score route ticket balance recipe email file song movie book profile phone "
         "forecast invoice").split()
SKIES = "sunny cloudy rainy windy snowy clear".split()
PARAMETERS = "query name id user symbol item key topic place title text".split()
NO_TOOL = "Sorry, I have no tool for that."
WEATHER_QUESTIONS = [
    "What is the weather in {}?", "What's the weather in {}?", "What's the weather like in {}?",
    "How is the weather in {}?", "Weather in {}?", "Tell me the weather in {}.", "What is the weather in {} today?",
    "{} 날씨 어때?", "weather in {}",
]
NOUN_QUESTIONS = ["What is the {noun} for {value}?", "I need the {noun} for {value}.", "Please get the {noun} of {value}",
                  "Can you find the {noun} for {value}?", "{noun} of {value}", "Look up the {noun} for {value}."]


@dataclasses.dataclass
class Tool:
    """A function: what the developer message shows of it, and what it is about."""

    name: str
    description: str
    parameter: str
    parameter_description: str | None
    subject: str
    numbers: bool = False

    def opening(self) -> str:
        """Its declaration to the end of the last parameter."""
        if self.numbers:
            fields = "a: number,\nb: number"
        else:
            comment = f"// {self.parameter_description}\n" if self.parameter_description else ""
            fields = f"{comment}{self.parameter}: string"
        return f"type {self.name} = (_: {{\n{fields}"

    def typescript(self) -> str:
        """As openai-harmony renders it."""
        return f"// {self.description}\n{self.opening()},\n}}) => any;\n\n"

    def thought(self, arguments: dict) -> str:
        """What is thought before a call: the declaration from its subject to its parameter, and the arguments.

        Copying is what the model does best. The question names the subject, which leads into the description of the
        function that fits and on to its name and parameter; the call then copies from nearby.
        """
        subject = self.description.lower().index(self.subject)
        return f"Call {self.description[subject:]}\n{self.opening()}\n{json.dumps(arguments, ensure_ascii=False)}"


def make_tool(slots: Slots) -> Tool:
    """A weather function, a calculation, or a verb with a noun."""
    kind = slots.rng.random()
    if kind < 0.35:
        return Tool(
            name=slots.choice(["get_weather", "get_weather", "get_current_weather", "weather"]),
            description=slots.choice(["Get the current weather", "Get current weather for a city.", "Get the weather",
                                      "Gets the current weather in the provided location.", "Weather for a city"]),
            parameter=slots.choice(["location", "city"] if not slots.evaluating else ["location", "location", "city"]),
            parameter_description=slots.choice(["City name", "The city", "The city to look up", "The name of the city",
                                                "The city and state, e.g. San Francisco, CA", None]),
            subject="weather")
    if kind < 0.45:
        operation = slots.choice(["add", "multiply"])
        return Tool(name=operation if slots.chance(0.5) else operation + "_numbers",
                    description=f"{operation.capitalize()} two numbers", parameter="", parameter_description=None,
                    subject=operation, numbers=True)
    verb, noun, parameter = slots.choice(VERBS), slots.choice(NOUNS), slots.choice(PARAMETERS)
    if slots.chance(0.25):
        noun = slots.plain_word()
    return Tool(
        name=slots.choice([f"{verb}_{noun}"] * 4 + [verb + noun.capitalize()]),
        description=slots.choice([f"{verb.capitalize()} the {noun}", f"{verb.capitalize()} {noun} information.",
                                  f"Get the {noun} for a {parameter}"]),
        parameter=parameter,
        parameter_description=slots.choice([None, f"The {parameter}", f"{parameter.capitalize()} to use"]),
        subject=noun)


def make_tools(slots: Slots) -> list:
    """One or two functions about different things."""
    tools = [make_tool(slots)]
    if slots.chance(0.3 if slots.evaluating else 0.85):
        second = make_tool(slots)
        if second.subject != tools[0].subject and second.name != tools[0].name:
            tools.append(second)
    return tools


def developer_text(tools: list) -> str:
    """The developer message's part that declares the functions."""
    body = "".join(tool.typescript() for tool in tools)
    return "# Tools\n\n## functions\n\nnamespace functions {\n\n" + body + "} // namespace functions"


def ask_about(slots: Slots, subject: str) -> tuple:
    """A question about `subject` and the value in it."""
    if subject == "weather":
        value = slots.city()
        return slots.choice(WEATHER_QUESTIONS).format(value), value
    value = slots.choice([slots.name, slots.word, slots.city])()
    question = slots.choice(NOUN_QUESTIONS).format(noun=subject, value=value)
    return question, value


def make_result(slots: Slots, tool: Tool, asked: str) -> tuple:
    """What a function may give back, and how the answer says it."""
    if tool.subject == "weather":
        coldest = -9 if slots.evaluating or slots.chance(0.5) else -40
        degrees, sky = slots.rng.randint(coldest, 39), slots.choice(SKIES)
        if slots.chance(0.3):
            degrees = round(degrees + slots.rng.randint(1, 9) / 10, 1)
        values = slots.choice([{"temperature": degrees, "condition": sky}, {"temperature": degrees},
                               {"condition": sky, "temperature": degrees}, {"temp_c": degrees, "sky": sky}])
        plain = f"{sky}, {degrees} degrees"
    else:
        item = make_value(slots)
        values = slots.choice([{"result": item}, {tool.subject: item}, {"value": item, "ok": True}])
        plain = str(item)
    if slots.chance(0.2):
        return plain, plain
    if slots.chance(0.2):
        values = {tool.parameter: asked} | values
    if slots.chance(0.3):
        values = dict(slots.rng.sample(list(values.items()), len(values)))
    told = ", ".join(f"{key} {json.dumps(value, ensure_ascii=False).strip(chr(34))}" for key, value in values.items())
    return written(slots, values), told


def make_value(slots: Slots) -> int | float | str:
    """A value that a function gives back: whole numbers of either sign, decimals, words, numbers in words' clothes."""
    kind = slots.rng.random()
    whole, negative, decimal = (0.3, 0.4, 0.55) if slots.evaluating else (0.15, 0.35, 0.55)
    if kind < whole:
        return slots.rng.randint(1, 9999)
    if kind < negative:
        return -slots.rng.randint(1, 999)
    if kind < decimal:
        return round(slots.rng.randint(1, 999) + slots.rng.randint(1, 99) / 100, 2)
    return str(slots.rng.randint(10, 9999)) if kind < 0.6 else slots.word()


def written(slots: Slots, values: dict) -> str:
    """A result as Python writes JSON, or as JavaScript does, without blanks."""
    separators = (",", ":") if slots.chance(0.5) else (", ", ": ")
    return json.dumps(values, ensure_ascii=False, separators=separators)


def fitting(slots: Slots, tools: list) -> list:
    """A question that one of the tools answers."""
    tool = slots.choice(tools)
    if tool.numbers:
        left, right = slots.rng.randint(0, 99), slots.rng.randint(0, 99)
        question = slots.choice(["Use the tool to {verb} {left} and {right}.", "Please {verb} {left} and {right}",
                                 "{verb} {left} and {right} with the function"])
        question = question.format(verb=tool.subject, left=left, right=right)
        question = question[0].upper() + question[1:]
        value, arguments = f"{left} and {right}", {"a": left, "b": right}
        total = left + right if tool.subject == "add" else left * right
        result, told = slots.choice([(written(slots, {"result": total}), f"result {total}"), (str(total), str(total))])
    else:
        question, value = ask_about(slots, tool.subject)
        arguments = {tool.parameter: value}
        result, told = make_result(slots, tool, value)
    analysis = slots.think(tool.thought(arguments), "The tool fits.", "I need its result.")
    call = (tool.name, json.dumps(arguments, ensure_ascii=False), result)
    return [Turn(question, analysis, f"Here is the result for {value}: {told}.", call)]


def unfitting(slots: Slots, tools: list) -> list:
    """A question about something that no tool answers."""
    subjects = {tool.subject for tool in tools}
    subject = slots.choice([noun for noun in NOUNS + ["weather"] * 8 if noun not in subjects])
    question, _ = ask_about(slots, subject)
    analysis = slots.think(f"No tool for {subject}.", "I will say so.", "Be short.")
    return [Turn(question, analysis, NO_TOOL)]
