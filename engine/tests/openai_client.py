"""What OpenAI's own client makes of a server.

usage: openai_client.py BASE_URL MODEL LIMIT PROMPT [CALLING_PROMPT]

LIMIT is the number of tokens to ask for at most. PROMPT has to give some text at temperature 0, the same every time. CALLING_PROMPT has to give a call of `add`.
Prints `checked N` at the end; any exception is a failure.
"""

import asyncio
import json
import sys

import openai

base_url, model, limit, prompt = sys.argv[1:5]
limit = int(limit)
calling_prompt = sys.argv[5] if len(sys.argv) > 5 else None
client = openai.OpenAI(base_url=base_url, api_key="sesame", max_retries=0, timeout=120)
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
greedy = {"model": model, "temperature": 0, "max_tokens": limit}
checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise AssertionError(what)


def fails(error, status, code, param, call):
    """The call has to raise this error, with this code and parameter."""
    try:
        call()
    except error as raised:
        check(raised.status_code == status, f"status {raised.status_code} instead of {status}: {raised}")
        check(raised.code == code, f"code {raised.code} instead of {code}: {raised}")
        check(raised.param == param, f"parameter {raised.param} instead of {param}: {raised}")
        return
    raise AssertionError(f"{error.__name__} was expected for {code}")


# models
names = [entry.id for entry in client.models.list()]
check(names == [model], f"models are {names}")
check(client.models.retrieve(model).id == model, "the model can be asked for by name")
fails(openai.NotFoundError, 404, "model_not_found", "model", lambda: client.models.retrieve("another"))

# a chat, whole
whole = client.chat.completions.create(messages=messages, **greedy)
choice = whole.choices[0]
text = choice.message.content
check(whole.object == "chat.completion" and whole.model == model, whole)
check(choice.message.role == "assistant" and text, whole)
check(choice.finish_reason in ("stop", "length"), whole)
check(whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole.usage)
check(0 < whole.usage.completion_tokens <= limit and whole.usage.prompt_tokens > 0, whole.usage)
check(whole.usage.prompt_tokens_details.cached_tokens >= 0, whole.usage)

# the same as a stream
chunks = list(
    client.chat.completions.create(messages=messages, stream=True, stream_options={"include_usage": True}, **greedy)
)
pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
check("".join(piece.delta.content or "" for piece in pieces) == text, "the stream is the whole text")
check(pieces[0].delta.role == "assistant", pieces[0])
check([piece.finish_reason for piece in pieces if piece.finish_reason] == [choice.finish_reason], "one end")
check(chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1])
check(len({chunk.id for chunk in chunks}) == 1 and chunks[0].id != whole.id, "one id per request")
check(all(chunk.object == "chat.completion.chunk" for chunk in chunks), chunks[0])

# the helper that puts streams together; it raises when the limit was reached
with client.chat.completions.stream(messages=messages, **greedy) as stream:
    try:
        final = stream.get_final_completion()
    except openai.LengthFinishReasonError as reached:
        check(choice.finish_reason == "length", choice)
        final = reached.completion
check(final.choices[0].message.content == text, final)

# stop strings
stop = text[len(text) // 2 : len(text) // 2 + 3]
stopped = client.chat.completions.create(messages=messages, stop=[stop, "\0 never"], **greedy).choices[0]
check(stopped.message.content == text[: text.index(stop)], (stop, stopped))
check(stopped.finish_reason == "stop", stopped)

# a limit
limited = client.chat.completions.create(messages=messages, model=model, temperature=0, max_completion_tokens=2)
check(limited.choices[0].finish_reason == "length" and limited.usage.completion_tokens == 2, limited)
check(text.startswith(limited.choices[0].message.content.rstrip("\ufffd")), limited)

# several choices, and seeds
several = client.chat.completions.create(messages=messages, n=3, seed=7, **greedy)
check([entry.index for entry in several.choices] == [0, 1, 2], several)
check(all(entry.message.content == text for entry in several.choices), several)

# probabilities
probable = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=2, **greedy).choices[0]
entries = probable.logprobs.content
check(len(entries) > 0 and all(entry.logprob <= 0 for entry in entries), probable.logprobs)
check(all(len(entry.top_logprobs) == 2 for entry in entries), probable.logprobs)
check(bytes(b for entry in entries for b in entry.bytes).decode(errors="replace").startswith(text[:1]), probable.logprobs)

# the older form
plain = client.completions.create(prompt=prompt, **greedy)
check(plain.object == "text_completion" and plain.choices[0].text, plain)
streamed = list(client.completions.create(prompt=prompt, stream=True, **greedy))
check("".join(chunk.choices[0].text for chunk in streamed) == plain.choices[0].text, streamed)
echoed = client.completions.create(prompt=[prompt, prompt], echo=True, n=2, **greedy)
check([entry.text for entry in echoed.choices] == [prompt + plain.choices[0].text] * 4, echoed)
logprobs = client.completions.create(prompt=prompt, logprobs=1, **greedy).choices[0].logprobs
check(len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset), logprobs)

# errors
ask = client.chat.completions.create
bad = openai.BadRequestError
fails(bad, 400, "invalid_value", "temperature", lambda: ask(messages=messages, model=model, temperature=-1))
fails(bad, 400, "invalid_value", "messages[0].role", lambda: ask(messages=[{"role": "king", "content": "x"}], model=model))
fails(bad, 400, "missing_required_parameter", "messages", lambda: ask(messages=None, model=model))
fails(bad, 400, "unsupported_value", "response_format", lambda: ask(messages=messages, model=model, response_format={"type": "json_object"}))
long = "x " * 200_000
fails(bad, 400, "context_length_exceeded", None, lambda: client.completions.create(prompt=long, model=model))
fails(openai.NotFoundError, 404, "unknown_path", None, lambda: client.embeddings.create(input="x", model=model))
stranger = openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
fails(openai.AuthenticationError, 401, "invalid_api_key", None, lambda: stranger.chat.completions.create(messages=messages, model=model))

# calls of functions
if calling_prompt:
    tools = [
        {
            "type": "function",
            "function": {
                "name": "add",
                "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
            },
        }
    ]
    calling = [{"role": "user", "content": calling_prompt}]
    answer = ask(messages=calling, tools=tools, **greedy).choices[0]
    check(answer.finish_reason == "tool_calls", answer)
    call = answer.message.tool_calls[0]
    check(call.function.name == "add" and isinstance(json.loads(call.function.arguments), dict), call)
    with client.chat.completions.stream(messages=calling, tools=tools, **greedy) as stream:
        final = stream.get_final_completion().choices[0].message.tool_calls[0]
    check(final.function.arguments == call.function.arguments, final)
    follow_up = calling + [
        answer.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "3"},
    ]
    check(ask(messages=follow_up, tools=tools, **greedy).choices[0].message, "a result can be given")


# several at once
async def together():
    busy = openai.AsyncOpenAI(base_url=base_url, api_key="sesame", max_retries=0, timeout=120)

    async def one(stream):
        answer = await busy.chat.completions.create(messages=messages, stream=stream, **greedy)
        if not stream:
            return answer.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

    texts = await asyncio.gather(*(one(i % 2 == 0) for i in range(8)))
    check(texts == [text] * 8, texts)
    # leaving in the middle of a stream
    stream = await busy.chat.completions.create(messages=messages, stream=True, **greedy)
    async for _ in stream:
        break
    await stream.close()


asyncio.run(together())
print(f"checked {checks}")
