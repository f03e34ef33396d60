-- Reads the next entries of an audit stream that are not in the log yet, the oldest first.
--
-- Returns {} if there are none, else {the last shipped ID or '', count, lost, entries}: `count` is how many entries
-- precede the returned ones, from the stream's first on, and `lost` of these were removed before they were shipped.

local stream, shipped = unpack(KEYS)
local limit = unpack(ARGV, 2)

local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
local saved = redis.call('HMGET', shipped, 'id', 'count')
if not newest or newest[1] == saved[1] then
  return {}
end

local last_id, count = saved[1] or '0-0', tonumber(saved[2] or 0)
local entries = redis.call('XRANGE', stream, '(' .. last_id, '+', 'COUNT', limit)
if #entries == 0 then
  -- The position is ahead of the stream, which was lost or set back: what is in it now is new.
  last_id = '0-0'
  entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', limit)
end
local lost = 0
if #redis.call('XRANGE', stream, '-', last_id, 'COUNT', 1) == 0 then
  -- The stream ends behind the last shipped entry, or there is none: whatever was between was removed.
  local before = added_entries(stream) - redis.call('XLEN', stream)
  lost = math.max(0, before - count)
  count = before
end
return {saved[1] or '', count, lost, entries}
