"""The cloud's protocol as tables and pure functions."""
