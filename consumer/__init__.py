"""The Windsor worker: Segment calls from Kafka to a view of every customer in Postgres."""
