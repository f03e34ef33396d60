-- Tidies a shard's queue, then reads its head: what is due again goes back into the queue, and what is past its token's
-- life lapses, also in the tail that no worker reaches. Tidies at most a hundred of each kind. May be sent again.
--
-- Returns {handle, score, handle, score...}.

local queue, delayed, failed = unpack(KEYS)

local AT_A_TIME = 100

local function range(key, first, last)
  return redis.call('ZRANGE', key, first, last, 'BYSCORE', 'LIMIT', 0, AT_A_TIME)
end

local function lapse(handles)
  for _, handle in ipairs(handles) do
    finish_revocation(handle, LAPSED, SERVER)
  end
end

for _, handle in ipairs(range(delayed, '-inf', now_ms)) do
  local record = read_fields(record_key(handle), 'priority', 'expires_at_ms')
  redis.call('ZREM', delayed, handle)
  redis.call('ZADD', queue, queue_score(record.priority or PRIORITY_DEVICE, record.expires_at_ms or 0), handle)
end

local lapsed_at_ms = now_ms - LAPSE_MS
for priority = PRIORITY_OPERATOR, PRIORITY_DEVICE do
  lapse(range(queue, queue_score(priority, lapsed_at_ms), queue_score(priority, 0)))
end
lapse(range(failed, '-inf', lapsed_at_ms))
return redis.call('ZRANGE', queue, 0, QUEUE_HEAD_LENGTH - 1, 'WITHSCORES')
