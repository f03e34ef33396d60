"""Pure: the cloud's protocol as data and arithmetic."""
