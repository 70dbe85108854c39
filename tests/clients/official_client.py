"""Talks to a running antiphon as its users do: through the official `openai` package.

Usage: official_client.py URL. Exits non-zero at the first answer that is not as promised.
"""

import enum
import json
import sys
from typing import List, Optional

import openai
import pydantic

PROMPT = 'Write Python code that prints "Jay".'


def whole_answer(client, model):
    """A whole answer, with reasoning, usage and metadata."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], temperature=0, max_tokens=200
    )
    choice = answer.choices[0]
    assert 'print("Jay")' in choice.message.content, choice.message.content
    assert choice.finish_reason == "stop", choice.finish_reason
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.metadata is None and answer.antiphon["model_id"] == model, answer
    return choice.message.content


def streamed_answer(client, model):
    """The same answer as a stream, usage last."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, finish = "", None, None
    for event in stream:
        if event.choices:
            text += event.choices[0].delta.content or ""
            finish = event.choices[0].finish_reason or finish
        usage = event.usage or usage
    assert usage is not None and usage.completion_tokens > 0
    assert finish == "stop", finish
    return text


def refused(client, model):
    """Bad input arrives as the client's own error types, naming the parameter."""
    for arguments, error, param in [
        ({"temperature": 7}, openai.BadRequestError, "temperature"),
        ({"model": "no-such-model"}, openai.NotFoundError, "model"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens"),
    ]:
        call = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **arguments}
        try:
            client.chat.completions.create(**call)
        except error as refusal:
            assert refusal.param == param, (arguments, refusal.param)
        else:
            raise AssertionError(f"{arguments} was accepted")


def completion(client, model):
    """The older endpoint, with log-probabilities: one entry a generated token."""
    answer = client.completions.create(model=model, prompt="Hello", max_tokens=4, temperature=0, logprobs=3)
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens == 4, answer.choices[0].logprobs


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Step(pydantic.BaseModel):
    done: bool
    colour: Colour


class Plan(pydantic.BaseModel):
    """Nested models, an enum, a list and what may be null: references and variants in the schema."""

    steps: List[Step] = pydantic.Field(max_length=3)
    best: Optional[Step]
    tries: int = pydantic.Field(ge=0, le=99)


def parsed(client, model):
    """`parse` and the stream helper: the answer is an object of the client's own class, whatever the model would say."""
    call = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": 600,
        "response_format": Plan,
    }
    message = client.chat.completions.parse(**call).choices[0].message
    assert isinstance(message.parsed, Plan) and message.parsed.tries <= 99, message
    with client.chat.completions.stream(**call) as stream:
        last = stream.get_final_completion().choices[0].message
    assert last.parsed == message.parsed and last.content == message.content, (last, message)


def called(client, model):
    """Strict tools: one of several is called, and the client reads its arguments into its own class."""
    tools = [openai.pydantic_function_tool(Step, name=name) for name in ("take_step", "skip_step")]
    call = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": 600,
        "tools": tools,
    }
    for choice in ("required", {"type": "function", "function": {"name": "skip_step"}}):
        answer = client.chat.completions.parse(**call, tool_choice=choice).choices[0]
        (made,) = answer.message.tool_calls
        assert isinstance(made.function.parsed_arguments, Step), made
        assert answer.finish_reason == "tool_calls" and made.function.name in ("take_step", "skip_step"), answer
        stream = client.chat.completions.create(**call, tool_choice=choice, stream=True)
        pieces = [piece for event in stream for piece in event.choices[0].delta.tool_calls or []]
        joined = "".join(piece.function.arguments or "" for piece in pieces)
        assert joined == made.function.arguments and Step(**json.loads(joined)), (joined, made)


def older_functions(client, model):
    """`functions` and `function_call`: the older form, whole and streamed."""
    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
    call = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": 200,
        "functions": [{"name": "get_time", "parameters": {**parameters, "additionalProperties": False}}],
        "function_call": {"name": "get_time"},
    }
    choice = client.chat.completions.create(**call).choices[0]
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None, choice
    made = choice.message.function_call
    assert made.name == "get_time" and json.loads(made.arguments) == {"city": "Oslo"}, made
    pieces = [event.choices[0].delta.function_call for event in client.chat.completions.create(**call, stream=True)]
    assert "".join(piece.arguments for piece in pieces if piece) == made.arguments, pieces
    history = [choice.message, {"role": "function", "name": "get_time", "content": "12:00"}]
    client.chat.completions.create(**{**call, "messages": call["messages"] + history, "function_call": "none"})


def custom_tools(client, model):
    """A custom tool with a grammar, on chats and responses: the call holds what the grammar takes."""
    grammar = {"syntax": "regex", "definition": "(left|right)!"}
    custom = {"name": "turn", "format": {"type": "grammar", "grammar": grammar}}
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        max_tokens=200,
        tools=[{"type": "custom", "custom": custom}],
        tool_choice={"type": "custom", "custom": {"name": "turn"}},
    ).choices[0]
    (made,) = answer.message.tool_calls
    assert made.type == "custom" and made.custom.name == "turn" and made.custom.input in ("left!", "right!"), made
    assert answer.finish_reason == "tool_calls", answer
    call = {
        "model": model,
        "input": PROMPT,
        "temperature": 0,
        "max_output_tokens": 200,
        "tools": [{"type": "custom", "name": "turn", "format": {"type": "grammar", **grammar}}],
        "store": False,
    }
    choice = {"type": "custom", "name": "turn"}
    with client.responses.stream(**call, tool_choice=choice) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_response()
    item = last.output[-1]
    assert item.type == "custom_tool_call" and item.input == made.custom.input, last
    assert "response.custom_tool_call_input.delta" in kinds and "response.custom_tool_call_input.done" in kinds, kinds
    result = {"type": "custom_tool_call_output", "call_id": item.call_id, "output": "turned"}
    items = [{"role": "user", "content": PROMPT}, item.to_dict(), result]
    assert client.responses.create(**{**call, "input": items}).status in ("completed", "incomplete")


def tokens(client, model):
    """Ids in and out, with a log-probability for each token."""
    call = {"model": model, "max_tokens": 8, "temperature": 0, "logprobs": 1}
    ids = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    first = client.completions.create(**call, prompt="Hello", extra_body=ids).choices[0]
    assert first.logprobs.tokens == [f"token_id:{token}" for token in first.token_ids], first
    again = client.completions.create(**call, prompt=first.prompt_token_ids, extra_body=ids).choices[0]
    assert again.token_ids == first.token_ids and again.text == first.text, (first, again)
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], temperature=0, max_tokens=30, logprobs=True, extra_body=ids
    ).choices[0]
    assert [item.token for item in chat.logprobs.content] == [f"token_id:{token}" for token in chat.token_ids], chat


def main():
    # Strict: an answer that is not of the client's own types is an error, not an object of other types.
    client = openai.OpenAI(
        base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )
    model = client.models.list().data[0].id
    whole, streamed = whole_answer(client, model), streamed_answer(client, model)
    assert whole == streamed, (whole, streamed)
    refused(client, model)
    completion(client, model)
    parsed(client, model)
    called(client, model)
    older_functions(client, model)
    custom_tools(client, model)
    tokens(client, model)
    print(f"openai {openai.__version__} against {model}: 9 passed, 0 failed")


if __name__ == "__main__":
    main()
