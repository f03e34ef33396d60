-- Ends a session. May be sent again; the second answer is ''.
--
-- KEYS  1 session
-- Returns who signed out, or '' if there is no such session.

local name = redis.call('HGET', KEYS[1], 'name')
if not name then
  return ''
end
redis.call('DEL', KEYS[1])
audit('operator:' .. name, 'signed_out', '', '', '')
return 'operator:' .. name
