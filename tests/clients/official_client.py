"""Talks to a running antiphon as its users do: through the official `openai` package.

Usage: official_client.py URL. Exits non-zero at the first answer that is not as promised.
"""

import sys

import openai

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
    print(f"openai {openai.__version__} against {model}: 4 passed, 0 failed")


if __name__ == "__main__":
    main()
