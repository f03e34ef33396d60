-- Claims a shard's first revocation for a while; a claim that is not settled in time falls to the next worker.
-- Not to be sent again: that would claim another.
--
-- KEYS  1 revocation queue  2 claimed or put off
-- ARGV  2 lease_ms   3 lapse_ms: this long after the cloud's expiry nothing is left to revoke
-- Returns  {} | {handle, claim, client ID, sealed, expires_at_ms, tries, attempts}

for _, handle in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  local key = shard .. 't:' .. handle
  local record = redis.call('HMGET', key, 'client_id', 'sealed', 'expires_at_ms', 'tries', 'attempts', 'job')
  if not record[2] then
    redis.call('ZREM', KEYS[1], handle)
  elseif record[3] + ARGV[3] < now_ms then
    finish(handle, 'lapsed', record[6], 'server')
  else
    redis.call('ZREM', KEYS[1], handle)
    redis.call('ZADD', KEYS[2], now_ms + ARGV[2], handle)
    local claim = redis.call('HINCRBY', key, 'claim', 1)
    return {handle, claim, record[1], record[2], record[3], record[4] or '0', record[5] or '0'}
  end
end
return {}
