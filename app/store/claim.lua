-- Claims a shard's first revocation for a while; a claim that is not settled in time falls to the next worker.
-- Not to be sent again: that would claim another.
--
-- Returns  {} | {handle, claim, client ID, sealed, expires_at_ms, tries, attempts}

local queue, delayed = unpack(KEYS)
local claim_ms, lapse_ms = unpack(ARGV, 2)

for _, handle in ipairs(redis.call('ZRANGE', queue, 0, 99)) do
  local key = shard .. 't:' .. handle
  local record = redis.call('HMGET', key, 'client_id', 'sealed', 'expires_at_ms', 'tries', 'attempts', 'job')
  if not record[2] then
    redis.call('ZREM', queue, handle)
  elseif record[3] + lapse_ms < now_ms then
    finish(handle, 'lapsed', record[6], SERVER)
  else
    redis.call('ZREM', queue, handle)
    redis.call('ZADD', delayed, now_ms + claim_ms, handle)
    local claim = redis.call('HINCRBY', key, 'claim', 1)
    return {handle, claim, record[1], record[2], record[3], record[4] or '0', record[5] or '0'}
  end
end
return {}
