"""What the client's connections lack: a loss is noticed soon, and is an error that passes.

What is written to a connection that was closed a moment ago asyncio drops, and its end is noticed
soon after; uvloop raises a RuntimeError. The client takes that for a mistake of its own: its
coordination ends, and with it the worker. Importing this mends it, for all of the client.

The client also cancels requests of its own, and who asked is told that he himself was cancelled.

The client has one timeout for all requests. But who joins a group waits for the others' handover,
while a broker that answers nothing else for seconds is gone, or the network to it.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

_COORDINATION = ConnectionGroup.COORDINATION

_Answer = TypeVar("_Answer")

_send = AIOKafkaConnection.send


def _send_or_lose(self: Any, request: Any, expect_response: bool = True) -> Any:  # noqa: ANN401, FBT001, FBT002 - the client's own
    try:
        return _send(self, request, expect_response=expect_response)
    except RuntimeError as error:
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"the connection was closed: {error}") from error


AIOKafkaConnection.send = _send_or_lose


async def answer_of(request: Awaitable[_Answer]) -> _Answer:
    """What the client answers; that it has cancelled the request itself is a failed request.

    Raises:
        KafkaError: As the client raises.
        asyncio.CancelledError: Our own task was told to end, or is out of time.
    """
    try:
        return await request
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        raise KafkaConnectionError("the client cancelled a request of its own") from error


def join_patiently(consumer: Any, answer_timeout_seconds: float) -> None:  # noqa: ANN401 - the client's own
    """Let a consumer that has started wait so long for its group, and as usual for all else."""
    client, coordinator = consumer._client, consumer._coordinator  # noqa: SLF001 - see above
    if coordinator is None:
        return
    usual_seconds = client._request_timeout_ms / 1000  # noqa: SLF001
    connect, send = client._get_conn, coordinator._send_req  # noqa: SLF001

    async def connect_patiently(
        node_id: Any,  # noqa: ANN401
        *,
        group: Any = ConnectionGroup.DEFAULT,  # noqa: ANN401
        **more: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        connection = await connect(node_id, group=group, **more)
        if connection is not None and group is _COORDINATION:
            connection._request_timeout = answer_timeout_seconds  # noqa: SLF001
        return connection

    async def send_in_time(request: Any) -> Any:  # noqa: ANN401
        if isinstance(request, (JoinGroupRequest, SyncGroupRequest)):
            return await send(request)
        node = coordinator.coordinator_id
        try:
            async with asyncio.timeout(usual_seconds):
                return await send(request)
        except TimeoutError as error:
            # As the client does with its own: a new connection is made for the next request.
            connection = client._conns.get((node, _COORDINATION))  # noqa: SLF001
            if connection is not None:
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            coordinator.coordinator_dead()
            raise RequestTimedOutError from error

    client._get_conn = connect_patiently  # noqa: SLF001
    coordinator._send_req = send_in_time  # noqa: SLF001
