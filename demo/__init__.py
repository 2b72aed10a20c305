"""What `windsor run` adds on one machine: embedded servers and a story to play."""
