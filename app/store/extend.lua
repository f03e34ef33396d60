-- Keeps the lead while its instance is still applying. May be sent again.
--
-- KEYS  1 flight  2 token record  3 device's index
-- ARGV  2 handle   3 lease_ms   4 horizon_ms
-- Returns 1, or 0 when the lead is no longer ours.

-- By handle: a request may lead twice, and a late word of its first flight must not touch the second.
if redis.call('HGET', KEYS[1], 'handle') ~= ARGV[2] or redis.call('HGET', KEYS[2], 'state') ~= 'applying' then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if redis.call('ZADD', KEYS[3], 'XX', 'CH', now_ms + ARGV[4], ARGV[2]) == 1 then
  redis.call('PEXPIRE', KEYS[3], ARGV[4], 'GT')
end
return 1
