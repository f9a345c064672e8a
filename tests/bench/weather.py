"""What everybody starts with: asyncio, a semaphore's worth of workers, five attempts with jittered exponential backoff
that obey Retry-After. Standard library alone. Prints how many rows were answered and how many were given up."""

import asyncio
import json
import random
import sys
from urllib.parse import urlsplit

URL, ROWS, WORKERS, PER_MINUTE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
ATTEMPTS, TIMEOUT = 5, 60
address = urlsplit(URL)


class Client:
    """One connection that is kept open."""

    def __init__(self):
        self.stream = None

    async def post(self, body):
        if self.stream is None:
            self.stream = await asyncio.open_connection(address.hostname, address.port)
        reader, writer = self.stream
        head = f"POST {address.path}/chat/completions HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if headers.get("transfer-encoding") == "chunked":
            text = b""
            while size := int(await reader.readline(), 16):
                text += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            text = await reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, text

    def close(self):
        if self.stream is not None:
            self.stream[1].close()
        self.stream = None


class Pace:
    """So many requests a minute, evenly."""

    def __init__(self, per_minute):
        self.every = 60 / per_minute if per_minute else 0
        self.next = 0.0

    async def wait(self):
        if self.every:
            now = asyncio.get_running_loop().time()
            self.next = max(self.next, now) + self.every
            await asyncio.sleep(self.next - self.every - now)


async def ask(client, pace, row):
    messages = [{"role": "user", "content": f"Row {row}: what is it?"}]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    for attempt in range(ATTEMPTS):
        delay = random.uniform(0.5, 1) * 0.5 * 2**attempt
        try:
            await pace.wait()
            status, headers, text = await asyncio.wait_for(client.post(body), TIMEOUT)
            if status == 200:
                return json.loads(text)["choices"][0]["message"]["content"]
            delay = max(delay, float(headers.get("retry-after", 0)))
        except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            client.close()
        await asyncio.sleep(delay)
    return None


async def main():
    rows, answers, pace = iter(range(ROWS)), [], Pace(PER_MINUTE)

    async def work():
        client = Client()
        for row in rows:
            answers.append(await ask(client, pace, row))
        client.close()

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    print(sum(answer is not None for answer in answers), sum(answer is None for answer in answers))


asyncio.run(main())
