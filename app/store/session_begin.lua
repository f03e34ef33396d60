-- Begins a session, if the operator is still as the caller read them. May be sent again.
--
-- Returns 1, or 0 if the operator was changed or removed meanwhile.

local session, operators = unpack(KEYS)
local name, epoch, created_at_ms, seal, idle_ms, longest_ms, actor, request_id, detail = unpack(ARGV, 2)

local record = redis.call('HGET', operators, name)
if not record or string.match(record, '^%d+') ~= epoch then
  return 0
end
if redis.call('EXISTS', session) == 0 then
  local until_ms = math.min(now_ms + idle_ms, created_at_ms + longest_ms)
  redis.call('HSET', session,
    'name', name, 'actor', actor, 'epoch', epoch, 'created_at_ms', created_at_ms, 'seal', seal, 'until_ms', until_ms)
  redis.call('PEXPIREAT', session, until_ms - ARGV[1])
  audit{who = actor, request_id = request_id, what = 'signed_in', detail = detail}
end
return 1
