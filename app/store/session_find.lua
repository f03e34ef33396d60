-- Finds a session and its operator; one that has ended is removed. May be sent again.
--
-- KEYS  1 session  2 operators
-- ARGV  2 '1': prolong it   3 idle_ms   4 longest_ms
-- Returns  {} | {name, epoch, created_at_ms, seal, operator's record}

local session = redis.call('HMGET', KEYS[1], 'name', 'epoch', 'created_at_ms', 'seal', 'until_ms')
if not session[1] then
  return {}
end
local ends_at_ms = session[3] + ARGV[4]
local record = redis.call('HGET', KEYS[2], session[1])
-- Another epoch: since it began, the operator got another role or password, was logged out everywhere or removed.
if not record or string.match(record, '^%d+') ~= session[2]
  or tonumber(session[5]) <= now_ms or ends_at_ms <= now_ms then
  redis.call('DEL', KEYS[1])
  return {}
end
if ARGV[2] == '1' then
  local until_ms = math.min(now_ms + ARGV[3], ends_at_ms)
  redis.call('HSET', KEYS[1], 'until_ms', until_ms)
  redis.call('PEXPIREAT', KEYS[1], until_ms - ARGV[1])
end
return {session[1], session[2], session[3], session[4], record}
