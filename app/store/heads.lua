-- Looks at the head of a shard's queue, after tidying it: what is due again comes back, what outlived itself lapses,
-- also in the tail that no worker reaches. May be sent again.
--
-- Returns {handle, score, handle, score...}, at most a hundred steps of tidying at a time.

local queue, delayed, failed = unpack(KEYS)
local lapse_ms, heads = unpack(ARGV, 2)

local AT_A_TIME = 100

local function lapse(handles)
  for _, handle in ipairs(handles) do
    finish(handle, 'lapsed', redis.call('HGET', shard .. 't:' .. handle, 'job'), SERVER)
  end
end

for _, handle in ipairs(redis.call('ZRANGE', delayed, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, AT_A_TIME)) do
  local record = redis.call('HMGET', shard .. 't:' .. handle, 'priority', 'expires_at_ms')
  redis.call('ZREM', delayed, handle)
  redis.call('ZADD', queue, turn(record[1] or DEVICE, record[2] or 0), handle)
end

local gone_ms = now_ms - lapse_ms
for priority = OPERATOR, DEVICE do
  lapse(redis.call('ZRANGE', queue, turn(priority, gone_ms), turn(priority, 0), 'BYSCORE', 'LIMIT', 0, AT_A_TIME))
end
lapse(redis.call('ZRANGE', failed, '-inf', gone_ms, 'BYSCORE', 'LIMIT', 0, AT_A_TIME))
return redis.call('ZRANGE', queue, 0, heads - 1, 'WITHSCORES')
