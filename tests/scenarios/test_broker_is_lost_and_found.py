"""A worker whose brokers go away is not ready, says why, and goes on when they are back."""

import tempfile
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer import app
from demo.servers import embedded_kafka, free_port
from tests.probes import consuming, settings_for, until_answered
from tests.worker import produce, until_consumed


async def test_worker_is_not_ready_without_its_brokers_and_goes_on_with_them(
    server_folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_LAG_INTERVAL_SECONDS", 0.5)
    port = free_port()
    server = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(dir=server_folder) as name:
        folder = Path(name) / "kafka"
        broker = embedded_kafka(folder, port)
        broker.__enter__()
        admin = AIOKafkaAdminClient(bootstrap_servers=server)
        await admin.start()
        await admin.create_topics([NewTopic("calls", 1, 1)])
        await admin.close()

        async with consuming(settings_for(server, "calls", database)) as client:
            await until_answered(client, "/readyz", (200, "ok"))

            broker.__exit__(None, None, None)
            line = f"Kafka at {server} cannot be reached: Connection refused: check WINDSOR_KAFKA_*"
            await until_answered(client, "/readyz", (503, line))
            # An outage is no reason to be restarted.
            await until_answered(client, "/healthz", (200, "ok"))

            with embedded_kafka(folder, port):
                await until_answered(client, "/readyz", (200, "ok"))
                await produce(server, "calls", [b'{"type":"track","userId":"u","event":"E"}'])
                await until_consumed(server, "calls")
