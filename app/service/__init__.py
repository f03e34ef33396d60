"""What the server does: authenticate, issue, introspect, revoke. No HTTP here."""
