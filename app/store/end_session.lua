-- Ends a session. May be sent again: the second time there is none, and nothing is recorded.
--
-- Returns 1, or 0 if there is no such session.

local session = unpack(KEYS)
local request_id = unpack(ARGV, 2)

local actor = redis.call('HGET', session, 'actor')
if not actor then
  return 0
end
redis.call('DEL', session)
audit{who = actor, request_id = request_id, what = 'signed_out'}
return 1
