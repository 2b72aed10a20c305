"""Measurements of the worker on this machine."""
