"""Talks to a running antiphon through the OpenAI Agents SDK in its default mode, which is the Responses API.

Usage: agents_client.py URL. Exits non-zero at the first answer that is not as promised.
"""

import asyncio
import sys
from importlib.metadata import version

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)

ASKED = []


@function_tool
def get_time(city: str) -> str:
    """The time in a city."""
    ASKED.append(city)
    return "12:30"


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    ASKED.append(city)
    return "rain"


async def tool_loop(model):
    """A call is required; the SDK makes it, sends every item back, and the model answers."""
    settings = ModelSettings(tool_choice="required", temperature=0, max_tokens=300)
    for tools in ([get_time], [get_time, get_weather]):
        agent = Agent(name="Clock", instructions="Use the tools.", model=model, tools=tools, model_settings=settings)
        ASKED.clear()
        result = await Runner.run(agent, "What time is it in Oslo?", max_turns=4)
        assert ASKED and isinstance(result.final_output, str), (ASKED, result)
        streamed = Runner.run_streamed(agent, "What time is it in Oslo?", max_turns=4)
        kinds = {event.type async for event in streamed.stream_events()}
        assert "raw_response_event" in kinds and streamed.final_output == result.final_output, (kinds, streamed.final_output)


async def continued(model):
    """The next run continues the last one by its id."""
    agent = Agent(name="Coder", model=model, model_settings=ModelSettings(temperature=0, max_tokens=200, store=True))
    first = await Runner.run(agent, 'Write Python code that prints "Jay".')
    assert 'print("Jay")' in first.final_output, first.final_output
    second = await Runner.run(agent, "Once more.", previous_response_id=first.last_response_id)
    assert second.last_response_id and second.last_response_id != first.last_response_id, second


async def remembered(model, client):
    """A session of the SDK keeps its items in a conversation of the server's."""
    agent = Agent(name="Coder", model=model, model_settings=ModelSettings(temperature=0, max_tokens=200))
    session = OpenAIConversationsSession(openai_client=client)
    await Runner.run(agent, 'Write Python code that prints "Jay".', session=session)
    before = len(await session.get_items())
    await Runner.run(agent, "Once more.", session=session)
    assert 2 <= before < len(await session.get_items()), before
    await session.pop_item()
    await session.clear_session()


async def main():
    client = openai.AsyncOpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
    set_default_openai_client(client)
    set_tracing_disabled(True)
    model = (await client.models.list()).data[0].id
    await tool_loop(model)
    await continued(model)
    await remembered(model, client)
    print(f"openai-agents {version('openai-agents')} against {model}: 3 passed, 0 failed")


if __name__ == "__main__":
    asyncio.run(main())
