-- Keeps the lead while its instance is still applying. May be sent again.
--
-- Returns 1, or 0 when the lead is no longer ours.

local application, token = unpack(KEYS)
local handle, lease_ms, horizon_ms = unpack(ARGV, 2)

-- By handle: a request may lead twice, and a late word of its first flight must not touch the second.
local record = redis.call('HMGET', token, 'state', 'client_id', 'role')
if redis.call('HGET', application, 'handle') ~= handle or record[1] ~= 'applying' then
  return 0
end
redis.call('PEXPIRE', application, lease_ms)
redis.call('PEXPIRE', token, horizon_ms)
index(handle, record[2], record[3], now_ms + horizon_ms, 'XX')
return 1
