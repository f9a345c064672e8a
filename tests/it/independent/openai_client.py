"""OpenAI's own client against the simulator: python openai_client.py URL KEY MODEL"""

import json
import sys
import time

import openai

URL, KEY, MODEL = sys.argv[1:]
client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)


def ask(text="Say something about it at some length, please.", **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused as {kind.__name__}")


whole = ask()
assert whole.choices[0].finish_reason == "stop" and whole.choices[0].message.content
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.created > 1_700_000_000 and whole.object == "chat.completion"
assert ask().id != whole.id, "ids differ"

cut = ask(max_tokens=3)
assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
assert whole.choices[0].message.content.startswith(cut.choices[0].message.content)
assert ask(max_completion_tokens=3).choices[0].finish_reason == "length"

several = ask(n=3)
assert [choice.index for choice in several.choices] == [0, 1, 2]
assert several.usage.completion_tokens == 3 * whole.usage.completion_tokens

parts = [{"type": "text", "text": "Say something about it at some length, "}, {"type": "text", "text": "please."}]
assert ask(parts).choices[0].message.content == whole.choices[0].message.content
picture = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]
assert refused(openai.BadRequestError, lambda: ask(picture)).status_code == 400

assert refused(openai.BadRequestError, lambda: ask(temperature=3)).param == "temperature"
odd = lambda: client.chat.completions.create(model=MODEL, messages=[{"role": "poet", "content": "x"}])
assert refused(openai.BadRequestError, odd).param == "messages[0].role"
assert refused(openai.BadRequestError, lambda: ask(n=0)).param == "n"

schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
typed = ask(response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}})
assert typed.choices[0].message.content in ('{"ok":true}', '{"ok":false}')

one = client.embeddings.create(model=MODEL, input="a text").data[0].embedding
two = client.embeddings.create(model=MODEL, input=["another", "a text"], encoding_format="float").data
assert len(one) == 8 and all(abs(a - b) < 1e-6 for a, b in zip(one, two[1].embedding))
tokens = client.embeddings.create(model=MODEL, input=[[1, 2, 3], [4]]).data
assert [item.index for item in tokens] == [0, 1]
assert client.embeddings.create(model=MODEL, input=[1, 2, 3]).data[0].embedding == tokens[0].embedding

assert [model.id for model in client.models.list()] == [MODEL]
assert client.models.retrieve(MODEL).id == MODEL
assert refused(openai.NotFoundError, lambda: client.models.retrieve("none")).code == "model_not_found"
wrong = openai.OpenAI(base_url=URL, api_key="wrong", max_retries=0)
call = lambda: wrong.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
assert refused(openai.AuthenticationError, call).code == "invalid_api_key"

# Batches: a file of requests, their answers in any order, and those that are refused in a file of their own.
def upload(requests, name="questions.jsonl"):
    lines = [
        {"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": {"model": MODEL, **body}}
        for id, body in requests
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return client.files.create(file=(name, text.encode()), purpose="batch")


def make(file, **more):
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def ended(batch):
    for _ in range(500):
        batch = client.batches.retrieve(batch.id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"still {batch.status}")


def lines_of(file):
    return {line["custom_id"]: line for line in map(json.loads, client.files.content(file).text.split("\n")[:-1])}


def question(text, **more):
    return {"messages": [{"role": "user", "content": text}], **more}


texts = {f"row-{number}": f"Row {number}: what is it?" for number in range(50)}
requests = [(id, question(text)) for id, text in texts.items()] + [("odd", question("x", temperature=3))]
file = upload(requests)
assert file.purpose == "batch" and file.filename == "questions.jsonl" and file.bytes > 1000
assert client.files.retrieve(file.id).bytes == file.bytes
assert [listed.id for listed in client.files.list(purpose="batch")] == [file.id]
batch = make(file, metadata={"enrich": "x1"})
assert batch.status == "validating" and batch.metadata == {"enrich": "x1"}
batch = ended(batch)
assert batch.status == "completed" and batch.input_file_id == file.id
assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (51, 50, 1)
answers, errors = lines_of(batch.output_file_id), lines_of(batch.error_file_id)
assert list(answers) != list(texts), "the answers are not in order"
for id, text in texts.items():
    body = answers[id]["response"]["body"]
    assert answers[id]["response"]["status_code"] == 200 and answers[id]["error"] is None
    assert body["choices"][0]["message"]["content"] == ask(text).choices[0].message.content
assert errors["odd"]["response"]["status_code"] == 400 and errors["odd"]["error"] is None
assert errors["odd"]["response"]["body"]["error"]["param"] == "temperature"
assert [listed.id for listed in client.batches.list(limit=1)] == [batch.id]

second = ended(make(upload([("a", question("x")), ("a", question("y"))])))
assert second.status == "failed" and second.output_file_id is None
assert (second.errors.data[0].code, second.errors.data[0].line) == ("duplicate_custom_id", 2)
assert [listed.id for listed in client.batches.list()] == [second.id, batch.id], "the newest first"
pages = list(client.batches.list(limit=1))
assert [listed.id for listed in pages] == [second.id, batch.id], "page by page"
assert refused(openai.ConflictError, lambda: client.batches.cancel(second.id)).status_code == 409
assert refused(openai.BadRequestError, lambda: upload(requests, "questions.txt")).param == "file"
assert client.files.delete(file.id).deleted
assert refused(openai.NotFoundError, lambda: client.files.retrieve(file.id)).status_code == 404
assert refused(openai.BadRequestError, lambda: make(file)).param == "input_file_id"
assert refused(openai.NotFoundError, lambda: client.batches.retrieve("batch_none")).status_code == 404
print("all is as it should be")
