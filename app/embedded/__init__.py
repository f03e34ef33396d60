"""All parts on one machine, supervised: Valkey, the sandbox, instances."""
