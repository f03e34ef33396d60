-- Queues a failed revocation again from the start, or drops it: the token then lives at the broker until it expires.
-- Either raises the claim's number, so a late message of the worker that failed cannot undo it. May be sent again.
--
-- `verb`: 'retry' or 'drop'
-- Returns 1, or 0 if it is not failed.

local token, failed = unpack(KEYS)
local handle, verb, actor, request_id = unpack(ARGV, 2)

local record = read_fields(token, 'revocation', 'priority', 'expires_at_ms', 'job', 'client_id')
if record.revocation ~= FAILED then
  return 0
end
redis.call('HINCRBY', token, 'claim', 1)
redis.call('HDEL', token, 'tries', 'attempts')
if verb == 'retry' then
  redis.call('ZREM', failed, handle)
  count_for_job(record.job, FAILED, -1)
  redis.call('HSET', token, 'revocation', QUEUED)
  redis.call('ZADD', shard .. 'q', queue_score(record.priority, record.expires_at_ms), handle)
  audit{who = actor, request_id = request_id, what = 'retried', client_id = record.client_id, handle = handle,
    job = record.job}
else
  finish_revocation(handle, DROPPED, actor, request_id)
end
return 1
