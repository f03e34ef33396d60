-- Reads what is known of a token, floors taken into account.
--
-- KEYS  1 token record
-- Returns {client ID, role, scope, state, issued_at_ms, expires_at_ms, sealed, revocation}; what is unknown is nil.

local record = redis.call('HMGET', KEYS[1],
  'client_id', 'role', 'scope', 'state', 'issued_at_ms', 'expires_at_ms', 'sealed', 'revocation', 'begun')
if record[2] and swept(record[2], record[9]) then
  record[4] = 'revoked'
end
record[9] = nil
return record
