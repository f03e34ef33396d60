-- Removes an API key by its name. May be sent again; the second answer is 0.
--
-- Returns 1, or 0 if there is none.

local api_keys, names = unpack(KEYS)
local name, actor, request_id = unpack(ARGV, 2)

local key_id = redis.call('HGET', names, name)
if not key_id then
  return 0
end
redis.call('HDEL', api_keys, key_id)
redis.call('HDEL', names, name)
audit{who = actor, request_id = request_id, what = 'key_removed', detail = name}
return 1
