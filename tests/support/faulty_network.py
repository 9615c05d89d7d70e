"""A TCP relay on loopback whose seeded faults change every half second."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = 1 << 16
SPELL = 0.5  # seconds that one kind of fault lasts
SLOW = 64 << 10  # bytes a second when throttled
# Ten spells in a new order each time: new connections are reset; existing ones are reset; nothing is delivered
# for 2 s; throttled; nothing is delivered for half a second.
WEATHER = ("calm",) * 5 + ("refuse", "reset", "stall", "throttle", "hole")


@dataclass
class Relay:
    """A relay to `upstream` (host, port) that counts its faults in `seen`."""

    upstream: tuple[str, int]
    seed: int
    port: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    weather: str = "calm"
    end: Callable[[], object] = lambda: None
    open: list[asyncio.StreamWriter] = field(default_factory=list)

    async def live(self, ready: threading.Event) -> None:
        """Listen and change the fault until `end`."""
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.end = lambda: loop.call_soon_threadsafe(over.set)
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        chance = random.Random(self.seed)
        spells: list[str] = []
        while not over.is_set():
            spells = spells or chance.sample(WEATHER, len(WEATHER))
            self.weather = spells.pop()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 2.0 if self.weather == "stall" else SPELL)
        self.weather = "calm"
        server.close()
        for writer in self.open:
            writer.transport.abort()
        while self.open:
            await asyncio.sleep(0.05)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen["connections"] += 1
        if self.weather == "refuse":
            self.seen["refuse"] += 1
            writer.transport.abort()
            return
        there, to_there = await asyncio.open_connection(*self.upstream)
        ends = (writer, to_there)
        self.open += ends
        try:
            await asyncio.gather(self._relay(reader, to_there), self._relay(there, writer))
        finally:
            for end in ends:
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()
                self.open.remove(end)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(PIECE):
                while self.weather in ("stall", "hole"):
                    self.seen[self.weather] += 1
                    await asyncio.sleep(0.05)
                if self.weather == "reset":
                    self.seen["reset"] += 1
                    sink.transport.abort()
                    return
                if self.weather == "throttle":
                    self.seen["throttle"] += 1
                    await asyncio.sleep(len(data) / SLOW)
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()
        except ConnectionError:
            sink.transport.abort()


@contextmanager
def bad_weather(upstream: tuple[str, int], seed: int) -> Iterator[Relay]:
    """Run a relay in its own thread."""
    relay, ready = Relay(upstream, seed), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(relay.live(ready)))
    thread.start()
    assert ready.wait(10)
    try:
        yield relay
    finally:
        relay.end()
        thread.join(10)
