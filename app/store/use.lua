-- Uses an assertion where no token is asked for: at introspect and revoke. May be sent again with the same REQUEST.
--
-- KEYS  1 device  2 used assertion
-- ARGV  2 REQUEST: random value of this request   3 epoch of the record the caller was verified under   4 claim_ms
-- Returns 'ok', 'stale' or 'used'.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then
  return 'stale'
end
if tonumber(ARGV[4]) > 0 then
  local user = redis.call('SET', KEYS[2], ARGV[2], 'NX', 'GET', 'PX', ARGV[4])
  if user and user ~= ARGV[2] then
    return 'used'
  end
end
return 'ok'
