"""The whole product on one machine: its parts as supervised processes that end with `dev`."""
