-- Keeps the lead while its instance is still applying. May be sent again.
--
-- KEYS  1 flight  2 token record
-- ARGV  2 handle   3 lease_ms   4 horizon_ms
-- Returns 1, or 0 when the lead is no longer ours.

-- By handle: a request may lead twice, and a late word of its first flight must not touch the second.
local record = redis.call('HMGET', KEYS[2], 'state', 'client_id', 'role')
if redis.call('HGET', KEYS[1], 'handle') ~= ARGV[2] or record[1] ~= 'applying' then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
index(ARGV[2], record[2], record[3], now_ms + ARGV[4], 'XX')
return 1
