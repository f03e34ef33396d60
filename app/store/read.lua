-- Reads what is known of a token, floors taken into account.
--
-- Returns {client ID, role, scope, state, issued_at_ms, expires_at_ms, sealed, revocation}; what is unknown is nil.

local token = unpack(KEYS)

local record = redis.call('HMGET', token,
  'client_id', 'role', 'scope', 'state', 'issued_at_ms', 'expires_at_ms', 'sealed', 'revocation', 'begun')
if record[2] and swept(record[2], record[9]) then
  record[4] = 'revoked'
end
record[9] = nil
return record
