-- Finds a session and its operator; one that has ended is removed. May be sent again.
--
-- Returns  {} | {name, epoch, created_at_ms, seal, operator's record}

local session, operators = unpack(KEYS)
local prolong, idle_ms, longest_ms = unpack(ARGV, 2)

local found = redis.call('HMGET', session, 'name', 'epoch', 'created_at_ms', 'seal', 'until_ms')
if not found[1] then
  return {}
end
local ends_at_ms = found[3] + longest_ms
local record = redis.call('HGET', operators, found[1])
-- Another epoch: since it began, the operator got another role or password, was logged out everywhere or removed.
if not record or string.match(record, '^%d+') ~= found[2]
  or tonumber(found[5]) <= now_ms or ends_at_ms <= now_ms then
  redis.call('DEL', session)
  return {}
end
if prolong == '1' then
  local until_ms = math.min(now_ms + idle_ms, ends_at_ms)
  redis.call('HSET', session, 'until_ms', until_ms)
  redis.call('PEXPIREAT', session, until_ms - ARGV[1])
end
return {found[1], found[2], found[3], found[4], record}
