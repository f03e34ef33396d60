-- Begins a session, if the operator is still as the caller read them. May be sent again.
--
-- KEYS  1 session  2 operators
-- ARGV  2 name   3 epoch of the record the caller read   4 created_at_ms   5 seal
--       6 idle_ms   7 longest_ms   8 who   9 detail for the audit
-- Returns 1, or 0 if the operator was changed or removed meanwhile.

local record = redis.call('HGET', KEYS[2], ARGV[2])
if not record or string.match(record, '^%d+') ~= ARGV[3] then
  return 0
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  local until_ms = math.min(now_ms + ARGV[6], ARGV[4] + ARGV[7])
  redis.call('HSET', KEYS[1],
    'name', ARGV[2], 'epoch', ARGV[3], 'created_at_ms', ARGV[4], 'seal', ARGV[5], 'until_ms', until_ms)
  redis.call('PEXPIREAT', KEYS[1], until_ms - ARGV[1])
  audit(ARGV[8], 'signed_in', '', '', ARGV[9])
end
return 1
