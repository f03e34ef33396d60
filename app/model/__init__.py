"""Topics, grants, policies and devices as values and functions: no I/O (but for the policy file), no clock."""
