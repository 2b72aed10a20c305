"""The SQL of the dashboard: named, commented queries, read by `consumer.sql.load_queries`."""
