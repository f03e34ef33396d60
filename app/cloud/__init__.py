"""The cloud as a caller sees it."""
