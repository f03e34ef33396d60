"""The verbs: authenticate, issue, introspect, revoke. No HTTP here."""
