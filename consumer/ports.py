"""The two edges, as the pipeline sees them: where records come from, where they go.

`consumer.kafka` and `consumer.postgres` implement these; tests have in-memory ones.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from consumer.core.call import Call, Record, Rejected


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Chunk(NamedTuple):
    """Records of one partition, in offset order, as one poll delivered them."""

    partition: TopicPartition
    records: Sequence[Record]
    """Never empty; offsets may have gaps."""

    @property
    def next_offset(self) -> int:
        """The offset to commit once every record of the chunk is written."""
        return self.records[-1].offset + 1


class AssignmentListener(Protocol):
    """Told by the source of partitions coming and going."""

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Partitions are ours from now on, from their committed offsets."""

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Drain and commit these partitions before returning; bounded by a deadline."""


class Source(Protocol):
    """Kafka, as the pipeline needs it."""

    async def start(self, listener: AssignmentListener) -> None:
        """Connect and join the group.

        Raises:
            SourceError: The cluster refuses us in a way that waiting does not mend.
        """

    async def poll(self, records_max: int) -> Sequence[Chunk]:
        """Return what has arrived, after a short wait (under 1 s) if nothing has.

        Errors that pass are retried inside, with the positions restored, so that no
        record is skipped.

        Raises:
            SourceError: Consumption cannot go on.
        """

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit the next offsets to read, within a deadline; failures are logged.

        A commit that fails is harmless: a later one covers it, and redelivered calls
        change nothing. Commits take effect in the order in which they were asked for.

        Returns:
            Whether the broker has them now.
        """

    @property
    def committed_offsets(self) -> Mapping[TopicPartition, int]:
        """Where another owner would begin, of each partition that is ours."""

    def pause(self) -> None:
        """Stop fetching while polling goes on, so that the group keeps us."""

    def resume(self) -> None:
        """Fetch again after `pause`."""

    async def stop(self) -> None:
        """Leave the group and close, within a deadline."""


class Outgoing(msgspec.Struct, gc=False, frozen=True):
    """A record to be written to a topic."""

    key: bytes | None
    """Records of one key keep their order; those without go anywhere."""
    value: bytes


class Read(NamedTuple):
    """When a run of records of one partition was read."""

    partition: TopicPartition
    first_offset: int
    at: float
    """Seconds since the epoch."""


class Batch(NamedTuple):
    """What one transaction writes, in the order of arrival."""

    calls: Sequence[Call]
    rejected: Sequence[Rejected]
    reads: Sequence[Read] = ()
    """Of its records, for their spans; in order of arrival."""


class Written(NamedTuple):
    """What a transaction did, for the metrics."""

    calls_new: int
    calls_duplicate: int
    merges: int
    dead_letters: int
    attempts: int = 1
    """How often the transaction was begun again inside (duplicates met, users merged)."""


class Sink(Protocol):
    """Postgres, as the pipeline needs it."""

    async def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction; all of it is committed on return.

        Raises:
            TransientSinkError: The database is away or busy; retry the same batch.
            PermanentSinkError: The database refuses the data; bisect.
            SchemaError: The database is a newer version's by now; nobody can go on.
        """
