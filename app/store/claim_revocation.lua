-- Claims a shard's first revocation for CLAIM_MS; a claim without a result by then falls to the next worker.
-- Not to be sent again: that would claim another.
--
-- Returns {} | {handle, claim, client ID, priority, sealed, expires_at_ms, tries, attempts}.

local queue, delayed = unpack(KEYS)

for _, handle in ipairs(redis.call('ZRANGE', queue, 0, 99)) do
  local key = record_key(handle)
  local record = read_fields(key, 'client_id', 'priority', 'sealed', 'expires_at_ms', 'tries', 'attempts')
  if not record.sealed then
    redis.call('ZREM', queue, handle)
  elseif record.expires_at_ms + LAPSE_MS < now_ms then
    finish_revocation(handle, LAPSED, SERVER)
  else
    redis.call('ZREM', queue, handle)
    redis.call('ZADD', delayed, now_ms + CLAIM_MS, handle)
    local claim = redis.call('HINCRBY', key, 'claim', 1)
    return {handle, claim, record.client_id, record.priority or PRIORITY_DEVICE, record.sealed, record.expires_at_ms,
      record.tries or '0', record.attempts or '0'}
  end
end
return {}
