"""What is done to the workers, a module for each side; `tests/scenarios/` has the short versions.

Each story breaks something in an arena so many times, mends it, and notes how long it takes
until the group has caught up. What must hold afterwards is the same for all of them, and is
judged by the arena. A story's own promises are asserted in it.
"""
