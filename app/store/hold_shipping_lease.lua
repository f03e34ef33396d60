-- Takes or extends the lease by which one instance ships the audit, or gives it back if `lease_ms` is 0. May be sent
-- again.
--
-- Returns 1 if the lease is this instance's, or 0 if another holds it.

local lease = unpack(KEYS)
local instance, lease_ms = unpack(ARGV, 2)

local holder = redis.call('GET', lease)
if holder and holder ~= instance then
  return 0
end
if lease_ms == '0' then
  redis.call('DEL', lease)
else
  redis.call('SET', lease, instance, 'PX', lease_ms)
end
return 1
