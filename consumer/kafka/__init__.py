"""Kafka's edge, the only package that knows aiokafka."""

from consumer.kafka.lag import Lag, lag_of_group
from consumer.kafka.options import KafkaOptions
from consumer.kafka.sender import KafkaSender, open_sender
from consumer.kafka.source import KafkaSource, SourceObserver

__all__ = [
    "KafkaOptions",
    "KafkaSender",
    "KafkaSource",
    "Lag",
    "SourceObserver",
    "lag_of_group",
    "open_sender",
]
