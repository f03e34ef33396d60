-- Uses an assertion where no token is handed out: at introspect and revoke, and before a refusal that the record decides.
-- May be sent again with the same REQUEST.
--
-- KEYS  1 device  2 used assertion
-- ARGV  2 REQUEST: random value of this request   3 epoch of the record the caller was verified under
--       4 used_until_ms, as in request.lua
-- Returns 'ok', 'stale', 'used' or 'expired'.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then
  return 'stale'
end
return use(KEYS[2], ARGV[2], tonumber(ARGV[4])) or 'ok'
