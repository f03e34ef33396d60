-- Settles a claimed revocation. The claim's number fences off a worker that was paused past its time. May be sent again.
--
-- Returns 1, or 0 when the claim is no longer ours.

local token, delayed, failed = unpack(KEYS)
local handle, claim, outcome, again_in_ms, attempts = unpack(ARGV, 2)

local record = redis.call('HMGET', token, 'claim', 'revocation', 'job', 'expires_at_ms')
if record[1] ~= claim then
  return 0
end
if record[2] ~= 'queued' then
  return record[2] == outcome and 1 or 0
end
redis.call('HINCRBY', token, 'tries', 1)
redis.call('HINCRBY', token, 'attempts', attempts)
if outcome == 'queued' then
  redis.call('ZREM', shard .. 'q', handle)
  redis.call('ZADD', delayed, now_ms + again_in_ms, handle)
elseif outcome == 'failed' then
  redis.call('HSET', token, 'revocation', 'failed')
  redis.call('ZREM', shard .. 'q', handle)
  redis.call('ZREM', delayed, handle)
  redis.call('ZADD', failed, record[4], handle)
  count(record[3], 'failed', 1)
  audit{who = CLOUD, what = 'failed', client_id = redis.call('HGET', token, 'client_id'), handle = handle}
else
  finish(handle, 'confirmed', record[3], CLOUD)
end
return 1
