"""Kafka's edge, the only package that knows aiokafka."""

from consumer.kafka.access import check_connection, check_options
from consumer.kafka.lag import Lag, lag_of_group
from consumer.kafka.options import KafkaOptions, security_of
from consumer.kafka.sender import KafkaSender, open_sender
from consumer.kafka.source import KafkaSource, SourceObserver

__all__ = [
    "KafkaOptions",
    "KafkaSender",
    "KafkaSource",
    "Lag",
    "SourceObserver",
    "check_connection",
    "check_options",
    "lag_of_group",
    "open_sender",
    "security_of",
]
