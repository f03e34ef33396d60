-- Keeps the lead while its instance is still applying. May be sent again.
--
-- KEYS  1 flight  2 token record  3 device's index
-- ARGV  2 request   3 handle   4 lease_ms   5 horizon_ms
-- Returns 1, or 0 when the lead is no longer ours.

if redis.call('HGET', KEYS[1], 'request') ~= ARGV[2] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
if redis.call('ZADD', KEYS[3], 'XX', 'CH', now_ms + ARGV[5], ARGV[3]) == 1 then
  redis.call('PEXPIRE', KEYS[3], ARGV[5], 'GT')
end
return 1
