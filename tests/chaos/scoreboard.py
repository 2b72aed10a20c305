"""All scenarios, at full size."""

from typing import Final

from tests.chaos.arena import ArenaOptions
from tests.chaos.scenario import Scenario, poisoned
from tests.chaos.stories.kafka import (
    BY_PATTERN,
    broker_away,
    broker_frozen,
    broker_restarted,
    retention_overtakes,
    topics_change,
)
from tests.chaos.stories.merges import EIGHT, contended
from tests.chaos.stories.network import network_fails
from tests.chaos.stories.postgres import (
    commit_cut,
    migrated,
    postgres_away,
    postgres_disk_full,
    postgres_frozen,
    postgres_killed,
    postgres_out_of_connections,
    postgres_promoted,
    postgres_read_only,
    postgres_restarted,
)
from tests.chaos.stories.soak import SOAKED, soak
from tests.chaos.stories.workers import JUMPING, clock_jumps, killed, storm, terminated, zombie


def _with(**settings: str) -> ArenaOptions:
    return ArenaOptions(settings=settings)


_THREE: Final = ArenaOptions(workers=3)


SCOREBOARD: Final = [
    Scenario("kill -9 of a worker", killed, 200, _THREE),
    Scenario("SIGTERM of a worker", terminated, 100, _THREE),
    Scenario("SIGSTOP for 60 s", zombie(60), 3, _with(kafka_session_timeout_seconds="45")),
    Scenario("rebalance storm", storm, 150, recovery_seconds_max=10),
    Scenario("Postgres restarted", postgres_restarted, 10, recovery_seconds_max=15),
    Scenario("Postgres killed", postgres_killed, 10, recovery_seconds_max=15),
    Scenario("Postgres promoted", postgres_promoted, 1, recovery_seconds_max=15, own_postgres=True),
    Scenario("Postgres read-only", postgres_read_only, 10, recovery_seconds_max=15),
    Scenario("out of connections", postgres_out_of_connections, 10, recovery_seconds_max=15),
    Scenario("disk full", postgres_disk_full, 10, recovery_seconds_max=15),
    # A quarter of an hour's calls are caught up with.
    Scenario("Postgres away for 15 minutes", postgres_away(900), 1, recovery_seconds_max=90),
    Scenario("SIGTERM, Postgres frozen for 40 s", postgres_frozen(40), 3, _THREE),
    Scenario("cut in COMMIT", commit_cut, 500),
    Scenario("migrations under load", migrated, 20),
    Scenario("broker restarted", broker_restarted, 10),
    Scenario("broker frozen for 90 s", broker_frozen(90), 2, _THREE),
    Scenario("broker away for 5 minutes", broker_away(300), 1),
    Scenario("network to Postgres", network_fails(("postgres",), 10, 30), 3),
    Scenario("network to Kafka", network_fails(("kafka",), 10, 30), 3),
    Scenario("merges from 8 workers", contended, 60, EIGHT),
    Scenario("retention overtakes", retention_overtakes, 10),
    Scenario("topics change", topics_change, 5, BY_PATTERN),
    Scenario("clock jumps", clock_jumps, 30, JUMPING),
    poisoned(Scenario("poison at 50 %", killed, 20), 0.5),
    poisoned(Scenario("poison at 100 %", killed, 20), 1.0),
    Scenario("soak", soak(60), 60, SOAKED),
]
