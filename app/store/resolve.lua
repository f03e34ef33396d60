-- Takes a failed revocation up again from the start, or drops it: the token then lives at the broker until it expires.
-- Either raises the claim's number, so no late word of the worker that failed can undo it. May be sent again.
--
-- Returns 1, or 0 if it is not failed.

local token, failed = unpack(KEYS)
local handle, verb, actor, request_id = unpack(ARGV, 2)

local record = redis.call('HMGET', token, 'revocation', 'priority', 'expires_at_ms', 'job')
if record[1] ~= 'failed' then
  return 0
end
redis.call('HINCRBY', token, 'claim', 1)
redis.call('HDEL', token, 'tries', 'attempts')
if verb == 'retry' then
  redis.call('ZREM', failed, handle)
  count(record[4], 'failed', -1)
  redis.call('HSET', token, 'revocation', 'queued')
  redis.call('ZADD', shard .. 'q', turn(record[2], record[3]), handle)
  audit{who = actor, request_id = request_id, what = 'retried',
    client_id = redis.call('HGET', token, 'client_id'), handle = handle}
else
  finish(handle, 'dropped', record[4], actor, request_id)
end
return 1
