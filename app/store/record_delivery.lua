-- Records what came of delivering a claimed revocation. The claim's number fences off a worker that was paused past its
-- time. May be sent again.
--
-- `outcome`: CONFIRMED, FAILED, or QUEUED again, due in `again_in_ms`
-- `tries`: 1, or 0 if no call was made   `attempts`: 1, or 0 if this does not count as one: while the cloud is down nothing is learned about a revocation
-- Returns 1, or 0 when the claim is no longer this worker's.

local token, delayed, failed = unpack(KEYS)
local handle, claim, outcome, again_in_ms, tries, attempts = unpack(ARGV, 2)

local record = read_fields(token, 'claim', 'revocation', 'job', 'expires_at_ms', 'client_id')
if record.claim ~= claim then
  return 0
end
if record.revocation ~= QUEUED then
  return record.revocation == outcome and 1 or 0
end
redis.call('HINCRBY', token, 'tries', tries)
redis.call('HINCRBY', token, 'attempts', attempts)
if outcome == QUEUED then
  redis.call('ZREM', shard .. 'q', handle)
  redis.call('ZADD', delayed, now_ms + again_in_ms, handle)
elseif outcome == FAILED then
  redis.call('HSET', token, 'revocation', FAILED)
  redis.call('ZREM', shard .. 'q', handle)
  redis.call('ZREM', delayed, handle)
  redis.call('ZADD', failed, record.expires_at_ms, handle)
  count_for_job(record.job, FAILED, 1)
  audit{who = CLOUD, what = FAILED, client_id = record.client_id, handle = handle, job = record.job}
else
  finish_revocation(handle, CONFIRMED, CLOUD)
end
return 1
