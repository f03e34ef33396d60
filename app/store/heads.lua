-- Looks at the head of a shard's queue, after tidying it: what is due again comes back, what outlived itself lapses,
-- also in the tail that no worker reaches. May be sent again.
--
-- KEYS  1 revocation queue  2 claimed or put off  3 failed
-- ARGV  2 lapse_ms: this long after the cloud's expiry nothing is left to revoke   3 how many heads
-- Returns {handle, score, handle, score...}, at most a hundred steps of tidying at a time.

local AT_A_TIME = 100

local function lapse(handles)
  for _, handle in ipairs(handles) do
    finish(handle, 'lapsed', redis.call('HGET', shard .. 't:' .. handle, 'job'), 'server')
  end
end

for _, handle in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, AT_A_TIME)) do
  local record = redis.call('HMGET', shard .. 't:' .. handle, 'priority', 'expires_at_ms')
  redis.call('ZREM', KEYS[2], handle)
  redis.call('ZADD', KEYS[1], turn(record[1] or DEVICE, record[2] or 0), handle)
end

local gone_ms = now_ms - ARGV[2]
for priority = OPERATOR, DEVICE do
  lapse(redis.call('ZRANGE', KEYS[1], turn(priority, gone_ms), turn(priority, 0), 'BYSCORE', 'LIMIT', 0, AT_A_TIME))
end
lapse(redis.call('ZRANGE', KEYS[3], '-inf', gone_ms, 'BYSCORE', 'LIMIT', 0, AT_A_TIME))
return redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1, 'WITHSCORES')
