"""Copies the jars of a version of Kafka to a folder: `kafka_jars.py VERSION FOLDER`."""  # noqa: INP001 - a script

import shutil
import sys
from pathlib import Path

import jgo

version, folder = sys.argv[1:]
for jar in jgo.build(f"org.apache.kafka:kafka_2.13:{version}").all_jars:
    shutil.copy(jar, Path(folder) / Path(jar).name)
