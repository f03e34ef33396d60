"""HTTP: parse, call a service, render. No rule of the business here."""
