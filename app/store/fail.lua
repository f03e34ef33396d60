-- Ends a flight that brought nothing. Its mark keeps the waiting requests from leading one after another. May be sent
-- again.
--
-- KEYS  1 flight  2 token record  3 device's index
-- ARGV  2 request   3 handle   4 mark_ms: how long the mark stays; 0: none, the next request leads
-- Returns 1, or 0 when the lead is no longer ours.

if redis.call('HGET', KEYS[2], 'state') == 'applying' then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[3], ARGV[3])
end
if redis.call('HGET', KEYS[1], 'request') ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[4]) > 0 then
  redis.call('HSET', KEYS[1], 'failed', 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
