"""What crosses a boundary: the Segment calls, the event catalogue, the database schema."""
