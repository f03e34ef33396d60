-- Claims the first due revocation for a while; a claim that is not settled in time falls to the next worker.
-- Not to be sent again: that would claim another.
--
-- KEYS  1 revocation queue
-- ARGV  2 token record prefix   3 lease_ms   4 lapse_ms: this long after the cloud's expiry nothing is left to revoke
-- Returns  {} | {handle, claim, client ID, sealed, expires_at_ms, tries, attempts}

for _, handle in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, 100)) do
  local key = ARGV[2] .. handle
  local record = redis.call('HMGET', key, 'client_id', 'sealed', 'expires_at_ms', 'tries', 'attempts')
  if not record[2] or tonumber(record[3]) + ARGV[4] < now_ms then
    redis.call('ZREM', KEYS[1], handle)
    if record[2] then
      redis.call('HSET', key, 'revocation', 'lapsed')
      redis.call('HDEL', key, 'sealed')
      audit('server', 'lapsed', record[1], handle, '')
    end
  else
    redis.call('ZADD', KEYS[1], now_ms + ARGV[3], handle)
    local claim = redis.call('HINCRBY', key, 'claim', 1)
    return {handle, claim, record[1], record[2], record[3], record[4] or '0', record[5] or '0'}
  end
end
return {}
