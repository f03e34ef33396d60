"""Redis: every command and script lives here."""
