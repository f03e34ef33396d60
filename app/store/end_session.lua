-- Ends a session. May be sent again; the second answer is ''.
--
-- Returns who signed out, or '' if there is no such session.

local session = unpack(KEYS)
local request_id = unpack(ARGV, 2)

local actor = redis.call('HGET', session, 'actor')
if not actor then
  return ''
end
redis.call('DEL', session)
audit{who = actor, request_id = request_id, what = 'signed_out'}
return actor
