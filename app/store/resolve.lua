-- Takes a failed revocation up again from the start, or drops it: the token then lives at the broker until it expires.
-- Either raises the claim's number, so no late word of the worker that failed can undo it. May be sent again.
--
-- KEYS  1 token record  2 failed
-- ARGV  2 handle   3 'retry' or 'drop'   4 who
-- Returns 1, or 0 if it is not failed.

local record = redis.call('HMGET', KEYS[1], 'revocation', 'priority', 'expires_at_ms', 'job')
if record[1] ~= 'failed' then
  return 0
end
redis.call('HINCRBY', KEYS[1], 'claim', 1)
redis.call('HDEL', KEYS[1], 'tries', 'attempts')
if ARGV[3] == 'retry' then
  redis.call('ZREM', KEYS[2], ARGV[2])
  count(record[4], 'failed', -1)
  redis.call('HSET', KEYS[1], 'revocation', 'queued')
  redis.call('ZADD', shard .. 'q', turn(record[2], record[3]), ARGV[2])
  audit(ARGV[4], 'retried', redis.call('HGET', KEYS[1], 'client_id'), ARGV[2], '')
else
  finish(ARGV[2], 'dropped', record[4], ARGV[4])
end
return 1
