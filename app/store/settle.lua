-- Settles a claimed revocation. The claim's number fences off a worker that was paused past its time. May be sent again.
--
-- KEYS  1 revocation queue  2 token record
-- ARGV  2 handle   3 claim   4 'confirmed', 'failed' or 'queued' (again)   5 due in ms, for 'queued'
--       6 '1': this counts as an attempt; while the cloud is down nothing is learned of a revocation, so it does not
-- Returns 1, or 0 when the claim is no longer ours.

if redis.call('HGET', KEYS[2], 'claim') ~= ARGV[3] then
  return 0
end
redis.call('HINCRBY', KEYS[2], 'tries', 1)
redis.call('HINCRBY', KEYS[2], 'attempts', ARGV[6])
redis.call('HSET', KEYS[2], 'revocation', ARGV[4])
if ARGV[4] == 'queued' then
  redis.call('ZADD', KEYS[1], now_ms + ARGV[5], ARGV[2])
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end
if ARGV[4] ~= 'queued' then
  audit('cloud', ARGV[4], redis.call('HGET', KEYS[2], 'client_id'), ARGV[2], '')
end
if ARGV[4] == 'confirmed' then
  -- The cloud token is worthless now; what nobody needs, nobody keeps.
  redis.call('HDEL', KEYS[2], 'sealed')
end
return 1
