-- Finds a session and its operator; one that has ended is removed. May be sent again.
--
-- `prolongs`: '1': the session lives on for another SESSION_IDLE_MS
-- Returns {} | {name, epoch, created_at_ms, seal, operator's record}.

local session, operators = unpack(KEYS)
local prolongs = unpack(ARGV, 2)

local found = read_fields(session, 'name', 'epoch', 'created_at_ms', 'seal', 'until_ms')
if not found.name then
  return {}
end
local operator = redis.call('HGET', operators, found.name)
local ends_at_ms = found.created_at_ms + SESSION_LONGEST_MS
-- Another epoch: since it began, the operator got another role or password, was logged out everywhere or removed.
if not operator or string.match(operator, '^%d+') ~= found.epoch
  or tonumber(found.until_ms) <= now_ms or ends_at_ms <= now_ms then
  redis.call('DEL', session)
  return {}
end
if prolongs == '1' then
  local until_ms = math.min(now_ms + SESSION_IDLE_MS, ends_at_ms)
  redis.call('HSET', session, 'until_ms', until_ms)
  expire_at(session, until_ms)
end
return {found.name, found.epoch, found.created_at_ms, found.seal, operator}
