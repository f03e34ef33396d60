-- Revokes one token, or what is being applied for under its handle. May be sent again.
--
-- KEYS  1 token record  2 device's index  3 revocation queue
-- ARGV  2 handle   3 who revokes
-- Returns 1 if this revoked it, 0 if it was revoked or gone already.

return revoke(KEYS[1], ARGV[2], KEYS[2], KEYS[3], ARGV[3]) and 1 or 0
