-- Settles a claimed revocation. The claim's number fences off a worker that was paused past its time. May be sent again.
--
-- KEYS  1 token record  2 claimed or put off  3 failed
-- ARGV  2 handle   3 claim   4 'confirmed', 'failed' or 'queued' (again)   5 due in ms, for 'queued'
--       6 '1': this counts as an attempt; while the cloud is down nothing is learned of a revocation, so it does not
-- Returns 1, or 0 when the claim is no longer ours.

local record = redis.call('HMGET', KEYS[1], 'claim', 'revocation', 'job', 'expires_at_ms')
if record[1] ~= ARGV[3] then
  return 0
end
if record[2] ~= 'queued' then
  return record[2] == ARGV[4] and 1 or 0
end
redis.call('HINCRBY', KEYS[1], 'tries', 1)
redis.call('HINCRBY', KEYS[1], 'attempts', ARGV[6])
if ARGV[4] == 'queued' then
  redis.call('ZREM', shard .. 'q', ARGV[2])
  redis.call('ZADD', KEYS[2], now_ms + ARGV[5], ARGV[2])
elseif ARGV[4] == 'failed' then
  redis.call('HSET', KEYS[1], 'revocation', 'failed')
  redis.call('ZREM', shard .. 'q', ARGV[2])
  redis.call('ZREM', KEYS[2], ARGV[2])
  redis.call('ZADD', KEYS[3], record[4], ARGV[2])
  count(record[3], 'failed', 1)
  audit('cloud', 'failed', redis.call('HGET', KEYS[1], 'client_id'), ARGV[2], '')
else
  finish(ARGV[2], 'confirmed', record[3], 'cloud')
end
return 1
