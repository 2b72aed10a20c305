"""The pure core: no asyncio, no clock, no environment, no I/O."""
