#!/bin/sh
# As the image apache/kafka: KAFKA_FOO_BAR is foo.bar in server.properties.
# The star is Java's, not the shell's.
set -euf
config=/tmp/server.properties
env | sed -n 's/^KAFKA_//p' | while IFS='=' read -r name value; do
    echo "$(echo "$name" | tr 'A-Z_' 'a-z.')=$value"
done >"$config"
echo "log.dirs=/tmp/kafka" >>"$config"
java="/opt/java/bin/java -Xmx256m -XX:TieredStopAtLevel=1 -cp /opt/kafka/*"
LOG_DIR=/tmp $java kafka.tools.StorageTool format --cluster-id=MkU3OEVBNTcwNTJENDM2Qk -c "$config"
export LOG_DIR=/tmp
exec $java kafka.Kafka "$config"
