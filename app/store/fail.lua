-- Ends a flight that brought nothing. Its mark keeps the waiting requests from leading one after another. May be sent
-- again.
--
-- KEYS  1 flight  2 token record  3 device's new tokens
-- ARGV  2 handle   3 mark_ms: how long the mark stays; 0: none, the next request leads
--       4 why, for the waiting requests   5 '1': it was not the device's doing, so it does not count against its share
-- Returns 1, or 0 when the lead is no longer ours.

local record = redis.call('HMGET', KEYS[2], 'state', 'client_id', 'role')
if record[1] == 'applying' then
  redis.call('DEL', KEYS[2])
  unindex(ARGV[2], record[2], record[3])
  if ARGV[5] == '1' and tonumber(redis.call('GET', KEYS[3]) or 0) > 0 then
    redis.call('DECR', KEYS[3])
  end
end
if redis.call('HGET', KEYS[1], 'handle') ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[3]) > 0 then
  redis.call('HSET', KEYS[1], 'failed', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
