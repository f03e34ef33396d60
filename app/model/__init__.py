"""Pure: what topics, grants, policies and devices are. No I/O, no clock."""
