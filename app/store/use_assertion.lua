-- Uses an assertion where no token is handed out: at introspect and revoke, and before a refusal that the record decides.
-- May be sent again with the same `request`, a random value.
--
-- Returns 'ok', 'stale', 'used' or 'expired'.

local device, assertion = unpack(KEYS)
local request, epoch, used_until_ms = unpack(ARGV, 2)

return use_assertion(device, epoch, assertion, request, used_until_ms) or 'ok'
