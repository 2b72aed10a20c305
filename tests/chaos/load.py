"""What the workers are under while they are broken: seeded calls at a steady rate."""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.worker import PRODUCED_MS

_TICK_SECONDS: Final = 0.02
LATE_MS_MAX: Final = 10**9
"""Calls are up to so much older than their records."""
_TYPES: Final = ("track", "track", "track", "page", "identify", "identify", "group")


class LoadOptions(NamedTuple):
    """What the calls are like."""

    calls_per_second: int = 400
    users: int = 200
    merges: float = 0.01
    """Share of calls that merge two users."""
    block_calls: int | None = None
    """After so many calls come other users: the same few soon leave nothing to merge."""
    poison: float = 0.01
    """Share of records that are no calls at all."""
    kept: bool = True
    """What was sent is kept, for the model to be held against; else only counted."""


class Sent(NamedTuple):
    """A record that was sent, poison or not."""

    value: bytes
    poison: bool


def calls(rng: random.Random, options: LoadOptions) -> Iterator[Sent]:
    """Calls of few people on few devices, late ones among them; never the same one twice."""
    number = 0
    while True:
        number += 1
        if rng.random() < options.poison:
            yield Sent(b"<html>502 Bad Gateway %d</html>" % number, poison=True)
            continue
        block = "" if options.block_calls is None else f"{number // options.block_calls}-"
        user = f"u{block}{rng.randrange(options.users)}"
        call: dict[str, Any] = {
            "type": "alias" if rng.random() < options.merges else rng.choice(_TYPES),
            "userId": user,
            "anonymousId": f"v{rng.randrange(options.users)}",
            "messageId": f"m{number}",
            "timestamp": PRODUCED_MS - rng.randrange(LATE_MS_MAX),
            "event": "Feature Used",
            "groupId": f"g{rng.randrange(9)}",
            "previousId": f"u{block}{rng.randrange(options.users)}",
            "traits": {"plan": rng.randrange(9), "email": f"{user}@example.com"},
        }
        yield Sent(msgspec.json.encode(call), poison=False)


class Load:
    """Produces until it is told to stop; knows what the topic then holds."""

    def __init__(
        self, kafka: str, topic: str, partitions: int, seed: int, options: LoadOptions
    ) -> None:
        self._kafka = kafka
        self.topic = topic
        self.calls_per_second = options.calls_per_second
        """May be changed at any time."""
        self.kept: list[Sent] | None = [] if options.kept else None
        self.calls_count = 0
        self.poison_count = 0
        self.ends: dict[tuple[str, int], int] = {}
        """How many records each partition has been sent."""
        self._producer: AIOKafkaProducer | None = None
        self._partitions = partitions
        self._calls = calls(random.Random(seed), options)
        self._answers: deque[tuple[Sent, int, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        await self._connect()
        self._stopping = False
        self._task = asyncio.create_task(self._produce())

    async def stop(self) -> None:
        """Stop, and make sure that the broker has everything."""
        if self._task is not None:
            self._stopping = True
            await self._task
            self._task = None
        await self._disconnect()

    async def repeat(self, records: int) -> None:
        """Send calls that were sent before: nothing is new, whether somebody reads them or not."""
        assert self.kept is not None
        assert self._task is None, "stop first"
        calls = itertools.cycle([sent for sent in self.kept if not sent.poison])
        await self._connect()
        for number, sent in enumerate(itertools.islice(calls, records)):
            await self._send(sent, number % self._partitions)
        await self._disconnect()

    async def _connect(self) -> None:
        # Idempotent, and patient: what a broker that is away makes of it is not what is tested.
        producer = self._producer = AIOKafkaProducer(
            bootstrap_servers=self._kafka, enable_idempotence=True, request_timeout_ms=900_000
        )
        await producer.start()
        async with asyncio.timeout(30):
            # A topic that has just been made, or grown, is not known at once.
            while len(await producer.partitions_for(self.topic)) < self._partitions:
                await producer.client.force_metadata_update()
                await asyncio.sleep(0.05)

    async def _disconnect(self) -> None:
        while self._answers:
            sent, partition, answer = self._answers.popleft()
            try:
                await answer
            except KafkaError:
                # Whether it arrived is unknown; the same call twice is one.
                await self._send(sent, partition)
        if self._producer is not None:
            # Each start has its own: a topic made again knows nothing of an older one's numbers.
            await self._producer.stop()
            self._producer = None

    async def aim(self, topic: str, partitions: int) -> None:
        """Send to another topic, or to more partitions, from now on."""
        await self.stop()
        if topic == self.topic and partitions <= self._partitions:
            # It was made again.
            self.ends = {place: end for place, end in self.ends.items() if place[0] != topic}
        self.topic, self._partitions = topic, partitions
        await self.start()

    async def _produce(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stopping:
            for _ in range(max(1, round(self.calls_per_second * _TICK_SECONDS))):
                sent = next(self._calls)
                if self.kept is not None:
                    self.kept.append(sent)
                self.calls_count += not sent.poison
                self.poison_count += sent.poison
                await self._send(sent, (self.calls_count + self.poison_count) % self._partitions)
            self._forget_answered()
            # After a stall of the broker not all at once: the rate is a rate.
            due = max(due + _TICK_SECONDS, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _forget_answered(self) -> None:
        """What the broker has needs no more; what failed is sent again at the end."""
        for _ in range(len(self._answers)):
            entry = self._answers.popleft()
            answer = entry[2]
            if not answer.done():
                self._answers.appendleft(entry)
                return
            if answer.exception() is not None:
                self._answers.append(entry)

    async def _send(self, sent: Sent, partition: int) -> None:
        assert self._producer is not None
        answer = await self._producer.send(
            self.topic, value=sent.value, partition=partition, timestamp_ms=PRODUCED_MS
        )
        self._answers.append((sent, partition, answer))
        place = (self.topic, partition)
        self.ends[place] = self.ends.get(place, 0) + 1


@asynccontextmanager
async def loading(
    kafka: str, topic: str, partitions: int, seed: int, options: LoadOptions
) -> AsyncIterator[Load]:
    """Produce while inside."""
    load = Load(kafka, topic, partitions, seed, options)
    await load.start()
    try:
        yield load
    finally:
        await load.stop()
