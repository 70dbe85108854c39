"""Talks to a running antiphon through the official `anthropic` package.

Usage: anthropic_client.py URL. Exits non-zero at the first answer that is not as promised.
"""

import sys

import anthropic

PROMPT = 'Write Python code that prints "Jay".'
WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather",
    "input_schema": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "City name"}},
        "required": ["location"],
    },
}
TIME = {
    "name": "get_time",
    "description": "The time in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def ask(model, content=PROMPT, **more):
    """The arguments of a call."""
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    # The newer packages have no parameter for the temperature, and send what else they are given.
    return {"model": model, "max_tokens": 300, "messages": messages, "extra_body": {"temperature": 0}, **more}


def texts(message):
    """The text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


def whole_and_streamed(client, model):
    """A message in one piece, and streamed by both of the client's ways."""
    whole = client.messages.create(**ask(model))
    assert 'print("Jay")' in whole.content[0].text and whole.stop_reason == "end_turn", whole
    assert [block.type for block in whole.content] == ["text"], "thinking was not asked for"
    assert whole._request_id == whole.id, (whole._request_id, whole)
    usage = whole.usage
    assert usage.output_tokens_details.thinking_tokens > 0 and usage.cache_creation_input_tokens == 0, usage
    again = client.messages.create(**ask(model)).usage
    total = usage.input_tokens + usage.cache_read_input_tokens
    assert again.cache_read_input_tokens > 0 and again.input_tokens + again.cache_read_input_tokens == total, again
    events = list(client.messages.create(**ask(model), stream=True))
    pieces = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert len(pieces) > 1 and "".join(pieces) == texts(whole), pieces
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop"), events
    with client.messages.stream(**ask(model)) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == texts(last) == texts(whole) and last.stop_reason == "end_turn", (text, last)
    assert last.usage == again, (last.usage, again)
    cut = client.messages.create(**ask(model, max_tokens=3))
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3, cut
    stopped = client.messages.create(**ask(model, stop_sequences=["Jay"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Jay"), stopped
    assert "Jay" not in texts(stopped), stopped


def thinking(client, model):
    """Thinking is shown if it is asked for, and signed; every block may be sent back."""
    for display in ("summarized", "omitted"):
        call = ask(model, thinking={"type": "enabled", "budget_tokens": 2000, "display": display})
        whole = client.messages.create(**call)
        thought, answer = whole.content
        assert (thought.type, answer.type) == ("thinking", "text") and thought.signature, whole
        assert bool(thought.thinking) == (display == "summarized"), thought
        with client.messages.stream(**call) as stream:
            kinds = {event.type for event in stream}
            last = stream.get_final_message()
        assert last.content[0].thinking == thought.thinking and last.content[0].signature, last
        assert {"signature", "text"} <= kinds and ("thinking" in kinds) == (display == "summarized"), kinds
        history = [*call["messages"], {"role": "assistant", "content": whole.content}, {"role": "user", "content": "Once more."}]
        assert client.messages.create(**{**call, "messages": history}).stop_reason == "end_turn"


def tool_loop(client, model):
    """The model calls, gets the result, and tells it."""
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    call = ask(model, question, tools=[WEATHER], thinking={"type": "adaptive"})
    first = client.messages.create(**call)
    used = first.content[-1]
    assert first.stop_reason == "tool_use" and (used.type, used.name) == ("tool_use", "get_weather"), first
    assert used.input == {"location": "Paris"}, used
    with client.messages.stream(**call) as stream:
        streamed = stream.get_final_message().content[-1]
    assert (streamed.name, streamed.input) == (used.name, used.input), (streamed, used)
    result = {"type": "tool_result", "tool_use_id": used.id, "content": '{"temperature": 12, "condition": "rainy"}'}
    history = [*question, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(**{**call, "messages": history})
    assert last.stop_reason == "end_turn" and "12" in texts(last) and "rainy" in texts(last), last
    counted = client.messages.count_tokens(model=model, messages=history, tools=[WEATHER], thinking={"type": "adaptive"})
    assert counted.input_tokens == last.usage.input_tokens + last.usage.cache_read_input_tokens, (counted, last.usage)


def forced(client, model):
    """What must be called is called, with input of its schema; an answer has the form that was asked for."""
    tools = [WEATHER, TIME]
    for choice, names in [
        ({"type": "tool", "name": "get_time"}, {"get_time"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"get_time", "get_weather"}),
    ]:
        made = client.messages.create(**ask(model, tools=tools, tool_choice=choice))
        (used,) = [block for block in made.content if block.type == "tool_use"]
        assert made.stop_reason == "tool_use" and used.name in names and len(used.input) == 1, made
    quiet = client.messages.create(**ask(model, tools=tools, tool_choice={"type": "none"}))
    assert all(block.type == "text" for block in quiet.content), quiet
    schema = {"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"], "additionalProperties": False}
    formed = client.messages.create(**ask(model, output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert texts(formed).replace(" ", "").replace("\n", "") in ('{"done":true}', '{"done":false}'), formed


def refused(client, model):
    """Bad input arrives as the client's own error types, naming the parameter."""
    image = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
    for arguments, error, kind, param in [
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", "max_tokens"),
        ({"model": "no-such-model"}, anthropic.NotFoundError, "not_found_error", "model"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages"),
        (
            {"messages": [{"role": "user", "content": [image]}]},
            anthropic.BadRequestError, "invalid_request_error", "messages[0].content[0].type",
        ),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "invalid_request_error", "tool_choice.type"),
        ({"messages": [{"role": "user", "content": "x " * 20_000}]}, anthropic.BadRequestError, "invalid_request_error", "messages"),
    ]:
        for ways in ({}, {"stream": True}):
            try:
                client.messages.create(**{**ask(model), **arguments, **ways})
            except error as refusal:
                told = refusal.body["error"]
                assert (refusal.type, told["type"], told["param"]) == (kind, kind, param), (arguments, refusal.body)
                assert refusal.request_id == refusal.body["request_id"], refusal.body
                assert param in told["message"] or "prompt is too long" in told["message"], told
            else:
                raise AssertionError(f"{arguments} was accepted")


def main():
    # Strict: an answer that is not of the client's own types is an error, not an object of other types.
    client = anthropic.Anthropic(
        base_url=sys.argv[1], api_key="none", max_retries=0, _strict_response_validation=True
    )
    model = "gpt-oss-tiny"
    tests = [whole_and_streamed, thinking, tool_loop, forced, refused]
    for test in tests:
        test(client, model)
    print(f"anthropic {anthropic.__version__} against {model}: {len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()
