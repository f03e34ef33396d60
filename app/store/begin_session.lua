-- Begins an operator's session, if their record is still the one that the caller read. May be sent again.
--
-- `epoch`: of the record that the caller read
-- `seal`: proves the session's fields (sessions.py)
-- Returns 1, or 0 if the operator was changed or removed meanwhile.

local session, operators = unpack(KEYS)
local name, epoch, created_at_ms, seal, actor, request_id, detail = unpack(ARGV, 2)

local record = redis.call('HGET', operators, name)
if not record or string.match(record, '^%d+') ~= epoch then
  return 0
end
if redis.call('EXISTS', session) == 0 then
  local until_ms = math.min(now_ms + SESSION_IDLE_MS, created_at_ms + SESSION_LONGEST_MS)
  redis.call('HSET', session, 'name', name, 'actor', actor, 'epoch', epoch, 'created_at_ms', created_at_ms,
    'seal', seal, 'until_ms', until_ms)
  expire_at(session, until_ms)
  audit{who = actor, request_id = request_id, what = 'signed_in', detail = detail}
end
return 1
