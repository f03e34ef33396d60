-- Saves how far an audit stream is in the log, and removes old entries: only shipped ones, and not the last ones. May be
-- sent again.
--
-- Returns 1, or 0 if another instance has saved a position meanwhile.

local stream, shipped = unpack(KEYS)
local previous_id, last_id, count = unpack(ARGV, 2)

local saved_id = redis.call('HGET', shipped, 'id') or ''
if saved_id ~= previous_id then
  return saved_id == last_id and 1 or 0
end
redis.call('HSET', shipped, 'id', last_id, 'count', count)
if redis.call('XLEN', stream) > AUDIT_KEPT_ENTRIES then
  local unshipped = added_entries(stream) - count
  redis.call('XTRIM', stream, 'MAXLEN', '~', math.max(AUDIT_KEPT_ENTRIES, unshipped))
end
return 1
