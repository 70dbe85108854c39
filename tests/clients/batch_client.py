"""Files and batches through openai-python, against the server at the URL given."""

import io
import json
import sys
import time

from openai import NotFoundError, OpenAI

CHAT = "/v1/chat/completions"


def line(name: str, content: str, **more) -> bytes:
    body = {"model": "gpt-oss", "messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, **more}
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


def ended(client: OpenAI, batch):
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def main() -> None:
    client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    lines = b"".join(line(f"id-{n}", f"Say {n}.", model=model) for n in range(4)) + line("bad", "x", model=model, temperature=9)
    file = client.files.create(file=("in.jsonl", io.BytesIO(lines)), purpose="batch")
    assert (file.bytes, file.purpose, file.filename) == (len(lines), "batch", "in.jsonl"), file
    assert client.files.content(file.id).content == lines
    assert file.id in [one.id for one in client.files.list()]

    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"})
    assert batch.metadata == {"a": "b"}, batch
    batch = ended(client, batch)
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 5, 4, 1), batch
    answers = [json.loads(text) for text in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"id-{n}" for n in range(4)]
    assert all(answer["response"]["body"]["choices"][0]["message"]["role"] == "assistant" for answer in answers)
    (error,) = [json.loads(text) for text in client.files.content(batch.error_file_id).text.splitlines()]
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400), error
    assert batch.id in [one.id for one in client.batches.list()]

    broken = client.files.create(file=("in.jsonl", io.BytesIO(lines + b"{no json\n")), purpose="batch")
    failed = client.batches.create(input_file_id=broken.id, endpoint=CHAT, completion_window="24h")
    assert (failed.status, failed.errors.data[0].line, failed.errors.data[0].code) == ("failed", 6, "invalid_json_line"), failed

    long = b"".join(line(f"id-{n}", "Count.", model=model, max_tokens=1000, extra=1) for n in range(50))
    long = client.files.create(file=("in.jsonl", io.BytesIO(long)), purpose="batch")
    running = client.batches.create(input_file_id=long.id, endpoint=CHAT, completion_window="24h")
    assert client.batches.cancel(running.id).status in ("cancelling", "cancelled")
    assert ended(client, client.batches.retrieve(running.id)).status == "cancelled"

    assert client.files.delete(file.id).deleted
    try:
        client.files.retrieve(file.id)
        raise AssertionError("a deleted file is told of")
    except NotFoundError as error:
        assert error.code == "file_not_found", error
    print("batch_client: files and batches work")


main()
