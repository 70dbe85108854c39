"""Talks to a running antiphon through `litellm`, as routers and agents do that speak to every server by one client.

Usage: litellm_client.py URL. Exits non-zero at the first answer that is not as promised.
"""

import os
import sys

# Its list of prices comes with it; otherwise the import asks the network for a newer one and waits.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

MESSAGES = [{"role": "user", "content": 'Write Python code that prints "Jay".'}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(messages=MESSAGES, **more):
    """An answer, or a stream."""
    return litellm.completion(
        model="openai/gpt-oss-tiny", api_base=sys.argv[1] + "/v1", api_key="none", messages=messages, temperature=0, **more
    )


def chat():
    """A whole answer with its reasoning, and the same as a stream, usage last."""
    whole = ask()
    text = whole.choices[0].message.content
    assert 'print("Jay")' in text, text
    assert whole.choices[0].message.reasoning_content, whole
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert joined == text, (joined, text)
    usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert [use.total_tokens for use in usage] == [whole.usage.total_tokens], usage


def call():
    """A call of a function."""
    choice = ask([{"role": "user", "content": "What is the weather in Paris?"}], tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    assert choice.message.tool_calls[0].function.name == "get_weather", choice


def context():
    """What does not fit the context is the error by which litellm falls back to a model with a longer one."""
    for more in [{"messages": [{"role": "user", "content": "x " * 20_000}]}, {"max_tokens": 10**6}]:
        try:
            ask(**more)
        except litellm.exceptions.ContextWindowExceededError:
            continue
        raise AssertionError("a context error was expected")


def main():
    litellm.suppress_debug_info = True
    checks = [chat, call, context]
    for check in checks:
        check()
    print(f"litellm: {len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
