"""OpenAI's own client against the simulator: python openai_client.py URL KEY MODEL"""

import sys

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
print("all is as it should be")
