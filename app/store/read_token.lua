-- Reads what is known of a token; one below a watermark is revoked.
--
-- Returns {client ID, role, scope, state, issued_at_ms, expires_at_ms, sealed, revocation}; what is unknown is nil.

local token = unpack(KEYS)

local record = redis.call('HMGET', token,
  'client_id', 'role', 'scope', 'state', 'issued_at_ms', 'expires_at_ms', 'sealed', 'revocation')
local role, generation = unpack(redis.call('HMGET', token, 'role', 'generation'))
if role and is_below_watermark(role, generation) then
  record[4] = REVOKED
end
return record
