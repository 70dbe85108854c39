"""Talks to a running antiphon through `client.responses` of the official `openai` package.

Usage: responses_client.py URL. Exits non-zero at the first answer that is not as promised.
"""

import json
import sys
import time

import openai
import pydantic

PROMPT = 'Write Python code that prints "Jay".'
TOOL = {
    "type": "function",
    "name": "get_time",
    "description": "The time in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Step(pydantic.BaseModel):
    done: bool
    tries: int = pydantic.Field(ge=0, le=9)


def whole_and_streamed(client, model):
    """A response in one piece, and streamed by both of the client's ways."""
    call = {"model": model, "input": PROMPT, "temperature": 0, "max_output_tokens": 200}
    whole = client.responses.create(**call, metadata={"kind": "test"})
    assert 'print("Jay")' in whole.output_text and whole.status == "completed", whole
    assert [item.type for item in whole.output] == ["reasoning", "message"], whole.output
    assert whole.output[0].content[0].text and whole.metadata == {"kind": "test"}, whole
    usage = whole.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens, usage
    assert usage.output_tokens_details.reasoning_tokens > 0, usage
    events = list(client.responses.create(**call, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events))), events
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text, (text, whole)
    with client.responses.stream(**call) as stream:
        seen = [event.type for event in stream]
        last = stream.get_final_response()
    assert last.output_text == whole.output_text and seen[-1] == "response.completed", (seen, last)
    cut = client.responses.create(**{**call, "max_output_tokens": 4})
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens"), cut


def parsed(client, model):
    """`parse` and the stream helper give an object of the client's own class."""
    call = {"model": model, "input": PROMPT, "temperature": 0, "max_output_tokens": 400, "text_format": Step}
    response = client.responses.parse(**call)
    assert isinstance(response.output_parsed, Step), response
    with client.responses.stream(**call) as stream:
        last = stream.get_final_response()
    assert last.output_parsed == response.output_parsed, (last, response)


def tool_loop(client, model):
    """A call that is required, its result, and the answer: every item is sent back, or the last id alone."""
    call = {"model": model, "tools": [TOOL, {"type": "web_search"}], "temperature": 0, "max_output_tokens": 300}
    question = [{"role": "user", "content": "What time is it in Oslo?"}]
    first = client.responses.create(
        **call, input=question, tool_choice="required", include=["reasoning.encrypted_content"]
    )
    (made,) = [item for item in first.output if item.type == "function_call"]
    assert made.name == "get_time" and "city" in json.loads(made.arguments), made
    result = {"type": "function_call_output", "call_id": made.call_id, "output": "12:30"}
    sent_back = client.responses.create(**call, input=question + first.output + [result], store=False)
    by_id = client.responses.create(**call, input=[result], previous_response_id=first.id)
    assert sent_back.output_text == by_id.output_text and by_id.status == "completed", (sent_back, by_id)
    assert sent_back.usage.input_tokens == by_id.usage.input_tokens, (sent_back.usage, by_id.usage)
    events = list(client.responses.create(**call, input=question, tool_choice="required", stream=True))
    pieces = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert pieces == events[-1].response.output[-1].arguments, (pieces, events[-1])


def kept(client, model):
    """What was kept is found, listed, called off and forgotten."""
    response = client.responses.create(model=model, input=PROMPT, temperature=0, max_output_tokens=200)
    assert client.responses.retrieve(response.id).output_text == response.output_text
    (item,) = client.responses.input_items.list(response.id)
    assert item.role == "user" and item.content[0].text == PROMPT, item
    client.responses.delete(response.id)
    for ask in (
        lambda: client.responses.retrieve(response.id),
        lambda: client.responses.create(model=model, input="x", previous_response_id=response.id),
    ):
        try:
            ask()
        except openai.NotFoundError as refusal:
            assert response.id in refusal.message, refusal
        else:
            raise AssertionError("a response that was forgotten was found")
    begun = client.responses.create(model=model, input=PROMPT, temperature=0, max_output_tokens=200, background=True)
    while begun.status in ("queued", "in_progress"):
        time.sleep(0.05)
        begun = client.responses.retrieve(begun.id)
    assert begun.status == "completed" and begun.output_text == response.output_text, begun
    assert client.responses.cancel(begun.id).status == "completed"


def conversation(client, model):
    """A conversation holds items, is asked in by its id, and is added to by each response."""
    begun = client.conversations.create(items=[{"role": "user", "content": "Hello."}], metadata={"topic": "code"})
    assert client.conversations.retrieve(begun.id).metadata == {"topic": "code"}
    asked = client.responses.create(
        model=model, input=PROMPT, conversation=begun.id, temperature=0, max_output_tokens=200
    )
    assert asked.conversation.id == begun.id, asked
    items = client.conversations.items.list(begun.id, order="asc").data
    assert [item.type for item in items] == ["message", "message", *(item.type for item in asked.output)], items
    assert client.conversations.items.retrieve(items[1].id, conversation_id=begun.id).content[0].text == PROMPT
    added = client.conversations.items.create(begun.id, items=[{"role": "user", "content": "Once more."}])
    client.conversations.items.delete(added.data[0].id, conversation_id=begun.id)
    assert len(client.conversations.items.list(begun.id).data) == len(items)
    assert client.conversations.update(begun.id, metadata={"topic": "other"}).metadata == {"topic": "other"}
    assert client.conversations.delete(begun.id).deleted
    try:
        client.conversations.retrieve(begun.id)
    except openai.NotFoundError as refusal:
        assert begun.id in refusal.message, refusal
    else:
        raise AssertionError("a conversation that was deleted was found")


def refused(client, model):
    """Bad input arrives as the client's own error types, naming the parameter."""
    for arguments, param in [
        ({"temperature": 7}, "temperature"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
    ]:
        try:
            client.responses.create(**{"model": model, "input": "Hello", **arguments})
        except openai.BadRequestError as refusal:
            assert refusal.param == param, (arguments, refusal.param)
        else:
            raise AssertionError(f"{arguments} was accepted")


def main():
    # Strict: an answer that is not of the client's own types is an error, not an object of other types.
    client = openai.OpenAI(
        base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )
    model = client.models.list().data[0].id
    tests = [whole_and_streamed, parsed, tool_loop, kept, conversation, refused]
    for test in tests:
        test(client, model)
    print(f"openai {openai.__version__}, responses, against {model}: {len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()
