-- Saves how far an audit stream is in the log, and removes old entries: only shipped ones, and not the last ones. May be
-- sent again.
--
-- Returns 1, or 0 if another instance has saved a position meanwhile, or the shipped entries were lost (a failover): the
-- next reading then repeats what is left of them, and misses nothing that took their place.

local stream, shipped = unpack(KEYS)
local previous_id, last_id, count = unpack(ARGV, 2)

local saved_id = redis.call('HGET', shipped, 'id') or ''
if saved_id ~= previous_id then
  return saved_id == last_id and 1 or 0
end
-- Trimming removes the oldest entries alone. Where older ones are left and the last shipped one is not, it was lost.
local is_lost = #redis.call('XRANGE', stream, last_id, last_id) == 0
  and #redis.call('XRANGE', stream, '-', last_id, 'COUNT', 1) > 0
if is_lost then
  return 0
end
redis.call('HSET', shipped, 'id', last_id, 'count', count)
if redis.call('XLEN', stream) > AUDIT_KEPT_ENTRIES then
  local unshipped = added_entries(stream) - count
  redis.call('XTRIM', stream, 'MAXLEN', '~', math.max(AUDIT_KEPT_ENTRIES, unshipped))
end
return 1
